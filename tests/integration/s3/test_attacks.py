"""A signed URL can't be turned into another grant: each attempt is refused, or listed here as what that store lets through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from tests.integration.filesystem.serving import SECRET, serving
from tests.integration.s3.attacking import (
    FILESYSTEM_URLS,
    HEADERS,
    MINUTE,
    NINE,
    S3_URLS,
    Scene,
    completed,
    content,
    listed,
    send,
)
from tests.integration.s3.attacks import ADDED, ATTACKS, NATIVE, altering, dropping
from tests.servers.s3 import S3Server
from uploadcore.plan import Part
from uploadcore.ports import SignedRequest
from uploadcore.upload import Address
from uploadcore_filesystem.signing import UrlSigner
from uploadcore_s3 import Credentials, MinioObjectStore, S3ObjectStore, StoreOptions
from uploadcore_s3.signing import QuerySigner

ELSEWHERE = "http://store.example.com"

HOST_NOT_SIGNED = (
    "harmless: the secret is the installation's own, and whatever name leads to it leads to the same store"
)
HOST_BELIEVED = "harmless: the name is one that we signed for, and the store keeps what it is sent under any name"
RECHECKED = "the sweeper removes it once the last URL has run out"
NEVER_ASSEMBLED = "its size is not the planned one: completion refuses it, and abort or expiry removes it"

LETS_THROUGH: dict[str, dict[str, str]] = {
    "filesystem": {
        "signed for another host": HOST_NOT_SIGNED,
        "signed for another host, and said to be sent there": HOST_NOT_SIGNED,
        "PUT: after deletion": RECHECKED,
    },
    "Swift": {
        "one byte more, in chunks beside the signed length": NEVER_ASSEMBLED,
        "signed for another host, and said to be sent there": HOST_BELIEVED,
        "a part after completion": "the object is broken, never other bytes; nothing is signed any more, so for the life of a URL only",
        "one more part after completion": "the object stays as it is; the part stays behind, unseen, for the operator to remove",
        "PUT: one byte more, in chunks beside the signed length": NEVER_ASSEMBLED,
        "PUT: after deletion": RECHECKED,
    },
    "any other": {
        "signed for another host, and said to be sent there": HOST_BELIEVED,
        "PUT: after deletion": RECHECKED,
    },
}
"""What a store lets through, and what becomes of it: test_let_through.py shows that. For users: docs/s3.md, "What a store lets through"."""

IGNORES: dict[str, frozenset[str]] = {
    "Swift": frozenset(
        {
            "x-amz-date",
            "x-amz-decoded-content-length",
            "x-amz-security-token",
            "x-amz-server-side-encryption-customer-algorithm",
        }
    )
}
"""Headers that a store takes unsigned, and does nothing with."""


def test_what_is_listed_is_attempted() -> None:
    attempted = {name for kind in ATTACKS.values() for name in kind}
    for listed_names in LETS_THROUGH.values():
        assert listed_names.keys() <= attempted
    for ignored in IGNORES.values():
        assert ignored <= ADDED.keys()


class Attacks:
    """The suite. A subclass gives the fixtures `scene` and `product`, what LETS_THROUGH calls the store."""

    @pytest.mark.parametrize("kind", ATTACKS)
    async def test_each_attack_is_refused_or_listed(self, scene: Scene, product: str, kind: str) -> None:
        if kind == "put" and not scene.store.capabilities.conditional_put:
            pytest.skip("no PUT of a whole object is signed for a store that was not declared to refuse an overwrite")
        let_through = {}
        for name, attack in ATTACKS[kind].items():
            attacked = await scene.fresh()
            request = await attack(attacked)
            before = await attacked.state()

            reply = await send(request)

            if not reply.is_refusal or await attacked.state() != before:
                let_through[name] = reply
        known = LETS_THROUGH.get(product, LETS_THROUGH["any other"])
        assert let_through.keys() == known.keys() & ATTACKS[kind].keys(), let_through
        await scene.assert_others_untouched()

    async def test_no_parameter_of_a_signature_can_be_changed(self, scene: Scene) -> None:
        for name in scene.grammar.signature:
            for attack in (altering(name), dropping(name)):
                reply = await send(await attack(scene))
                assert reply.is_refusal, (name, reply)
        assert await listed(scene.store, scene.address) == []

    async def test_each_header_that_was_not_signed_is_refused_or_listed(self, scene: Scene, product: str) -> None:
        taken = {}
        for name, value in ADDED.items():
            attacked = await scene.fresh()
            before = await attacked.state()

            reply = await send((await attacked.part()).adding(name, value(scene)))

            if not reply.is_refusal or await attacked.state() != before:
                taken[name] = reply
            await self.assert_harmless(attacked)
        assert taken.keys() == IGNORES.get(product, frozenset()), taken

    async def test_a_header_that_is_not_s3s_does_nothing(self, scene: Scene) -> None:
        for name, value in NATIVE.items():
            attacked = await scene.fresh()
            await send((await attacked.part()).adding(name, value(scene)))
            await self.assert_harmless(attacked)

    async def assert_harmless(self, scene: Scene) -> None:
        """Whatever happened, the upload becomes what it would have become."""
        await completed(scene.store, scene.address)
        head = await scene.store.head(scene.address)
        assert head is not None
        assert (head.size, head.content_type, head.metadata) == (9, HEADERS.content_type, HEADERS.metadata)
        assert await content(scene.store, scene.address.key) == NINE


class TestFilesystemStore(Attacks):
    @pytest.fixture
    def product(self) -> str:
        return "filesystem"

    @pytest.fixture
    async def scene(self, tmp_path: Path) -> AsyncIterator[Scene]:
        async with serving(tmp_path) as served:

            def by(url: str, secret: bytes) -> Callable[[Address], SignedRequest]:
                signer = UrlSigner(url, secret, served.clock)
                return lambda address: signer.sign_parts(address, [Part(1, 0, 9)], {}, MINUTE)[0]

            async def expire(sign: Callable[[], Awaitable[SignedRequest]]) -> SignedRequest:
                signed = await sign()
                served.clock.advance(MINUTE)
                return signed

            yield await Scene.set(
                served.store,
                FILESYSTEM_URLS,
                elsewhere=by(ELSEWHERE, SECRET),
                forge=by(f"http://127.0.0.1:{served.port}", bytes(32)),
                expire=expire,
            )


class Shifted:
    """The machine's clock, or one that is behind."""

    def __init__(self) -> None:
        self.behind = timedelta(0)

    def now(self) -> datetime:
        return datetime.now(UTC) - self.behind


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    """One for all: making one is the slowest of it."""
    return s3_server.new_bucket()


