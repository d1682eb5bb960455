"""`.skills` through a real mount: it shows the registry, and nobody can write or shadow it."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WRITE = os.O_CREAT | os.O_WRONLY
AT_FDCWD = -100

Attempt = Callable[[Path], object]


def renameat2(old: Path, new: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


SHADOWING: dict[str, Attempt] = {
    "create": lambda m: os.open(m / ".SKILLS", WRITE),
    "create exclusively over it": lambda m: os.open(m / ".skills", WRITE | os.O_EXCL),
    "open it for writing": lambda m: os.open(m / ".skills", os.O_WRONLY),
    "make a directory": lambda m: os.mkdir(m / ".Skills"),
    "make it again": lambda m: os.mkdir(m / ".skills"),
    "make a symlink": lambda m: os.symlink("own", m / ".sKILLS"),
    "make a fifo": lambda m: os.mkfifo(m / ".skillS"),
    "make a device": lambda m: os.mknod(m / ".SKills", 0o20666, os.makedev(1, 3)),
    "make a hard link": lambda m: os.link(m / "file", m / ".SKILLs"),
    "fold by width": lambda m: os.mkdir(m / "\uff0e\uff53\uff4b\uff49\uff4c\uff4c\uff53"),
    "fold by ligature and case": lambda m: os.open(m / ".\u017fkills", WRITE),
    "fold by invisible characters": lambda m: os.mkdir(m / ".ski\u200blls"),
    "rename a file to a fold of it": lambda m: os.rename(m / "file", m / ".SkillS"),
    "rename a directory onto it": lambda m: os.rename(m / "own", m / ".skills"),
    "rename it away": lambda m: os.rename(m / ".skills", m / "mine"),
    "rename it into a directory": lambda m: os.rename(m / ".skills", m / "own" / "mine"),
    "exchange it": lambda m: renameat2(m / "own", m / ".skills", 2),
    "exchange it the other way": lambda m: renameat2(m / ".skills", m / "own", 2),
    "remove it": lambda m: os.rmdir(m / ".skills"),
    "unlink it": lambda m: os.unlink(m / ".skills"),
    "change its mode": lambda m: os.chmod(m / ".skills", 0o700),
    "change its owner": lambda m: os.chown(m / ".skills", 1, 1),
    "change its times": lambda m: os.utime(m / ".skills"),
    "set an attribute": lambda m: os.setxattr(m / ".skills", "user.x", b"1"),
}

WRITING: dict[str, Attempt] = {
    "create a file": lambda m: os.open(m / ".skills" / "new", WRITE),
    "create in a skill": lambda m: os.open(m / ".skills" / "pdf" / "v1" / "new", WRITE),
    "open for writing": lambda m: os.open(m / ".skills" / "pdf" / "v1" / "SKILL.md", os.O_WRONLY),
    "open for both": lambda m: os.open(m / ".skills" / "pdf" / "v1" / "SKILL.md", os.O_RDWR),
    "open for appending": lambda m: os.open(
        m / ".skills" / "pdf" / "v1" / "SKILL.md", os.O_WRONLY | os.O_APPEND
    ),
    "open and truncate": lambda m: os.open(
        m / ".skills" / "pdf" / "v1" / "SKILL.md", os.O_RDONLY | os.O_TRUNC
    ),
    "truncate": lambda m: os.truncate(m / ".skills" / "pdf" / "v1" / "SKILL.md", 0),
    "make a directory": lambda m: os.mkdir(m / ".skills" / "pdf" / "v2"),
    "make a symlink": lambda m: os.symlink("x", m / ".skills" / "link"),
    "make a fifo": lambda m: os.mkfifo(m / ".skills" / "fifo"),
    "link into": lambda m: os.link(m / "file", m / ".skills" / "link"),
    "link out of": lambda m: os.link(m / ".skills" / "pdf" / "v1" / "SKILL.md", m / "link"),
    "rename into": lambda m: os.rename(m / "file", m / ".skills" / "file"),
    "rename out of": lambda m: os.rename(m / ".skills" / "pdf", m / "pdf"),
    "rename within": lambda m: os.rename(m / ".skills" / "pdf", m / ".skills" / "pdf2"),
    "exchange with": lambda m: renameat2(m / "file", m / ".skills" / "pdf" / "v1" / "SKILL.md", 2),
    "unlink": lambda m: os.unlink(m / ".skills" / "pdf" / "v1" / "SKILL.md"),
    "remove a directory": lambda m: os.rmdir(m / ".skills" / "empty"),
    "remove all": lambda m: shutil.rmtree(m / ".skills"),
    "change the mode": lambda m: os.chmod(m / ".skills" / "pdf", 0o777),
    "change the owner": lambda m: os.chown(m / ".skills" / "pdf", 1, 1),
    "change the times": lambda m: os.utime(m / ".skills" / "pdf" / "v1" / "SKILL.md", (1, 1)),
    "set an attribute": lambda m: os.setxattr(m / ".skills" / "pdf", "user.x", b"1"),
    "remove an attribute": lambda m: os.removexattr(m / ".skills" / "pdf", "user.x"),
    "write the virtual file": lambda m: os.open(m / ".skills" / ".gitignore", os.O_WRONLY),
    "unlink the virtual file": lambda m: os.unlink(m / ".skills" / ".gitignore"),
    "make a temporary file": lambda m: os.open(m / ".skills", os.O_TMPFILE | os.O_RDWR),
}


# The kernel refuses these before it asks the filesystem. The first three with what it says of a filesystem
# that is mounted read-only, too; the others differently, as only a read-only mount is looked at before.
BY_THE_KERNEL = {
    "create exclusively over it": errno.EEXIST,
    "open it for writing": errno.EISDIR,
    "make it again": errno.EEXIST,
    "unlink it": errno.EISDIR,
    "make a temporary file": errno.EOPNOTSUPP,
}
NOT_AS_IF_MOUNTED_READ_ONLY = {"unlink it", "make a temporary file"}


def refusal(act: Callable[[], object]) -> int | None:
    """The errno that an action fails with."""
    try:
        act()
    except OSError as error:
        return error.errno
    return None


def contents(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


@pytest.mark.parametrize("name", SHADOWING)
def test_shadowing_is_refused(overlay_mount: Path, name: str) -> None:
    before = contents(overlay_mount)
    assert refusal(lambda: SHADOWING[name](overlay_mount)) == BY_THE_KERNEL.get(name, errno.EROFS)
    assert contents(overlay_mount) == before


@pytest.mark.parametrize("name", WRITING)
def test_writing_is_refused(overlay_mount: Path, name: str) -> None:
    before = contents(overlay_mount)
    assert refusal(lambda: WRITING[name](overlay_mount)) == BY_THE_KERNEL.get(name, errno.EROFS)
    assert contents(overlay_mount) == before


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A filesystem that is mounted read-only, with the names that `overlay_mount` has."""
    root = tmp_path_factory.mktemp("read-only")
    subprocess.run(["mount", "-t", "tmpfs", "twin", root], check=True)
    try:
        skill = root / ".skills" / "pdf" / "v1"
        skill.mkdir(parents=True)
        for path in (skill / "SKILL.md", root / ".skills" / ".gitignore", root / "file"):
            path.touch()
        for path in (root / ".skills" / "empty", root / "own"):
            path.mkdir()
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)
        yield root
    finally:
        subprocess.run(["umount", root], check=True)


