"""The state machine Hypothesis drives: what happens to the world, step by step, drawn by weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.model.faulty_ports import FaultyDatabase, WatchedCache
from tests.model.happenings import Happenings
from tests.model.processes import STATISTICS, Fault
from tests.model.world import CAPABILITIES, CONFIG, OWNERS, SHAPES, Injected, Shape
from uploadcore.config import UploadConfig
from uploadcore.ports import StoreCapabilities

__all__ = ["UploadCoreMachine"]

Step = tuple[str, Mapping[str, Any]]


def faults(calls: int) -> st.SearchStrategy[Injected]:
    """At one of an operation's first `calls` port calls, anything; or nothing."""
    return st.none() | st.tuples(st.sampled_from(range(1, calls + 1)), st.sampled_from(Fault))


SLOTS = st.integers(0, 1)
WHICH = st.sampled_from([0, 0, 0, 1, 1, 2])
HELD_BACK = [Fault.PAUSE_BEFORE, Fault.PAUSE_AFTER, Fault.FREEZE_BEFORE, Fault.FREEZE_AFTER]
RACERS = ["complete", "abort", "sweep", "delete_file", "initiate_again", "relay", "sign", "look"]

STEPS: list[tuple[int, str, dict[str, st.SearchStrategy[Any]]]] = [
    (
        3,
        "initiate",
        {
            "slot": SLOTS,
            "owner": st.sampled_from(OWNERS),
            "shape": st.sampled_from(SHAPES),
            "key": st.sampled_from([None, "k1", "k2"]),
            "new_version_of": st.none() | WHICH,
            "sign": st.sampled_from([0, 2]),
            "fault": faults(5),
        },
    ),
    (2, "initiate_again", {"slot": SLOTS, "fault": faults(5)}),
    (4, "send_whole", {"slot": SLOTS, "which": WHICH, "steady": st.booleans(), "count": st.integers(1, 4)}),
    (2, "put", {"which": WHICH, "number": st.integers(0, 3), "steady": st.booleans(), "late": st.booleans()}),
    (1, "send_wrong", {"which": WHICH, "number": st.integers(1, 5), "length": st.integers(0, 5)}),
    (
        2,
        "sign",
        {"slot": SLOTS, "which": WHICH, "numbers": st.lists(st.integers(1, 4), min_size=1), "fault": faults(2)},
    ),
    (
        2,
        "read",
        {
            "slot": SLOTS,
            "which": WHICH,
            "what": st.sampled_from(["get", "parts", "content", "file", "file"]),
            "fault": faults(2),
        },
    ),
    (1, "pry", {"slot": SLOTS, "which": WHICH, "what": st.integers(0, 8)}),
    (5, "complete", {"slot": SLOTS, "which": WHICH, "size": st.sampled_from([None, None, 4, 8]), "fault": faults(7)}),
    (1, "abort", {"slot": SLOTS, "which": WHICH, "fault": faults(9)}),
    (2, "delete_file", {"slot": SLOTS, "which": WHICH, "fault": faults(9)}),
    (1, "edit", {"slot": SLOTS, "which": WHICH, "title": st.sampled_from(["a", "b"]), "fault": faults(4)}),
    (
        1,
        "edit_and_look",
        {"slot": SLOTS, "which": WHICH, "seconds": st.sampled_from([0, 6, 59, 61, 63]), "fault": faults(4)},
    ),
    (1, "fill_late", {"slot": SLOTS, "which": WHICH, "seconds": st.sampled_from([0, 1, 3, 61]), "fault": faults(3)}),
    (3, "sweep", {"slot": SLOTS, "fault": faults(14)}),
    (2, "relay", {"slot": SLOTS, "fault": faults(4)}),
    (1, "replay", {"slot": SLOTS, "fault": faults(2)}),
    (
        6,
        "race",
        {
            "shape": st.none() | st.sampled_from(SHAPES),
            "which": st.sampled_from([0, 0, 0, 0, 1]),
            "first": st.sampled_from([*["complete"] * 4, *RACERS]),
            "held_back": st.tuples(st.sampled_from(range(1, 9)), st.sampled_from(HELD_BACK)),
            "seconds": st.sampled_from([0, 0, 11, 31, 31, 61, 86_401]),
            "second": st.sampled_from(["sweep", "sweep", "put", "lose", "edit", *RACERS]),
            "fault": faults(9),
            "third": st.none() | st.sampled_from(["complete", "sign", "look"]),
            "then": faults(3),
        },
    ),
    (4, "go_on", {"which": WHICH, "fault": faults(4)}),
    (1, "time_passes", {"seconds": st.sampled_from([601, 901, 4_560, 86_401]), "jump": st.booleans()}),
    (3, "time_passes", {"seconds": st.sampled_from([1, 6, 11, 31]), "jump": st.booleans()}),
    (2, "land_late", {"which": WHICH}),
    (1, "lose", {"which": WHICH}),
    (1, "stop", {"slot": SLOTS, "how": st.sampled_from(["crash", "close", "flush"])}),
]
"""Weight, method of `Happenings`, arguments. One rule draws from them all: Hypothesis would switch half of its rules off in each run, and
what is looked for here takes many different steps."""


class UploadCoreMachine(RuleBasedStateMachine):
    """One run: a world, what happens to it, and the rules of the design checked after every step and at rest."""

    database_type: ClassVar[type[FaultyDatabase]] = FaultyDatabase
    cache_type: ClassVar[type[WatchedCache]] = WatchedCache
    config: ClassVar[UploadConfig] = CONFIG
    world: Happenings | None = None

    @initialize(
        capabilities=st.sampled_from(CAPABILITIES),
        cache=st.sampled_from(["none", "shared", "one each", "deaf"]),
        attempts=st.sampled_from([48, 2]),
        shapes=st.lists(st.sampled_from(SHAPES), min_size=1, max_size=3),
    )
    def begin(self, capabilities: StoreCapabilities, cache: str, attempts: int, shapes: list[Shape]) -> None:
        """Some uploads that are whole."""
        STATISTICS["runs"] += 1
        config = replace(self.config, delivery_attempts=attempts)
        self.world = Happenings(
            capabilities, cache, database_type=self.database_type, cache_type=self.cache_type, config=config
        )
        for shape in shapes:
            self.world.initiate(0, owner=OWNERS[0], shape=shape)
            self.world.send_whole(0, 0, True, 2)
        self.world.check()

    @rule(
        step=st.one_of(
            [st.tuples(st.just(name), st.fixed_dictionaries(a)) for weight, name, a in STEPS for _ in range(weight)]
        )
    )
    def step(self, step: Step) -> None:
        """One thing happens."""
        assert self.world is not None, "begin comes first"
        STATISTICS["steps"] += 1
        name, arguments = step
        getattr(self.world, name)(**arguments)
        self.world.check()

    def teardown(self) -> None:
        """Everything comes to rest; then nothing may be left over."""
        if self.world is None:
            return
        try:
            if not self.world.reference.violations:
                self.world.settle()
                self.world.check_rest()
        finally:
            STATISTICS["crashes"] -= sum(process.is_alive for process in self.world.processes)
            self.world.close()
