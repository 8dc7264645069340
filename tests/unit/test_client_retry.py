"""Trying again."""

from __future__ import annotations

import threading
import time

import pytest

from uploadcore.errors import QuotaExceededError, StoreUnavailableError
from uploadcore_client import Cancellation, TransferCancelledError
from uploadcore_client.retry import RetryBudget, RetryPolicy, TransientError

FAST = RetryPolicy(attempts=5, initial=0.0001, longest=0.001)


class Flaky:
    """Fails so often, then returns."""

    def __init__(self, failures: int, *, retry_after: float | None = None) -> None:
        self.failures = failures
        self.retry_after = retry_after
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise TransientError(StoreUnavailableError(f"try {self.calls}"), retry_after=self.retry_after)
        return "done"


def test_it_tries_until_it_succeeds() -> None:
    flaky = Flaky(3)

    assert FAST.call(flaky, cancellation=Cancellation(), budget=RetryBudget(10)) == "done"
    assert flaky.calls == 4


def test_it_ends_with_the_last_error() -> None:
    flaky = Flaky(9)

    with pytest.raises(StoreUnavailableError, match="try 5"):
        FAST.call(flaky, cancellation=Cancellation(), budget=RetryBudget(10))


def test_what_is_not_transient_is_raised_at_once() -> None:
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise QuotaExceededError("no")

    with pytest.raises(QuotaExceededError):
        FAST.call(refuse, cancellation=Cancellation(), budget=RetryBudget(10))
    assert len(calls) == 1


def test_the_budget_is_shared_and_refilled_by_success() -> None:
    budget, cancellation = RetryBudget(3), Cancellation()
    first, second, third = Flaky(2), Flaky(9), Flaky(1)

    FAST.call(first, cancellation=cancellation, budget=budget)  # takes 2, gives 1 back
    with pytest.raises(StoreUnavailableError):
        FAST.call(second, cancellation=cancellation, budget=budget)
    with pytest.raises(StoreUnavailableError):
        FAST.call(third, cancellation=cancellation, budget=budget)

    assert (first.calls, second.calls, third.calls) == (3, 3, 1)


def test_cancelling_ends_the_wait_for_the_next_try() -> None:
    cancellation = Cancellation()
    patient = RetryPolicy(initial=60, longest=60)
    threading.Timer(0.05, cancellation.cancel).start()
    began_at = time.monotonic()

    with pytest.raises(TransferCancelledError):
        patient.call(Flaky(9, retry_after=60), cancellation=cancellation, budget=RetryBudget(10))

    assert time.monotonic() - began_at < 30


def test_nothing_is_tried_once_cancelled() -> None:
    cancellation, flaky = Cancellation(), Flaky(0)
    cancellation.cancel()

    with pytest.raises(TransferCancelledError):
        FAST.call(flaky, cancellation=cancellation, budget=RetryBudget(10))

    assert flaky.calls == 0


def test_it_waits_as_long_as_it_was_asked_to() -> None:
    began_at = time.monotonic()

    FAST.call(Flaky(1, retry_after=0.2), cancellation=Cancellation(), budget=RetryBudget(10))

    assert time.monotonic() - began_at >= 0.2


def test_a_policy_tries_at_least_once() -> None:
    with pytest.raises(ValueError, match="at least once"):
        RetryPolicy(attempts=0)
