"""Who signs what, and for how long: credentials that run out, are renewed, or can't be."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from minio.credentials.credentials import Credentials as Held
from minio.credentials.providers import Provider

from tests.integration.s3.faults.scripted import Answer, Issued, ScriptedS3, refuses, says
from tests.integration.s3.faults.stores import ACCESS_KEY, BUCKET, HEADERS, Bench, at_most, refused
from uploadcore.errors import StoreUnavailableError
from uploadcore.plan import Part
from uploadcore.ports import SignedRequest
from uploadcore.upload import Address
from uploadcore_s3 import Credentials
from uploadcore_s3.minio_credentials import RenewingProvider

ADDRESS = Address(BUCKET, "up/a", "storage-1")
LONG = timedelta(hours=2)


def signer_of(signed: SignedRequest) -> str:
    """The access key that signed it."""
    return parse_qs(urlsplit(signed.url).query)["X-Amz-Credential"][0].partition("/")[0]


def good_until(signed: SignedRequest) -> datetime:
    """When the store stops taking it."""
    query = parse_qs(urlsplit(signed.url).query)
    signed_at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return signed_at + timedelta(seconds=int(query["X-Amz-Expires"][0]))


async def each(bench: Bench, expires_in: timedelta = LONG) -> dict[str, SignedRequest]:
    """One of every kind of URL."""
    [part] = await bench.store.presign_parts(ADDRESS, [Part(1, 0, 1)], checksums={}, expires_in=expires_in)
    put = await bench.store.presign_put(ADDRESS, Part(1, 0, 1), HEADERS, checksum=None, expires_in=expires_in)
    get = await bench.store.presign_get(ADDRESS, filename="a", content_type="video/mp4", expires_in=expires_in)
    return {"part": part, "put": put, "get": get}


async def every_call(bench: Bench) -> None:
    """One of every kind of call."""
    address, parts = await bench.sent(key="up/a")
    await bench.store.head(address)
    await bench.complete(address, parts)
    await bench.multiparts()
    await bench.store.put_marker(address, HEADERS)
    await bench.store.delete(address)
    await bench.store.abort_multipart(await bench.begin("up/b"))


@pytest.fixture
def container(far: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials come from the container's endpoint, and run out."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{far.url}/credentials")
    for name in ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)


async def test_what_a_url_says_of_its_end_is_true(bench: Bench) -> None:
    began = datetime.now(UTC)
    for signed in (await each(bench, timedelta(seconds=100))).values():
        assert good_until(signed) >= signed.expires_at
        assert began + timedelta(seconds=98) <= signed.expires_at <= datetime.now(UTC) + timedelta(seconds=100)


@pytest.mark.parametrize("minutes", [20, 5, 2])
async def test_a_url_ends_a_minute_before_the_credentials_that_signed_it(
    container: None, bench_of: Callable[..., Any], far: ScriptedS3, minutes: int
) -> None:
    far.credentials = lambda number: Issued("AKIDSHORT", timedelta(minutes=minutes))
    bench: Bench = await bench_of()
    for signed in (await each(bench)).values():
        latest = datetime.now(UTC) + timedelta(minutes=minutes) - timedelta(seconds=60)
        assert good_until(signed) <= latest
        assert signed.expires_at <= latest
        assert signed.expires_at > datetime.now(UTC), "it is of some use"
        assert "X-Amz-Security-Token=issued-token-of-AKIDSHORT" in signed.url


async def test_credentials_about_to_run_out_are_renewed_before_they_sign(
    container: None, bench_of: Callable[..., Any], far: ScriptedS3
) -> None:
    far.credentials = lambda number: Issued(f"AKID{number}", timedelta(seconds=75 if number == 1 else 3600))
    bench: Bench = await bench_of()
    signed = await each(bench)
    async with at_most(10):
        while "AKID1" in {signer_of(one) for one in signed.values()}:
            await asyncio.sleep(0.01)
            signed = await each(bench)
    assert all(one.expires_at - datetime.now(UTC) > timedelta(minutes=50) for one in signed.values())


@pytest.mark.parametrize("minutes", [12, 5])
async def test_credentials_that_could_not_be_renewed_yet_go_on_signing(
    container: None, bench_of: Callable[..., Any], far: ScriptedS3, minutes: int
) -> None:
    far.credentials = lambda number: Issued("AKIDOLD", timedelta(minutes=minutes))
    bench: Bench = await bench_of()
    await each(bench)
    far.always("credentials", says(Answer(500, b"no", {"Content-Type": "text/plain", "Connection": "close"})))

    async with at_most(30):
        signed = await each(bench)
        if minutes > 10:  # botocore makes no call with what it could not renew ten minutes before its end
            await bench.store.head(ADDRESS)

    assert {signer_of(one) for one in signed.values()} == {"AKIDOLD"}


async def test_credentials_that_last_are_not_asked_for_again(
    container: None, bench_of: Callable[..., Any], far: ScriptedS3
) -> None:
    bench: Bench = await bench_of()
    for _ in range(20):
        await each(bench, timedelta(minutes=15))
        await bench.store.head(ADDRESS)
    assert far.count("credentials") <= 2


async def test_where_credentials_ran_out_and_no_new_ones_come_no_url_is_given_that_would_not_work(
    container: None, bench_of: Callable[..., Any], far: ScriptedS3
) -> None:
    far.credentials = lambda number: Issued(f"AKID{number}", timedelta(seconds=30))
    bench: Bench = await bench_of()
    far.always("credentials", says(Answer(500, b"no", {"Content-Type": "text/plain", "Connection": "close"})))
    async with at_most(30):
        await refused(
            bench.store.presign_parts(ADDRESS, [Part(1, 0, 1)], checksums={}, expires_in=LONG),
            StoreUnavailableError,
            far.secrets,
        )


async def test_calls_go_on_with_renewed_credentials_after_the_store_says_that_the_token_has_expired(
    container: None, bench_of: Callable[..., Any], far: ScriptedS3
) -> None:
    """The store's clock, or a role revoked: the next call is another chance."""
    numbers = itertools.count(1)
    far.credentials = lambda number: Issued(f"AKID{next(numbers)}", timedelta(hours=1))
    bench: Bench = await bench_of()
    far.script("head", refuses(400, "ExpiredToken"))
    far.script("list_parts", refuses(400, "ExpiredToken"))
    async with at_most(20):
        await refused(bench.store.list_parts(ADDRESS), StoreUnavailableError, far.secrets)
    far.heal()
    assert await bench.store.head(ADDRESS) is None


