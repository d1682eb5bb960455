"""A file that was removed from the tree behind a stopped mount: nodes get all else, and the file when it is back."""

from __future__ import annotations

import json

from stack import Stack, eventually

from ghostfs.index import Index


def test_a_file_that_is_gone_keeps_nothing_else_back(stack: Stack) -> None:
    mountpoint = stack.mount("demo")
    for name in ("a", "b", "c"):
        (mountpoint / name).write_text(f"{name} at first")
    (mountpoint / "large").write_bytes(b"large" * 200_000)
    stack.umount(mountpoint)
    tree = stack.session("demo").tree
    (tree / "b").unlink()
    (tree / "large").unlink()

    stack.start_hub()
    node = stack.start_node("n1", "demo")
    with Index.open(stack.session("demo").index_db, readonly=True) as index:
        wanted = (index.epoch, index.head())
    eventually(lambda: node.cursor("demo") >= wanted, what="the node does not move on")
    copy = node.copy("demo")
    assert {path.name: path.read_text() for path in copy.iterdir()} == {
        "a": "a at first",
        "c": "c at first",
    }
    assert node.parked("demo") == 2
    lines = [json.loads(line) for line in (stack.base / "hub.log").read_text().splitlines()]
    said = sorted(line["path"] for line in lines if line["event"] == "file_unreadable")
    assert said == ["b", "large"]

    # As the operator is told to have it taken in.
    state = stack.session("demo").index_db.parent
    for path in state.glob("index.db*"):
        path.unlink()
    mountpoint = stack.mount("demo")
    (mountpoint / "b").write_text("b anew")
    (mountpoint / "large").write_bytes(b"anew" * 200_000)
    stack.converge("demo", "n1")
    assert (copy / "b").read_text() == "b anew"
    assert (copy / "large").stat().st_size == 800_000
    assert node.parked("demo") == 0
