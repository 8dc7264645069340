"""`make soak`: every figure at full scale, one line each. Ends non-zero if one does not hold.

python tests/soak/run.py --seed 1 [big_file|parts|kills|races|fuzz|model|production …]
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))


def _lines(name: str, seed: int) -> list[str]:
    module = importlib.import_module(f"tests.soak.{name}")
    runs: dict[str, Callable[[], list[str]]] = {
        "big_file": module.run,
        "parts": module.run,
        "kills": lambda: module.run(seed=seed),
        "races": module.run,
        "fuzz": lambda: module.run(seed=seed),
        "model": lambda: [module.run(seed, 10_000)],
        "production": lambda: module.run(seed=seed),
    }
    return runs[name]()


NAMES = ("big_file", "parts", "kills", "races", "fuzz", "model", "production")


def main() -> int:
    """Run those named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    asked = parser.parse_args()
    failed = 0
    for name in asked.names or NAMES:
        if name not in NAMES:
            parser.error(f"no soak {name!r}: there are {', '.join(NAMES)}")
        begun = time.monotonic()
        try:
            lines = _lines(name, asked.seed)
        except Exception:  # noqa: BLE001 - one that fails stops no other
            failed += 1
            traceback.print_exc()
            lines = [f"{name}: FAILED"]
        for line in lines:
            print(line, flush=True)
        print(f"  ({name} took {time.monotonic() - begun:.0f} s, seed {asked.seed})", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
