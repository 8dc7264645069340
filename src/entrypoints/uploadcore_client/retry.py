"""Trying again: full jitter, a limit per call, and one budget for all calls of a transfer.

tenacity rather than stamina: a wait must end when the transfer is cut (stamina waits in `time.sleep`), jitter must be full (stamina adds
jitter to a growing floor, which lets parts that failed together come back together), and a shared budget must be able to stop it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
)
from tenacity.nap import sleep_using_event
from tenacity.stop import stop_base
from tenacity.wait import wait_random_exponential

from uploadcore.errors import UploadCoreError
from uploadcore_client.cancellation import Cancellation

__all__ = ["RetryBudget", "RetryPolicy", "TransientError"]

LONGEST_RETRY_AFTER = 120.0
"""Seconds. A server that asks for more is asked again sooner: its word is advice, and a person is waiting."""

T = TypeVar("T")


class TransientError(Exception):
    """One try failed in a way that another may not.

    Attributes:
        error: What to raise once there are no more tries.
        retry_after: Seconds the other side asked to wait; `None` if it did not say.
    """

    def __init__(self, error: UploadCoreError, *, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


class RetryBudget:
    """Bounds how much a transfer may try again over all its calls: a far end in trouble must not get twice the load for it.

    Each retry takes a token, each success puts one back, up to `capacity`.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._tokens = capacity
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a token; `False` if there is none."""
        with self._lock:
            if self._tokens == 0:
                return False
            self._tokens -= 1
            return True

    def put_back(self) -> None:
        """A call succeeded."""
        with self._lock:
            self._tokens = min(self._capacity, self._tokens + 1)


class _BudgetSpent(stop_base):
    """Stops when the budget has no token for another try. The last of the conditions: it takes one."""

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Whether to stop."""
        del retry_state
        return not self._budget.take()


class RetryPolicy:
    """How often and how patiently calls are tried.

    Args:
        attempts: Tries per call, the first included.
        initial: Upper bound of the first wait in seconds; doubles with each.
        longest: Upper bound of any wait in seconds. Ten attempts with the defaults take a minute on average.
    """

    def __init__(self, *, attempts: int = 10, initial: float = 0.5, longest: float = 30.0) -> None:
        if attempts < 1:
            raise ValueError("a call is tried at least once")
        self.attempts = attempts
        self._jitter = wait_random_exponential(multiplier=initial, max=longest)

    def call(self, attempt: Callable[[], T], *, cancellation: Cancellation, budget: RetryBudget) -> T:
        """Call until it returns, fails for good, or may not be tried again.

        Raises:
            TransferCancelledError: If cut while waiting.
            UploadCoreError: What the attempt raised, or what the last `TransientError` carried.
        """
        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=self._wait,
            stop=stop_any(
                stop_after_attempt(self.attempts), stop_when_event_set(cancellation.event), _BudgetSpent(budget)
            ),
            sleep=sleep_using_event(cancellation.event),
            reraise=True,
        )
        try:
            result: T = retrying(self._unless_cancelled, attempt, cancellation)
        except TransientError as exc:
            cancellation.check()
            raise exc.error from exc.__cause__
        budget.put_back()
        return result

    @staticmethod
    def _unless_cancelled(attempt: Callable[[], T], cancellation: Cancellation) -> T:
        cancellation.check()
        return attempt()

    def _wait(self, state: RetryCallState) -> float:
        jitter = self._jitter(state)
        failure = state.outcome.exception() if state.outcome else None
        asked = failure.retry_after if isinstance(failure, TransientError) else None
        # Those who were asked to wait equally long must not come back together either.
        return jitter if asked is None else min(asked, LONGEST_RETRY_AFTER) + min(jitter, 1.0)
