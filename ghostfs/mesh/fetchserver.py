"""Serving one Fetch: blocks are read a few ahead of the wire, in worker threads, and never queued."""

from __future__ import annotations

__all__ = ["FetchServer", "Turn"]

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from ghostfs import metrics
from ghostfs.content import BLOCK_SIZE
from ghostfs.errors import Superseded
from ghostfs.mesh.blockmessage import BlockMessage, encode_block
from ghostfs.mesh.blocks import PATIENCE_SECONDS, BlockReader, BlockUnavailable, FileUnavailable
from ghostfs.mesh.compression import Compressor
from ghostfs.mesh.workers import Workers, dropped
from ghostfs.model import InodeId
from ghostfs.v1 import mesh_pb2 as pb

_GROUP_BYTES = 1 << 20
"""Read in one turn of a worker, so that handing over costs little and a waiting reader little memory."""

_FIRST_WAIT = 0.01
_LONGEST_WAIT = 0.25


@dataclass(slots=True)
class Turn:
    """Messages to send one after the other, as bytes; how many have content, and how much."""

    messages: list[bytes] = field(default_factory=list)
    blocks: int = 0
    bytes: int = 0
    superseded: int = 0

    def add(self, block: BlockMessage) -> None:
        """One more."""
        self.messages.append(encode_block(block))
        if block.status == pb.Block.OK:
            self.blocks += 1
            self.bytes += len(block.data)
        elif block.status == pb.Block.SUPERSEDED:
            self.superseded += 1


class FetchServer:
    """Serves requests through one pool of threads."""

    def __init__(self, workers: Workers, *, patience: float = PATIENCE_SECONDS) -> None:
        """`patience` is for how many seconds one request waits, in all, for a tree that cannot be read at all;
        how long for one file is the reader's business."""
        self._workers = workers
        self._patience = patience

    async def turns(
        self, request: pb.FetchRequest, reader: BlockReader, compressor: Compressor
    ) -> AsyncIterator[Turn]:
        """The blocks in the order wanted; the next are read while the last are sent. Closes the reader."""
        groups = _groups(request.wants)
        work = _Request(
            reader, compressor, _Patience(self._patience), {want.inode for want in request.wants}
        )
        ahead: asyncio.Task[Turn] | None = None
        try:
            for position, group in enumerate(groups):
                if ahead is None:
                    ahead = asyncio.create_task(self._group(group, work))
                turn = await ahead
                following = groups[position + 1] if position + 1 < len(groups) else None
                ahead = None if following is None else asyncio.create_task(self._group(following, work))
                metrics.BLOCKS_SENT.labels(request.session).inc(turn.blocks)
                metrics.BYTES_SENT.labels(request.session).inc(turn.bytes)
                metrics.BLOCKS_SUPERSEDED.labels(request.session).inc(turn.superseded)
                yield turn
        finally:
            if ahead is not None:
                await dropped(ahead)
            await self._workers.run_to_end(reader.close)

    async def _group(self, group: Sequence[tuple[int, pb.Want]], work: _Request) -> Turn:
        turn = Turn()
        while True:
            rest = group[len(turn.messages) :]
            trouble = await self._workers.run_to_end(_read, rest, work, turn)
            if trouble is None:
                return turn
            if isinstance(trouble, FileUnavailable):
                await work.waiting.pause()
            elif not await work.waiting.wait():
                position, _ = group[len(turn.messages)]
                turn.add(BlockMessage(position, pb.Block.UNAVAILABLE))


class _Patience:
    """Waits between tries, ever longer; `wait` up to a deadline that the first one sets."""

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
        await self._sleep(self._deadline - now)
        return True

    async def pause(self) -> None:
        """One wait, however long there were others before."""
        await self._sleep(_LONGEST_WAIT)

    async def _sleep(self, most: float) -> None:
        await asyncio.sleep(min(self._next, most))
        self._next = min(_LONGEST_WAIT, self._next * 2)


@dataclass(slots=True)
class _Request:
    """What all turns of one request share; `unsought` are its inodes until something was amiss with one."""

    reader: BlockReader
    compressor: Compressor
    waiting: _Patience
    unsought: set[int]


def _read(group: Sequence[tuple[int, pb.Want]], work: _Request, turn: Turn) -> BlockUnavailable | None:
    """Adds the group's blocks up to the first that is unavailable, and returns what was amiss with that."""
    try:
        for position, want in group:
            try:
                data = work.reader.read(InodeId(want.inode), want.index, want.digest)
            except Superseded:
                turn.add(BlockMessage(position, pb.Block.SUPERSEDED))
            else:
                encoding, packed = work.compressor.encode(data)
                turn.add(BlockMessage(position, pb.Block.OK, encoding, packed))
    except FileUnavailable as trouble:
        unsought, work.unsought = work.unsought, set()
        with suppress(BlockUnavailable):
            work.reader.seek(InodeId(inode) for inode in unsought)
        return trouble
    except BlockUnavailable as trouble:
        return trouble
    return None


def _groups(wants: Sequence[pb.Want]) -> list[list[tuple[int, pb.Want]]]:
    most = _GROUP_BYTES // BLOCK_SIZE
    numbered = list(enumerate(wants))
    return [numbered[at : at + most] for at in range(0, len(numbered), most)]
