"""Mounts of people who are not root, and on machines that lack something: who sees what, and what is said."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from others import Namespace

from ghostfs.errors import ExitCode

ONE, TWO = 1, 2
"""Users without any rights."""

NO_PATH = "/nonexistent"


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a mount that is refused."""
    assert (done.returncode, done.stdout) == (ExitCode.MOUNT, "")
    assert done.stderr.startswith("ghostfs: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def succeeds(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def read(machine: Namespace, path: str, user: int) -> str:
    """What a user without any capability finds in a file."""
    bare = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all"] if user else []
    done = machine.run(*bare, "cat", path, user=user)
    return done.stdout if done.returncode == 0 else done.stderr.rpartition(": ")[2].strip()


def test_mounts_of_two_users_at_once_are_their_own(machine: Namespace) -> None:
    homes = {user: machine.home(user) for user in (ONE, TWO)}
    for user, home in homes.items():
        succeeds(machine.ghostfs("mount", "--create", "work", f"{home}/mnt", user=user))
        succeeds(machine.run("sh", "-c", f"echo of {user} > {home}/mnt/file", user=user))
    for user, home in homes.items():
        assert read(machine, f"{home}/mnt/file", user) == f"of {user}\n"
        for other in {0, ONE, TWO} - {user}:
            assert read(machine, f"{home}/mnt/file", other) == "Permission denied"
        assert f"{home}/mnt" in succeeds(machine.ghostfs("status", user=user))
    foreign = refusal(machine.ghostfs("umount", f"{homes[ONE]}/mnt", user=TWO))
    assert "was mounted by another user, with uid 1" in foreign
    onto = refusal(machine.ghostfs("mount", "--create", "more", f"{homes[ONE]}/mnt", user=TWO))
    assert "already mounted" in onto
    succeeds(machine.ghostfs("umount", f"{homes[ONE]}/mnt", user=ONE))
    succeeds(machine.ghostfs("umount", f"{homes[TWO]}/mnt"))  # root may
    for user, home in homes.items():
        assert machine.seen(f"{home}/data/sessions/work/tree/file").read_text() == f"of {user}\n"
        assert "index and files agree" in succeeds(machine.ghostfs("verify", "work", user=user))


def test_other_users_are_let_in_where_the_machine_allows_it(machine: Namespace) -> None:
    mount = f"{machine.home(ONE)}/mnt"
    machine.home(TWO)
    asked = ("mount", "--create", "--allow-other", "work", mount)
    machine.shell("echo '# user_allow_other' > /mnt/conf; mount --bind /mnt/conf /etc/fuse.conf")
    assert "user_allow_other` into /etc/fuse.conf" in refusal(machine.ghostfs(*asked, user=ONE))
    machine.shell("echo user_allow_other >> /mnt/conf")
    succeeds(machine.ghostfs(*asked, user=ONE))
    succeeds(
        machine.run("sh", "-c", f"echo open > {mount}/open; umask 077; echo s > {mount}/secret", user=ONE)
    )
    assert read(machine, f"{mount}/open", TWO) == "open\n"
    assert read(machine, f"{mount}/open", 0) == "open\n"
    assert read(machine, f"{mount}/secret", TWO) == "Permission denied"
    assert machine.run("touch", f"{mount}/new", user=TWO).returncode != 0
    succeeds(machine.ghostfs("umount", mount, user=ONE))


def test_only_root_mounts_without_fusermount3(machine: Namespace) -> None:
    mounts = {user: f"{machine.home(user)}/mnt" for user in (0, ONE)}
    asked = ("mount", "--create", "work")
    assert "apt install fuse3" in refusal(machine.ghostfs(*asked, mounts[ONE], user=ONE, PATH=NO_PATH))
    succeeds(machine.ghostfs(*asked, mounts[0], PATH=NO_PATH))
    succeeds(machine.ghostfs("umount", mounts[0], PATH=NO_PATH))
    succeeds(machine.ghostfs(*asked, mounts[ONE], user=ONE))
    succeeds(machine.ghostfs("umount", mounts[ONE], user=ONE, PATH=NO_PATH))  # the mount does it


def test_a_device_that_cannot_be_used(machine: Namespace) -> None:
    mount = f"{machine.home(ONE)}/mnt"
    asked = ("mount", "--create", "work", mount)
    machine.shell("chmod 660 /dev/fuse")
    assert "cannot be opened (Permission denied): as root, `chmod 666 /dev/fuse`" in refusal(
        machine.ghostfs(*asked, user=ONE)
    )
    # Nothing in the kernel has this number, as when the module is not there.
    machine.shell("umount /dev/fuse; mknod -m 666 /mnt/none c 10 253; mount --bind /mnt/none /dev/fuse")
    for user in (0, ONE):
        assert "modprobe fuse" in refusal(machine.ghostfs(*asked, user=user))
    machine.shell(
        "mkdir /mnt/dev; mount -t tmpfs dev /mnt/dev; cp -a /dev/null /dev/zero /dev/urandom /mnt/dev/;"
        "mount --move /mnt/dev /dev"
    )
    for user in (0, ONE):
        assert "there is no /dev/fuse" in refusal(machine.ghostfs(*asked, user=user))
    assert not machine.seen("/mnt/user1/data").exists()


def test_a_refused_mount_leaves_nothing_mounted(machine: Namespace) -> None:
    """fusermount3 itself refuses, at the last moment: it looks at mount_max."""
    mount = f"{machine.home(ONE)}/mnt"
    machine.shell("echo 'mount_max = 0' > /mnt/conf; mount --bind /mnt/conf /etc/fuse.conf")
    refused = refusal(machine.ghostfs("mount", "--create", "work", mount, user=ONE))
    assert "too many FUSE filesystems" in refused
    assert machine.run("mountpoint", "-q", mount).returncode != 0
    machine.shell("umount /etc/fuse.conf")
    succeeds(machine.ghostfs("mount", "work", mount, user=ONE))
    succeeds(machine.ghostfs("umount", mount, user=ONE))
