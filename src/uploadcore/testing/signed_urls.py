"""The contract of an `ObjectStore`'s signed URLs: what each allows, and that it can't be turned into another grant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pytest

from uploadcore.file import ChecksumAlgorithm
from uploadcore.plan import Part
from uploadcore.ports import MARKER, ObjectStore, SignedRequest
from uploadcore.testing.store_steps import CHECKSUMS, CLOCK_ERROR, MINUTE, NINE, SignedHttp, StoreSteps, zeros
from uploadcore.upload import Address

__all__ = ["SignedUrlContract"]


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that must not succeed."""

    what: str
    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes


class SignedUrlContract(StoreSteps):
    """What every store's signed URLs do. Part of `ObjectStoreContract`."""

    # --- single PUT -----------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("body", [NINE, b""], ids=["nine bytes", "empty"])
    async def test_a_single_put_makes_an_object_that_no_second_one_overwrites(
        self, store: ObjectStore, http: SignedHttp, body: bytes
    ) -> None:
        if not store.capabilities.conditional_put:
            return
        signed = await self.sign_put(store, "up/a", len(body))
        assert (await self.send(http, signed, body)).status in {200, 201, 204}
        head = await store.head(Address(store.bucket, "up/a"))
        assert head is not None
        assert (head.size, head.content_type, head.metadata[MARKER]) == (len(body), "video/mp4", "upload-1")
        again = await self.sign_put(store, "up/a", len(body))
        for late in (signed, again):
            assert (await self.send(http, late, body[::-1])).status == 412
        assert await self.content(store, http) == body

    async def test_a_single_put_binds_its_headers(self, store: ObjectStore, http: SignedHttp) -> None:
        if not store.capabilities.conditional_put:
            return
        signed = await self.sign_put(store, "up/a", 9)
        for name in signed.headers:
            if name.lower() in {"content-length", "host"}:
                continue
            without = {key: value for key, value in signed.headers.items() if key != name}
            for headers in (without, {**signed.headers, name: f"{signed.headers[name]}x"}):
                await self._refuse(http, Refused(f"header {name} changed", "PUT", signed.url, headers, NINE))
        assert await store.head(Address(store.bucket, "up/a")) is None
        assert (await self.send(http, signed, NINE)).status in {200, 201, 204}

    async def test_an_unsigned_amz_header_is_refused_or_does_nothing(
        self, store: ObjectStore, http: SignedHttp
    ) -> None:
        if not store.capabilities.conditional_put:
            return
        signed = await self.sign_put(store, "up/a", 9)
        headers = {**signed.headers, "x-amz-meta-intruder": "1"}
        answer = await http.request("PUT", signed.url, headers, NINE)
        head = await store.head(Address(store.bucket, "up/a"))
        if answer.status >= 400:
            assert head is None
        else:
            assert head is not None
            assert "intruder" not in head.metadata

    # --- signed URLs ----------------------------------------------------------------------------------------------

    async def test_parts_are_signed_in_the_order_asked_for(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        parts = [Part(number, 0, number) for number in (3, 1, 2)]
        signed = await store.presign_parts(address, parts, checksums={}, expires_in=MINUTE)
        assert [request.method for request in signed] == ["PUT"] * 3
        for part, request in zip(parts, signed, strict=True):
            assert (await self.send(http, request, b"x" * part.part_number)).status == 200
        listed = await store.list_parts(address)
        assert [(part.part_number, part.size) for part in listed] == [(1, 1), (2, 2), (3, 3)]
        assert await store.presign_parts(address, [], checksums={}, expires_in=MINUTE) == []

    async def test_a_signed_request_hides_its_url(self, store: ObjectStore) -> None:
        signed = await self.sign(store, await self.begin(store), 1, 1)
        assert signed.url not in repr(signed)
        assert urlsplit(signed.url).query not in repr(signed)

    async def test_a_url_expires_when_it_says(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        await self.put_object(store, http, "up/b", NINE)
        part = [Part(1, 0, 1)]
        # The longer one first: however much later the other is signed, they are no further apart than a minute.
        [longer] = await store.presign_parts(address, part, checksums={}, expires_in=MINUTE)
        [short] = await store.presign_parts(address, part, checksums={}, expires_in=timedelta(seconds=1))
        assert short.expires_at.utcoffset() is not None
        assert short.expires_at < longer.expires_at <= short.expires_at + MINUTE
        get = await store.presign_get(
            Address(store.bucket, "up/b"), filename="f", content_type="text/plain", expires_in=timedelta(seconds=1)
        )
        await self._until_refused(store, http, short, b"1")
        await self._until_refused(store, http, get, b"")
        assert (await self.send(http, longer, b"1")).status == 200

    async def test_no_url_says_that_it_lives_longer_than_asked_for(self, store: ObjectStore) -> None:
        address = await self.begin(store)
        signed = {"part": await self.sign(store, address, 1, 9), "get": await self.sign_get(store, "up/a")}
        if store.capabilities.conditional_put:
            signed["put"] = await self.sign_put(store, "up/a", 9)
        latest = await self.now(store) + MINUTE + CLOCK_ERROR
        assert [what for what, request in signed.items() if request.expires_at > latest] == []

    async def test_a_part_url_binds_the_length(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        signed = await self.sign(store, address, 1, 9)
        for body in (b"12345678", b"1234567890", b""):
            await self._refuse(http, Refused(f"{len(body)} bytes", "PUT", signed.url, signed.headers, body))
        assert await store.list_parts(address) == []
        assert (await self.send(http, signed, NINE)).status == 200

    async def test_a_part_without_a_length_takes_any(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        signed = await self.sign(store, address, 1, None)
        for body in (b"12", b"1", b"123"):
            assert (await self.send(http, signed, body)).status == 200
            assert [part.size for part in await store.list_parts(address)] == [len(body)]

    @pytest.mark.parametrize("algorithm", list(ChecksumAlgorithm))
    async def test_a_part_url_binds_a_checksum_where_that_is_declared(
        self, store: ObjectStore, http: SignedHttp, algorithm: ChecksumAlgorithm
    ) -> None:
        if algorithm not in store.capabilities.part_checksums:
            return
        address = await self.begin(store)
        signed = await self.sign(store, address, 1, 9, CHECKSUMS[algorithm])
        header = next(name for name in signed.headers if name.lower() == f"x-amz-checksum-{algorithm}")
        without = {name: value for name, value in signed.headers.items() if name != header}
        other = {**without, header: zeros(algorithm)}
        for refused in (
            Refused("other bytes", "PUT", signed.url, signed.headers, b"987654321"),
            Refused("no checksum", "PUT", signed.url, without, b"987654321"),
            Refused("another checksum", "PUT", signed.url, other, b"987654321"),
        ):
            await self._refuse(http, refused)
        assert await store.list_parts(address) == []
        assert (await self.send(http, signed, NINE)).status == 200
        assert [part.size for part in await store.list_parts(address)] == [9]

    async def test_a_part_url_can_not_be_turned_into_another_grant(self, store: ObjectStore, http: SignedHttp) -> None:
        address = await self.begin(store)
        await self.put_object(store, http, "up/b", b"untouched")
        signed = await self.sign(store, address, 1, 9)
        for refused in self._alterations(signed, NINE):
            await self._refuse(http, refused)
        assert await store.list_parts(address) == []
        assert await store.head(address) is None
        assert await self.content(store, http, "up/b") == b"untouched"
        assert (await self.send(http, signed, NINE)).status == 200

    async def test_a_get_url_can_not_be_turned_into_another_grant(self, store: ObjectStore, http: SignedHttp) -> None:
        for key in ("up/a", "up/b"):
            await self.put_object(store, http, key, NINE)
        signed = await self.sign_get(store, "up/a")
        for refused in self._alterations(signed, b"", methods=("PUT", "POST", "DELETE")):
            await self._refuse(http, refused)
        assert await self.content(store, http, "up/a") == NINE

    async def test_a_put_url_can_not_be_turned_into_another_grant(self, store: ObjectStore, http: SignedHttp) -> None:
        if not store.capabilities.conditional_put:
            return
        signed = await self.sign_put(store, "up/a", 9)
        for refused in self._alterations(signed, NINE):
            await self._refuse(http, refused)
        for body in (b"12345678", b"1234567890"):
            await self._refuse(http, Refused(f"{len(body)} bytes", "PUT", signed.url, signed.headers, body))
        assert await store.head(Address(store.bucket, "up/a")) is None

    async def _refuse(self, http: SignedHttp, refused: Refused) -> None:
        answer = await http.request(refused.method, refused.url, refused.headers, refused.body)
        # 501 is a refusal too: of something the store has no notion of.
        assert 400 <= answer.status < 500 or answer.status == 501, f"{refused.what}: {answer.status}"

    def _alterations(
        self, signed: SignedRequest, body: bytes, methods: Iterable[str] = ("GET", "POST", "DELETE")
    ) -> list[Refused]:
        """Every query value altered, every one left out, the path altered, the method changed."""
        split = urlsplit(signed.url)
        pairs = parse_qsl(split.query, keep_blank_values=True)
        urls = {f"path {path}": split._replace(path=path) for path in (f"{split.path}x", f"{split.path[:-1]}b")}
        for index, (name, value) in enumerate(pairs):
            altered = ("1" if value[:1] != "1" else "2") + value[1:]
            rest = [*pairs[:index], *pairs[index + 1 :]]
            urls[f"{name} altered"] = split._replace(
                query=urlencode([*pairs[:index], (name, altered), *pairs[index + 1 :]])
            )
            urls[f"{name} left out"] = split._replace(query=urlencode(rest))
        refused = [Refused(what, signed.method, urlunsplit(url), signed.headers, body) for what, url in urls.items()]
        return refused + [Refused(f"as {method}", method, signed.url, signed.headers, body) for method in methods]

    async def _until_refused(self, store: ObjectStore, http: SignedHttp, signed: SignedRequest, body: bytes) -> None:
        for _ in range(100):
            if (await self.send(http, signed, body)).status in {400, 401, 403, 410}:
                return
            await self.advance(store, 0.1)
        pytest.fail("the URL outlived its time by far")
