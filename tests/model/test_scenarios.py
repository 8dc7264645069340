"""Runs that once broke a rule, or that take so many steps that chance finds them too rarely."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model.happenings import Happenings
from tests.model.processes import Fault
from tests.model.world import Shape
from uploadcore.states import UploadState
from uploadcore_memory import MEMORY_CAPABILITIES

PARTS = Shape(10, part_size=4)


@pytest.fixture(params=["none", "shared", "one each"])
def world(request: pytest.FixtureRequest) -> Iterator[Happenings]:
    world = Happenings(MEMORY_CAPABILITIES, request.param)
    try:
        yield world
        if not world.reference.violations:
            world.settle()
            world.check_rest()
    finally:
        world.close()


def test_rule_11_a_read_that_took_long_is_not_shared_with_who_asks_now(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.stop(0, "flush")
    world.sign(0, 0, [1], (1, Fault.PAUSE_AFTER))
    world.abort(1, 0, None)
    world.advance(31)

    world.sign(0, 0, [1], None)
    world.go_on(0, None)

    world.check()


def test_rule_11_a_read_that_took_long_fills_no_cache(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.stop(0, "flush")
    world.sign(0, 0, [1], (1, Fault.PAUSE_AFTER))
    world.abort(1, 0, None)
    world.advance(31)

    world.go_on(0, None)
    world.sign(0, 0, [1], None)

    world.check()


def test_rule_11_a_process_that_stood_still_after_its_save_fills_no_cache(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=PARTS, fault=(4, Fault.FREEZE_AFTER))
    world.abort(1, 0, None)
    world.advance(31)

    world.go_on(0, None)
    world.sign(0, 0, [1], None)

    world.check()


def test_rule_11_a_copy_past_its_deadline_does_not_refuse(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.sign(0, 0, [1], None)
    world.advance(86_399, jump=True)
    world.sign(0, 0, [1], None)
    world.advance(2)
    world.sweep(1, (4, Fault.CRASH_AFTER))

    world.sign(0, 0, [1], None)

    world.check()


def test_rule_6_parts_gone_with_their_upload_are_not_asked_for(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=Shape(0))
    world.send_whole(0, 0, True, 1)
    world.complete(0, 0, None, (1, Fault.PAUSE_AFTER))
    world.advance(86_401, jump=True)
    world.sweep(1, None)

    world.go_on(0, None)

    world.check()


def test_rule_2_a_multipart_upload_whose_row_is_about_to_be_saved_is_no_orphan(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.lose(0)
    world.complete(0, 0, None, (5, Fault.PAUSE_BEFORE))
    world.advance(61)

    world.sweep(1, None)
    world.go_on(0, None)

    world.check()
    assert world.reference.parts, "it was reopened"


def test_rule_5_a_part_too_many_that_is_sent_while_a_completion_is_in_doubt_is_left_out(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.send_whole(0, 0, True, 1)
    world.complete(0, 0, None, (4, Fault.LATE))
    world.send_wrong(0, 4, 4)
    world.sweep(1, None)

    world.land_late(0)

    world.check()
    assert world.life(0).now.state is UploadState.COMPLETED


def test_rule_6_what_a_call_a_day_later_settles_is_not_given_up(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.send_whole(0, 0, True, 1)
    world.complete(0, 0, None, (4, Fault.LATE_CRASH))
    world.advance(86_401, jump=True)

    world.sweep(1, None)

    world.check()
    assert world.life(0).now.state is UploadState.COMPLETED


def test_rule_6_what_nobody_settled_in_a_day_is_given_up_once_the_store_was_made_to_abort(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.send_whole(0, 0, True, 1)
    world.complete(0, 0, None, (4, Fault.LATE_CRASH))
    world.sweep(1, None)
    world.advance(86_401, jump=True)
    for call in (8, 6):  # of the sweep, that tells the store to complete
        world.sweep(1, (call, Fault.LATE))
        world.advance(601)

    world.land_late(0)

    world.check()
    assert world.life(0).now.state is UploadState.FAILED


def test_rule_9_a_version_completed_after_its_file_was_deleted_leaves_nothing(world: Happenings) -> None:
    world.initiate(0, owner="ann", shape=PARTS)
    world.send_whole(0, 0, True, 1)
    world.complete(0, 0, None, None)
    world.initiate(1, owner="ann", shape=Shape(5), new_version_of=0)
    world.send_whole(1, 0, True, 1)
    world.complete(1, 0, None, (3, Fault.PAUSE_AFTER))
    world.delete_file(0, 1, None)

    world.go_on(0, None)

    world.check()
    assert world.life(0).now.state is UploadState.FAILED
