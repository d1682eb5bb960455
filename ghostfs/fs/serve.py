"""The life of a mount process: take the mirror, mount, serve, drain, commit, end.

However it is asked to end (SIGTERM, SIGINT, SIGHUP, the control socket, fusermount3 -u), the same happens:
no new request comes in, everything settles and is committed, the index is marked clean.
"""

from __future__ import annotations

__all__ = ["serve"]

import contextlib
import errno
import functools
import gc
import logging
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal

import pyfuse3
import structlog
import trio

from ghostfs.errors import ConfigError, MountError, in_words
from ghostfs.fs import libfuse
from ghostfs.fs.attributes import ShownOwner
from ghostfs.fs.control import ControlServer, Heads
from ghostfs.fs.mounts import source_name, users_of
from ghostfs.fs.operations import Operations
from ghostfs.fs.options import MountOptions
from ghostfs.fs.outside import Outside
from ghostfs.fs.overlay import Overlay
from ghostfs.fs.polling import install
from ghostfs.fs.preflight import who_may_mount
from ghostfs.index import Index, State
from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.session import OwnedMirror
from ghostfs.model import ROOT
from ghostfs.v1 import control_pb2 as pb

log = structlog.get_logger(__name__)

_TASKS = 64
"""Most requests in progress at once; only those that wait for the disk (fsync) ever overlap."""

_SWITCH_INTERVAL_S = 0.0005
"""How long the capture thread may keep the interpreter from the request loop."""

_LEFT_S = 2.0
"""How long the kernel may take to end a mount that was taken out of the tree."""

_DRAIN_TIMEOUT_S = 120.0
"""How long a disk may stay full at the end before the index is left to the next start."""

_READ_AHEAD_KIB = 1024
"""What the kernel reads ahead of a sequential reader; its default is 128. One request carries 1 MiB."""

_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask the mount to end."""

_METRICS: tuple[tuple[str, Literal["counter", "gauge"], str], ...] = (
    ("requests", "counter", "Requests that the kernel made"),
    ("bytes_hashed", "counter", "Bytes hashed, those read back included"),
    ("bytes_reread", "counter", "Bytes read back to be hashed"),
    ("dirty_inodes", "gauge", "Names and inodes that are not committed yet"),
    ("open_files", "gauge", "Open files"),
)
"""Fields of the owner's status, shown as `ghostfs_mount_<name>`."""


def serve(options: MountOptions, mountpoint: Path, on_ready: Callable[[], None]) -> None:
    """Mounts at `mountpoint` (which has passed `preflight.check`) and returns once it has ended cleanly.

    `on_ready` is called, in a worker thread, when the mount answers; if it raises OSError, nobody waits for
    the mount any more, and it ends.

    Raises:
        GhostError: the mirror cannot be opened, or the mount cannot be made.
    """
    layout = DataDir(options.data_dir).session(options.session)
    _prepare_process()
    owned = OwnedMirror.open(layout, options.mirror, members_db=DataDir(options.data_dir).hub_db)
    patience = _DRAIN_TIMEOUT_S
    try:
        served = _Mount(options, owned, mountpoint, on_ready)
        with _metrics(options.metrics_listen, options.session, served.status):
            if not served.run():
                patience = 0.0  # it has waited already
    finally:
        clean = owned.close(timeout=patience)
    log.info("unmounted", session=options.session, mountpoint=str(mountpoint), clean=clean)
    if not clean:
        raise MountError(
            f"session {options.session} is unmounted, but its index is not up to date "
            f"({owned.trouble or 'it was ended before all was committed'}): "
            "nothing is lost, the next mount brings it up to date"
        )


@contextlib.contextmanager
def _metrics(address: str, session: str, status: Callable[[], pb.OwnerStatus]) -> Iterator[None]:
    """Serves metrics while inside. A port that is taken, by the hub perhaps, is no reason not to mount."""
    if not address:
        yield
        return
    # Not at the top: most mounts never load an HTTP server.
    from ghostfs import metrics

    try:
        endpoint = metrics.serve(address)
    except ConfigError as error:
        log.warning("metrics_not_served", error=str(error))
        yield
        return
    with contextlib.ExitStack() as shown:
        shown.callback(endpoint.close)
        for name, kind, what in _METRICS:
            read = functools.partial(_one, status, session, name)
            shown.callback(metrics.watch(f"mount_{name}", what, kind, read))
        yield


def _one(status: Callable[[], pb.OwnerStatus], session: str, name: str) -> dict[str, float]:
    return {session: float(getattr(status(), name))}


