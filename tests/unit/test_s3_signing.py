"""The query signer, against botocore's and the worked example of the S3 API reference."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from typing import Any, Literal
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.auth
import botocore.crt.auth
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as BotoCredentials
from botocore.utils import percent_encode
from hypothesis import given
from hypothesis import strategies as st

from uploadcore.errors import InvalidRequestError
from uploadcore_s3.signing import Credentials, QuerySigner

Addressing = Literal["path", "virtual"]

NOW = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
HOUR = timedelta(hours=1)
CREDENTIALS = Credentials("AKIAEXAMPLE", "se/cret+key")
SIGNER = QuerySigner("https://store.example.com", bucket="media", region="eu-central-1")

characters = st.characters(exclude_categories=["Cs"])
keys = st.one_of(
    st.text(characters, min_size=1, max_size=40),
    st.lists(
        st.sampled_from(["/", "//", ".", "..", "~", "+", "%", "%2F", " ", "ü", "=", "&", "?", "#", "a"]), min_size=1
    ).map("".join),
)
words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="/"), min_size=1, max_size=20)
regions = st.one_of(st.sampled_from(["us-east-1", "eu-central-1", "auto", "garage"]), words)
credentials = st.builds(
    Credentials,
    st.one_of(words, st.text(characters, min_size=1, max_size=20)),
    st.text(characters, min_size=1, max_size=60),
    st.one_of(st.none(), st.text(characters, max_size=60)),
)
hosts = st.sampled_from(["store.example.com", "Store.Example.com", "localhost", "a-b.c"])
addresses = st.sampled_from(["127.0.0.1", "[::1]", "[2001:DB8::1]"])
ports = st.one_of(
    st.just(""), st.sampled_from([":80", ":443", ":9000"]), st.integers(1, 65535).map(lambda port: f":{port}")
)
prefixes = st.sampled_from(["", "/", "/storage", "/a/b%20c", "/~s3/"])
values = st.one_of(
    st.sampled_from(
        ["video/mp4", 'text/plain; charset="utf-8"', "*", "", "a  b", "  a b   c ", "100%", "a%sb", "5368709120"]
    ),
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30),
)
names = st.one_of(
    st.sampled_from(
        [
            "content-length",
            "Content-Type",
            "content-type",
            "content-md5",
            "If-None-Match",
            "x-amz-checksum-crc64nvme",
            "x-amz-meta-uploadcore-upload",
            "X-Amz-Meta-A",
            "cache-control",
            "x-amz-server-side-encryption",
        ]
    ),
    st.text("abcxyzABC0_-.~", min_size=1, max_size=10).map(lambda suffix: f"x-amz-meta-{suffix}"),
)
headers = st.dictionaries(names, values, max_size=5).filter(
    lambda given: len({name.lower() for name in given}) == len(given)
)
parameters = st.dictionaries(
    st.one_of(
        st.sampled_from(["response-content-disposition", "partNumber", "uploadId", "x-id", "versionId", "X-Amz-A"]),
        keys,
    ),
    st.text(characters, max_size=30),
    max_size=4,
)
instants = st.builds(datetime.fromtimestamp, st.integers(0, 7_000_000_000), st.sampled_from([UTC, timezone(-9 * HOUR)]))
lifetimes = st.one_of(st.sampled_from([1, 604_800]), st.integers(1, 604_800))


@st.composite
def endpoints(draw: st.DrawFn, addressing: Addressing) -> str:
    host = draw(hosts if addressing == "virtual" else st.one_of(hosts, addresses))
    return f"{draw(st.sampled_from(['http', 'https']))}://{host}{draw(ports)}{draw(prefixes)}"


def reference(
    who: Credentials,
    method: str,
    url: str,
    query: Mapping[str, str],
    sent: Mapping[str, str],
    *,
    region: str,
    now: datetime,
    seconds: int,
) -> str:
    """What botocore's own presigner makes of it."""
    request = AWSRequest(method, url, headers=sent, params=dict(query))
    signer = S3SigV4QueryAuth(
        BotoCredentials(who.access_key, who.secret_key, who.session_token or None), "s3", region, expires=seconds
    )
    with patch.object(botocore.auth, "get_current_datetime", lambda: now.astimezone(UTC)):
        signer.add_auth(request)
    url = request.url
    assert isinstance(url, str)
    return url