class OnRealServer(Attacks):
    make: ClassVar[type[S3ObjectStore | MinioObjectStore]]

    @pytest.fixture
    def product(self, s3_server: S3Server) -> str:
        return s3_server.name.split()[0]

    @pytest.fixture
    async def scene(self, s3_server: S3Server, s3_options: StoreOptions, bucket: str) -> AsyncIterator[Scene]:
        clock = Shifted()
        options: StoreOptions = {**s3_options, "clock": clock}
        store = self.make(bucket, **options)
        await store.open()

        def by(url: str, secret: str) -> Callable[[Address], SignedRequest]:
            signer = QuerySigner(url, bucket=bucket, region=s3_server.region)
            credentials = Credentials(s3_server.access_key, secret)

            def sign(address: Address) -> SignedRequest:
                [signed] = signer.presign_parts(
                    credentials,
                    address.key,
                    address.storage_upload_id or "",
                    [(1, {"content-length": "9"})],
                    now=clock.now(),
                    expires_in=MINUTE,
                )
                return SignedRequest("PUT", signed, {}, clock.now() + MINUTE)

            return sign

        async def expire(sign: Callable[[], Awaitable[SignedRequest]]) -> SignedRequest:
            clock.behind = timedelta(hours=1)
            signed = await sign()
            clock.behind = timedelta(0)
            return signed

        yield await Scene.set(
            store,
            S3_URLS,
            elsewhere=by(ELSEWHERE, s3_server.secret_key),
            forge=by(s3_server.endpoint, "another secret"),
            expire=expire,
        )
        await store.close()


class TestS3ObjectStore(OnRealServer):
    make = S3ObjectStore


class TestMinioObjectStore(OnRealServer):
    make = MinioObjectStore
