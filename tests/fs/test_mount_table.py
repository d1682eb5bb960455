"""The mount table as text, and what a mount is asked to be as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from ghostfs.fs import mounts
from ghostfs.fs.lifecycle import MountOptions
from ghostfs.fs.mounts import Mounted, find, mounted, source_name
from ghostfs.mirror.live.settings import MirrorSettings
from ghostfs.mirror.owner import OwnerLock, is_held


@pytest.mark.parametrize("path", ["/data/sessions/a", "/d ata/ü,=\\\n:%/a", "/" + "x" * 300])
def test_a_source_leads_back_to_the_session(path: str) -> None:
    source = source_name("a.b-c_1", Path(path))
    assert source.isascii()
    assert not set(source) & set(", \n\\")
    entry = Mounted(Path("/m"), "fuse.ghostfs", source, "0:1")
    assert entry.is_ours
    assert entry.session == "a.b-c_1"
    assert entry.state == Path(path)


def test_lines_of_the_table_are_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"1 0 8:1 / / rw - ext4 /dev/vda rw\n"
        b"2 1 0:50 / /mnt/a\\040b\\134c rw shared:1 master:2 - fuse.ghostfs ghostfs:s:/state rw\n"
        b"3 2 0:51 / /mnt/a\\040b\\134c rw - fuse.ghostfs ghostfs:t:/other%20state rw\n"
        b"4 1 0:52 / /mnt/\xff rw - fuse.sshfs host: rw\n"
    )
    monkeypatch.setattr(mounts, "_MOUNTINFO", table)
    assert [entry.is_ours for entry in mounted()] == [False, True, True, False]
    topmost = find(Path("/mnt/a b\\c"))
    assert topmost is not None
    assert (topmost.session, topmost.state, topmost.device) == ("t", Path("/other state"), "0:51")
    assert find(Path("/mnt/\udcff")) is not None
    assert find(Path("/mnt")) is None


def test_ownership_is_seen_without_being_taken(tmp_path: Path) -> None:
    path = tmp_path / "owner.lock"
    assert not is_held(path)
    with OwnerLock(path, what="it").acquire():
        assert is_held(path)
    assert not is_held(path)


def test_options_survive_the_way_to_another_process() -> None:
    options = MountOptions(
        "s",
        Path("/m \udcff"),
        Path("/d"),
        xattrs=True,
        log_file=Path("/l"),
        mirror=MirrorSettings(hash_workers=3),
    )
    assert MountOptions.from_json(options.to_json()) == options