def object_url(endpoint: str, addressing: Addressing, key: str) -> str:
    parts = urlsplit(endpoint)
    encoded = percent_encode(key, safe="/~")
    if addressing == "virtual":
        return f"{parts.scheme}://media.{parts.netloc}{parts.path.rstrip('/')}/{encoded}"
    return f"{endpoint.rstrip('/')}/media/{encoded}"


# --- equal to others ------------------------------------------------------------------------------------------------


def test_the_worked_example_of_the_s3_api_reference() -> None:
    """Authenticating Requests: Using Query Parameters (AWS Signature Version 4)."""
    signer = QuerySigner("https://s3.amazonaws.com", bucket="examplebucket", region="us-east-1", addressing="virtual")
    example = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")

    url = signer.presign(
        example, "GET", "test.txt", now=datetime(2013, 5, 24, tzinfo=UTC), expires_in=timedelta(seconds=86_400)
    )

    assert url == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


@given(
    data=st.data(),
    who=credentials,
    region=regions,
    key=keys,
    query=parameters,
    sent=headers,
    now=instants,
    seconds=lifetimes,
)
def test_any_url_is_byte_for_byte_what_botocore_signs(
    *,
    data: st.DataObject,
    who: Credentials,
    region: str,
    key: str,
    query: dict[str, str],
    sent: dict[str, str],
    now: datetime,
    seconds: int,
) -> None:
    addressing: Addressing = data.draw(st.sampled_from(["path", "virtual"]))
    endpoint = data.draw(endpoints(addressing))
    method = data.draw(st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "get"]))
    signer = QuerySigner(endpoint, bucket="media", region=region, addressing=addressing)

    url = signer.presign(who, method, key, query=query, headers=sent, now=now, expires_in=timedelta(seconds=seconds))

    assert url == reference(
        who, method, object_url(endpoint, addressing, key), query, sent, region=region, now=now, seconds=seconds
    )


@given(
    data=st.data(),
    who=credentials,
    key=keys,
    upload_id=keys,
    parts=st.lists(st.tuples(st.integers(1, 10_000), headers), max_size=6),
    shared=st.lists(headers, min_size=1, max_size=2),
    now=instants,
    seconds=lifetimes,
)
def test_any_batch_of_parts_is_byte_for_byte_what_botocore_signs(
    *,
    data: st.DataObject,
    who: Credentials,
    key: str,
    upload_id: str,
    parts: list[tuple[int, dict[str, str]]],
    shared: list[dict[str, str]],
    now: datetime,
    seconds: int,
) -> None:
    """Parts with headers of their own, and such that share one mapping, in any order."""
    addressing: Addressing = data.draw(st.sampled_from(["path", "virtual"]))
    endpoint = data.draw(endpoints(addressing))
    parts += [(number, data.draw(st.sampled_from(shared))) for number in range(3)]
    parts = data.draw(st.permutations(parts))
    signer = QuerySigner(endpoint, bucket="media", region="auto", addressing=addressing)

    urls = signer.presign_parts(who, key, upload_id, parts, now=now, expires_in=timedelta(seconds=seconds))

    location = object_url(endpoint, addressing, key)
    assert urls == [
        reference(
            who,
            "PUT",
            location,
            {"uploadId": upload_id, "partNumber": str(number)},
            sent,
            region="auto",
            now=now,
            seconds=seconds,
        )
        for number, sent in parts
    ]


