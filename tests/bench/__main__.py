"""Benchmarks of GhostFS: `python tests/bench [mounts] [caching] [latency] [sync] [restart]`, all of them without a name.

Speed is told as a ratio against a peer measured in the same run, where there is one. Everything happens
below a temporary directory (`--base DIR` for another place) and is gone afterwards.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).parent))

import caching
import latency
import mounts
import restart
import sync

BENCHMARKS = {
    "mounts": mounts.run,
    "caching": caching.run,
    "latency": latency.run,
    "sync": sync.run,
    "restart": restart.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", choices=[[], *BENCHMARKS], metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--base", type=Path, help="a directory to work in")
    parser.add_argument("--small", action="store_true", help="a tenth of the size, to see that it works")
    options = parser.parse_args()
    for name in options.names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="ghostfs-bench-", dir=options.base) as base:
            BENCHMARKS[name](Path(base), small=options.small)


if __name__ == "__main__":
    main()
