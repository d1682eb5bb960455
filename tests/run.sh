#!/bin/sh
# Installs what is missing, then checks everything: generated code, style, types, layers, tests.
#
#   sh tests/run.sh                     all of it
#   sh tests/run.sh tests/index -x      arguments go to pytest, which runs in the checkout
#
# Needs root (mounts, owners, devices). PYTHON names another interpreter (3.11 or later) to make .venv with.
set -eu
cd "$(dirname "$0")/.."
sh docs/install.sh dev
PATH="$(pwd)/.venv/bin:$PATH"
export PATH

check() {
    echo "--- $*"
    "$@" || { echo "FAILED: $*" >&2; exit 1; }
}
check env PYTHON=python sh proto/generate.sh --check
check ruff check --quiet
check ruff format --check --quiet
check mypy
check lint-imports
check pytest "$@"