@pytest.mark.parametrize(
    "sent",
    [
        [{"content-length": length} for length in ("9", "9", "10", "9", "1")],
        [
            {"content-length": "9", "x-amz-checksum-crc32c": checksum}
            for checksum in ("AAAAAA==", "4waSgw==", "a  b", "AAAAAA==")
        ],
        [{"content-length": "9"}, {}, {"content-type": "9"}, {}, {"content-length": "9"}, {"Content-Length": "8"}],
        [{"b": "1", "a": "2"}, {"a": "1", "b": "2"}, {"b": "1", "a": "2"}],
    ],
)
def test_what_parts_have_in_common_is_not_taken_for_what_they_have_not(sent: list[dict[str, str]]) -> None:
    urls = SIGNER.presign_parts(CREDENTIALS, "k", "u", list(enumerate(sent, 1)), now=NOW, expires_in=HOUR)

    assert urls == [
        reference(
            CREDENTIALS,
            "PUT",
            "https://store.example.com/media/k",
            {"uploadId": "u", "partNumber": str(number)},
            headers,
            region="eu-central-1",
            now=NOW,
            seconds=3600,
        )
        for number, headers in enumerate(sent, 1)
    ]


def test_a_host_is_signed_in_lower_case_and_without_its_default_port() -> None:
    signer = QuerySigner("https://Store.example.com:443", bucket="Media", region="eu-central-1", addressing="virtual")

    url = signer.presign(CREDENTIALS, "GET", "k", now=NOW, expires_in=HOUR)

    written = "https://Media.Store.example.com:443/k"
    assert url == reference(CREDENTIALS, "GET", written, {}, {}, region="eu-central-1", now=NOW, seconds=3600)


@cache
def client(endpoint: str, addressing: Addressing, token: str | None) -> Any:
    config = Config(signature_version="s3v4", s3={"addressing_style": addressing}, region_name="eu-central-1")
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=CREDENTIALS.access_key,
        aws_secret_access_key=CREDENTIALS.secret_key,
        aws_session_token=token,
        config=config,
    )


ENDPOINTS = ("https://store.example.com", "http://store.example.com:80", "https://store.example.com:8443/storage")
REQUESTS: tuple[tuple[str, str, dict[str, str], dict[str, str], dict[str, object]], ...] = (
    ("get_object", "GET", {}, {}, {}),
    ("head_object", "HEAD", {}, {}, {}),
    (
        "get_object",
        "GET",
        {"response-content-disposition": "attachment; filename*=UTF-8''%C3%BC ü.mp4"},
        {},
        {"ResponseContentDisposition": "attachment; filename*=UTF-8''%C3%BC ü.mp4"},
    ),
    (
        "put_object",
        "PUT",
        {},
        {
            "content-length": "7",
            "content-type": "video/mp4;  a=b",
            "if-none-match": "*",
            "x-amz-meta-uploadcore-upload": "u  1",
            "x-amz-checksum-crc32c": "AAAAAA==",
        },
        {
            "ContentLength": 7,
            "ContentType": "video/mp4;  a=b",
            "IfNoneMatch": "*",
            "Metadata": {"uploadcore-upload": "u  1"},
            "ChecksumCRC32C": "AAAAAA==",
        },
    ),
    (
        "upload_part",
        "PUT",
        {"uploadId": "u/1~+ü", "partNumber": "7"},
        {"content-length": "7", "x-amz-checksum-crc64nvme": "AAAAAAAAAAA="},
        {"UploadId": "u/1~+ü", "PartNumber": 7, "ContentLength": 7, "ChecksumCRC64NVME": "AAAAAAAAAAA="},
    ),
)


def presigned_by_boto3(
    operation: str, arguments: dict[str, object], key: str, endpoint: str, addressing: Addressing, *, token: str | None
) -> str:
    url = client(endpoint, addressing, token).generate_presigned_url(
        operation, Params={"Bucket": "media", "Key": key, **arguments}, ExpiresIn=900
    )
    assert isinstance(url, str)
    return url


