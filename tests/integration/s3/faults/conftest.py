"""A scripted S3, and stores over both SDKs that talk to it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from tests.integration.s3.faults.scripted import ScriptedS3, scripted_s3
from tests.integration.s3.faults.stores import ACCESS_KEY, SECRET_KEY, Bench, leaks, make_store


@pytest.fixture
def far() -> Iterator[ScriptedS3]:
    with scripted_s3() as far:
        yield far


@pytest.fixture(params=["s3", "minio"])
def sdk(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def chain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials where both SDKs look first, and nothing else of this machine's."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
async def bench_of(sdk: str, far: ScriptedS3) -> AsyncIterator[Callable[..., Any]]:
    """Opens stores; afterwards no thread, task or connection of theirs may be left."""
    made: list[Bench] = []

    async def open_one(*, is_open: bool = True, **options: Any) -> Bench:
        bench = Bench(far, make_store(sdk, far.url, **options))
        made.append(bench)
        if is_open:
            await bench.store.open()
        return bench

    yield open_one
    far.let_go.set()
    for bench in made:
        await bench.close()
    await leaks(far)


@pytest.fixture
async def bench(bench_of: Callable[..., Any]) -> Bench:
    """One with all defaults that matter here."""
    bench: Bench = await bench_of()
    return bench


@pytest.fixture(autouse=True)
def nothing_secret_is_logged(caplog: pytest.LogCaptureFixture, far: ScriptedS3) -> Iterator[None]:
    """What the service logs when everything is to be logged, its SDKs included, tells no secret and no signature."""
    for client in ("httpx", "httpcore"):  # the uploading client's, which is none of ours
        caplog.set_level(logging.WARNING, client)
    with caplog.at_level(logging.DEBUG):
        yield
    secrets = {SECRET_KEY, *far.secrets}
    for record in [*caplog.get_records("setup"), *caplog.get_records("call")]:
        said = f"{record.getMessage()} {record.exc_text or ''} {record.exc_info or ''}"
        found = [secret for secret in secrets if secret in said]
        assert not found, f"{record.name} logs a secret: {said[:500]}"
