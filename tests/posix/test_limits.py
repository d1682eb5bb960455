"""The ends of things: read-only, busy, too large, too many links, programs that run, holes, maps, allocation."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from exclusions import excluded
from sites import Site

CREAT, RO, WO, RW, TRUNC = os.O_CREAT, os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_TRUNC

LINKS = 65_100 if int(os.environ.get("LONG_RUNS", "0")) else 300
"""How many hard links are tried; on ext4 there can be 65,000, which takes a mount a minute to make."""


@pytest.fixture
def readonly(site: Site) -> Iterator[Site]:
    """The working directory of `root` has `ro`, which shows `rw` and cannot be written to."""
    root = site.actors["root"]
    for name in ("rw", "ro"):
        root.do("mkdir", path=name)
    root.do("open", slot=0, path="rw/f", flags=CREAT | RW)
    root.do("mkdir", path="rw/d")
    root.do("close", slot=0)
    directory = site.latest
    subprocess.run(["mount", "--bind", directory / "rw", directory / "ro"], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", directory / "ro"], check=True)
        yield site
    finally:
        subprocess.run(["umount", directory / "ro"], check=True)


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("open", {"slot": 1, "path": "ro/f", "flags": WO}),
        ("open", {"slot": 1, "path": "ro/f", "flags": RO | TRUNC}),
        ("open", {"slot": 1, "path": "ro/new", "flags": WO | CREAT}),
        ("truncate", {"path": "ro/f", "size": 0}),
        ("mkdir", {"path": "ro/new"}),
        ("mknod", {"path": "ro/new", "mode": stat.S_IFIFO | 0o600}),
        ("symlink", {"target": "x", "path": "ro/new"}),
        ("link", {"old": "ro/f", "new": "ro/new"}),
        ("unlink", {"path": "ro/f"}),
        ("rmdir", {"path": "ro/d"}),
        ("rename", {"old": "ro/f", "new": "ro/new"}),
        ("chmod", {"path": "ro/f", "mode": 0o600}),
        ("chown", {"path": "ro/f", "uid": 0, "gid": 0}),
        ("touch", {"path": "ro/f"}),
        ("setxattr", {"path": "ro/f", "name": "user.a", "value": b"x"}),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else "-".join(map(str, value.values())).replace("/", "_")
    ),
)
def test_read_only(readonly: Site, call: str, arguments: dict[str, object]) -> None:
    root = readonly.actors["root"]
    assert root.attempt(call, **arguments).error == "EROFS"
    root.do("open", slot=1, path="ro/f", flags=RO)
    root.do("close", slot=1)


def test_a_mountpoint_is_busy(readonly: Site) -> None:
    root = readonly.actors["root"]
    assert root.attempt("rmdir", path="ro").error == "EBUSY"
    assert root.attempt("rename", old="ro", new="elsewhere").error == "EBUSY"
    assert root.attempt("rename", old="ro/f", new="rw/g").error == "EXDEV"
    assert root.attempt("link", old="ro/f", new="rw/g").error == "EXDEV"


def test_a_running_program_is_not_written_to(site: Site) -> None:
    root = site.actors["root"]
    program = Path("/bin/sleep").read_bytes()
    root.do("open", slot=0, path="program", flags=CREAT | WO, mode=0o755)
    root.do("write", slot=0, data=program)
    assert root.attempt("run", path="./program").error == "ETXTBSY"
    root.do("close", slot=0)
    running = subprocess.Popen([site.latest / "program", "100"])
    try:
        for flags in (WO, RW, WO | TRUNC):
            assert root.attempt("open", slot=0, path="program", flags=flags).error == "ETXTBSY"
        assert root.attempt("truncate", path="program", size=0).error == "ETXTBSY"
    finally:
        running.kill()
        running.wait()
    root.do("open", slot=0, path="program", flags=WO)


def test_no_file_grows_beyond_the_limit_of_its_writer(site: Site) -> None:
    other = site.actors["other"]
    other.do("open", slot=0, path="f", flags=CREAT | RW)
    try:
        other.do("limit_size", size=10_000)
        assert other.do("pwrite", slot=0, data=b"x" * 100, offset=9_950) == 50
        assert other.attempt("pwrite", slot=0, data=b"x", offset=10_000).error == "EFBIG"
        assert other.attempt("ftruncate", slot=0, size=10_001).error == "EFBIG"
        assert other.attempt("truncate", path="f", size=10_001).error == "EFBIG"
    finally:
        other.do("limit_size", size=-1)
    assert other.do("fstat", slot=0).st_size == 10_000


@pytest.mark.parametrize("size", [(1 << 63) - 1, 1 << 62])
def test_no_file_is_larger_than_the_disk_allows(site: Site, size: int) -> None:
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    assert root.attempt("ftruncate", slot=0, size=size).error == "EFBIG"
    assert root.attempt("ftruncate", slot=0, size=-1).error == "EINVAL"
    assert root.do("fstat", slot=0).st_size == 0
    if site.writeback and excluded("late errors"):
        return
    assert root.attempt("pwrite", slot=0, data=b"xx", offset=size - 2).error == "EFBIG"
    assert root.do("fstat", slot=0).st_size == 0


def test_an_inode_has_so_many_names_and_no_more(site: Site) -> None:
    root = site.actors["root"]
    root.do("mknod", path="f", mode=stat.S_IFREG | 0o600)
    error, made = root.do("link_often", path="f", most=LINKS)
    assert (error, made) == (("EMLINK", 64_999) if LINKS > 64_999 else (None, LINKS))
    assert root.do("stat", path="f").st_nlink == made + 1
    root.do("unlink", path="f")
    assert root.do("stat", path="l0").st_nlink == made


@pytest.mark.parametrize("flags", [RO, WO, RW], ids=["reading", "writing", "both"])
def test_descriptors_do_what_they_were_opened_for(site: Site, flags: int) -> None:
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("write", slot=0, data=b"x" * 100)
    root.do("open", slot=1, path="f", flags=flags)
    reads, writes = flags != WO, flags != RO
    assert root.attempt("pread", slot=1, size=1, offset=0).error == (None if reads else "EBADF")
    assert root.attempt("pwrite", slot=1, data=b"x", offset=0).error == (None if writes else "EBADF")
    assert root.attempt("ftruncate", slot=1, size=50).error == (None if writes else "EINVAL")
    assert root.attempt("posix_fallocate", slot=1, offset=0, size=60).error == (None if writes else "EBADF")
    assert root.attempt("lseek", slot=1, offset=-1, whence=os.SEEK_SET).error == "EINVAL"
    assert root.attempt("pread", slot=1, size=1, offset=-1).error == "EINVAL"


def test_a_file_that_is_allocated_has_its_size_and_keeps_its_content(site: Site) -> None:
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("write", slot=0, data=b"begin")
    root.do("posix_fallocate", slot=0, offset=3, size=10_000)
    assert root.do("fstat", slot=0).st_size == 10_003
    assert root.do("pread", slot=0, size=20_000, offset=0) == b"begin" + bytes(9_998)
    root.do("posix_fallocate", slot=0, offset=0, size=10)
    assert root.do("fstat", slot=0).st_size == 10_003
    assert root.attempt("posix_fallocate", slot=0, offset=-1, size=10).error == "EINVAL"
    assert root.attempt("posix_fallocate", slot=0, offset=0, size=0).error == "EINVAL"
    root.do("open", slot=1, path=".", flags=RO)
    assert root.attempt("posix_fallocate", slot=1, offset=0, size=10).error == "EBADF"


def test_the_end_is_the_last_hole(site: Site) -> None:
    root = site.actors["root"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("write", slot=0, data=b"x" * 5000)
    assert root.do("lseek", slot=0, offset=0, whence=os.SEEK_DATA) == 0
    assert root.do("lseek", slot=0, offset=0, whence=os.SEEK_HOLE) == 5000
    assert root.do("lseek", slot=0, offset=4999, whence=os.SEEK_HOLE) == 5000
    for whence in (os.SEEK_DATA, os.SEEK_HOLE):
        assert root.attempt("lseek", slot=0, offset=5000, whence=whence).error == "ENXIO"


def test_appends_go_to_the_end_wherever_one_is(site: Site) -> None:
    root, other = site.actors["root"], site.actors["other"]
    root.do("open", slot=0, path="f", flags=CREAT | RW | os.O_APPEND)
    other.do("open", slot=0, path="f", flags=WO)
    root.do("write", slot=0, data=b"one")
    other.do("pwrite", slot=0, data=b"two", offset=3)
    root.do("write", slot=0, data=b"three")
    root.do("pwrite", slot=0, data=b"!", offset=0)  # as Linux has it
    assert root.do("pread", slot=0, size=100, offset=0) == b"onetwothree!"
    other.do("ftruncate", slot=0, size=3)
    root.do("write", slot=0, data=b"four")
    assert root.do("pread", slot=0, size=100, offset=0) == b"onefour"


def test_what_one_process_writes_through_a_map_another_reads(site: Site) -> None:
    root, other = site.actors["root"], site.actors["other"]
    root.do("open", slot=0, path="f", flags=CREAT | RW)
    root.do("write", slot=0, data=b"x" * 10_000)
    other.do("open", slot=0, path="f", flags=RW)
    root.do("map", slot=0, other=0, length=10_000, shared=True)
    other.do("map", slot=0, other=0, length=10_000, shared=False)
    root.do("map_write", slot=0, at=100, data=b"map")
    assert other.do("pread", slot=0, size=5, offset=99) == b"xmapx"
    other.do("pwrite", slot=0, data=b"write", offset=200)
    assert root.do("map_read", slot=0, at=199, size=7) == b"xwritex"
    other.do("map_write", slot=0, at=300, data=b"private")
    assert root.do("map_read", slot=0, at=300, size=7) == b"x" * 7


@pytest.mark.parametrize("length", [255, 1], ids=["longest", "shortest"])
def test_names_of_any_bytes_and_length(site: Site, length: int) -> None:
    root = site.actors["root"]
    for byte in (1, 10, 92, 127, 200, 255):
        name = bytes([byte]) * length
        root.do("mkdir", path=name)
        root.do("rename", old=name, new=name[:-1] + b"-")
        assert root.do("listdir") == [name[:-1] + b"-"]
        root.do("rmdir", path=name[:-1] + b"-")


def test_the_longest_symlink(site: Site) -> None:
    root = site.actors["root"]
    target = b"\xff" * 4095
    root.do("symlink", target=target, path="s")
    assert root.do("readlink", path="s") == target
    assert root.do("lstat", path="s").st_size == 4095
