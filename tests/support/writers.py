"""Eight writers that keep a diary: a program for tests that kill what the writers write to.

Each writer makes files of random content and size, renames some, rewrites some, deletes some, and calls
fsync on many. After each fsync that returned it notes in a diary outside the tree what must now be there,
and the diary line is written before the next operation on that file begins. A test that has killed the
filesystem reads the diary and knows what may not be lost.
"""

from __future__ import annotations

__all__ = ["Promise", "promises"]

import hashlib
import json
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Promise:
    """The last thing that an fsync promised of a path; `digest` is None once the file may be changing again."""

    digest: str | None
    size: int


def write_forever(tree: Path, diary: Path, seed: int) -> None:
    """Works below `tree` until an operation fails, as all do when the filesystem is killed."""
    rng = random.Random(seed)
    tree.mkdir(parents=True, exist_ok=True)
    with diary.open("a", buffering=1) as notes:

        def note(path: Path, digest: str | None, size: int) -> None:
            notes.write(json.dumps([str(path), digest, size]) + "\n")

        while True:
            path = tree / f"dir{rng.randrange(4)}" / f"file{rng.randrange(40)}"
            path.parent.mkdir(exist_ok=True)
            note(path, None, 0)
            choice = rng.random()
            if choice < 0.1:
                path.unlink(missing_ok=True)
                continue
            content = rng.randbytes(rng.choice((100, 4096, 70_000, 400_000)))
            target = path.with_suffix(".new") if choice < 0.5 else path
            with target.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if target != path:
                target.rename(path)
                directory = os.open(path.parent, os.O_RDONLY)
                os.fsync(directory)
                os.close(directory)
            note(path, hashlib.sha256(content).hexdigest(), len(content))


def promises(diary: Path) -> dict[str, Promise]:
    """What the diary says must be there; a last line cut short is not a promise."""
    made: dict[str, Promise] = {}
    for line in diary.read_text().splitlines():
        try:
            path, digest, size = json.loads(line)
        except json.JSONDecodeError:
            continue
        made[path] = Promise(digest, size)
    return made


if __name__ == "__main__":
    try:
        write_forever(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
    except OSError as error:
        sys.exit(f"stopped by {error}")
