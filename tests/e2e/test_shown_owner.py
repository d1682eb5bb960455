"""`ghostfs mount --uid --gid`: who is shown to own the files, who may do what, and who owns them in the tree."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from others import Namespace
from stack import Stack, differences

from ghostfs.mirror.live.verify import verify

ONE, TWO, SHOWN = 1, 2, 3
NOBODY_ELSE = ["setpriv", "--inh-caps=-all", "--ambient-caps=-all"]


@pytest.fixture
def machine() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def mapped(machine: Namespace, *options: str) -> str:
    """A mount by root that lets others in and shows all as `SHOWN`'s, over files of root and of another user."""
    home = machine.home(0)
    machine.ghostfs("session", "create", "work").check_returncode()
    tree = f"{home}/data/sessions/work/tree"
    machine.shell(
        f"cd {tree}; chmod 755 {home}; echo r > roots; echo t > twos; mkdir d; chown {TWO}:{TWO} twos"
    )
    machine.shell(f"cd {tree}; chmod 600 roots twos; echo s > setuid; chmod 6755 setuid")
    asked = ("mount", "--allow-other", *(options or (f"--uid={SHOWN}", f"--gid={SHOWN}")))
    done = machine.ghostfs(*asked, "work", f"{home}/mnt")
    assert (done.returncode, done.stderr) == (0, "")
    return f"{home}/mnt"


def attempt(machine: Namespace, script: str, user: int) -> str:
    """What a user's script prints, or the reason why it failed."""
    done = machine.run(*(NOBODY_ELSE if user else []), "sh", "-ec", script, user=user)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.rpartition(": ")[2].strip()


def owners(place: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (st.st_uid, st.st_gid) for path in sorted(place.iterdir()) for st in [path.lstat()]}


def test_all_is_shown_as_theirs_and_the_tree_keeps_its_owners(machine: Namespace) -> None:
    mount = mapped(machine)
    for path in ("", "/roots", "/twos", "/d", "/.skills", "/.skills/.gitignore"):
        assert attempt(machine, f"stat -c %u:%g {mount}{path}", 0) == f"{SHOWN}:{SHOWN}"
    assert set(attempt(machine, f"ls -An {mount} | awk 'NR > 1 {{ print $3, $4 }}'", 0).split("\n")) == {
        f"{SHOWN} {SHOWN}"
    }
    # The kernel lets them do what an owner may, and nobody else.
    assert attempt(machine, f"cat {mount}/roots {mount}/twos", SHOWN) == "r\nt"
    assert attempt(machine, f"cat {mount}/twos", TWO) == "Permission denied"
    assert attempt(machine, f"echo new > {mount}/new; chmod 640 {mount}/new {mount}/roots", SHOWN) == ""
    assert attempt(machine, f"chmod 644 {mount}/twos", TWO) == "Operation not permitted"
    assert attempt(machine, f"touch {mount}/x", ONE) == "Permission denied"
    assert attempt(machine, f"chmod 777 {mount}/d; umask 77; ln -s x {mount}/made", SHOWN) == ""
    assert attempt(machine, f"umask 77; echo o > {mount}/d/ones; stat -c %u {mount}/d/ones", ONE) == str(
        SHOWN
    )
    assert attempt(machine, f"cat {mount}/d/ones", SHOWN) == "o"
    assert attempt(machine, f"cat {mount}/d/ones", ONE) == "Permission denied"
    machine.ghostfs("umount", mount).check_returncode()
    tree = machine.seen("/mnt/user0/data/sessions/work/tree")
    assert owners(tree) == {
        "d": (0, 0),
        "made": (SHOWN, SHOWN),
        "new": (SHOWN, SHOWN),
        "roots": (0, 0),
        "setuid": (0, 0),
        "twos": (TWO, TWO),
    }
    assert owners(tree / "d") == {"ones": (ONE, ONE)}
    assert "index and files agree" in machine.ghostfs("verify", "work").stdout


