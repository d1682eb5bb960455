#!/bin/sh
# From a fresh Debian to files arriving on two nodes: installs what is missing, then runs the main job once.
#
#   sh docs/quickstart.sh
#
# Everything it runs lives in one temporary directory and is gone afterwards; what it installed stays.
set -eu
cd "$(dirname "$0")/.."
checkout=$(pwd)
sh docs/install.sh
PATH="$checkout/.venv/bin:$PATH"
export PATH
unset GHOSTFS_DATA_DIR

bold= plain=
if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
fail() { echo "quickstart: $*" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/ghostfs-quickstart.XXXXXX")
hub_pid= node1_pid= node2_pid= copy_pid=

stop() { # PID NAME: ask it to drain, wait, and insist on a clean end
    [ -n "$1" ] || return 0
    kill -TERM "$1" 2>/dev/null || true
    wait "$1" || { echo "quickstart: the $2 ended with exit code $?" >&2; return 1; }
}

clean_up() {
    code=$?
    trap - EXIT INT TERM
    [ -z "$copy_pid" ] || { kill "$copy_pid" 2>/dev/null; wait "$copy_pid" 2>/dev/null; } || true
    if mountpoint -q "$work/demo" 2>/dev/null || [ -n "${mounted:-}" ]; then
        ghostfs --data-dir "$work/hub" umount "$work/demo" || { code=1; fusermount3 -uz "$work/demo" || true; }
    fi
    stop "$node1_pid" "first node" || code=1
    stop "$node2_pid" "second node" || code=1
    stop "$hub_pid" hub || code=1
    if [ "$code" != 0 ] && [ "$code" -lt 128 ]; then
        for log in "$work"/*.log "$work"/hub/sessions/demo/mount.log; do
            [ -s "$log" ] && { echo "--- $log"; tail -n 20 "$log"; } >&2
        done
        echo "quickstart: failed" >&2
    fi
    rm -rf --one-file-system "$work"
    exit "$code"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- a hub, a mounted session, two nodes -----------------------------------------------------------------
address=$(python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print("127.0.0.1:%d" % s.getsockname()[1])')

say "1. A session, mounted: a directory like any other, every write hashed as it happens"
mkdir "$work/demo"
echo "\$ ghostfs mount --create demo $work/demo"
ghostfs --data-dir "$work/hub" mount --create demo "$work/demo"
mounted=yes

say "2. A hub that streams it, and two nodes that follow"
echo "\$ ghostfs hub --listen $address"
ghostfs --data-dir "$work/hub" hub --listen "$address" >"$work/hub.log" 2>&1 &
hub_pid=$!
for n in 1 2; do
    echo "\$ ghostfs --data-dir $work/node$n node --name node$n --hub $address --root $work/copies$n demo"
    ghostfs --data-dir "$work/node$n" node --name "node$n" --hub "$address" --root "$work/copies$n" demo \
        >"$work/node$n.log" 2>&1 &
    eval "node${n}_pid=\$!"
done

# --- a real source tree, copied in, arriving -------------------------------------------------------------
source_tree=$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
say "3. Python's standard library, copied in through the mount; its arrival on both nodes"
# One process, so that it can be ended: what is interrupted must not go on writing.
rsync -a --exclude=__pycache__ --exclude=site-packages --exclude=dist-packages "$source_tree/" "$work/demo/stdlib/" &
copy_pid=$!

report='
import json, sys
session = json.load(sys.stdin)["sessions"][0]
parts = ["session %6d entries %7.1f MB" % (session["names"], session["bytes"] / 1e6)]
for node in sorted(session["nodes"], key=lambda node: node["name"]):
    parts.append("%s %6d of %d changes" % (node["name"], node["seq"], session["head"]))
print("  |  ".join(parts))
mount = session["mount"]
behind = [node for node in session["nodes"] if node["fingerprint"] != session["fingerprint"]]
sys.exit(0 if mount and not mount["dirty_inodes"] and len(session["nodes"]) == 2 and not behind else 10)
'
deadline=$(($(date +%s) + ${QUICKSTART_SECONDS:-300}))
while :; do
    copied=no
    kill -0 "$copy_pid" 2>/dev/null || copied=yes
    code=0
    ghostfs --data-dir "$work/hub" status --json >"$work/status.json" || fail "no status"
    python -c "$report" <"$work/status.json" || code=$?
    [ "$code" = 0 ] || [ "$code" = 10 ] || fail "cannot read the status"
    [ "$copied$code" = yes0 ] && break
    for pid in "$hub_pid" "$node1_pid" "$node2_pid"; do
        kill -0 "$pid" 2>/dev/null || fail "a process has ended too early"
    done
    [ "$(date +%s)" -lt "$deadline" ] || fail "the nodes did not catch up in time"
    sleep 0.3
done
wait "$copy_pid" || fail "the copy failed"
copy_pid=

# --- verified by digest, by ordinary tools and by GhostFS itself -----------------------------------------
say "4. The same on every side? By sha256 of all content, names, types, modes, times and links"
digest() { # the tree below $1, as one number; .skills is the overlay, not part of the session
    (
        cd "$1"
        find . -path ./.skills -prune -o \( -type f -printf '%p %m %T@ %n %s\n' -o ! -path . -printf '%p %y %m %T@ %l\n' \) \
            | LC_ALL=C sort
        find . -path ./.skills -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
    ) | sha256sum | cut -c 1-64
}
expected=$(digest "$work/demo")
echo "session  $expected"
for n in 1 2; do
    actual=$(digest "$work/copies$n/demo")
    echo "node$n    $actual"
    [ "$actual" = "$expected" ] || fail "node$n differs from the session"
done
diff -r --no-dereference -x __pycache__ -x site-packages -x dist-packages "$source_tree" "$work/demo/stdlib" \
    || fail "the session differs from what was copied in"
echo "\$ ghostfs verify demo"
ghostfs --data-dir "$work/hub" verify demo

say "5. One more change, seen on a node"
date >"$work/demo/hello"
tries=0
until cmp -s "$work/demo/hello" "$work/copies2/demo/hello"; do
    tries=$((tries + 1))
    [ "$tries" -lt 500 ] || fail "it did not arrive"
    sleep 0.02
done
echo "$work/copies2/demo/hello: $(cat "$work/copies2/demo/hello")"

say "It works. To go on by hand, each daemon in a terminal of its own:"
cat <<END
  PATH=$checkout/.venv/bin:\$PATH
  mkdir -p ~/demo
  ghostfs mount --create demo ~/demo
  ghostfs hub
  ghostfs --data-dir ~/.ghostfs-n1 node --name n1 --root ~/copies demo
  ghostfs status --watch
  ghostfs umount ~/demo

docs/operating.md goes on from there. Now everything that this script started is stopped and removed.
END
