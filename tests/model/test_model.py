"""`UploadCore` keeps rules 1 to 11, whatever happens in whatever order."""

from __future__ import annotations

import random

from tests.model.machine import UploadCoreMachine
from tests.model.search import search


def test_no_order_of_calls_crashes_lost_answers_and_late_effects_breaks_a_rule() -> None:
    search(UploadCoreMachine, examples=200)


def test_nor_do_others_than_last_time() -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"to see it again: search(UploadCoreMachine, examples=60, by_seed={seed})")
    search(UploadCoreMachine, examples=60, by_seed=seed)
