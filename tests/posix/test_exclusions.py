"""What a mount does not do it refuses cleanly, as `docs/posix.md` says: nobody is told of a success that was none."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import subprocess

import pytest
from exclusions import excluded
from sites import Site

FS_IOC_GETFLAGS = 0x80086601
MASK = 0xFFFF_FFFF
CREAT, RO, RW = os.O_CREAT, os.O_RDONLY, os.O_RDWR


@pytest.fixture(params=["mount", "writeback"])
def site(request: pytest.FixtureRequest, sites: dict[str, Site]) -> Site:
    """Each mount; beside one these things work."""
    chosen = sites[request.param]
    chosen.new()
    return chosen


def test_temporary_files_without_a_name(site: Site) -> None:
    assert excluded("O_TMPFILE")
    root = site.actors["root"]
    assert root.attempt("open", slot=0, path=".", flags=RW | os.O_TMPFILE).error == "ENOTSUP"


@pytest.mark.parametrize(
    "mode", [0, 1, 3, 8, 16, 32], ids=["", "keep", "punch", "collapse", "zero", "insert"]
)
def test_allocation(site: Site, mode: int) -> None:
    assert excluded("fallocate")
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("write", slot=0, data=b"x" * 8192)
    assert root.attempt("fallocate", slot=0, mode=mode, offset=0, size=4096).error == "ENOTSUP"
    assert root.do("pread", slot=0, size=10_000, offset=0) == b"x" * 8192


def test_allocation_for_one_who_appends(site: Site) -> None:
    assert excluded("fallocate")
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW | os.O_APPEND)
    assert root.attempt("posix_fallocate", slot=0, offset=0, size=10).error == "EBADF"


def test_holes(site: Site) -> None:
    assert excluded("holes")
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("pwrite", slot=0, data=b"x", offset=1 << 20)
    assert root.do("lseek", slot=0, offset=0, whence=os.SEEK_DATA) == 0
    assert root.do("lseek", slot=0, offset=0, whence=os.SEEK_HOLE) == (1 << 20) + 1


def test_whiteouts(site: Site) -> None:
    assert excluded("RENAME_WHITEOUT")
    root = site.actors["root"]
    root.do("mkdir", path="d")
    assert root.attempt("rename", old="d", new="e", flags=4).error == "EINVAL"
    assert root.do("listdir") == [b"d"]


def test_devices(site: Site) -> None:
    assert excluded("devices")
    root = site.actors["root"]
    root.do("mknod", path="null", mode=stat.S_IFCHR | 0o666, device=os.makedev(1, 3))
    assert root.do("stat", path="null").st_rdev == os.makedev(1, 3)
    assert root.attempt("open", slot=0, path="null", flags=RO).error == "EACCES"


def test_root_without_capabilities_is_held_to_modes_where_others_are_let_in(sites: dict[str, Site]) -> None:
    assert excluded("root alone")
    outcomes = {}
    for name in ("native", "mount", "writeback", "alone"):
        file = sites[name].new() / "file"
        file.write_text("#!/bin/sh\n")
        file.chmod(0o400)
        weak = [
            "setpriv",
            "--bounding-set=-dac_override,-dac_read_search",
            "sh",
            "-c",
            'echo >> "$1"',
            "sh",
            file,
        ]
        changed = subprocess.run(weak, capture_output=True, check=False).returncode == 0
        assert (file.read_text() != "#!/bin/sh\n") == changed
        with pytest.raises(PermissionError):
            subprocess.run([file], check=False)
        outcomes[name] = changed
        sites[name].leave()
    assert outcomes == {"native": False, "mount": False, "writeback": False, "alone": True}


def test_a_chown_takes_the_sticky_bit_of_a_set_user_id_file_where_root_is_alone(
    sites: dict[str, Site],
) -> None:
    assert excluded("sticky files")
    modes = {}
    for name in ("native", "mount", "writeback", "alone"):
        file = sites[name].new() / "file"
        file.touch()
        file.chmod(0o5755)
        os.chown(file, 0, 0)
        modes[name] = stat.S_IMODE(file.stat().st_mode)
        sites[name].leave()
    assert modes == {"native": 0o1755, "mount": 0o1755, "writeback": 0o1755, "alone": 0o755}


def test_only_root_is_told_of_trusted_attributes(site: Site) -> None:
    """No exclusion: it is as natively, though a filesystem is asked on behalf of everybody."""
    root, alice = site.actors["root"], site.actors["alice"]
    root.do("open", slot=0, path="f", flags=os.O_CREAT | os.O_WRONLY)
    root.do("chmod", path="f", mode=0o666)
    for name in ("trusted.a", "user.b"):
        root.do("setxattr", path="f", name=name, value=b"1", flags=0)
    assert sorted(root.do("listxattr", path="f", follow=True)) == ["trusted.a", "user.b"]
    assert alice.do("listxattr", path="f", follow=True) == ["user.b"]


@pytest.mark.parametrize("name", ["system.posix_acl_access", "system.posix_acl_default", "system.other"])
def test_access_control_lists_are_not_accepted_and_then_ignored(site: Site, name: str) -> None:
    assert excluded("access control lists")
    root = site.actors["root"]
    root.do("mkdir", path="d")
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, allowed, who)
        for tag, allowed, who in (
            (1, 7, -1 & MASK),
            (2, 0, 1001),
            (4, 5, -1 & MASK),
            (16, 5, -1 & MASK),
            (32, 5, -1 & MASK),
        )
    )
    assert root.attempt("setxattr", path="d", name=name, value=acl, flags=0).error == "ENOTSUP"
    assert root.attempt("getxattr", path="d", name=name, follow=True).error == "ENOTSUP"
    assert root.attempt("removexattr", path="d", name=name).error == "ENOTSUP"
    assert root.do("listxattr", path="d", follow=True) == []


def test_inode_flags_and_birth_times(sites: dict[str, Site]) -> None:
    assert excluded("inode flags")
    assert excluded("birth time")
    file = sites["mount"].new() / "file"
    file.touch()
    with file.open() as opened, pytest.raises(OSError, match="Inappropriate ioctl") as refused:
        fcntl.ioctl(opened, FS_IOC_GETFLAGS, bytes(8))
    assert refused.value.errno == errno.ENOTTY
    born = subprocess.run(["stat", "-c", "%W", file], check=True, capture_output=True, text=True)
    assert born.stdout.strip() in ("0", "-")


def test_inode_numbers(sites: dict[str, Site]) -> None:
    assert excluded("inode numbers")
    place = sites["mount"].new()
    seen = set()
    for _ in range(20):
        (place / "file").touch()
        seen.add((place / "file").stat().st_ino)
        (place / "file").unlink()
    assert len(seen) == 20
    assert (place / "..").stat().st_ino == place.parent.stat().st_ino
