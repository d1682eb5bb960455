"""Serving one Fetch: blocks are read a few ahead of the wire, in worker threads, and never queued."""

from __future__ import annotations

__all__ = ["FetchServer"]

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from ghostfs import metrics
from ghostfs.content import BLOCK_SIZE
from ghostfs.errors import Superseded
from ghostfs.mesh.blocks import BlockReader, BlockUnavailable
from ghostfs.mesh.compression import Compressor
from ghostfs.mesh.workers import Workers
from ghostfs.model import InodeId
from ghostfs.v1 import mesh_pb2 as pb

_GROUP_BYTES = 1 << 20
"""Read in one turn of a worker, so that handing over costs little and a waiting reader little memory."""

PATIENCE_SECONDS = 5.0
"""How long one request waits, in all, for files that are not where the index says: a rename is committed
far sooner, if its owner lives."""

_FIRST_WAIT = 0.01
_LONGEST_WAIT = 0.25


class FetchServer:
    """Serves requests through one pool of threads."""

    def __init__(self, workers: Workers, *, patience: float = PATIENCE_SECONDS) -> None:
        self._workers = workers
        self._patience = patience

    async def blocks(
        self, request: pb.FetchRequest, reader: BlockReader, compressor: Compressor
    ) -> AsyncIterator[pb.Block]:
        """The blocks in the order wanted; the next are read while the last are sent. Closes the reader."""
        groups = _groups(request.wants)
        waiting = _Patience(self._patience)
        ahead: asyncio.Task[list[pb.Block]] | None = None
        try:
            for position, group in enumerate(groups):
                if ahead is None:
                    ahead = self._start(group, reader, compressor, waiting)
                blocks = await ahead
                following = groups[position + 1] if position + 1 < len(groups) else None
                ahead = None if following is None else self._start(following, reader, compressor, waiting)
                for block in blocks:
                    _count(request.session, block)
                    yield block
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.wait([ahead])
            await self._workers.run_to_end(reader.close)

    def _start(
        self,
        group: Sequence[tuple[int, pb.Want]],
        reader: BlockReader,
        compressor: Compressor,
        waiting: _Patience,
    ) -> asyncio.Task[list[pb.Block]]:
        return asyncio.create_task(self._group(group, reader, compressor, waiting))

    async def _group(
        self,
        group: Sequence[tuple[int, pb.Want]],
        reader: BlockReader,
        compressor: Compressor,
        waiting: _Patience,
    ) -> list[pb.Block]:
        blocks: list[pb.Block] = []
        while len(blocks) < len(group):
            rest = group[len(blocks) :]
            blocks += await self._workers.run_to_end(_read, rest, reader, compressor)
            if len(blocks) < len(group) and not await waiting.wait():
                position, _ = group[len(blocks)]
                blocks.append(pb.Block(want=position, status=pb.Block.UNAVAILABLE))
        return blocks


class _Patience:
    """Waits between tries, ever longer, up to a deadline that the first wait sets."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline: float | None = None
        self._next = _FIRST_WAIT

    async def wait(self) -> bool:
        """Whether to try again, after a wait."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        if now >= self._deadline:
            return False
        await asyncio.sleep(min(self._next, self._deadline - now))
        self._next = min(_LONGEST_WAIT, self._next * 2)
        return True


def _read(
    group: Sequence[tuple[int, pb.Want]], reader: BlockReader, compressor: Compressor
) -> list[pb.Block]:
    """The group's blocks up to the first that is unavailable."""
    blocks = []
    for position, want in group:
        try:
            data = reader.read(InodeId(want.inode), want.index, want.digest)
        except Superseded:
            blocks.append(pb.Block(want=position, status=pb.Block.SUPERSEDED))
        except BlockUnavailable:
            break
        else:
            encoding, packed = compressor.encode(data)
            blocks.append(pb.Block(want=position, status=pb.Block.OK, encoding=encoding, data=packed))
    return blocks


def _groups(wants: Sequence[pb.Want]) -> list[list[tuple[int, pb.Want]]]:
    most = _GROUP_BYTES // BLOCK_SIZE
    numbered = list(enumerate(wants))
    return [numbered[at : at + most] for at in range(0, len(numbered), most)]


def _count(session: str, block: pb.Block) -> None:
    if block.status == pb.Block.OK:
        metrics.BLOCKS_SENT.labels(session).inc()
        metrics.BYTES_SENT.labels(session).inc(len(block.data))
    elif block.status == pb.Block.SUPERSEDED:
        metrics.BLOCKS_SUPERSEDED.labels(session).inc()
