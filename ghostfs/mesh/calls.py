"""The calls that a hub is answering: how their errors become status codes, and how they end with the hub."""

from __future__ import annotations

__all__ = ["Calls", "translated"]

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog

from ghostfs.errors import GhostError, InvalidCell, InvalidName, NameTaken
from ghostfs.mesh.transport import status_code

log = structlog.get_logger(__name__)


class Calls:
    """Those under way. Belongs to the event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def answering(self, context: Any) -> AsyncIterator[None]:
        """Around the whole of a handler; errors as `translated` has them."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            async with translated(context):
                yield
        finally:
            self._tasks.discard(task)

    async def end(self, patience: float) -> None:
        """Cancel them all, and wait until they have given back what they hold, `patience` seconds at most.

        gRPC cancels the handlers of a server that is stopped, but does not wait for them.
        """
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=patience)


@asynccontextmanager
async def translated(context: Any) -> AsyncIterator[None]:
    """The one place where errors become gRPC's status codes; a bug keeps its traceback, in the log.

    Raises:
        asyncio.CancelledError: the node has ended the call, so nobody is there to be told anything. gRPC
            cancels such a handler too, but a message that is being sent may fail just before that.
    """
    try:
        try:
            yield
        except NameTaken as error:
            log.warning("node_refused", peer=context.peer(), reason=str(error))
            await context.abort(status_code(error), str(error))
        except (InvalidCell, InvalidName) as error:
            log.warning("request_refused", peer=context.peer(), error=str(error))
            await context.abort(status_code(error), str(error))
        except (GhostError, OSError) as error:
            log.info("request_failed", peer=context.peer(), error=str(error))
            await context.abort(status_code(error), str(error))
    except grpc.aio.InternalError as error:
        log.debug("call_is_over", peer=context.peer(), error=str(error))
        raise asyncio.CancelledError from error
