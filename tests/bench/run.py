"""`make bench`: every benchmark, each figure a ratio from one run.

python tests/bench/run.py [client|data|signing …]
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

BENCHMARKS = ("client", "data", "presigning", "reading", "signing", "transitions", "viral")


def main(names: list[str]) -> None:
    """Run those named, or all."""
    for name in names or BENCHMARKS:
        if name not in BENCHMARKS:
            sys.exit(f"no benchmark {name!r}: there are {', '.join(BENCHMARKS)}")
        run: Callable[[], list[str]] = import_module(f"tests.bench.{name}").main
        for line in run():
            print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
