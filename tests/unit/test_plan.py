"""The arithmetic of plans for every size there is, and the ledger against a fold too plain to be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from uploadcore.errors import InvalidRequestError, PartOutOfRangeError, TooLargeError
from uploadcore.plan import S3_LIMITS, Part, PartLedger, PartPlan, StoredPart, StoreLimits
from uploadcore.states import PartState

MIB = 1024 * 1024
LARGEST = 53_687_091_200_000


def magnitudes(least: int, most: int) -> st.SearchStrategy[int]:
    """Numbers of every order of magnitude, the ends included: evenly drawn ones are nearly all large."""
    of_some_size = st.integers(0, (most - least).bit_length()).flatmap(lambda bits: st.integers(0, 1 << bits))
    return st.sampled_from([least, most]) | of_some_size.map(lambda above: min(least + above, most))


@st.composite
def store_limits(draw: st.DrawFn) -> StoreLimits:
    """Any store there could be, down to absurd ones."""
    largest_part = draw(magnitudes(1, 10 * 1024**3))
    smallest_part = draw(magnitudes(1, largest_part))
    parts = draw(magnitudes(1, 20_000))
    largest = draw(magnitudes(1, largest_part * parts))
    return StoreLimits(
        min_part_size=smallest_part, max_part_size=largest_part, max_parts=parts, max_object_size=largest
    )


def assert_cuts(plan: PartPlan, size: int, limits: StoreLimits) -> None:
    """The plan's parts cover the size without gap or overlap, and the store takes all of them."""
    count = plan.part_count
    assert count is not None
    assert plan.size == size
    assert limits.min_part_size <= plan.part_size <= limits.max_part_size
    assert 1 <= count <= limits.max_parts
    for number in {1, 2, count // 2, count - 1, count} & set(range(1, count + 1)):
        part = plan.part(number)
        assert (part.part_number, part.offset) == (number, (number - 1) * plan.part_size)
        if number < count:
            assert part.length == plan.part_size
    last = plan.part(count)
    assert last.length is not None
    assert last.offset + last.length == size
    assert 0 < last.length <= plan.part_size or (size, last.length) == (0, 0)
    for outside in (-1, 0, count + 1, limits.max_parts + 1):
        with pytest.raises(PartOutOfRangeError):
            plan.part(outside)


# --- declared plans ------------------------------------------------------------------------------------------------


@given(size=magnitudes(0, LARGEST) | st.integers(0, LARGEST))
@settings(max_examples=1_000)
@example(size=0)
@example(size=1)
@example(size=8 * MIB - 1)
@example(size=8 * MIB)
@example(size=8 * MIB + 1)
@example(size=8_000 * MIB)
@example(size=8_000 * MIB + 1)
@example(size=9_000 * MIB)
@example(size=9_000 * MIB + 1)
@example(size=5 * 1024**3 * 1_000)
@example(size=5 * 1024**3 * 1_000 + 1)
@example(size=LARGEST - 1)
@example(size=LARGEST)
def test_every_size_s3_can_hold_is_cut_by_the_rule(size: int) -> None:
    plan = PartPlan.declared(size, S3_LIMITS)
    assert_cuts(plan, size, S3_LIMITS)
    rule = [plan.part_size % MIB == 0, plan.part_size >= 8 * MIB, plan.part_size * 1_000 >= size]
    if plan.part_size < S3_LIMITS.max_part_size:
        assert all(rule)
        smaller = plan.part_size - MIB
        assert smaller < 8 * MIB or smaller * 1_000 < size, "a smaller multiple would have done"
    else:
        assert size > (S3_LIMITS.max_part_size - MIB) * 1_000


@given(limits=store_limits(), data=st.data())
@settings(max_examples=1_000)
def test_every_size_any_store_can_hold_is_cut(limits: StoreLimits, data: st.DataObject) -> None:
    size = data.draw(magnitudes(0, limits.max_object_size))
    assert_cuts(PartPlan.declared(size, limits), size, limits)


@given(limits=store_limits())
def test_a_part_size_is_whole_mebibytes_where_the_store_lets_it(limits: StoreLimits) -> None:
    plan = PartPlan.declared(limits.max_object_size, limits)
    assert plan.part_size % MIB == 0 or plan.part_size in {limits.min_part_size, limits.max_part_size}


@given(limits=store_limits(), data=st.data())
def test_a_part_size_asked_for_is_taken_or_refused_with_one_that_would_do(
    limits: StoreLimits, data: st.DataObject
) -> None:
    size = data.draw(magnitudes(0, limits.max_object_size))
    asked = data.draw(magnitudes(-1, limits.max_part_size + 1))
    if limits.min_part_size <= asked <= limits.max_part_size and asked * limits.max_parts >= size:
        plan = PartPlan.declared(size, limits, part_size=asked)
        assert plan.part_size == asked
        assert_cuts(plan, size, limits)
        return
    with pytest.raises(InvalidRequestError) as refused:
        PartPlan.declared(size, limits, part_size=asked)
    if "ask for" in refused.value.message:
        advised = int(refused.value.message.split("ask for ")[1].split()[0])
        assert_cuts(PartPlan.declared(size, limits, part_size=advised), size, limits)


@given(limits=store_limits(), beyond=st.integers(1, 10**15))
def test_a_size_beyond_the_store_is_refused(limits: StoreLimits, beyond: int) -> None:
    with pytest.raises(TooLargeError):
        PartPlan.declared(limits.max_object_size + beyond, limits)


@given(size=st.integers(max_value=-1))
def test_a_negative_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequestError):
        PartPlan.declared(size, S3_LIMITS)


