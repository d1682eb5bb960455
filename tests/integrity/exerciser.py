"""Exercises one file in every way a program can change or read it, and compares it with a model all the time.

A program of its own, for a file on any filesystem:

    python tests/integrity/exerciser.py FILE --seed 1 --operations 100000 --processes 3

The model is memory that the processes share. They take turns of a few operations under a lock of fcntl(2),
and what a turn does follows from the seed and the turn's number alone, so a seed repeats a run, but for who
takes which turn. Every read, through whichever door, must give what the model holds, and every operation
must leave the model's size. The first difference ends the run: it is told with the operations that last
touched the place, and the last ones of all.

It exits with 0 and prints the SHA-256 of the content, or with 1 and prints the difference.
"""

from __future__ import annotations

__all__ = ["LARGEST", "Mismatch", "Model", "exercise"]

import argparse
import fcntl
import hashlib
import mmap
import os
import random
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

LARGEST: Final = 1_500_000
"""Bytes that the file may have: some blocks of 256 KiB, and no multiple of anything."""

_PAGE: Final = mmap.PAGESIZE
_EDGES: Final = (512, 4096, 65536, 262144)
"""Multiples of these are where pages, requests and blocks begin; a good part of all offsets lies beside one."""

_POOL: Final = 4 << 20
_TURN: Final = 24
"""At most so many operations under one lock."""

_HEADER: Final = struct.Struct("<QQQQ")
"""Of the shared memory: size of the file, operations done, turns taken, whether somebody failed."""
_ENTRY: Final = struct.Struct("<QBBQQQ")
"""Of the log: number, process, operation, offset, length, size of the file afterwards."""
_ENTRIES: Final = 1 << 16


class Mismatch(Exception):
    """The file is not what it must be; `place` is the first offset that differs, -1 if it is no content."""

    def __init__(self, message: str, place: int = -1) -> None:
        super().__init__(message)
        self.place = place


@dataclass(frozen=True, slots=True)
class Operation:
    """One line of the log."""

    number: int
    process: int
    name: str
    offset: int
    length: int
    size: int

    def __str__(self) -> str:
        return (
            f"{self.number:9d}  process {self.process}  {self.name:12s}"
            f"  {self.offset:#9x} + {self.length:#8x}  then {self.size:#x} bytes"
        )


class Model:
    """What the file must hold, and what was done to it: memory that outlives a fork, for all processes.

    Who reads or changes it holds the lock of the exercise. Bytes beyond `size` are zeros.
    """

    def __init__(self) -> None:
        self.content = mmap.mmap(-1, LARGEST)
        self._header = mmap.mmap(-1, _HEADER.size)
        self._log = mmap.mmap(-1, _ENTRY.size * _ENTRIES)
        self.size = self.done = self.turns = self.failed = 0

    def load(self) -> None:
        """Sees what the other processes did."""
        self.size, self.done, self.turns, self.failed = _HEADER.unpack(self._header[:])

    def store(self) -> None:
        """Shows the others what this one did."""
        self._header[:] = _HEADER.pack(self.size, self.done, self.turns, self.failed)

    def note(self, process: int, kind: int, offset: int, length: int) -> None:
        """Logs an operation that is about to be made."""
        place = self.done % _ENTRIES * _ENTRY.size
        _ENTRY.pack_into(self._log, place, self.done, process, kind, offset, length, self.size)

    def resize(self, size: int) -> None:
        if size < self.size:
            self.content[size : self.size] = bytes(self.size - size)
        self.size = size

    def write(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data
        self.size = max(self.size, offset + len(data))

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : min(offset + length, self.size)]

    def operations(self) -> Iterator[Operation]:
        """What the log still has, oldest first; the last may not have been finished."""
        for number in range(max(0, self.done + 1 - _ENTRIES), self.done + 1):
            entry = _ENTRY.unpack_from(self._log, number % _ENTRIES * _ENTRY.size)
            if entry[0] == number:
                yield Operation(number, entry[1], OPERATIONS[entry[2]][1], *entry[3:])


