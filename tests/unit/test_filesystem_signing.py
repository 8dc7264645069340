"""What a signed URL of the filesystem store binds, and what it is made of."""

from __future__ import annotations

import hmac
import multiprocessing
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploadcore.errors import InvalidRequestError
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.plan import Part
from uploadcore.ports import ObjectHeaders, SignedRequest
from uploadcore.upload import Address
from uploadcore_filesystem import (
    GetGrant,
    Grant,
    PartGrant,
    PutGrant,
    SignatureMismatchError,
    UnsignedHeaderError,
    UrlExpiredError,
)
from uploadcore_filesystem.signing import UrlSigner, made_once
from uploadcore_memory import ManualClock

SECRET = bytes(range(32))
URL = "https://files.example/base"
ADDRESS = Address("files", "up/a", "0" * 32)
HOUR = timedelta(hours=1)
CHECKSUM = Checksum(ChecksumAlgorithm.CRC32C, "4waSgw==")
HEADERS = ObjectHeaders("video/mp4", {"uploadcore-upload": "u1"})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def signer(clock: ManualClock) -> UrlSigner:
    return UrlSigner(URL, SECRET, clock)


def redeem(signer: UrlSigner, signed: SignedRequest, *, method: str | None = None, **changed: str | None) -> Grant:
    """Check a signed request; `changed` replaces a header (`_` for `-`), or leaves it out."""
    split = urlsplit(signed.url)
    headers: dict[str, str] = dict(signed.headers)
    for name, value in changed.items():
        headers.pop(name.replace("_", "-"), None)
        if value is not None:
            headers[name.replace("_", "-")] = value
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    return signer.verify(method or signed.method, split.path, split.query.encode(), raw)


def sign_part(signer: UrlSigner, part: Part = Part(7, 48, 8), checksum: Checksum | None = None) -> SignedRequest:  # noqa: B008 - frozen
    checksums = {} if checksum is None else {part.part_number: checksum}
    [signed] = signer.sign_parts(ADDRESS, [part], checksums, HOUR)
    return signed


def test_a_part_url_grants_what_was_signed(signer: UrlSigner) -> None:
    assert redeem(signer, sign_part(signer, checksum=CHECKSUM)) == PartGrant("up/a", "0" * 32, 7, 48, 8, CHECKSUM)


def test_an_offset_is_signed_only_with_a_length(signer: UrlSigner) -> None:
    signed = sign_part(signer, Part(7, 48, None))
    assert "offset" not in signed.url
    assert redeem(signer, signed) == PartGrant("up/a", "0" * 32, 7, None, None, None)


def test_a_put_url_grants_what_was_signed(signer: UrlSigner) -> None:
    signed = signer.sign_put(ADDRESS, Part(1, 0, 9), HEADERS, CHECKSUM, HOUR)
    assert dict(signed.headers) == {
        "content-type": "video/mp4",
        "if-none-match": "*",
        "x-amz-meta-uploadcore-upload": "u1",
        "x-amz-checksum-crc32c": "4waSgw==",
    }
    assert redeem(signer, signed) == PutGrant("up/a", 9, CHECKSUM, HEADERS)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_get_url_grants_what_was_signed(signer: UrlSigner, method: str) -> None:
    signed = signer.sign_get(ADDRESS, "naïve.mp4", "video/mp4", HOUR)
    assert redeem(signer, signed, method=method) == GetGrant("up/a", "naïve.mp4", "video/mp4")


def test_a_url_lies_below_the_public_url(signer: UrlSigner) -> None:
    assert sign_part(signer).url.startswith(f"{URL}/data/files/")


@given(key=st.text(min_size=1), filename=st.text(), content_type=st.text())
def test_any_text_comes_back_and_the_url_is_of_unreserved_characters(
    key: str, filename: str, content_type: str
) -> None:
    signer = UrlSigner(URL, SECRET, ManualClock())
    signed = signer.sign_get(Address("files", key), filename, content_type, HOUR)
    assert redeem(signer, signed) == GetGrant(key, filename, content_type)
    split = urlsplit(signed.url)
    assert re.fullmatch(r"/base/data/files/[A-Za-z0-9_-]+", split.path)
    assert re.fullmatch(r"[A-Za-z0-9._~=&-]+", split.query)


@pytest.mark.parametrize(
    "sign",
    [
        lambda signer: sign_part(signer, checksum=CHECKSUM),
        lambda signer: signer.sign_put(ADDRESS, Part(1, 0, 9), HEADERS, CHECKSUM, HOUR),
        lambda signer: signer.sign_get(ADDRESS, "name", "video/mp4", HOUR),
    ],
    ids=["part", "put", "get"],
)
def test_no_character_of_a_url_can_be_changed(signer: UrlSigner, sign: Callable[[UrlSigner], SignedRequest]) -> None:
    signed = sign(signer)
    url = signed.url
    path = url.index("/files/")
    for position in range(path, len(url)):
        other = "A" if url[position] != "A" else "B"
        changed = f"{url[:position]}{other}{url[position + 1 :]}"
        with pytest.raises(SignatureMismatchError):
            redeem(signer, SignedRequest(signed.method, changed, signed.headers, signed.expires_at))


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE", "put"])
def test_the_method_is_bound(signer: UrlSigner, method: str) -> None:
    part, get = sign_part(signer), signer.sign_get(ADDRESS, "name", "video/mp4", HOUR)
    if method != "PUT":
        with pytest.raises(SignatureMismatchError):
            redeem(signer, part, method=method)
    if method not in {"GET", "HEAD"}:
        with pytest.raises(SignatureMismatchError):
            redeem(signer, get, method=method)


