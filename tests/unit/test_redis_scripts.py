"""How a key of the cache is kept in Redis."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from uploadcore_redis.scripts import StoredValue, decode_value, encode_value, keys_of

KEYS = st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("{}%")), max_size=20)


@given(KEYS)
@example("")
@example("}")
@example("{}")
def test_both_keys_are_in_one_slot_of_a_cluster(key: str) -> None:
    keys = keys_of("uploadcore:", key)
    assert key_slot(keys.value.encode()) == key_slot(keys.marker.encode())


@given(KEYS, KEYS)
@example("", "%")
@example("}", "%7D")
def test_two_keys_share_nothing(one: str, other: str) -> None:
    if one != other:
        assert not set(keys_of("uploadcore:", one)) & set(keys_of("uploadcore:", other))


@given(st.binary(max_size=50), st.integers(0, 2**53 - 1), st.integers(0, 1000))
def test_a_value_comes_back_with_its_version(value: bytes, version: int, share_ms: int) -> None:
    stored = StoredValue(value, version, share_ms)
    assert decode_value(encode_value(stored)) == stored


@given(st.binary(max_size=50))
@example(b"1 \n")
@example(b"-1 2\nx")
@example("²".encode() + b" 1\nx")
def test_whatever_somebody_else_has_stored_is_a_value_or_none(found: bytes) -> None:
    stored = decode_value(found)
    assert stored is None or (stored.version >= 0 and found.endswith(b"\n" + stored.value))