@pytest.mark.parametrize("key", ["a b/ü~+%.mp4", "/lead//double/", "a/./../b"])
@pytest.mark.parametrize("token", [None, "to/ken+="])
@pytest.mark.parametrize("addressing", ["path", "virtual"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_url_is_what_boto3_presigns_for_the_same_request(
    endpoint: str, addressing: Addressing, token: str | None, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: boto3 makes the URL of bucket and key too. Where awscrt is installed it signs in C, and writes two parameters the
    other way round; so there all but the order is compared.
    """
    who = Credentials(CREDENTIALS.access_key, CREDENTIALS.secret_key, token)
    signer = QuerySigner(endpoint, bucket="media", region="eu-central-1", addressing=addressing)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: NOW)
    monkeypatch.setattr(botocore.crt.auth, "get_current_datetime", lambda **_: NOW)
    for operation, method, query, sent, arguments in REQUESTS:
        url = signer.presign(who, method, key, query=query, headers=sent, now=NOW, expires_in=timedelta(minutes=15))

        with monkeypatch.context() as patched:
            patched.setitem(botocore.auth.AUTH_TYPE_MAPS, "s3v4-query", S3SigV4QueryAuth)
            assert url == presigned_by_boto3(operation, arguments, key, endpoint, addressing, token=token)
        in_c = presigned_by_boto3(operation, arguments, key, endpoint, addressing, token=token)
        assert urlsplit(url)._replace(query="") == urlsplit(in_c)._replace(query="")
        assert parse_qs(urlsplit(url).query) == parse_qs(urlsplit(in_c).query)


def test_an_empty_session_token_is_none() -> None:
    """Variables and files are often there and empty; the SDKs sign their calls without it then."""
    signer = QuerySigner(ENDPOINTS[0], bucket="media", region="eu-central-1", addressing="path")
    urls = {
        signer.presign(
            Credentials("AKIAEXAMPLE", "se/cret+key", token), "GET", "a", now=NOW, expires_in=timedelta(minutes=15)
        )
        for token in (None, "")
    }
    assert len(urls) == 1


# --- the key is derived once ------------------------------------------------------------------------------------------


def test_other_credentials_and_another_day_need_another_key() -> None:
    others = [
        CREDENTIALS,
        Credentials(CREDENTIALS.access_key, "another"),
        Credentials("ANOTHER", CREDENTIALS.secret_key),
        Credentials(CREDENTIALS.access_key, CREDENTIALS.secret_key, "token"),
    ]
    for who, days in itertools.product([*others, *others], (0, 1, 0)):
        now = NOW + timedelta(days=days)
        assert SIGNER.presign(who, "GET", "k", now=now, expires_in=HOUR) == reference(
            who, "GET", "https://store.example.com/media/k", {}, {}, region="eu-central-1", now=now, seconds=3600
        )


# --- what can't be signed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("expires_in", [timedelta(0), timedelta(milliseconds=999), -HOUR, timedelta(days=7, seconds=1)])
def test_a_url_lives_one_second_to_seven_days(expires_in: timedelta) -> None:
    with pytest.raises(ValueError, match="1 s and 7 days"):
        SIGNER.presign(CREDENTIALS, "GET", "k", now=NOW, expires_in=expires_in)
    with pytest.raises(ValueError, match="1 s and 7 days"):
        SIGNER.presign_parts(CREDENTIALS, "k", "u", [], now=NOW, expires_in=expires_in)


def test_a_lifetime_is_rounded_down() -> None:
    url = SIGNER.presign(CREDENTIALS, "GET", "k", now=NOW, expires_in=timedelta(seconds=2, milliseconds=999))
    assert "&X-Amz-Expires=2&" in url


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        SIGNER.presign(CREDENTIALS, "GET", "k", now=NOW.replace(tzinfo=None), expires_in=HOUR)


@pytest.mark.parametrize("value", ["a\nb", "a\r\nx-amz-acl: public-read", "\0", "a\tb", "\x7f", "ü", "\x85", "\ud800"])
def test_a_header_that_can_not_be_sent_is_the_callers_mistake(value: str) -> None:
    sent = {"content-length": "1", "x-amz-meta-a": value}
    with pytest.raises(InvalidRequestError, match="x-amz-meta-a can't be sent"):
        SIGNER.presign(CREDENTIALS, "PUT", "k", headers=sent, now=NOW, expires_in=HOUR)
    with pytest.raises(InvalidRequestError, match="x-amz-meta-a can't be sent"):
        SIGNER.presign_parts(CREDENTIALS, "k", "u", [(1, {}), (2, sent)], now=NOW, expires_in=HOUR)


@pytest.mark.parametrize(
    "sent",
    [
        {"": "a"},
        {"a b": "c"},
        {"a:b": "c"},
        {"a\n": "b"},
        {"ü": "a"},
        {"host": "elsewhere"},
        {"Host": "elsewhere"},
        {"user-agent": "a"},
        {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"},
        {"content-type": "a", "Content-Type": "b"},
    ],
)
def test_headers_that_can_not_be_signed_are_refused(sent: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="can't be signed"):
        SIGNER.presign(CREDENTIALS, "PUT", "k", headers=sent, now=NOW, expires_in=HOUR)
    with pytest.raises(ValueError, match="can't be signed"):
        SIGNER.presign_parts(CREDENTIALS, "k", "u", [(1, sent)], now=NOW, expires_in=HOUR)


@pytest.mark.parametrize("name", ["X-Amz-Expires", "X-Amz-Signature", "X-Amz-Credential", "X-Amz-SignedHeaders"])
def test_the_signatures_own_parameters_can_not_be_given(name: str) -> None:
    with pytest.raises(ValueError, match="no parameter of the request"):
        SIGNER.presign(CREDENTIALS, "GET", "k", query={name: "1"}, now=NOW, expires_in=HOUR)


@pytest.mark.parametrize("method", ["", "GET\n", "P UT"])
def test_a_method_is_a_word(method: str) -> None:
    with pytest.raises(ValueError, match="no method"):
        SIGNER.presign(CREDENTIALS, method, "k", now=NOW, expires_in=HOUR)


def test_the_empty_key_is_the_bucket_itself() -> None:
    url = SIGNER.presign(CREDENTIALS, "GET", "", query={"uploads": ""}, now=NOW, expires_in=HOUR)
    bare = "https://store.example.com/media/"
    assert url == reference(
        CREDENTIALS, "GET", bare, {"uploads": ""}, {}, region="eu-central-1", now=NOW, seconds=3_600
    )


def test_a_parts_key_and_upload_id_are_not_empty() -> None:
    with pytest.raises(ValueError, match="to a key"):
        SIGNER.presign_parts(CREDENTIALS, "", "u", [], now=NOW, expires_in=HOUR)
    with pytest.raises(ValueError, match="multipart upload"):
        SIGNER.presign_parts(CREDENTIALS, "k", "", [], now=NOW, expires_in=HOUR)


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "store.example.com",
        "ftp://store.example.com",
        "https://",
        "https://user:password@store.example.com",
        "https://store.example.com?a=b",
        "https://store.example.com/#a",
        "https://store.example.com:port",
        "https://store.example.com:",
        "https://störe.example.com",
        "https://store.example.com/a b",
        "https://store.example.com/%",
        "https://store.example.com\n",
        "https://store%2eexample.com",
    ],
)
def test_an_endpoint_is_an_origin_and_a_path(endpoint: str) -> None:
    with pytest.raises(ValueError, match="an endpoint is"):
        QuerySigner(endpoint, bucket="media", region="auto")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://[::1]", "http://[fe80::a]:80"])
def test_a_bucket_is_no_label_of_an_address(endpoint: str) -> None:
    with pytest.raises(ValueError, match="first label"):
        QuerySigner(endpoint, bucket="media", region="auto", addressing="virtual")


@pytest.mark.parametrize("bucket", ["", ".", "..", "a/b", "a b", "a\n", "ü", "a?b", "a" * 256])
def test_a_bucket_is_one_segment_of_a_path(bucket: str) -> None:
    with pytest.raises(ValueError, match="no name of a bucket"):
        QuerySigner("https://store.example.com", bucket=bucket, region="auto")


@pytest.mark.parametrize("region", ["", "a/b", "a\n", "ü", "a b"])
def test_a_region_is_one_word_of_the_scope(region: str) -> None:
    with pytest.raises(ValueError, match="no name of a region"):
        QuerySigner("https://store.example.com", bucket="media", region=region)


def test_credentials_show_no_key_and_no_token() -> None:
    who = Credentials("AKIAEXAMPLE", "secret-key", "session-token", NOW)
    assert repr(who) == "Credentials(…, expires_at=2026-03-01T23:59:59+00:00)"
    assert repr(CREDENTIALS) == "Credentials(…, expires_at=None)"
