"""Benchmarks of GhostFS: `python tests/bench [NAME ...]`, all of them without a name.

    mounts    real work through the mount, against the filesystem below it and other FUSE filesystems
    requests  what the kernel asks of a mount in them, and where the time of a request goes
    capture   what capturing changes costs, against a mount that captures nothing
    polling   what adaptive polling costs an idle mount, and does to a build on all processors
    caching   the kernel's writeback cache: what it gains, and what a killed mount loses
    latency   from close(2) in the mount to the file on a node
    sync      the first sync of many files and of a large one, against rsync
    restart   how soon a large session answers again

Speed is told as a ratio against a peer measured in the same run, where there is one. Everything happens
below a temporary directory (`--base DIR` for another place) and is gone afterwards.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import caching
import capture
import kernelrequests
import latency
import mounts
import polling
import restart
import sync
from options import Options, Outcome
from report import machine

BENCHMARKS: dict[str, Callable[[Path, Options], Outcome | None]] = {
    "mounts": mounts.run,
    "requests": kernelrequests.run,
    "capture": capture.run,
    "polling": polling.run,
    "caching": caching.run,
    "latency": latency.run,
    "sync": sync.run,
    "restart": restart.run,
}


def main() -> int:
    """Runs what was asked for; 1 if a workload failed that must not."""
    arguments = _parser().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    options = Options(
        small=arguments.small,
        rounds=arguments.rounds,
        only=arguments.only,
        peers=arguments.peers,
        svg=arguments.svg and arguments.svg.absolute(),
    )
    documents: dict[str, object] = {"machine": machine(), "command": sys.argv[1:]}
    broken: list[str] = []
    for name in arguments.names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="ghostfs-bench-", dir=arguments.base) as base:
            outcome = BENCHMARKS[name](Path(base).resolve(), options)
        if outcome is not None:
            documents[name] = outcome.document
            broken += [f"{name}: {what}" for what in outcome.broken]
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(documents, indent=1) + "\n")
    for what in broken:
        print(f"FAILED: {what}", file=sys.stderr)
    return 1 if broken else 0


def _parser() -> argparse.ArgumentParser:
    known = mounts.names()
    parser = argparse.ArgumentParser(
        prog="python tests/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"workloads: {', '.join(known['only'])}\n\npeers: {', '.join(known['peers'])}",
    )
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME")
    parser.add_argument("--base", type=Path, metavar="DIR", help="a directory to work in")
    parser.add_argument("--small", action="store_true", help="a tenth of the size, to see that it works")
    parser.add_argument(
        "--rounds", type=_positive, metavar="N", help="how many rounds, the medians of which count"
    )
    parser.add_argument(
        "--only", type=_one_of(known["only"]), default=(), metavar="A,…", help="these workloads alone"
    )
    parser.add_argument(
        "--peers",
        type=_one_of(known["peers"]),
        default=(),
        metavar="A,…",
        help="these peers alone (mounts)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the ratios there (mounts)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("1 at the least")
    return number


def _one_of(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(text.split(","))
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return parse


def _interrupt(number: int, _: FrameType | None) -> None:
    """Ends the run once; what is mounted is then unmounted undisturbed."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