class Exercise:
    """One process's part: its descriptors, its mapping, its turns."""

    def __init__(self, path: str, lock: str, model: Model, *, process: int, seed: int) -> None:
        """`lock` is the path of the file whose lock the processes share."""
        self.path = path
        self.model = model
        self.process = process
        self.seed = seed
        self._rng = random.Random()
        self._random = self._rng.random
        self._pool = random.Random(seed).randbytes(_POOL)
        self._aligned = mmap.mmap(-1, 1 << 20)
        self._lock = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._open()

    def _open(self) -> None:
        self._both = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._reader = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self._appender = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._direct = os.open(self.path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        self._mapping: mmap.mmap | None = None

    def _close(self) -> None:
        self._unmap()
        for fd in (self._both, self._reader, self._appender, self._direct):
            os.close(fd)

    def close(self) -> None:
        self._close()
        os.close(self._lock)

    def run(self, operations: int) -> None:
        """Takes turns until all processes together did so many operations, or one failed.

        Raises:
            Mismatch: the file is not as the model.
        """
        model = self.model
        going_on = True
        while going_on:
            # The lock is on a file beside: closing any descriptor of a file gives its locks up.
            fcntl.lockf(self._lock, fcntl.LOCK_EX)
            try:
                model.load()
                self._check_size()
                self._rng.seed((self.seed << 40) + model.turns)
                model.turns += 1
                for _ in range(1 + int(self._random() * _TURN)):
                    going_on = model.done < operations and not model.failed
                    if not going_on:
                        break
                    self._operate()
                    model.done += 1
            except BaseException:
                model.failed = 1
                raise
            finally:
                model.store()
                fcntl.lockf(self._lock, fcntl.LOCK_UN)

    def _operate(self) -> None:
        kind = _CHOICES[int(self._random() * len(_CHOICES))]
        offset, length = self._place(), self._length()
        self.model.note(self.process, kind, offset, length)
        OPERATIONS[kind][2](self, offset, length)
        self._check_size()
        self.model.note(self.process, kind, offset, length)

    def _check_size(self) -> None:
        size = os.fstat(self._both).st_size
        if size != self.model.size:
            raise Mismatch(f"the file has {size:#x} bytes, not {self.model.size:#x}")

    def _place(self) -> int:
        """An offset: anywhere in the file or a little beyond it, often beside an edge or at the end."""
        chance = self._random()
        size = self.model.size
        if chance < 0.15:
            return size
        offset = int(self._random() * min(size + 70_000, LARGEST - 1))
        if chance < 0.5:
            edge = _EDGES[int(self._random() * len(_EDGES))]
            offset = max(0, offset // edge * edge + int(self._random() * 3) - 1)
        return min(offset, LARGEST - 1)

    def _length(self) -> int:
        """As many lengths below 1,000 bytes as above: up to some 400,000."""
        if self._random() < 0.15:
            return _EDGES[int(self._random() * len(_EDGES))]
        return int(2 ** (self._random() * 18.6))

    def _data(self, length: int) -> bytes:
        start = int(self._random() * (_POOL - length))
        return self._pool[start : start + length]

    # --- reading -----------------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> None:
        self._compare(offset, length, os.pread(self._reader, length, offset))

    def read_mapped(self, offset: int, length: int) -> None:
        length = min(length, self.model.size - offset)
        if length > 0:
            self._compare(offset, length, self._mapped(offset + length)[offset : offset + length])

    def read_direct(self, offset: int, length: int) -> None:
        start = offset // _PAGE * _PAGE
        length = min(-(-length // _PAGE) * _PAGE, len(self._aligned))
        with memoryview(self._aligned) as view:
            got = os.preadv(self._direct, [view[:length]], start)
        self._compare(start, length, self._aligned[:got])

    def read_all(self, _offset: int, _length: int) -> None:
        """From the filesystem, not from the pages that the kernel keeps."""
        os.fdatasync(self._both)
        os.posix_fadvise(self._reader, 0, 0, os.POSIX_FADV_DONTNEED)
        self._compare(0, LARGEST, _read_to_end(self._reader))

    # --- writing -----------------------------------------------------------------------------------------

    def write(self, offset: int, length: int) -> None:
        data = self._data(min(length, LARGEST - offset))
        _write(self._both, data, offset)
        self.model.write(offset, data)

    def append(self, _offset: int, length: int) -> None:
        data = self._data(min(length, LARGEST - self.model.size))
        if data:
            written = os.write(self._appender, data)
            if written != len(data):
                raise Mismatch(f"{written:#x} bytes of {len(data):#x} were appended")
            self.model.write(self.model.size, data)

    def write_mapped(self, offset: int, length: int) -> None:
        length = min(length, self.model.size - offset)
        if length > 0:
            data = self._data(length)
            self._mapped(offset + length)[offset : offset + length] = data
            self.model.write(offset, data)

    def write_direct(self, offset: int, length: int) -> None:
        start = offset // _PAGE * _PAGE
        length = min(-(-length // _PAGE) * _PAGE, (LARGEST - start) // _PAGE * _PAGE)
        if length:
            data = self._data(length)
            self._aligned[:length] = data
            with memoryview(self._aligned) as view:
                written = os.pwritev(self._direct, [view[:length]], start)
            self.model.write(start, data[:written])

    def copy(self, offset: int, length: int) -> None:
        """Within the file; source and target may touch, and not overlap."""
        model = self.model
        source = int(self._random() * (model.size + 1))
        length = min(length, model.size - source, LARGEST - offset, abs(offset - source))
        data = model.read(source, length)
        done = 0
        while done < length:
            count = os.copy_file_range(
                self._reader, self._both, length - done, source + done, offset + done
            )
            if count == 0:
                raise Mismatch(f"nothing was copied from {source + done:#x}", source + done)
            done += count
        if length > 0:
            model.write(offset, data)

    # --- size --------------------------------------------------------------------------------------------

    def resize(self, offset: int, _length: int) -> None:
        os.ftruncate(self._both, offset)
        self.model.resize(offset)

    def resize_by_path(self, offset: int, _length: int) -> None:
        os.truncate(self.path, offset)
        self.model.resize(offset)

    def punch(self, offset: int, length: int) -> None:
        """A hole at the end: down, and up again."""
        size = self.model.size
        low = max(0, size - length)
        os.ftruncate(self._both, low)
        os.ftruncate(self._both, max(size, offset))
        self.model.resize(low)
        self.model.resize(max(size, offset))

    def empty(self, _offset: int, length: int) -> None:
        """Opened to be written anew, as most programs save."""
        fd = os.open(self.path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            data = self._data(length)
            _write(fd, data, 0)
        finally:
            os.close(fd)
        self.model.resize(0)
        self.model.write(0, data)

    # --- the rest ----------------------------------------------------------------------------------------

    def reopen(self, _offset: int, _length: int) -> None:
        self._close()
        self._open()

    def sync(self, _offset: int, length: int) -> None:
        if self._mapping is not None and length % 2:
            self._mapping.flush()
        elif length % 3:
            os.fsync(self._both)
        else:
            os.fdatasync(self._appender)

    # --- inside ------------------------------------------------------------------------------------------

    def _mapped(self, end: int) -> mmap.mmap:
        """A mapping that reaches to `end` at least, kept from operation to operation while it does."""
        if self._mapping is None or len(self._mapping) < end:
            self._unmap()
            self._mapping = mmap.mmap(self._both, self.model.size)
        return self._mapping

    def _unmap(self) -> None:
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None

    def _compare(self, offset: int, length: int, got: bytes) -> None:
        expected = self.model.read(offset, length)
        if got == expected:
            return
        place = next(
            (n for n, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), -1
        )
        if place < 0:
            raise Mismatch(f"{len(got):#x} bytes were read, not {len(expected):#x}", offset + len(got))
        wrong = sum(1 for pair in zip(got, expected, strict=False) if pair[0] != pair[1])
        raise Mismatch(
            f"at {offset + place:#x}: {got[place : place + 16].hex()}, not"
            f" {expected[place : place + 16].hex()}; {wrong} of {len(expected)} bytes differ",
            offset + place,
        )


_Method = Callable[[Exercise, int, int], None]

OPERATIONS: Final[tuple[tuple[int, str, _Method], ...]] = (
    (20, "read", Exercise.read),
    (12, "read mapped", Exercise.read_mapped),
    (4, "read direct", Exercise.read_direct),
    (1, "read all", Exercise.read_all),
    (20, "write", Exercise.write),
    (8, "append", Exercise.append),
    (12, "write mapped", Exercise.write_mapped),
    (4, "write direct", Exercise.write_direct),
    (4, "copy", Exercise.copy),
    (4, "resize", Exercise.resize),
    (2, "resize path", Exercise.resize_by_path),
    (3, "punch", Exercise.punch),
    (1, "empty", Exercise.empty),
    (2, "reopen", Exercise.reopen),
    (3, "sync", Exercise.sync),
)
"""How often, among 100; what it is called; what it does."""

_CHOICES: Final = tuple(kind for kind, row in enumerate(OPERATIONS) for _ in range(row[0]))


def _write(fd: int, data: bytes, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    if written != len(data):
        raise Mismatch(f"{written:#x} bytes of {len(data):#x} were written", offset + written)


def _read_to_end(fd: int) -> bytes:
    parts: list[bytes] = []
    done = 0
    while part := os.pread(fd, 1 << 20, done):
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def exercise(
    path: str, *, seed: int, operations: int, processes: int = 1, unlinked: bool = False
) -> str | None:
    """Goes on from what the file holds; the SHA-256 of what it holds at the end, or None if it was not as it
    must be: then standard error has the log.

    With `unlinked`, the file loses its name before the first operation, and is reached through a descriptor.
    Forks, when there is more than one process: not for a process with threads.
    """
    lock = f"{path}.lock"
    model = Model()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    model.write(0, _read_to_end(fd))
    model.store()
    if unlinked:
        os.unlink(path)
        path = f"/proc/self/fd/{fd}"
    children = []
    for process in range(1, processes):
        child = os.fork()
        if child == 0:
            os._exit(_take_part(path, lock, model, process, seed, operations))
        children.append(child)
    failed = _take_part(path, lock, model, 0, seed, operations)
    failed += sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)
    os.close(fd)
    if failed:
        return None
    model.load()
    return hashlib.sha256(model.read(0, model.size)).hexdigest()


def _take_part(path: str, lock: str, model: Model, process: int, seed: int, operations: int) -> int:
    part = Exercise(path, lock, model, process=process, seed=seed)
    try:
        part.run(operations)
    except (Mismatch, OSError) as error:
        what = str(error) if isinstance(error, Mismatch) else traceback.format_exc()
        place = error.place if isinstance(error, Mismatch) else -1
        sys.stderr.write(_report(model, what, place, seed))
        return 1
    finally:
        part.close()
    return 0


def _report(model: Model, what: str, place: int, seed: int) -> str:
    log = list(model.operations())
    lines = [f"seed {seed}, operation {model.done}: {what}"]
    if place >= 0:
        lines.append("the last that may have touched the place:")
        changes = [one for one in log if not one.name.startswith(("read", "sync", "reopen"))]
        near = [o for o in changes if o.offset <= place < o.offset + o.length or "write" not in o.name]
        lines += [f"  {one}" for one in near[-20:]]
    lines.append("the last of all:")
    lines += [f"  {one}" for one in log[-60:]]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Exercises a file, and compares it with a model.")
    parser.add_argument("file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--unlinked", action="store_true")
    asked = parser.parse_args()
    began = time.monotonic()
    digest = exercise(
        asked.file,
        seed=asked.seed,
        operations=asked.operations,
        processes=asked.processes,
        unlinked=asked.unlinked,
    )
    if digest is None:
        return 1
    sys.stdout.write(f"{digest}\n")
    sys.stderr.write(f"{asked.operations} operations in {time.monotonic() - began:.1f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
