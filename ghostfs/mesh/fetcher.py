"""Fetching the blocks that a replica has nowhere: several requests in flight, under a window of bytes."""

from __future__ import annotations

__all__ = ["ByteWindow", "Fetcher", "Replicating", "collect"]

import asyncio
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

from ghostfs import metrics
from ghostfs.content import BLOCK_SIZE
from ghostfs.errors import InvalidCell, PeerError
from ghostfs.mesh.backoff import Backoff
from ghostfs.mesh.blockmessage import BlockMessage
from ghostfs.mesh.compression import decompress
from ghostfs.mesh.workers import Workers, dropped
from ghostfs.mirror.replica.batch import Batch, Position, Published, Want
from ghostfs.model import InodeId
from ghostfs.v1 import mesh_pb2 as pb

_REQUEST_BLOCKS = 64
_STREAMS = 4
"""Requests in flight when the window is filled."""

_AT_ONCE = 4
"""Blocks that the replica's thread takes in one turn: handing over costs as much as writing a block."""

_TRIES = 6
"""How often blocks that the hub could not read are asked for again before the batch is given up. The hub
waits some seconds itself; a new batch then brings the newest state."""


class Replicating(Protocol):
    """What the mesh asks of a replica. Synchronous; called from one thread at a time.

    After an exception of any method the batch is dropped with `abandon`; what was staged stays for the
    next. See `ghostfs.mirror.replica.replica.Replica`.
    """

    @property
    def has_content(self) -> bool: ...

    def position(self) -> Position: ...

    def fingerprint(self) -> int | None: ...

    def begin(self, batch: Batch) -> None: ...

    def missing(self) -> Iterator[Want]: ...

    def put(self, inode: InodeId, index: int, data: bytes | memoryview) -> None: ...

    def supersede(self, inode: InodeId) -> None: ...

    def publish(self) -> Published: ...

    def abandon(self) -> None: ...

    def close(self) -> None: ...


