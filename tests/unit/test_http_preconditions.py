"""Conditional requests: what entity tags say, compared as RFC 9110 compares them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from uploadcore.errors import InvalidRequestError
from uploadcore_http.preconditions import file_etag, is_known, joined, required_versions

ETAG = file_etag(3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ETAG, True),
        (f"W/{ETAG}", True),
        (f'"other", {ETAG}', True),
        (f'"other" ,\t,W/{ETAG} ,', True),
        ("*", True),
        ('"3"', False),
        ('"3-00000000"', False),  # of code that says something else of a file
        (file_etag(2), False),
        (f'"a,{ETAG[1:]}', False),
        ("", False),
        ("3", False),
        (ETAG[1:-1], False),
        (f"{ETAG} {ETAG}", False),
        (f"w/{ETAG}", False),
        (f"{ETAG}, *", False),
    ],
)
def test_if_none_match_compares_weakly(given: str, expected: bool) -> None:
    assert is_known(ETAG, given) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("*", None),
        (ETAG, (3,)),
        ('"3"', (3,)),
        ('"3-00000000"', (3,)),  # a change asks for what the file is, not for who said so
        (f'"1", {ETAG} , "7","1"', (7, 3, 1)),
        (f"W/{ETAG}", (-1,)),
        (f'W/{ETAG}, "2"', (2,)),
        ('"other"', (-1,)),
        ('"-3"', (-1,)),
        ('"3-x"', (-1,)),
        ('"' + "9" * 5_000 + '"', (-1,)),
        ('"1,"', (-1,)),
    ],
)
def test_if_match_compares_strongly(given: str | None, expected: tuple[int, ...] | None) -> None:
    assert required_versions(given) == expected


@pytest.mark.parametrize("given", ["", ",", "3", '"3', '"1" "3"', '"1", *', "* *", '"1",3', ",".join(['"1"'] * 17)])
def test_an_if_match_that_is_no_list_of_a_few_tags_is_refused(given: str) -> None:
    with pytest.raises(InvalidRequestError):
        required_versions(given)


def test_a_list_may_be_spread_over_several_lines() -> None:
    headers = [(b"if-match", b'"1"'), (b"host", b"x"), (b"if-match", b'"2"')]

    assert joined(headers, b"if-match") == '"1", "2"'
    assert joined(headers, b"if-none-match") is None


def test_all_processes_give_a_version_the_same_entity_tag() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "from uploadcore_http.preconditions import file_etag; print(file_etag(3))"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.strip() == ETAG
