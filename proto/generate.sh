#!/bin/sh
# Makes ghostfs/v1/*_pb2.py(i) and *_pb2_grpc.py from proto/; with --check, fails if what is checked in is stale.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=.
if [ "${1:-}" = --check ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
"$python" -m grpc_tools.protoc -I proto --python_out="$out" --pyi_out="$out" \
    proto/ghostfs/v1/mesh.proto proto/ghostfs/v1/control.proto
"$python" -m grpc_tools.protoc -I proto --grpc_python_out="$out" proto/ghostfs/v1/mesh.proto
if [ "$out" != . ]; then
    for made in "$out"/ghostfs/v1/*; do
        cmp "$made" "ghostfs/v1/$(basename "$made")" || {
            echo "ghostfs/v1/$(basename "$made") is stale: run sh proto/generate.sh and commit" >&2
            exit 1
        }
    done
    echo "generated code is up to date"
fi
