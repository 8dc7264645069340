"""What a process remembers of the cache: bounded, for a moment, and never an older version after a newer one."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from uploadcore_memory import ManualClock
from uploadcore_redis.near import LARGEST_VALUE, NearCache


def test_a_value_is_kept_as_long_as_told_and_no_longer_than_allowed() -> None:
    clock = ManualClock()
    near = NearCache(10, 1.0, clock)
    near.put("short", b"1", 1, seconds=0.25)
    near.put("long", b"1", 1, seconds=60)
    clock.advance(0.25)
    assert (near.get("short"), near.get("long")) == (None, b"1")
    clock.advance(0.75)
    assert near.get("long") is None


def test_an_older_version_is_refused_for_ten_seconds() -> None:
    clock = ManualClock()
    near = NearCache(10, 1.0, clock)
    near.put("a", b"2", 2, seconds=1)
    clock.advance(9.9)
    assert near.get("a") is None
    assert near.put("a", b"1", 1, seconds=1) is False
    assert near.get("a") is None


def test_a_tombstone_refuses_its_own_version_too() -> None:
    near = NearCache(10, 1.0, ManualClock())
    near.put("a", b"2", 2, seconds=1)
    near.learn("a", newest=2, deleted=2)
    assert near.get("a") is None
    assert near.refuses("a", 2)
    assert not near.refuses("a", 3)


def test_a_newer_version_learnt_of_drops_the_value() -> None:
    near = NearCache(10, 1.0, ManualClock())
    near.put("a", b"2", 2, seconds=1)
    near.learn("a", newest=3)
    assert near.get("a") is None


class TickingClock(ManualClock):
    """Goes on whenever it is looked at."""

    tick = 0.0

    def monotonic(self) -> float:
        self.advance(self.tick)
        return super().monotonic()


@given(st.floats(0.05, 0.95))
def test_a_value_whose_life_ends_while_it_is_overtaken_is_gone(tick: float) -> None:
    clock = TickingClock()
    near = NearCache(10, 1.0, clock)
    near.put("a", b"1", 1, seconds=1)
    clock.tick = tick
    for newest in range(2, 10):
        near.learn("a", newest=newest)
    assert near.get("a") is None


def test_the_number_of_values_is_bounded() -> None:
    near = NearCache(10, 1.0, ManualClock())
    for number in range(1_000):
        near.put(str(number), b"1", 1, seconds=1)
    assert sum(near.get(str(number)) is not None for number in range(1_000)) == 10


def test_a_large_value_is_not_kept_but_its_version_is() -> None:
    near = NearCache(10, 1.0, ManualClock())
    assert near.put("a", bytes(LARGEST_VALUE + 1), 2, seconds=1) is True
    assert near.get("a") is None
    assert near.refuses("a", 1)


def test_one_that_is_off_keeps_and_refuses_nothing() -> None:
    near = NearCache(0, 1.0, ManualClock())
    near.learn("a", newest=5, deleted=5)
    assert near.put("a", b"1", 1, seconds=1) is True
    assert near.get("a") is None


_CALLS = st.lists(
    st.tuples(
        st.sampled_from(["put", "learn", "delete", "wait"]),
        st.sampled_from("ab"),
        st.integers(0, 4),
        st.floats(0, 1.5),
    ),
    max_size=50,
)


@given(_CALLS)
def test_no_version_comes_back_after_a_newer_one_or_its_tombstone(calls: list[tuple[str, str, int, float]]) -> None:
    clock = ManualClock()
    near = NearCache(10, 1.0, clock)
    newest, deleted, seen_at = {"a": -1, "b": -1}, {"a": -1, "b": -1}, {"a": -99.0, "b": -99.0}
    for what, key, version, seconds in calls:
        if clock.monotonic() - seen_at[key] >= 10:
            newest[key] = deleted[key] = -1
        match what:
            case "put":
                stands = version >= newest[key] and version > deleted[key]
                assert near.put(key, str(version).encode(), version, seconds=seconds) is stands
                if not stands:
                    continue
                newest[key] = version
            case "learn":
                near.learn(key, newest=version)
                newest[key] = max(newest[key], version)
            case "delete":
                near.learn(key, newest=version, deleted=version)
                newest[key], deleted[key] = max(newest[key], version), max(deleted[key], version)
            case _:
                clock.advance(timedelta(seconds=seconds * 4))
                continue
        seen_at[key] = clock.monotonic()
        kept = near.get(key)
        assert kept is None or (int(kept) >= newest[key] and int(kept) > deleted[key])