def test_a_store_of_few_parts_gets_larger_ones() -> None:
    limits = StoreLimits(min_part_size=1, max_part_size=1024**3, max_parts=100, max_object_size=100 * 1024**3)
    assert PartPlan.declared(limits.max_object_size - 1, limits).part_size == 1024**3
    assert PartPlan.declared(900 * MIB + 1, limits).part_size == 10 * MIB


def test_an_empty_blob_is_one_empty_part() -> None:
    plan = PartPlan.declared(0, S3_LIMITS)
    assert plan.part_count == 1
    assert plan.part(1) == Part(1, 0, 0)


# --- open plans ----------------------------------------------------------------------------------------------------


@given(limits=store_limits(), data=st.data())
def test_an_open_plan_fits_any_store_and_binds_no_length(limits: StoreLimits, data: st.DataObject) -> None:
    plan = PartPlan.open(limits)
    assert limits.min_part_size <= plan.part_size <= limits.max_part_size
    assert (plan.size, plan.part_count) == (None, None)
    number = data.draw(st.integers(1, limits.max_parts))
    assert plan.part(number) == Part(number, (number - 1) * plan.part_size, None)
    for outside in (0, limits.max_parts + 1):
        with pytest.raises(PartOutOfRangeError):
            plan.part(outside)


def test_an_open_plan_takes_16_mib_unless_asked() -> None:
    assert PartPlan.open(S3_LIMITS).part_size == 16 * MIB
    assert PartPlan.open(S3_LIMITS, part_size=5 * MIB).part_size == 5 * MIB


@pytest.mark.parametrize("asked", [-1, 0, 5 * MIB - 1, 5 * 1024 * MIB + 1])
def test_an_open_plan_refuses_a_part_size_the_store_does_not_take(asked: int) -> None:
    with pytest.raises(InvalidRequestError, match="5242880 to 5368709120"):
        PartPlan.open(S3_LIMITS, part_size=asked)


@pytest.mark.parametrize(
    "change",
    [
        {"min_part_size": 0},
        {"min_part_size": S3_LIMITS.max_part_size + 1},
        {"max_parts": 0},
        {"max_object_size": 0},
        {"max_object_size": S3_LIMITS.max_part_size * 10_000 + 1},
    ],
)
def test_limits_no_plan_can_meet_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"no part can satisfy|can't be cut"):
        replace(S3_LIMITS, **change)