@pytest.mark.parametrize(
    ("name", "attempt"),
    [case for case in (*SHADOWING.items(), *WRITING.items()) if case[0] not in NOT_AS_IF_MOUNTED_READ_ONLY],
)
def test_a_read_only_filesystem_refuses_with_the_same_answer(
    read_only: Path, name: str, attempt: Attempt
) -> None:
    assert refusal(lambda: attempt(read_only)) == BY_THE_KERNEL.get(name, errno.EROFS)


def test_it_shows_the_registry_and_not_what_the_tree_has_at_its_name(overlay_mount: Path) -> None:
    skills = overlay_mount / ".skills"
    assert sorted(os.listdir(overlay_mount)) == [".skills", "file", "own"]
    assert sorted(os.listdir(skills)) == [".gitignore", "empty", "pdf"]
    assert (skills / ".gitignore").read_bytes() == b"*\n"
    assert (skills / "pdf" / "v1" / "SKILL.md").read_text() == "how to read a PDF\n"
    assert os.readlink(skills / "pdf" / "latest") == "v1"
    assert (skills / "pdf" / "latest" / "SKILL.md").exists()
    assert not (skills / "shadow").exists()
    assert not (overlay_mount / ".SKILLS").exists()
    assert not (overlay_mount / "own" / ".skills").exists()
    assert not (overlay_mount / ".skills ").exists()


def test_a_program_in_it_runs(overlay_mount: Path) -> None:
    program = overlay_mount / ".skills" / "pdf" / "v1" / "run"
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"ran\n"


def test_the_name_is_free_anywhere_below_the_root(overlay_mount: Path) -> None:
    (overlay_mount / "own" / ".skills").mkdir()
    (overlay_mount / "own" / ".skills" / "mine").write_text("mine")
    assert os.listdir(overlay_mount / "own" / ".skills") == ["mine"]
    assert (overlay_mount / "own" / ".skills" / "mine").read_text() == "mine"
    shutil.rmtree(overlay_mount / "own" / ".skills")


def test_git_leaves_it_out(overlay_mount: Path) -> None:
    subprocess.run(["git", "init", "-q", "."], cwd=overlay_mount, check=True)
    said = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=overlay_mount, capture_output=True, check=True
    )
    shutil.rmtree(overlay_mount / ".git")
    assert said.stdout == b"?? file\n"


def test_what_is_added_to_the_registry_shows_without_a_new_mount(overlay_mount: Path) -> None:
    registry = overlay_mount.parent / "data" / "skills"
    (registry / "later").mkdir()
    try:
        assert "later" in os.listdir(overlay_mount / ".skills")
    finally:
        (registry / "later").rmdir()


def test_another_user_is_told_the_same(overlay_mount: Path) -> None:
    code = (
        "import os\n"
        "for act in (lambda: os.mkdir('.skills/x'), lambda: os.open('.skills/pdf/v1/SKILL.md', os.O_WRONLY),\n"
        "            lambda: os.unlink('.skills/.gitignore'), lambda: os.rename('.skills/pdf', 'own/pdf')):\n"
        "    try: act()\n"
        "    except OSError as error: print(error.errno)\n"
    )
    overlay_mount.chmod(0o777)
    (overlay_mount / "own").chmod(0o777)
    who = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    said = subprocess.run(
        [*who, sys.executable, "-c", code], cwd=overlay_mount, capture_output=True, check=True
    )
    assert said.stdout.split() == [b"30"] * 4