# --- two identities ---------------------------------------------------------------------------------------------------


async def test_one_identity_signs_all_where_nothing_else_is_said(bench: Bench, far: ScriptedS3) -> None:
    assert {signer_of(signed) for signed in (await each(bench)).values()} == {ACCESS_KEY}
    await every_call(bench)
    assert {call.access_key for call in far.calls} == {ACCESS_KEY}


async def test_the_write_identity_signs_puts_and_parts_and_the_other_everything_else(
    bench_of: Callable[..., Any], far: ScriptedS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = tmp_path / "credentials"
    profiles.write_text(
        "[default]\naws_access_key_id = AKIDCONTROL\naws_secret_access_key = control-secret\n"
        "[writer]\naws_access_key_id = AKIDWRITE\naws_secret_access_key = write-secret\n"
    )
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    far.secrets.update({"control-secret", "write-secret"})
    bench: Bench = await bench_of(write_profile="writer")

    signed = await each(bench)
    await every_call(bench)

    assert {kind: signer_of(one) for kind, one in signed.items()} == {
        "part": "AKIDWRITE",
        "put": "AKIDWRITE",
        "get": "AKIDCONTROL",
    }
    assert far.keys_of("part") == {"AKIDWRITE"}
    assert {call.access_key for call in far.calls if call.operation != "part"} == {"AKIDCONTROL"}


async def test_the_write_identity_may_be_a_role_that_is_assumed(bench_of: Callable[..., Any], far: ScriptedS3) -> None:
    far.credentials = lambda number: Issued("AKIDROLE", timedelta(hours=1))
    bench: Bench = await bench_of(write_role="arn:aws:iam::123456789012:role/writer", sts_endpoint=far.url)

    signed = await each(bench)
    await every_call(bench)

    assert {kind: signer_of(one) for kind, one in signed.items()} == {
        "part": "AKIDROLE",
        "put": "AKIDROLE",
        "get": ACCESS_KEY,
    }
    assert "X-Amz-Security-Token=issued-token-of-AKIDROLE" in signed["part"].url
    assert good_until(signed["part"]) <= datetime.now(UTC) + timedelta(minutes=59)
    assert far.keys_of("part") == {"AKIDROLE"}
    assert far.keys_of("complete") == {ACCESS_KEY}


async def test_the_role_is_assumed_with_the_credentials_given(bench_of: Callable[..., Any], far: ScriptedS3) -> None:
    bench: Bench = await bench_of(
        credentials=Credentials("AKIDGIVEN", "given-secret"),
        write_role="arn:aws:iam::123456789012:role/writer",
        sts_endpoint=far.url,
    )
    far.secrets.add("given-secret")
    await each(bench)

    assert far.keys_of("assume_role") == {"AKIDGIVEN"}


async def test_a_url_ends_a_minute_before_the_credentials_given(bench_of: Callable[..., Any]) -> None:
    ends_at = datetime.now(UTC) + timedelta(minutes=10)
    bench: Bench = await bench_of(credentials=Credentials("AKIDGIVEN", "given-secret", None, ends_at))

    for signed in (await each(bench)).values():
        assert signed.expires_at <= ends_at - timedelta(seconds=60)


@pytest.mark.parametrize("sdk", ["s3"], indirect=True)
async def test_credentials_renewed_by_expired_ones_are_a_store_that_can_not_be_used(
    container: None, bench_of: Callable[..., Any], far: ScriptedS3
) -> None:
    far.credentials = lambda number: Issued(f"AKID{number}", timedelta(minutes=5 if number == 1 else -5))
    bench: Bench = await bench_of(is_open=False)
    async with at_most(30):
        await refused(bench.store.open(), StoreUnavailableError, far.secrets)


def test_only_who_has_nothing_to_sign_with_waits_for_a_renewal() -> None:
    began, may_end = threading.Event(), threading.Event()
    soon = datetime.now(UTC) + timedelta(minutes=5)
    made = iter([Held("AKIDOLD", "old", None, soon), Held("AKIDNEW", "new", None, soon + timedelta(hours=1))])

    class Slow(Provider):
        def retrieve(self) -> Held:
            given = next(made)
            if given.access_key == "AKIDNEW":
                began.set()
                assert may_end.wait(10)
            return given

    provider = RenewingProvider(Slow)
    assert provider.retrieve().access_key == "AKIDOLD"
    with ThreadPoolExecutor(2) as pool:
        renewing = pool.submit(provider.retrieve)
        assert began.wait(10)
        try:
            assert pool.submit(provider.retrieve).result(5).access_key == "AKIDOLD"
        finally:
            may_end.set()
        assert renewing.result(10).access_key == "AKIDNEW"
