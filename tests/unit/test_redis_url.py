"""What a cache URL may say, and that nothing secret in it is ever shown."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploadcore.errors import InvalidRequestError
from uploadcore.ports import AdapterContext
from uploadcore_redis import RedisCache, from_url
from uploadcore_redis.url import Host, RedisUrl, Topology, parse_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://cache", RedisUrl(Topology.SINGLE, False, (Host("cache", 6379),))),
        ("redis://cache:7000/3", RedisUrl(Topology.SINGLE, False, (Host("cache", 7000),), db=3)),
        ("REDIS://cache/", RedisUrl(Topology.SINGLE, False, (Host("cache", 6379),))),
        ("redis://[::1]:7000", RedisUrl(Topology.SINGLE, False, (Host("::1", 7000),))),
        ("redis://[::1]", RedisUrl(Topology.SINGLE, False, (Host("::1", 6379),))),
        ("redis://:p%40ss@c", RedisUrl(Topology.SINGLE, False, (Host("c", 6379),), password="p@ss")),
        ("rediss://me:a:b@c", RedisUrl(Topology.SINGLE, True, (Host("c", 6379),), username="me", password="a:b")),
        (
            "redis+sentinel://:p@s1,s2:7000/main?db=2",
            RedisUrl(Topology.SENTINEL, False, (Host("s1", 26379), Host("s2", 7000)), "main", 2, password="p"),
        ),
        (
            "rediss+sentinel://s1/main?sentinel_password=x%20y",
            RedisUrl(Topology.SENTINEL, True, (Host("s1", 26379),), "main", options={"sentinel_password": "x y"}),
        ),
        ("redis+cluster://n1,n2:7001", RedisUrl(Topology.CLUSTER, False, (Host("n1", 6379), Host("n2", 7001)))),
        ("rediss+cluster://n1/0", RedisUrl(Topology.CLUSTER, True, (Host("n1", 6379),))),
        (
            "redis://c?timeout=0.25&near_entries=0&max_connections=5",
            RedisUrl(
                Topology.SINGLE,
                False,
                (Host("c", 6379),),
                options={"timeout": 0.25, "near_entries": 0, "max_connections": 5},
            ),
        ),
    ],
)
def test_a_url_is_understood(url: str, expected: RedisUrl) -> None:
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("memcached://:hunter2@c", "a URL of uploadcore_redis is redis://"),
        ("redis:c", "a URL of uploadcore_redis is redis://"),
        ("hunter2", "a URL of uploadcore_redis is redis://"),
        ("redis://:hunter2@", "names no host"),
        ("redis://:hunter2@:6379", "names no host"),
        ("redis://:hunter2@c:", "no number from 1 to 65535"),
        ("redis://:hunter2@c:port", "no number from 1 to 65535"),
        ("redis://:hunter2@c:0", "no number from 1 to 65535"),
        ("redis://:hunter2@c:65536", "no number from 1 to 65535"),
        ("redis://u:hunter2/more@c", "no number from 1 to 65535"),
        ("redis://:hunter2#more@c", "nothing after a '#'"),
        ("redis://:hunter2@[::1", "the hosts can't be read"),
        ("redis://:hunter2@c,d", "takes one host"),
        ("redis://c/hunter2", "the number of the database"),
        ("redis+cluster://:hunter2@c/1", "the database 0 only"),
        ("redis+cluster://:hunter2@c/name", "the number of the database"),
        ("redis+sentinel://:hunter2@c", "the name of the master"),
        ("redis+sentinel://c/hunter2/1", "the name of the master"),
        ("redis://:hunter2@c?timeot=1", "does not take one of its options; it takes key_prefix, max_connections"),
        ("redis://c?hunter2=1", "does not take one of its options"),
        ("redis://c?ca_file=/hunter2", "does not take ca_file"),
        ("redis://c?sentinel_password=hunter2", "does not take sentinel_password"),
        ("redis://c?hunter2", "write name=value"),
        ("redis://c?timeout=1&timeout=hunter2", "timeout is there twice"),
        ("redis://c?timeout=hunter2", "timeout is no number of seconds"),
        ("redis://c?timeout=nan", "timeout is no number of seconds"),
        ("redis://c?max_connections=-1", "max_connections is no whole number"),
        ("redis+sentinel://c/main?sentinel_password=", "sentinel_password is empty"),
        ("rediss://c?ca_file=/nowhere/hunter2.pem", "ca_file is no file that is there"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(url: str, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint.replace("?", r"\?")) as caught:
        RedisCache(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None, "a cause would be shown with it"


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=30))
@example("ff]℀")
def test_any_text_is_a_url_or_is_refused(rest: str) -> None:
    shown: object
    try:
        shown = parse_url(f"redis://u:{SECRET}@{rest}")
    except InvalidRequestError as exc:
        shown = exc
    assert SECRET not in f"{shown} {shown!r}"


@pytest.mark.parametrize(
    "url",
    [
        "rediss://hunter2:hunter2@c:1",
        "redis+sentinel://:hunter2@c/main?sentinel_password=hunter2&sentinel_username=hunter2",
        "redis+cluster://:hunter2@c,d",
    ],
)
def test_neither_repr_shows_a_credential(url: str) -> None:
    assert SECRET not in repr(RedisCache(url)) + repr(parse_url(url)) + str(parse_url(url))


def test_options_of_the_url_count_and_arguments_count_more() -> None:
    cache = RedisCache("redis://c?timeout=0.25&near_ttl=0.5", near_ttl=timedelta(seconds=0.75))
    assert (cache._timeout, cache._near_ttl) == (0.25, 0.75)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("timeout=0", "more than 0 and up to 10 s"),
        ("timeout=11", "more than 0 and up to 10 s"),
        ("max_connections=0", "one connection or more"),
        ("key_prefix={a}", "without braces"),
        ("near_ttl=1.5", "up to 1 s"),
    ],
)
def test_values_out_of_range_are_refused(option: str, complaint: str) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        RedisCache(f"redis://c?{option}")


@pytest.mark.parametrize("option", ["ca_file", "cert_file"])
def test_a_file_that_holds_no_certificate_is_refused(tmp_path: Path, option: str) -> None:
    (tmp_path / "other.pem").write_text(SECRET)
    with pytest.raises(InvalidRequestError, match="can't be used: SSLError") as caught:
        RedisCache(f"rediss://:{SECRET}@c?{option}={tmp_path}/other.pem")
    assert SECRET not in str(caught.value)


def test_a_key_without_its_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.key").write_text(SECRET)
    with pytest.raises(InvalidRequestError, match="key_file goes with cert_file"):
        RedisCache(f"rediss://c?key_file={tmp_path}/other.key")


def test_a_negative_number_of_entries_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="0 or more"):
        RedisCache("redis://c", near_entries=-1)


def test_from_url_opens_nothing(tmp_path: Path) -> None:
    context = AdapterContext(data_dir=tmp_path, public_url="http://127.0.0.1:8484")
    assert repr(from_url("redis://no.such.host/1", context)) == "RedisCache('redis://no.such.host:6379')"