@pytest.mark.parametrize("value", [None, "AAAAAA==", "4waSgw== , 4waSgw=="])
def test_the_checksum_header_is_bound(signer: UrlSigner, value: str | None) -> None:
    with pytest.raises(SignatureMismatchError):
        redeem(signer, sign_part(signer, checksum=CHECKSUM), x_amz_checksum_crc32c=value)


def test_a_header_sent_twice_is_not_the_one_that_was_signed(signer: UrlSigner) -> None:
    signed = sign_part(signer, checksum=CHECKSUM)
    split = urlsplit(signed.url)
    twice = [(b"x-amz-checksum-crc32c", b"4waSgw==")] * 2
    with pytest.raises(SignatureMismatchError):
        signer.verify("PUT", split.path, split.query.encode(), twice)


@pytest.mark.parametrize("appended", ["&part=8", "&length=9", "&", "&signature=x"])
def test_nothing_can_be_appended(signer: UrlSigner, appended: str) -> None:
    signed = sign_part(signer)
    with pytest.raises(SignatureMismatchError):
        redeem(signer, SignedRequest("PUT", f"{signed.url}{appended}", {}, signed.expires_at))


def test_an_added_amz_header_is_refused(signer: UrlSigner) -> None:
    with pytest.raises(UnsignedHeaderError):
        redeem(signer, sign_part(signer), x_amz_acl="public-read")


def test_a_url_expires_at_the_second_it_says(signer: UrlSigner, clock: ManualClock) -> None:
    clock.advance(0.75)
    signed = sign_part(signer)
    assert signed.expires_at <= clock.now() + HOUR
    clock.advance((signed.expires_at - clock.now()).total_seconds() - 0.001)
    redeem(signer, signed)
    clock.advance(0.001)
    with pytest.raises(UrlExpiredError):
        redeem(signer, signed)


def test_another_secret_signs_something_else(signer: UrlSigner, clock: ManualClock) -> None:
    with pytest.raises(SignatureMismatchError):
        redeem(UrlSigner(URL, SECRET[::-1], clock), sign_part(signer))


def test_signatures_are_compared_in_constant_time(signer: UrlSigner, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    redeem(signer, sign_part(signer))
    assert compared == [64], "32 bytes in hexadecimal, the whole signature at once"


@pytest.mark.parametrize("content_type", ["", " ", "text/plain\r\nx: y", "größe/x"])
def test_a_content_type_that_is_no_header_can_not_be_put(signer: UrlSigner, content_type: str) -> None:
    with pytest.raises(InvalidRequestError):
        signer.sign_put(ADDRESS, Part(1, 0, 9), ObjectHeaders(content_type), None, HOUR)


def test_a_short_secret_is_refused(clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="16 bytes or more"):
        UrlSigner(URL, b"short", clock)


# --- the secret -------------------------------------------------------------------------------------------------------


def test_a_secret_is_made_once_for_all_threads(tmp_path: Path) -> None:
    together = threading.Barrier(16)
    secrets: list[bytes] = []

    def ask() -> None:
        together.wait()
        secrets.append(made_once(tmp_path / "data" / "signing.key"))

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(secrets), len(set(secrets)), len(secrets[0])) == (16, 1, 32)
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["signing.key"]


def test_a_secret_is_made_once_for_all_processes(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        secrets = pool.map(made_once, [tmp_path / "signing.key"] * 16, chunksize=1)
    assert len(set(secrets)) == 1
    assert (tmp_path / "signing.key").stat().st_mode & 0o777 == 0o600


@given(
    secret=st.binary(min_size=16, max_size=130),
    part=st.builds(Part, st.integers(1, 10_000), st.integers(0, 2**45), st.none() | st.integers(0, 2**33)),
    checksum=st.none() | st.just(CHECKSUM),
)
def test_a_signature_is_the_hmac_of_method_path_query_and_signed_headers(
    secret: bytes, part: Part, checksum: Checksum | None
) -> None:
    signed = sign_part(UrlSigner(URL, secret, ManualClock()), part, checksum)

    split = urlsplit(signed.url)
    query, _, signature = split.query.rpartition("&signature=")
    lines = "".join(f"{name}:{value}\n" for name, value in signed.headers.items())
    message = f"PUT\n{split.path.removeprefix('/base/data')}\n{query}\n{lines}"
    assert signature == hmac.new(secret, message.encode(), "sha256").hexdigest()
