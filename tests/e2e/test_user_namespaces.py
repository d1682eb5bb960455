"""Mounts inside a user namespace, as rootless containers and sandboxes have them: what works, and what is said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from others import GHOSTFS, Namespace

from ghostfs.errors import ExitCode

ONE = 1

WORK = """
set -e
umask 022
home=$1
$G mount --create work $home/mnt
cd $home/mnt
echo content > file; ln file hard; ln -s file soft; mkdir d; mkfifo d/fifo
mv file d/file
stat -c %u:%g . d d/file d/fifo
cat hard
chown 0:0 d/file
if chown 7:7 d/file; then exit 7; fi
if mknod d/null c 1 3; then exit 8; fi
cd /
$G status
$G verify work
$G umount $home/mnt
if mountpoint -q $home/mnt; then exit 9; fi
$G verify work
"""


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


@pytest.mark.parametrize("user", [0, ONE])
def test_the_root_of_a_namespace_mounts_works_and_unmounts(machine: Namespace, user: int) -> None:
    home = machine.home(user)
    done = machine.in_user_namespace(WORK.replace("$1", home), "-Urm", user=user)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:5] == ["0:0"] * 4 + ["content"]
    assert done.stdout.count("index and files agree") == 2
    assert f"{home}/mnt" in done.stdout
    # Outside, they are whose they are.
    tree = machine.seen(f"{home}/data/sessions/work/tree")
    assert (tree / "d" / "file").read_text() == "content\n"
    assert {path.lstat().st_uid for path in (tree, tree / "d" / "file", tree / "soft")} == {user}
    assert '"clean": true' in machine.seen(f"{home}/data/sessions/work/mount.log").read_text()


def test_no_fusermount3_is_needed(machine: Namespace) -> None:
    home = machine.home(ONE)
    script = (
        f"PATH=/nonexistent $G mount --create work {home}/mnt && PATH=/nonexistent $G umount {home}/mnt"
    )
    done = machine.in_user_namespace(script, "-Urm", user=ONE)
    assert (done.returncode, done.stderr) == (0, "")


def test_other_users_of_the_namespace_are_let_in(machine: Namespace) -> None:
    """By root of the namespace, who needs no line in /etc/fuse.conf for that."""
    home = machine.home(ONE)
    script = (
        f"$G mount --create --allow-other work {home}/mnt && cat /proc/self/mountinfo; $G umount {home}/mnt"
    )
    done = machine.in_user_namespace(script, "-Urm", user=ONE)
    assert (done.returncode, done.stderr) == (0, "")
    line = next(line for line in done.stdout.splitlines() if f" {home}/mnt " in line)
    assert "user_id=0" in line
    assert "allow_other" in line


@pytest.mark.parametrize(
    ("user", "options"), [(ONE, "-Ucm"), (ONE, "-Um"), (ONE, "-Ur"), (0, "-Ur")], ids=str
)
def test_who_may_not_mount_is_told_how_to(machine: Namespace, user: int, options: str) -> None:
    """Users who are not root in the namespace, and root of one that has no mount namespace of its own."""
    home = machine.home(user)
    done = machine.in_user_namespace(f"$G mount --create work {home}/mnt", options, user=user)
    assert (done.returncode, done.stdout) == (ExitCode.MOUNT, "")
    assert "only root of that namespace can mount, and in a mount namespace of its own" in done.stderr
    assert "unshare -Urm" in done.stderr
    assert done.stderr.startswith("ghostfs: ")
    assert done.stderr.count("\n") == 1


def test_root_without_the_right_to_mount_is_told_so(machine: Namespace) -> None:
    """As in a container that was started without it."""
    home = machine.home(0)
    asked = ("mount", "--create", "work", f"{home}/mnt")
    bare = ["setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin"]
    done = machine.run(*bare, *GHOSTFS, *asked, GHOSTFS_DATA_DIR=f"{home}/data")
    assert (done.returncode, done.stdout) == (ExitCode.MOUNT, "")
    assert "--cap-add SYS_ADMIN" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_session_used_inside_and_outside_has_the_owners_of_where_it_is_mounted(
    machine: Namespace,
) -> None:
    """The same files have other owners there, and the index must not keep those of before."""
    home = machine.home(ONE)
    made = f"$G mount --create work {home}/mnt && echo x > {home}/mnt/file && $G umount {home}/mnt"
    done = machine.in_user_namespace(made, "-Urm", user=ONE)
    assert (done.returncode, done.stderr) == (0, "")
    for _ in range(2):
        for arguments in (("mount", "work", f"{home}/mnt"), ("verify", "work"), ("umount", f"{home}/mnt")):
            done = machine.ghostfs(*arguments, user=ONE)
            assert (done.returncode, done.stderr) == (0, ""), arguments
        assert machine.ghostfs("verify", "work", user=ONE).returncode == 0
        used = f"$G mount work {home}/mnt && $G verify work && $G umount {home}/mnt && $G verify work"
        done = machine.in_user_namespace(used, "-Urm", user=ONE)
        assert (done.returncode, done.stderr) == (0, "")
    log = machine.seen(f"{home}/data/sessions/work/mount.log").read_text()
    assert log.count('"event": "recovered"') == 4
