"""Runs that once broke a rule, written down: chance finds them again too rarely."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model.faults import Fault
from tests.model.world import Shape, World
from uploadcore_memory import MEMORY_CAPABILITIES

PARTS = Shape(10, part_size=4)


@pytest.fixture(params=["none", "shared", "one each"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(MEMORY_CAPABILITIES, request.param)
    try:
        yield world
        if not world.reference.violations:
            world.settle()
            world.check_rest()
    finally:
        world.close()


def test_rule_11_a_read_that_took_long_is_not_shared_with_who_asks_now(world: World) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.stop(0, "flush")
    world.sign(0, 0, [1], (1, Fault.PAUSE_AFTER))
    world.abort(1, 0, None)
    world.advance(31)

    world.sign(0, 0, [1], None)
    world.go_on(0, None)

    world.check()


def test_rule_11_a_read_that_took_long_fills_no_cache(world: World) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.stop(0, "flush")
    world.sign(0, 0, [1], (1, Fault.PAUSE_AFTER))
    world.abort(1, 0, None)
    world.advance(31)

    world.go_on(0, None)
    world.sign(0, 0, [1], None)

    world.check()


def test_rule_11_a_process_that_stood_still_after_its_save_fills_no_cache(world: World) -> None:
    world.initiate(0, owner="ann", shape=PARTS, fault=(4, Fault.FREEZE_AFTER))
    world.abort(1, 0, None)
    world.advance(31)

    world.go_on(0, None)
    world.sign(0, 0, [1], None)

    world.check()


def test_rule_11_a_copy_past_its_deadline_does_not_refuse(world: World) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.sign(0, 0, [1], None)
    world.advance(86_399, jump=True)
    world.sign(0, 0, [1], None)
    world.advance(2)
    world.sweep(1, (4, Fault.CRASH_AFTER))

    world.sign(0, 0, [1], None)

    world.check()


def test_rule_6_parts_gone_with_their_upload_are_not_asked_for(world: World) -> None:
    world.initiate(0, owner="ann", shape=Shape(0))
    world.send_whole(0, 0, True, 1)
    world.complete(0, 0, None, (1, Fault.PAUSE_AFTER))
    world.advance(86_401, jump=True)
    world.sweep(1, None)

    world.go_on(0, None)

    world.check()
