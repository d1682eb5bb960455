"""`.skills` while the registry changes under its readers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from stack import eventually

if TYPE_CHECKING:
    from conftest import Workspaces


@pytest.mark.parametrize("size", [1000, 3 << 20])
def test_a_file_that_is_replaced_in_the_registry_is_not_mixed_with_its_successor(
    workspaces: Workspaces, size: int
) -> None:
    """Whoever has it open goes on reading what it was, and whoever opens it anew reads what it is."""
    workspace = workspaces.make()
    registry = workspace.options.data_dir / "skills"
    registry.mkdir(parents=True)
    (registry / "f").write_bytes(b"A" * size)
    workspace.mount()
    shown = workspace.path / ".skills" / "f"
    with shown.open("rb", buffering=0) as old:
        assert os.pread(old.fileno(), 10, 0) == b"A" * 10
        (registry / "new").write_bytes(b"B" * 2000)
        (registry / "new").rename(registry / "f")
        eventually(lambda: shown.stat().st_size == 2000, timeout=10, what="the new one is not shown")
        with shown.open("rb", buffering=0) as new:
            assert new.read() == b"B" * 2000
            assert os.pread(old.fileno(), size, 0) == b"A" * size
            assert os.fstat(old.fileno()).st_size == size
            assert os.pread(new.fileno(), 2000, 0) == b"B" * 2000
        assert shown.read_bytes() == b"B" * 2000
        (registry / "f").unlink()
        eventually(lambda: not shown.exists(), timeout=10, what="it is still shown")
        assert os.fstat(old.fileno()).st_size == size
    (registry / "f").write_bytes(b"C")
    eventually(shown.exists, timeout=10, what="it is not shown again")
    assert shown.read_bytes() == b"C"


def test_a_directory_that_is_replaced_in_the_registry_is_the_same_to_who_is_in_it(
    workspaces: Workspaces,
) -> None:
    workspace = workspaces.make()
    registry = workspace.options.data_dir / "skills"
    for name in ("skill", "next"):
        (registry / name).mkdir(parents=True)
        (registry / name / "which").write_text(name)
    workspace.mount()
    inside = os.open(workspace.path / ".skills" / "skill", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (registry / "skill").rename(registry / "gone")
        (registry / "next").rename(registry / "skill")

        def which() -> bytes:
            fd = os.open("which", os.O_RDONLY, dir_fd=inside)
            with os.fdopen(fd, "rb") as file:
                return file.read()

        eventually(lambda: which() == b"next", timeout=10, what="the old one is shown")
    finally:
        os.close(inside)
