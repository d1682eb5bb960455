"""Serving one Fetch: blocks are read a few ahead of the wire, in worker threads, and never queued."""

from __future__ import annotations

__all__ = ["FetchServer", "Turn"]

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from ghostfs import metrics
from ghostfs.content import BLOCK_SIZE
from ghostfs.errors import Superseded
from ghostfs.mesh.blockmessage import BlockMessage, encode_block
from ghostfs.mesh.blocks import BlockReader, BlockUnavailable
from ghostfs.mesh.compression import Compressor
from ghostfs.mesh.workers import Workers, dropped
from ghostfs.model import InodeId
from ghostfs.v1 import mesh_pb2 as pb

_GROUP_BYTES = 1 << 20
"""Read in one turn of a worker, so that handing over costs little and a waiting reader little memory."""

PATIENCE_SECONDS = 5.0
"""How long one request waits, in all, for files that are not where the index says: a rename is committed
far sooner, if its owner lives."""

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
        self._workers = workers
        self._patience = patience

    async def turns(
        self, request: pb.FetchRequest, reader: BlockReader, compressor: Compressor
    ) -> AsyncIterator[Turn]:
        """The blocks in the order wanted; the next are read while the last are sent. Closes the reader."""
        groups = _groups(request.wants)
        waiting = _Patience(self._patience)
        ahead: asyncio.Task[Turn] | None = None
        try:
            for position, group in enumerate(groups):
                if ahead is None:
                    ahead = self._start(group, reader, compressor, waiting)
                turn = await ahead
                following = groups[position + 1] if position + 1 < len(groups) else None
                ahead = None if following is None else self._start(following, reader, compressor, waiting)
                metrics.BLOCKS_SENT.labels(request.session).inc(turn.blocks)
                metrics.BYTES_SENT.labels(request.session).inc(turn.bytes)
                metrics.BLOCKS_SUPERSEDED.labels(request.session).inc(turn.superseded)
                yield turn
        finally:
            if ahead is not None:
                await dropped(ahead)
            await self._workers.run_to_end(reader.close)

    def _start(
        self,
        group: Sequence[tuple[int, pb.Want]],
        reader: BlockReader,
        compressor: Compressor,
        waiting: _Patience,
    ) -> asyncio.Task[Turn]:
        return asyncio.create_task(self._group(group, reader, compressor, waiting))

    async def _group(
        self,
        group: Sequence[tuple[int, pb.Want]],
        reader: BlockReader,
        compressor: Compressor,
        waiting: _Patience,
    ) -> Turn:
        turn = Turn()
        while len(turn.messages) < len(group):
            rest = group[len(turn.messages) :]
            await self._workers.run_to_end(_read, rest, reader, compressor, turn)
            if len(turn.messages) < len(group) and not await waiting.wait():
                position, _ = group[len(turn.messages)]
                turn.add(BlockMessage(position, pb.Block.UNAVAILABLE))
        return turn


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
    group: Sequence[tuple[int, pb.Want]], reader: BlockReader, compressor: Compressor, turn: Turn
) -> None:
    """Adds the group's blocks up to the first that is unavailable."""
    for position, want in group:
        try:
            data = reader.read(InodeId(want.inode), want.index, want.digest)
        except Superseded:
            turn.add(BlockMessage(position, pb.Block.SUPERSEDED))
        except BlockUnavailable:
            break
        else:
            encoding, packed = compressor.encode(data)
            turn.add(BlockMessage(position, pb.Block.OK, encoding, packed))


def _groups(wants: Sequence[pb.Want]) -> list[list[tuple[int, pb.Want]]]:
    most = _GROUP_BYTES // BLOCK_SIZE
    numbered = list(enumerate(wants))
    return [numbered[at : at + most] for at in range(0, len(numbered), most)]
