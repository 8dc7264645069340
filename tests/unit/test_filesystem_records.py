"""Part records of the filesystem store, and the room between them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uploadcore_filesystem.records import PartIndex, PartRecord

ETAG = "e" * 32
records = st.builds(
    PartRecord,
    part_number=st.integers(1, 10_000),
    offset=st.none() | st.integers(0, 53_687_091_200_000),
    size=st.integers(0, 5 * 1024**3),
    etag=st.text("0123456789abcdef", min_size=32, max_size=32),
    crc64=st.integers(0, 2**64 - 1),
)


@given(record=records)
def test_a_record_is_all_in_its_name(record: PartRecord) -> None:
    assert PartRecord.parse(record.name) == record
    assert record.name.startswith(PartRecord.prefix(record.part_number))
    assert len(record.name) <= 255, "the longest name a filesystem takes"
    assert "/" not in record.name


requests = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 60), st.integers(0, 12), st.booleans()), max_size=40)


@given(requests=requests)
def test_parts_that_were_given_room_never_meet(requests: list[tuple[int, int, int, bool]]) -> None:
    """Parts come and go; those in place are disjoint at all times, whatever was asked for."""
    index = PartIndex()
    for number, offset, size, goes in requests:
        if goes:
            index.remove(number)
            continue
        has_room = index.has_room(number, offset, offset + size)
        index.remove(number)
        index.add(PartRecord(number, offset if has_room else None, size, ETAG, 0))
        bytes_taken = [
            byte for part in index if part.offset is not None for byte in range(part.offset, part.offset + part.size)
        ]
        assert len(bytes_taken) == len(set(bytes_taken))
        assert [part.part_number for part in index] == sorted({part.part_number for part in index})


@given(order=st.permutations(range(1, 9)), part_size=st.integers(1, 50))
def test_the_parts_of_a_plan_always_have_room(order: list[int], part_size: int) -> None:
    index = PartIndex()
    for number in order:
        offset = (number - 1) * part_size
        assert index.has_room(number, offset, offset + part_size)
        index.add(PartRecord(number, offset, part_size, ETAG, 0))
        assert index.has_room(number, offset, offset + part_size), "its own place is no obstacle"
