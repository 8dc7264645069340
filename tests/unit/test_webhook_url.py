"""Webhooks' URLs: what is understood, what is refused, and that nothing is said which should not be."""

from __future__ import annotations

import base64
from ipaddress import ip_network
from typing import Any

import pytest

from uploadcore.errors import InvalidRequestError
from uploadcore_webhooks.url import parse_url

KEY = base64.b64encode(b"secret of the tests, and more").decode().rstrip("=")
SECRET = f"whsec_{KEY}"
PLUS = f"whsec_{base64.b64encode(bytes([0xFB, 0xFF]) * 16).decode()}"


def test_all_that_can_be_said() -> None:
    url = parse_url(
        f"https://CRM.example.com:8443/a%20b?x=1&y=#secret={SECRET}&secret={PLUS}&timeout=2.5"
        f"&allow=10.1.0.0/16,fd00::1&ca_file={__file__}"
    )

    assert (url.scheme, url.host, url.port, url.target) == ("https", "crm.example.com", 8443, "/a%20b?x=1&y=")
    assert url.secrets == (SECRET, PLUS), "a plus is a plus"
    assert url.options["allow"] == (ip_network("10.1.0.0/16"), ip_network("fd00::1/128"))
    assert url.options["timeout"] == 2.5
    assert str(url.options["ca_file"]) == __file__


@pytest.mark.parametrize(
    ("url", "authority", "shown"),
    [
        ("https://a.example", "a.example", "https://a.example"),
        ("https://a.example:443/x", "a.example", "https://a.example"),
        ("https://a.example:80/x", "a.example:80", "https://a.example:80"),
        ("http://localhost:9000/x", "localhost:9000", "http://localhost:9000"),
        ("http://127.0.0.1/x", "127.0.0.1", "http://127.0.0.1"),
        ("https://[2606:4700::1]:1/x", "[2606:4700::1]:1", "https://[2606:4700::1]:1"),
    ],
)
def test_host_and_port(url: str, authority: str, shown: str) -> None:
    found = parse_url(f"{url}#secret={SECRET}")

    assert (found.authority, str(found)) == (authority, shown)
    assert found.target == ("/x" if url.endswith("/x") else "/")
    assert KEY not in repr(found)


def test_http_to_elsewhere_is_for_who_asks_for_it() -> None:
    assert parse_url(f"http://a.example/#secret={SECRET}&allow_http=true").scheme == "http"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://a.example/#secret={}", "is https://host/path"),
        ("a.example/hunter2#secret={}", "is https://host/path"),
        ("https:///hunter2#secret={}", "names no host"),
        ("https://a.example:hunter2/#secret={}", "can't be read"),
        ("https://a.example:70000/#secret={}", "can't be read"),
        ("https://a.example:0/#secret={}", "can't be read"),
        ("https://[::1/#secret={}", "can't be read"),
        ("https://user:hunter2@a.example/#secret={}", "no user and password"),
        ("https://hunter2@a.example/#secret={}", "no user and password"),
        ("https://a.example\\@hunter2.example/#secret={}", "no user and password"),
        ("https://a.example\\hunter2/#secret={}", "letters, digits"),
        ("https://a.example%2ehunter2/#secret={}", "letters, digits"),
        ("https://größe.example/hunter2#secret={}", "letters, digits"),
        ("https://[fe80::1%25eth0]/hunter2#secret={}", "letters, digits"),
        ("https://a.example/größe/hunter2#secret={}", "printable ASCII"),
        ("https://a.example/hunter2 HTTP/1.1#secret={}", "printable ASCII"),
        ("http://a.example/hunter2#secret={}", "http://a.example: events go by https"),
        ("http://127.0.0.1.example/hunter2#secret={}", "events go by https"),
        ("http://a.example/#secret={}&allow_http=false", "events go by https"),
        ("http://localhost/#secret={}&ca_file=" + __file__, "ca_file goes with https"),
        ("https://a.example/hunter2", "needs a secret"),
        ("https://a.example/hunter2#", "needs a secret"),
        ("https://a.example/#timeout=1", "needs a secret"),
        ("https://a.example/#secret=hunter2", "secret is whsec_"),
        ("https://a.example/#secret=whsec_hunter2", "secret is whsec_"),
        ("https://a.example/#secret=whsec_%%%%", "secret is whsec_"),
        ("https://a.example/#secret=" + KEY, "secret is whsec_"),
        ("https://a.example/#secret=whsec_" + "A" * 88, "secret is whsec_"),
        ("https://a.example/#secret={}&hunter2=1", "takes after the '#': allow, allow_http"),
        ("https://a.example/#secret={}&timeout=hunter2", "timeout is no number of seconds"),
        ("https://a.example/#secret={}&timeout=0", "timeout is no number of seconds"),
        ("https://a.example/#secret={}&timeout=nan", "timeout is no number of seconds"),
        ("https://a.example/#secret={}&timeout=1&timeout=2", "timeout is there twice"),
        ("https://a.example/#secret={}&timeout=9.1", "timeout is no number of seconds up to 9"),
        ("https://a.example/#secret={}&max_connections=32", "takes after the '#': allow, allow_http"),
        ("https://a.example/#secret={}&allow=hunter2", "allow is addresses or networks"),
        ("https://a.example/#secret={}&allow=10.0.0.1/8", "allow is addresses or networks"),
        ("https://a.example/#secret={}&allow_http=yes", "allow_http is true or false"),
        ("https://a.example/#secret={}&ca_file=/no/hunter2", "ca_file is no file"),
    ],
)
def test_what_can_not_be_used_is_said_without_what_may_be_secret(url: str, told: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse_url(url.replace("{}", SECRET))

    assert told in str(refused.value)
    everything = str(refused.value) + str(refused.value.__cause__)
    for private in ("hunter2", KEY):
        assert private not in everything


def test_a_context_is_not_left_to_show_what_a_message_hides() -> None:
    shown: list[Any] = []
    with pytest.raises(InvalidRequestError) as refused:
        parse_url("https://a.example:hunter2/")
    error: BaseException | None = refused.value
    while error is not None:
        shown.append(error)
        error = error.__cause__ if error.__suppress_context__ else error.__context__
    assert shown == [refused.value]