def _prepare_process() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.umask(0)  # the kernel has applied the caller's
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    logging.getLogger("pyfuse3").addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Not the answer that nobody waits for any more: its request was interrupted, or the mount has gone."""
    return not (
        str(record.msg).endswith("fuse_reply_* failed with %s")
        and os.strerror(errno.ENOENT) in (record.args or ())
    )


class _Mount:
    """One mount being served; the owner that the control socket speaks for."""

    def __init__(
        self,
        options: MountOptions,
        owned: OwnedMirror,
        mountpoint: Path,
        on_ready: Callable[[], None],
    ) -> None:
        self._options = options
        self._owned = owned
        self._layout = owned.layout
        self._mountpoint = mountpoint
        self._on_ready = on_ready
        self._started_ns = time.time_ns()
        self._detached = False
        self._left = trio.Event()
        self._ending = False
        self._closed = False
        self._patience = trio.CancelScope()
        self._signalled: list[int] = []
        self._for_root_alone = os.geteuid() == 0 and not options.allow_other
        owner = ShownOwner(options.uid, options.gid)
        self._outside = Outside(mountpoint)
        overlay = Overlay(DataDir(options.data_dir).skills, shared=options.allow_other, owner=owner)
        self._operations = Operations(
            owned.mirror,
            overlay,
            xattrs=options.xattrs,
            writeback=options.writeback,
            owner=owner,
            for_root_alone=self._for_root_alone,
            polling=install(options.poll_us, options.awake_cpus),
            closed=self._outside.closed,
        )

    def run(self) -> bool:
        """Mounts, serves until the mount has ended, and commits what is left; whether that could be done."""
        fuse_options = {
            f"fsname={source_name(self._options.session, self._layout.state)}",
            "subtype=ghostfs",
        }
        if not self._for_root_alone:
            fuse_options.add("default_permissions")
        if self._options.allow_other:
            fuse_options.add("allow_other")
        with self._signals_kept():
            _mount(self._operations, self._mountpoint, fuse_options)
            libfuse.log_through()
            try:
                return trio.run(self._serve)
            finally:
                self._close()

    @contextlib.contextmanager
    def _signals_kept(self) -> Iterator[None]:
        """From before there is a mount until the loop listens, a signal is noted: the process would die of it
        and leave the mount behind."""

        def note(number: int, _frame: object) -> None:
            self._signalled.append(number)

        before = {number: signal.signal(number, note) for number in _ENDING}
        try:
            yield
        finally:
            for number, action in before.items():
                signal.signal(number, action)

    async def _serve(self) -> bool:
        with Index.open(self._layout.index_db, readonly=True) as index:
            self._heads = Heads(trio.lowlevel.current_trio_token(), index.state())
        self._owned.capture.listeners.append(self._heads.publish)
        async with trio.open_nursery() as nursery:
            await nursery.start(ControlServer(self._layout.control_socket, self, self._heads).serve)
            await nursery.start(self._await_signals)
            nursery.start_soon(self._announce)
            nursery.start_soon(self._end_when_left)
            try:
                await pyfuse3.main(min_tasks=1, max_tasks=_TASKS)
            except* ConnectionAbortedError:
                # What the kernel says of a mount that was taken away while a request was being read.
                log.info("connection_ended")
            self._outside.end()
            self._close()
            # The control socket tells meanwhile how it goes; a further signal ends the wait.
            drained = False
            with self._patience:
                drained = await trio.to_thread.run_sync(
                    self._owned.capture.drain,
                    _DRAIN_TIMEOUT_S,
                    abandon_on_cancel=True,
                    limiter=trio.CapacityLimiter(1),
                )
            nursery.cancel_scope.cancel()
        return drained

    def _close(self) -> None:
        """Whoever still has files open here gets errors from now on. Harmless when called again."""
        if not self._closed:
            self._closed = True
            pyfuse3.close(unmount=not self._detached)

    async def _await_signals(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        with trio.open_signal_receiver(*_ENDING) as signals:
            task_status.started()
            async with trio.open_nursery() as ending:
                for number in self._signalled:
                    ending.start_soon(self._end_on, number)
                async for number in signals:
                    ending.start_soon(self._end_on, number)

    async def _end_on(self, number: int) -> None:
        """The first signal ends the mount in order; a further one what that waits for at the time."""
        log.info("signal_received", signal=signal.Signals(number).name)
        if self._closed:
            self._patience.cancel()
        elif self._ending:
            if self._outside.finish(wait=False):
                pyfuse3.terminate()
        else:
            await self._end()

    async def _announce(self) -> None:
        try:
            await trio.to_thread.run_sync(self._prove_alive)
        except (OSError, MountError):
            if not self._ending:
                raise
            return  # it was asked to end before it had answered
        gc.collect()
        gc.freeze()
        try:
            await trio.to_thread.run_sync(self._on_ready)
        except OSError:
            log.warning("mount_given_up", reason="whoever started it has gone")
            await self._end()
            return
        log.info("mounted", session=self._options.session, mountpoint=str(self._mountpoint))

    def _prove_alive(self) -> None:
        inode, entry = self._outside.find()
        if inode != ROOT:
            raise MountError(f"{self._mountpoint} does not answer: something else was mounted over it")
        if entry is not None:
            _raise_read_ahead(entry.device)

    async def _end(self) -> None:
        """Leaves the tree of mounts, whoever still has files open, and stops serving."""
        self._ending = True
        # Not one of the threads that all others share: those may be waiting for a disk that is full.
        await trio.to_thread.run_sync(self._leave, limiter=trio.CapacityLimiter(1))
        if not self._closed:
            pyfuse3.terminate()

    def _leave(self) -> None:
        try:
            self._flush_kernel()
        except OSError as error:
            log.warning("kernel_flush_failed", error=in_words(error))
        try:
            if not self._outside.detach(lazy=True):
                log.warning("mount_covered", mountpoint=str(self._mountpoint))
            self._detached = True
        except (OSError, MountError) as error:
            log.warning("detach_failed", mountpoint=str(self._mountpoint), error=in_words(error))
        self._outside.finish(wait=True)

    def _flush_kernel(self) -> None:
        """What the kernel still holds of our files (memory maps, the writeback cache) is written to us."""
        self._outside.flush(self._owned.mirror.open_for_writing)

    async def _end_when_left(self) -> None:
        """The kernel ends a mount that was taken out of the tree, unless another mount namespace has it, too."""
        await self._left.wait()
        await trio.sleep(_LEFT_S)
        log.warning("mounted_elsewhere", mountpoint=str(self._mountpoint))
        await trio.to_thread.run_sync(
            lambda: self._outside.finish(wait=True), limiter=trio.CapacityLimiter(1)
        )
        if not self._closed:
            pyfuse3.terminate()

    # --- control.Owner ---------------------------------------------------------------------------------

    def status(self) -> pb.OwnerStatus:
        """Counters; quick."""
        return pb.OwnerStatus(
            pid=os.getpid(),
            mountpoint=str(self._mountpoint),
            started_unix_ns=self._started_ns,
            dirty_inodes=len(self._owned.working),
            open_files=self._operations.open_files,
            requests=self._operations.requests,
            bytes_hashed=self._owned.capture.stats.bytes_hashed,
            bytes_reread=self._owned.capture.stats.bytes_reread,
            trouble=self._owned.capture.trouble or "",
        )

    def state(self) -> State:
        """Epoch and head as they are committed; quick."""
        return self._heads.latest

    def settle_blocking(self) -> None:
        """Commits everything that is dirty now.

        Raises:
            MountError: commits have failed for too long, or the mount has ended before one was made; or what programs
                have mapped could not be had, and all else is committed.
        """
        lacking = ""
        try:
            self._flush_kernel()
        except OSError as error:
            lacking = f"the kernel does not hand over what programs have written ({in_words(error)})"
        if self._operations.cut_short:
            lacking = "the disk took only a part of what programs have written"
        capture = self._owned.capture
        if not capture.drain(_DRAIN_TIMEOUT_S):
            lacking = capture.trouble or "the mount has ended"
        if lacking:
            raise MountError(f"session {self._options.session} could not be settled: {lacking}")

    def unmount_blocking(self) -> None:
        """Takes the mount out of the tree; the kernel then ends the request loop, or we do.

        Raises:
            MountError: it is in use, and by whom as far as can be seen, or covered by another mount.
        """
        if self._detached or self._closed:
            return  # somebody else asked too; what is mounted there now is not ours
        with contextlib.suppress(OSError):
            self._flush_kernel()  # the kernel does it, too, unless the mount is somewhere else as well
        try:
            done = self._outside.detach(lazy=False)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            users = users_of(self._mountpoint)
            by = f" by {', '.join(users)}" if users else ""
            raise MountError(
                f"{self._mountpoint} is in use{by}: close the files that are open in it and try again"
            ) from None
        if not done:
            raise MountError(f"{self._mountpoint} is covered by another mount: unmount that one first")
        self._detached = True
        trio.from_thread.run_sync(self._left.set)


def _mount(operations: Operations, mountpoint: Path, options: set[str]) -> None:
    """pyfuse3.init, with what libfuse and fusermount3 say on standard error as the reason of a failure."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            pyfuse3.init(operations, str(mountpoint), options)
        except RuntimeError as error:
            said.seek(0)
            reason = said.read().decode("utf-8", "replace").strip().replace("\n", "; ") or str(error)
            if os.strerror(errno.EPERM) in reason:
                reason += f"; {who_may_mount()}"
            raise MountError(f"{mountpoint} cannot be mounted on: {reason}") from None
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _raise_read_ahead(device: str) -> None:
    try:
        Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(_READ_AHEAD_KIB))
    except OSError:
        log.debug("read_ahead_unchanged", device=device)  # for root alone
