"""Random operations on a session in four threads, until killed. Prints a line for every few.

Argument 1 is the data directory, 2 a file to note in, one JSON line each, what fsync returned for: a file's
name, its size then, and the character it is full of; 3 is the seed.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from pathlib import Path
from typing import Any

from ghostfs.mirror.layout import DataDir
from ghostfs.mirror.live.session import OwnedMirror
from ghostfs.mirror.live.settings import MirrorSettings
from ghostfs.model import ROOT, InodeId

UID, GID = os.geteuid(), os.getegid()
NAMES = [b"a", b"b", b"c", b"\xfe"]


class Writer:
    """One thread's share: a directory of its own to do anything in, and synced files at the root."""

    def __init__(self, mirror: Any, report: int, number: int, seed: int) -> None:
        self.mirror = mirror
        self.report = report
        self.number = number
        self.seed = seed
        self.dice = random.Random(seed * 10 + number)

    def run(self) -> None:
        step = 0
        while True:
            step += 1
            try:
                self.one(step)
            except OSError:
                continue
            finally:
                if step % 5 == 0:
                    os.write(1, b".\n")

    def one(self, step: int) -> None:
        if step % 25 == 0:
            self.sync_one(step)
            return
        dice, mirror = self.dice, self.mirror
        action = dice.randrange(8)
        parent, name = self.somewhere()
        if action <= 2:
            _, _, handle = mirror.create(parent, name, 0o644, os.O_RDWR, UID, GID)
            for _ in range(dice.randrange(4)):
                mirror.write(handle, dice.randrange(600_000), bytes(dice.randrange(1, 100_000)))
            if dice.random() < 0.9:
                mirror.release(handle)
        elif action == 3:
            mirror.mkdir(parent, name, 0o755, UID, GID)
        elif action == 4:
            mirror.unlink(parent, name)
        elif action == 5:
            mirror.rmdir(parent, name)
        elif action == 6:
            mirror.rename(parent, name, *self.somewhere(), dice.choice([0, 0, 0, 2]))
        else:
            mirror.link(self.look(parent, name), *self.somewhere())

    def look(self, parent: InodeId, name: bytes) -> InodeId:
        found = self.mirror.lookup(parent, name)
        if found is None:
            raise FileNotFoundError
        return found[0]

    def somewhere(self) -> tuple[InodeId, bytes]:
        parent = ROOT
        for _ in range(self.dice.randrange(3)):
            found = self.mirror.lookup(parent, self.dice.choice(NAMES))
            if found is not None and found[1].st_mode & 0o170000 == 0o040000:
                parent = found[0]
        return parent, self.dice.choice(NAMES)

    def sync_one(self, step: int) -> None:
        name = f"synced-{self.number}-{self.seed}-{step}"
        digit = self.dice.choice("123456789")
        size = self.dice.randrange(1, 300_000)
        _, _, handle = self.mirror.create(ROOT, name.encode(), 0o644, os.O_RDWR, UID, GID)
        self.mirror.write(handle, 0, digit.encode() * size)
        self.mirror.fsync(handle, datasync=False)
        os.write(self.report, (json.dumps([name, str(size), digit]) + "\n").encode())
        self.mirror.write(handle, size, digit.encode() * 100)
        self.mirror.release(handle)


def main() -> None:
    data, report, seed = sys.argv[1:]
    os.umask(0)
    owned = OwnedMirror.open(DataDir(Path(data)).session("s"), MirrorSettings(settle_max_age=0.05))
    fd = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    threads = [
        threading.Thread(target=Writer(owned.mirror, fd, number, int(seed)).run) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
