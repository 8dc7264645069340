"""Signed URLs, just in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from uploadcore_client import UnexpectedAnswerError
from uploadcore_client.signing import SignedUrls, batch_size
from uploadcore_client.wire import SignedPart

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Signer:
    """Signs everything, or fails as often as told, and remembers."""

    def __init__(self, lifetime: float = 900, failures: int = 0) -> None:
        self.asked: list[list[int]] = []
        self.lifetime = lifetime
        self.failures = failures
        self.signed = threading.Condition()

    def __call__(self, numbers: Sequence[int]) -> tuple[list[SignedPart], datetime]:
        with self.signed:
            self.asked.append(list(numbers))
            self.signed.notify_all()
            if self.failures:
                self.failures -= 1
                raise RuntimeError("away")
            version = len(self.asked)
        expires_at = NOW + timedelta(seconds=self.lifetime)
        return [SignedPart(number, f"http://s/{number}?v={version}", {}, expires_at) for number in numbers], NOW

    def until_asked(self, times: int) -> None:
        with self.signed:
            assert self.signed.wait_for(lambda: len(self.asked) >= times, timeout=30)


def test_the_next_batch_is_fetched_while_one_is_used() -> None:
    signer = Signer()
    urls = SignedUrls(signer, batch=4)
    urls.plan(range(1, 11))

    for number in range(1, 4):
        urls.get(number)
        urls.drop(number)
    signer.until_asked(2)

    assert signer.asked[:2] == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_part_that_is_tried_again_gets_the_same_url() -> None:
    signer = Signer()
    urls = SignedUrls(signer, batch=2)
    urls.plan([1, 2])

    assert urls.get(1) is urls.get(1)
    assert signer.asked == [[1, 2]]


def test_a_url_that_was_dropped_is_signed_again() -> None:
    signer = Signer()
    urls = SignedUrls(signer, batch=2)
    urls.plan([1, 2])
    first = urls.get(1)

    urls.drop(1)

    assert urls.get(1).url != first.url


def test_after_dropping_all_every_url_is_new() -> None:
    signer = Signer()
    urls = SignedUrls(signer, batch=2)
    urls.plan([1, 2])
    old = urls.get(2)

    urls.drop_all()

    assert urls.get(2).url != old.url


def test_a_url_with_little_life_left_is_signed_again_and_then_used_as_it_is() -> None:
    signer = Signer(lifetime=30)
    urls = SignedUrls(signer, batch=1)
    urls.plan([1])

    first, second = urls.get(1), urls.get(1)

    assert first.url != second.url


def test_urls_that_came_unasked_are_not_asked_for() -> None:
    signer = Signer()
    urls = SignedUrls(signer, batch=4)
    urls.add(signer([1, 2])[0], NOW)
    urls.plan([1, 2, 3])

    assert urls.get(1).url == "http://s/1?v=1"
    assert urls.get(3).part_number == 3
    assert signer.asked == [[1, 2], [3]]


def test_threads_that_need_the_same_batch_ask_once() -> None:
    may_go = threading.Event()
    signer = Signer()

    def slow(numbers: Sequence[int]) -> tuple[list[SignedPart], datetime]:
        may_go.wait(30)
        return signer(numbers)

    urls = SignedUrls(slow, batch=8)
    urls.plan(range(1, 9))
    got: list[int] = []
    threads = [threading.Thread(target=lambda n=n: got.append(urls.get(n).part_number)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    may_go.set()
    for thread in threads:
        thread.join(30)

    assert sorted(got) == [1, 2, 3, 4]
    assert sorted(number for batch in signer.asked for number in batch) == list(range(1, 9))


class Lock:
    """A lock, after whose first release something happens before anything else."""

    def __init__(self, then: Callable[[], object]) -> None:
        self._lock = threading.Lock()
        self._then = [then]

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self._then:
            self._then.pop()()


def test_a_batch_that_arrives_while_it_is_looked_for_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    may_go, signer = threading.Event(), Signer()

    def slow(numbers: Sequence[int]) -> tuple[list[SignedPart], datetime]:
        signed = signer(numbers)
        assert may_go.wait(30)
        return signed

    urls = SignedUrls(slow, batch=4)
    urls.plan([1, 2])
    first = threading.Thread(target=urls.get, args=(1,))
    first.start()
    signer.until_asked(1)

    def arrive() -> None:
        may_go.set()
        first.join()

    monkeypatch.setattr(urls, "_lock", Lock(arrive))

    assert urls.get(2).part_number == 2
    assert signer.asked == [[1, 2]]


def test_a_url_that_has_come_is_used_though_all_are_dropped_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = SignedUrls(Signer(), batch=2)
    urls.plan([1, 2])
    arrived = urls._arrived

    def dropped(numbers: list[int]) -> None:
        arrived(numbers)
        urls.drop_all()

    monkeypatch.setattr(urls, "_arrived", dropped)

    assert urls.get(1).part_number == 1


def test_what_the_service_answers_instead_reaches_who_asked_and_the_next_call_asks_again() -> None:
    signer = Signer(failures=1)
    urls = SignedUrls(signer, batch=4)
    urls.plan([1, 2])

    with pytest.raises(RuntimeError):
        urls.get(1)

    assert urls.get(1).part_number == 1
    assert urls.get(2).part_number == 2


def test_a_service_that_leaves_a_part_out_is_not_asked_for_ever() -> None:
    urls = SignedUrls(lambda numbers: ([], NOW), batch=4)
    urls.plan([1])

    with pytest.raises(UnexpectedAnswerError):
        urls.get(1)


@pytest.mark.parametrize(("parallel", "batch"), [(1, 32), (4, 32), (8, 64), (64, 100)])
def test_a_batch_is_what_the_window_needs_for_a_while(parallel: int, batch: int) -> None:
    assert batch_size(parallel) == batch


def test_a_signed_part_does_not_show_its_url() -> None:
    part = SignedPart(1, "http://s/1?signature=SECRET", {"x-secret": "SECRET"}, NOW)

    assert "SECRET" not in repr(part)
    assert "SECRET" not in f"{part}"