# --- the ledger ----------------------------------------------------------------------------------------------------


def ranges(numbers: list[int]) -> tuple[tuple[int, int], ...]:
    """Inclusive ranges of sorted numbers, one number at a time."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)


def lengths(size: int, part_size: int) -> list[int]:
    """The parts' lengths, cut off one after another."""
    cut = []
    while size > part_size:
        cut.append(part_size)
        size -= part_size
    return [*cut, size]


def assert_folds(plan: PartPlan, listed: dict[int, int], size: int | None) -> PartLedger:
    """The ledger says what looking at every part number says."""
    ledger = PartLedger(plan, [StoredPart(n, length, f"e{n}") for n, length in listed.items()], size=size)
    if plan.size is not None:
        expected = dict(enumerate(lengths(plan.size, plan.part_size), 1))
        wrong = {n for n, length in listed.items() if n not in expected or length != expected[n]}
        count = len(expected)
    else:
        part_size = listed.get(1, 0) or plan.part_size
        if size is not None:
            expected = dict(enumerate(lengths(size, part_size), 1))
            wrong = {n for n, length in listed.items() if n not in expected or length != expected[n]}
            count = len(expected)
        else:
            # The last part that arrived is the last; it alone may be shorter, and it alone, if the first, empty.
            count = max(listed, default=1)
            wrong = {n for n, length in listed.items() if n < count and length != part_size}
            if count > 1 and not 0 < listed[count] <= part_size:
                wrong.add(count)
    missing = [n for n in range(1, count + 1) if n not in listed]
    assert ledger.missing == ranges(missing)
    assert ledger.mismatched == tuple(sorted(wrong))
    assert ledger.uploaded_bytes == sum(length for n, length in listed.items() if n not in wrong)
    assert ledger.is_whole is (not missing and not wrong)
    assert [part.part_number for part in ledger.parts] == sorted(listed)
    for n in listed:
        assert ledger.state_of(n) is (PartState.REJECTED if n in wrong else PartState.VERIFIED)
    for n in missing:
        assert ledger.state_of(n) is PartState.PLANNED
    if ledger.is_whole:
        assert ledger.size == sum(listed.values())
        assert ledger.plan.part_count == len(listed)
    return ledger


part_sizes = st.integers(1, 12)
listings = st.dictionaries(st.integers(1, 14), st.integers(0, 14), max_size=14)


@st.composite
def nearly_whole(draw: st.DrawFn, size: int, part_size: int) -> dict[int, int]:
    """All parts of a size, then a few of them lost, altered, or added beyond the end."""
    listed = dict(enumerate(lengths(size, part_size), 1))
    for number in draw(st.lists(st.sampled_from(sorted(listed)), max_size=2)):
        listed.pop(number, None)
    listed |= draw(st.dictionaries(st.integers(1, len(listed) + 2), st.integers(0, 14), max_size=2))
    items = draw(st.permutations(list(listed.items())))
    return dict(items)


@given(size=st.integers(0, 100), part_size=part_sizes, data=st.data())
@settings(max_examples=1_000)
def test_a_declared_plan_against_a_listing(size: int, part_size: int, data: st.DataObject) -> None:
    plan = PartPlan(part_size=part_size, size=size, max_parts=100)
    assert_folds(plan, data.draw(listings | nearly_whole(size, part_size)), None)


@given(size=st.integers(0, 100), part_size=part_sizes)
def test_a_declared_plan_against_all_its_parts_is_whole(size: int, part_size: int) -> None:
    plan = PartPlan(part_size=part_size, size=size, max_parts=100)
    ledger = assert_folds(plan, dict(enumerate(lengths(size, part_size), 1)), None)
    assert ledger.is_whole
    assert ledger.uploaded_bytes == ledger.size == size


