"""`make chaos`: what fails in production, made to fail. One line of figures per experiment; ends non-zero if something was lost.

python -m tests.chaos --seed 1 [--ci] [--list] [NAME …]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import random
import resource
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.chaos.lab import Lab, running_lab

Experiment = Callable[[Lab], Awaitable[str]]

LIMIT = 900.0
"""Seconds after which an experiment counts as hanging."""
ALL_LIMIT, CI_LIMIT = 1_800.0, 240.0
"""Seconds that all of them may take on two cores, and that those for CI should."""
DESCRIPTORS = 65_536
"""As many as there is use for: some programs walk through all that they may open."""


def experiments(kind: str) -> dict[str, Experiment]:
    """By name, what the modules beside this one call `EXPERIMENTS`, or `CI`: what a short run has time for."""
    found: dict[str, Experiment] = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        module = importlib.import_module(f"tests.chaos.{path.stem}")
        found.update({one.__name__: one for one in getattr(module, kind, ())})
    return found


def main() -> int:
    """Run those named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ci", action="store_true", help="small: without names, what CI has time for")
    parser.add_argument("--list", action="store_true", help="say what each proves")
    parser.add_argument("names", nargs="*", metavar="NAME")
    asked = parser.parse_args()
    usual = experiments("CI" if asked.ci else "EXPERIMENTS")
    known = {**experiments("EXPERIMENTS"), **experiments("CI")}
    if asked.list:
        for name, experiment in usual.items():
            print(f"{name}: {(experiment.__doc__ or '').splitlines()[0]}")
        return 0
    if unknown := [name for name in asked.names if name not in known]:
        parser.error(f"no experiment {unknown[0]!r}: there are {', '.join(known)}")
    failed = []
    _more_descriptors()
    begun = time.monotonic()
    with running_lab(asked.seed, is_short=asked.ci) as lab:
        for name in asked.names or usual:
            started = time.monotonic()
            # The same chance however many ran before.
            lab.chance = random.Random(f"{asked.seed} {name}")
            try:
                line = asyncio.run(asyncio.wait_for(_line(known[name], lab), LIMIT))
            except Exception as error:  # noqa: BLE001 - one that fails stops no other
                failed.append(name)
                traceback.print_exc()
                line = f"FAILED: {type(error).__name__}: {str(error)[:500]}"
            print(f"{name}: {line} ({time.monotonic() - started:.0f} s, seed {asked.seed})", flush=True)
    took = time.monotonic() - begun
    print(f"{len(failed)} failed{': ' if failed else ''}{', '.join(failed)}; {took:.0f} s in all")
    limit = CI_LIMIT if asked.ci else ALL_LIMIT
    is_late = not asked.names and took > limit
    if is_late:
        print(f"that is more than {limit:.0f} s")
    return 1 if failed or (is_late and not asked.ci) else 0


def _more_descriptors() -> None:
    """As many as this process may have: a thousand clients and their proxies take more than the usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _line(experiment: Experiment, lab: Lab) -> str:
    return await experiment(lab)


if __name__ == "__main__":
    sys.exit(main())
