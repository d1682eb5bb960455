#!/bin/sh
# Installs what GhostFS needs into this checkout: system packages that are missing, and .venv.
#
#   sh docs/install.sh          to use it
#   sh docs/install.sh dev      to develop and test it
#
# Debian and its relatives; as root, or with sudo. PYTHON names another interpreter (3.11 or later).
# Nothing is done that was done before: run it as often as you like.
set -eu
cd "$(dirname "$0")/.."
extra=${1:-}

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "need root for: $* (run this as root, or install sudo)"
    fi
}

python=${PYTHON:-python3}

# --- system packages: each is named by what is missing without it ----------------------------------------
packages=
want() { packages="$packages $1"; }
headers='import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'

command -v fusermount3 >/dev/null || want fuse3
command -v gcc >/dev/null || want "gcc libc6-dev"
if ! command -v pkg-config >/dev/null; then
    want "pkg-config libfuse3-dev"
elif ! pkg-config --exists fuse3; then
    want libfuse3-dev
fi
command -v git >/dev/null || want git
command -v rsync >/dev/null || want rsync
if [ -z "${PYTHON:-}" ]; then
    if ! command -v python3 >/dev/null; then
        want "python3 python3-dev python3-venv"
    else
        python3 -c "$headers" || want python3-dev
        python3 -c 'import ensurepip' 2>/dev/null || want python3-venv
    fi
fi
if [ "$extra" = dev ]; then
    command -v make >/dev/null || want make
fi

if [ -n "$packages" ]; then
    command -v apt-get >/dev/null || fail "install these first, this is no Debian:$packages"
    say "system packages:$packages"
    as_root apt-get update -q
    # shellcheck disable=SC2086  # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends ca-certificates $packages
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || fail \
    "Python 3.11 or later is needed, and $python is $("$python" -V 2>&1 || echo 'not there'): set PYTHON to one"
"$python" -c "$headers" || fail "$python has no headers (Python.h): install its -dev package"

# --- what a bare root may lack ---------------------------------------------------------------------------
[ -r /proc/self/mountinfo ] || fail "/proc is not mounted: mount -t proc proc /proc"
if [ ! -e /dev/fuse ]; then
    say "making /dev/fuse"
    as_root sh -c 'modprobe fuse 2>/dev/null; [ -e /dev/fuse ] || { mknod /dev/fuse c 10 229 && chmod 666 /dev/fuse; }'
fi

if [ ! -e /etc/mtab ]; then
    say "making /etc/mtab, which fusermount3 reads"
    as_root ln -sf ../proc/self/mounts /etc/mtab
fi

# --- the virtual environment; the stamp says what it was made from ---------------------------------------
made_from=$("$python" -V; pwd; cat pyproject.toml)
if [ ! -x .venv/bin/python ]; then
    say "making .venv with $("$python" -V)"
    "$python" -m venv .venv
fi
up_to_date() { [ -f "$1" ] && [ "$(cat "$1")" = "$made_from" ]; }
if ! up_to_date .venv/installed-dev && { [ "$extra" = dev ] || ! up_to_date .venv/installed; }; then
    say "Python packages into .venv"
    .venv/bin/python -m pip install -q --disable-pip-version-check -e ".${extra:+[$extra]}"
    rm -f .venv/installed .venv/installed-dev
    printf '%s\n' "$made_from" >".venv/installed${extra:+-$extra}"
fi