@given(
    size=st.integers(0, 100),
    part_size=part_sizes,
    chunk=part_sizes,
    said=st.none() | st.integers(0, 110),
    data=st.data(),
)
@settings(max_examples=1_000)
def test_an_open_plan_against_chunks_of_the_clients_own_size(
    size: int, part_size: int, chunk: int, said: int | None, data: st.DataObject
) -> None:
    plan = PartPlan(part_size=part_size, size=None, max_parts=200)
    assert_folds(plan, data.draw(listings | nearly_whole(size, chunk)), said)


@pytest.mark.parametrize(
    ("listed", "mismatched"),
    [
        ({1: 0}, ()),
        ({1: 3, 2: 3}, ()),
        ({1: 3, 2: 14}, (2,)),
        ({1: 3, 2: 0}, (2,)),
        ({1: 0, 2: 3}, (1,)),
        ({1: 3, 2: 2, 3: 3}, (2,)),
        ({2: 5}, ()),
        ({2: 6}, (2,)),
    ],
)
def test_an_open_plan_takes_its_part_size_from_part_1(listed: dict[int, int], mismatched: tuple[int, ...]) -> None:
    assert assert_folds(PartPlan(part_size=5, size=None, max_parts=9), listed, None).mismatched == mismatched


@given(size=st.integers(0, 100), part_size=part_sizes, chunk=part_sizes, is_said=st.booleans())
def test_an_open_plan_against_all_chunks_is_whole(size: int, part_size: int, chunk: int, is_said: bool) -> None:
    plan = PartPlan(part_size=part_size, size=None, max_parts=200)
    ledger = assert_folds(plan, dict(enumerate(lengths(size, chunk), 1)), size if is_said else None)
    assert ledger.is_whole
    assert ledger.size == size


@given(size=st.integers(0, 100), part_size=part_sizes, chunk=part_sizes, said=st.integers(0, 110))
def test_an_open_plan_is_not_whole_at_another_size_than_said(size: int, part_size: int, chunk: int, said: int) -> None:
    assume(said != size)
    plan = PartPlan(part_size=part_size, size=None, max_parts=200)
    assert not assert_folds(plan, dict(enumerate(lengths(size, chunk), 1)), said).is_whole


@given(data=st.data(), count=st.integers(2, 20), chunk=part_sizes)
def test_an_open_plan_with_any_gap_is_not_whole(data: st.DataObject, count: int, chunk: int) -> None:
    listed = dict.fromkeys(range(1, count + 1), chunk)
    del listed[data.draw(st.integers(1, count - 1))]
    plan = PartPlan(part_size=chunk, size=None, max_parts=200)
    assert not assert_folds(plan, listed, None).is_whole


def test_nothing_listed_is_not_whole_even_where_nothing_is_expected() -> None:
    for plan in (PartPlan.declared(0, S3_LIMITS), PartPlan.open(S3_LIMITS)):
        ledger = PartLedger(plan, [])
        assert ledger.missing == ((1, 1),)
        assert not ledger.is_whole


def test_a_part_beyond_the_plan_is_no_part_of_it() -> None:
    ledger = PartLedger(PartPlan(part_size=10, size=15, max_parts=9), [])
    assert ledger.state_of(2) is PartState.PLANNED
    with pytest.raises(PartOutOfRangeError):
        ledger.state_of(3)


def test_in_an_open_plan_the_parts_to_come_are_planned() -> None:
    plan = PartPlan(part_size=10, size=None, max_parts=9)
    ledger = PartLedger(plan, [StoredPart(1, 10, "e")])
    assert ledger.state_of(9) is PartState.PLANNED
    with pytest.raises(PartOutOfRangeError):
        ledger.state_of(10)
    with pytest.raises(PartOutOfRangeError):
        PartLedger(plan, [StoredPart(1, 10, "e")], size=15).state_of(3)


def test_ten_thousand_missing_parts_are_one_range() -> None:
    plan = PartPlan.declared(LARGEST, S3_LIMITS)
    middle = StoredPart(5_000, plan.part_size, "e")
    assert PartLedger(plan, [middle]).missing == ((1, 4_999), (5_001, 10_000))
