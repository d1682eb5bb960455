"""The tree that an index describes, as the planner sees it."""

from __future__ import annotations

__all__ = ["IndexTree"]

from ghostfs.index import Index
from ghostfs.mirror.replica.steps import Place
from ghostfs.model import Inode, InodeId


class IndexTree:
    """A `TreeView` of an index, good for one plan: what was read once is remembered."""

    __slots__ = ("_children", "_index", "_inodes", "_places")

    def __init__(self, index: Index) -> None:
        self._index = index
        self._children: dict[tuple[InodeId, bytes], InodeId | None] = {}
        self._inodes: dict[InodeId, Inode | None] = {}
        self._places: dict[InodeId, list[Place]] = {}

    def child(self, parent: InodeId, name: bytes) -> InodeId | None:
        key = (parent, name)
        if key not in self._children:
            self._children[key] = self._index.dirent(parent, name)
        return self._children[key]

    def places(self, inode: InodeId) -> list[Place]:
        places = self._places.get(inode)
        if places is None:
            places = self._places[inode] = [Place(*link) for link in self._index.links(inode)]
        return places

    def inode(self, inode: InodeId) -> Inode | None:
        if inode not in self._inodes:
            self._inodes[inode] = self._index.inode_light(inode)
        return self._inodes[inode]