class ByteWindow:
    """At most so many bytes asked for and not yet received; one request larger than all of it may pass alone."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._freed = asyncio.Condition()

    async def acquire(self, count: int) -> None:
        """Waits until `count` more fit."""
        async with self._freed:
            await self._freed.wait_for(lambda: self.used == 0 or self.used + count <= self.limit)
            self.used += count

    async def release(self, count: int) -> None:
        """`count` have arrived, or are not waited for any more."""
        async with self._freed:
            self.used -= count
            self._freed.notify_all()


class Fetcher:
    """Fetches for one session's replica. Belongs to the event loop; the replica is used in its thread."""

    def __init__(
        self,
        session: str,
        node_id: bytes,
        fetch: Callable[[pb.FetchRequest], Any],
        replica: Replicating,
        thread: Workers,
        *,
        window: int,
        backoff: Callable[[], Backoff],
    ) -> None:
        self._session = session
        self._node_id = node_id
        self._fetch = fetch
        self._replica = replica
        self._thread = thread
        self._window = ByteWindow(window)
        self._request_bytes = max(BLOCK_SIZE, window // _STREAMS)
        self._backoff = backoff
        self._superseded: set[InodeId] = set()

    async def run(self) -> int:
        """Fetch all that the replica's batch misses; returns how many bytes came.

        Raises:
            PeerError: the hub could not read some blocks for long.
            InvalidCell: the hub sent what was not asked for, or content that is not what its digest says.
            grpc.aio.AioRpcError: the connection failed.
        """
        received = 0
        self._superseded.clear()
        before = -1
        # A block that a superseded file was to bring may be wanted for another file.
        while len(self._superseded) > before:
            before = len(self._superseded)
            received += await self._pass()
        return received

    async def _pass(self) -> int:
        """Fetch what `missing` gives now."""
        wants = await self._thread.run_to_end(lambda: iter(self._replica.missing()))
        received = 0
        tasks: set[asyncio.Task[int]] = set()
        try:
            while group := await self._thread.run_to_end(_take, wants, self._request_bytes):
                await self._acquire(sum(want.length for want in group), tasks)
                tasks.add(asyncio.create_task(self._group(group)))
                received += collect(tasks)
            while tasks:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                received += collect(tasks)
        finally:
            await dropped(*tasks)
        return received

    async def _acquire(self, count: int, tasks: set[asyncio.Task[int]]) -> None:
        """Wait for room in the window, or for the failure of a request that would have made room."""
        room = asyncio.create_task(self._window.acquire(count))
        try:
            while not room.done():
                await asyncio.wait([room, *tasks], return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done() and task.exception() is not None:
                        task.result()
        except BaseException:
            if not room.cancel():
                await self._window.release(count)
            raise

    async def _group(self, group: Sequence[Want]) -> int:
        received = 0
        backoff = self._backoff()
        held = sum(want.length for want in group)
        pending = list(group)
        try:
            while pending:
                answered, unavailable = await self._ask(pending)
                received += answered
                if answered:
                    backoff.reset()
                if unavailable:
                    if backoff.failures >= _TRIES:
                        raise PeerError(f"the hub could not read {len(unavailable)} blocks for long")
                    await asyncio.sleep(backoff.next())
                pending = [want for want in unavailable if want.inode not in self._superseded]
        finally:
            await self._window.release(held)
        return received

    async def _ask(self, wants: Sequence[Want]) -> tuple[int, list[Want]]:
        """One request: bytes received, and the wants that the hub could not read now."""
        request = pb.FetchRequest(
            session=self._session,
            node_id=self._node_id,
            wants=[pb.Want(inode=w.inode, index=w.index, digest=w.digest) for w in wants],
        )
        received = 0
        unavailable: list[Want] = []
        call = self._fetch(request)
        answered: set[int] = set()
        arrived: list[tuple[Want, BlockMessage]] = []
        try:
            async for block in call:
                if block.want >= len(wants) or block.want in answered:
                    raise InvalidCell(f"block {block.want} of a request of {len(wants)}, or sent twice")
                answered.add(block.want)
                want = wants[block.want]
                if block.status == pb.Block.UNAVAILABLE:
                    unavailable.append(want)
                    continue
                arrived.append((want, block))
                if len(arrived) == _AT_ONCE:
                    received += await self._thread.run_to_end(self._take_in, arrived)
                    arrived = []
            received += await self._thread.run_to_end(self._take_in, arrived)
        finally:
            call.cancel()
        if len(answered) != len(wants):
            raise PeerError(f"the hub answered {len(answered)} of {len(wants)} blocks")
        metrics.BYTES_FETCHED.labels(self._session).inc(received)
        return received, unavailable

    def _take_in(self, arrived: Sequence[tuple[Want, BlockMessage]]) -> int:
        """In the replica's thread: blocks, each verified by the replica against its digest; how many bytes."""
        return sum(self._take_one(want, block) for want, block in arrived)

    def _take_one(self, want: Want, block: BlockMessage) -> int:
        if want.inode in self._superseded:
            return 0
        if block.status == pb.Block.SUPERSEDED:
            self._superseded.add(want.inode)
            self._replica.supersede(want.inode)
            return 0
        if block.status != pb.Block.OK:
            raise InvalidCell(f"a block with status {block.status}")
        data = decompress(block.encoding, block.data)
        self._replica.put(want.inode, want.index, data)
        return len(data)


def _take(wants: Iterator[Want], most: int) -> list[Want]:
    """The next wants, of at most about `most` bytes."""
    group: list[Want] = []
    size = 0
    for want in islice(wants, _REQUEST_BLOCKS):
        group.append(want)
        size += want.length
        if size >= most:
            break
    return group


def collect(tasks: set[asyncio.Task[int]]) -> int:
    """The sum of the results of the tasks that are done, which are taken out; raises what one of them raised."""
    done = {task for task in tasks if task.done()}
    tasks -= done
    for task in done:
        if not task.cancelled():
            task.exception()  # of all: where one fails, such as on a full disk, others do at the same time
    return sum(task.result() for task in done)