def test_no_file_can_be_given_away(machine: Namespace) -> None:
    mount = mapped(machine)
    for user in (0, SHOWN):
        assert attempt(machine, f"chown {SHOWN}:{SHOWN} {mount}/twos", user) == ""
    for given in (f"{TWO}", f"{SHOWN}:{TWO}", f":{TWO}", "0:0"):
        assert attempt(machine, f"chown {given} {mount}/twos", 0) == "Operation not permitted"
    # As chown(2) does that changes nobody: for root, the owner, and no one else.
    assert attempt(machine, f"chown {SHOWN} {mount}/setuid", TWO) == "Operation not permitted"
    assert attempt(machine, f"stat -c %a {mount}/setuid", 0) == "6755"
    assert attempt(machine, f"chown {SHOWN} {mount}/setuid; stat -c %a {mount}/setuid", SHOWN) == "755"
    machine.ghostfs("umount", mount).check_returncode()
    st = (machine.seen("/mnt/user0/data/sessions/work/tree") / "twos").stat()
    assert (st.st_uid, st.st_gid) == (TWO, TWO)
    assert "index and files agree" in machine.ghostfs("verify", "work").stdout


def test_one_of_the_two_alone(machine: Namespace) -> None:
    mount = mapped(machine, f"--gid={SHOWN}")
    assert attempt(machine, f"stat -c %u:%g {mount}/twos {mount}/roots", 0) == f"{TWO}:{SHOWN}\n0:{SHOWN}"
    assert (
        attempt(machine, f"chown {ONE} {mount}/roots; stat -c %u:%g {mount}/roots", 0) == f"{ONE}:{SHOWN}"
    )
    machine.ghostfs("umount", mount).check_returncode()
    st = (machine.seen("/mnt/user0/data/sessions/work/tree") / "roots").stat()
    assert (st.st_uid, st.st_gid) == (ONE, 0)


def test_a_mount_of_a_user_without_rights(machine: Namespace) -> None:
    home = machine.home(ONE)
    asked = ("mount", "--create", f"--uid={SHOWN}", f"--gid={SHOWN}", "work", f"{home}/mnt")
    done = machine.ghostfs(*asked, user=ONE)
    assert (done.returncode, done.stderr) == (0, "")
    # Nobody is let in but the mounter, who is not the owner: the modes for others count.
    mount = f"{home}/mnt"
    assert attempt(machine, f"stat -c %u:%g {mount}", ONE) == f"{SHOWN}:{SHOWN}"
    assert attempt(machine, f"touch {mount}/file", ONE) == "Permission denied"
    machine.ghostfs("umount", mount, user=ONE).check_returncode()
    done = machine.ghostfs("mount", f"--uid={ONE}", f"--gid={ONE}", "work", mount, user=ONE)
    assert (done.returncode, done.stderr) == (0, "")
    wrote = f"echo mine > {mount}/file; chown {ONE}:{ONE} {mount}/file; cat {mount}/file"
    assert attempt(machine, wrote, ONE) == "mine"
    machine.ghostfs("umount", mount, user=ONE).check_returncode()
    assert "index and files agree" in machine.ghostfs("verify", "work", user=ONE).stdout


def test_nodes_and_the_index_hear_nothing_of_it(stack: Stack) -> None:
    mount = stack.mount("work", f"--uid={SHOWN}", f"--gid={SHOWN}", "--allow-other")
    (mount / "d").mkdir()
    (mount / "d" / "file").write_bytes(b"content")
    os.chown(mount / "d" / "file", SHOWN, SHOWN)
    assert (mount / "d" / "file").stat().st_uid == SHOWN
    stack.start_hub()
    node = stack.start_node("n1", "work")
    stack.converge("work")
    tree = stack.session("work").tree
    assert differences(tree, node.copy("work")) == ""
    assert (node.copy("work") / "d" / "file").stat().st_uid == 0
    stack.umount(mount)
    assert verify(stack.session("work")).ok
    # And without it, all is as it was.
    mount = stack.mount("work")
    st = (mount / "d" / "file").stat()
    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (0, 0, 0o644)


def test_what_is_no_id_is_refused_in_one_line(machine: Namespace) -> None:
    machine.home(0)
    for option, name in (("--uid=-2", "mount_uid"), ("--gid=4294967295", "mount_gid")):
        done = machine.ghostfs("mount", "--create", option, "work", "/mnt/user0/mnt")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"ghostfs: {name}=")
        assert done.stderr.count("\n") == 1
