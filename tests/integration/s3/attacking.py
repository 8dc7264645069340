"""What somebody may try who was given a signed URL: every request, over raw HTTP, and whether the store refused it.

Refused means: the store said so, and nothing in it is different.
"""

from __future__ import annotations

import asyncio
import base64
import http.client
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit
from uuid import uuid4

from uploadcore.errors import NoSuchMultipartError
from uploadcore.plan import Part
from uploadcore.ports import MARKER, ObjectHeaders, ObjectStore, SignedRequest
from uploadcore.upload import Address

MINUTE = timedelta(minutes=1)
NINE = b"123456789"
OTHER = b"987654321"
SECRET = b"another's secret"
HEADERS = ObjectHeaders("video/mp4", {MARKER: "upload-1"})
SignPart = Callable[[Address], SignedRequest]
Expire = Callable[[Callable[[], Awaitable[SignedRequest]]], Awaitable[SignedRequest]]
TIMEOUT = 30.0
"""Seconds for an answer."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, exactly as it goes out; `Host` and the length besides."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_chunked: bool = False
    host: str | None = None

    @classmethod
    def honest(cls, signed: SignedRequest, body: bytes = b"") -> Request:
        """As signed."""
        return cls(signed.method, signed.url, signed.headers, body)

    def adding(self, name: str, value: str) -> Request:
        """With one more header."""
        return replace(self, headers={**self.headers, name: value})

    def querying(self, **values: str | None) -> Request:
        """With these query values instead, or, where they are not there yet, in addition; `None`: left out."""
        return self._with_query([*((n, v) for n, v in self.query if n not in values), *values.items()])

    def changing(self, name: str, change: Callable[[str], str] | None) -> Request:
        """With this query value changed in its place, or left out."""
        assert name in dict(self.query), f"no {name} in the query"
        return self._with_query([(n, v if n != name else change and change(v)) for n, v in self.query])

    def _with_query(self, pairs: Sequence[tuple[str, str | None]]) -> Request:
        kept = [(name, value) for name, value in pairs if value is not None]
        return replace(self, url=urlunsplit(urlsplit(self.url)._replace(query=urlencode(kept, quote_via=quote))))

    def at(self, path: str) -> Request:
        """Under another path."""
        return replace(self, url=urlunsplit(urlsplit(self.url)._replace(path=path)))

    def without(self, *names: str) -> Request:
        """Without these headers."""
        return replace(self, headers={n: v for n, v in self.headers.items() if n.lower() not in names})

    @property
    def query(self) -> list[tuple[str, str]]:
        """Its names and values."""
        return parse_qsl(urlsplit(self.url).query, keep_blank_values=True)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    body: bytes

    @property
    def is_refusal(self) -> bool:
        """Whether the store said no. 501: to something it has no notion of."""
        return 400 <= self.status < 500 or self.status == 501


async def send(request: Request) -> Reply:
    """Send it, on a connection of its own."""
    return await asyncio.to_thread(_send, request)


def _send(request: Request) -> Reply:
    split = urlsplit(request.url)
    assert split.hostname is not None
    connection = http.client.HTTPConnection(split.hostname, split.port, timeout=TIMEOUT)
    try:
        connection.putrequest(request.method, f"{split.path}?{split.query}", skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", request.host or split.netloc)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        # A server may refuse, and end the connection, before the body is through: then its answer is there, or it gave none.
        with suppress(ConnectionResetError, BrokenPipeError):
            if request.is_chunked:
                connection.putheader("Transfer-Encoding", "chunked")
                connection.endheaders(iter([request.body]), encode_chunked=True)
            else:
                if "content-length" not in {name.lower() for name in request.headers}:
                    connection.putheader("Content-Length", str(len(request.body)))
                connection.endheaders(request.body)
        answer = connection.getresponse()
        return Reply(answer.status, answer.read())
    except ConnectionError:
        return Reply(400, b"the connection was ended without an answer")
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Grammar:
    """How a store's URLs say what they allow.

    Attributes:
        path: Of an object, by bucket and key.
        part: The parameter with the part's number.
        upload: The one with the storage upload id.
        media_type: The one with the type that a GET answers with.
        signature: The signature's own.
    """

    path: Callable[[str, str], str]
    part: str
    upload: str
    media_type: str
    signature: tuple[str, ...]


S3_URLS = Grammar(
    path=lambda bucket, key: f"/{bucket}/{key}",
    part="partNumber",
    upload="uploadId",
    media_type="response-content-type",
    signature=tuple(
        f"X-Amz-{name}" for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature")
    ),
)
FILESYSTEM_URLS = Grammar(
    path=lambda bucket, key: f"/data/{bucket}/{base64.urlsafe_b64encode(key.encode()).decode().rstrip('=')}",
    part="part",
    upload="upload",
    media_type="type",
    signature=("expires", "length", "offset", "signature"),
)


@dataclass
class Scene:
    """A bucket with an upload to attack, and what must stay as it is.

    Attributes:
        address: An upload in progress that has no part yet.
        neighbour: One under another key.
        secret_key: Of an object of somebody else's.
        elsewhere: Signs a part as the store does, but for clients that reach it under another name.
        forge: Signs a part as the store does, but with a secret of its own.
        expire: Gives a signed request whose time is over.
        twins: More uploads in progress under the key of `address`.
    """

    store: ObjectStore
    grammar: Grammar
    address: Address
    neighbour: Address
    secret_key: str
    elsewhere: SignPart
    forge: SignPart
    expire: Expire
    twins: list[Address] = field(default_factory=list)

    @classmethod
    async def set(
        cls, store: ObjectStore, grammar: Grammar, *, elsewhere: SignPart, forge: SignPart, expire: Expire
    ) -> Scene:
        """Make it, under keys that nothing else has."""
        name = uuid4().hex[:8]
        address, neighbour = [await begun(store, f"{name}/{key}") for key in ("mine", "next")]
        await brought(store, f"{name}/secret", SECRET)
        return cls(store, grammar, address, neighbour, f"{name}/secret", elsewhere, forge, expire)

    async def fresh(self) -> Scene:
        """The same, with another upload to attack."""
        address = await begun(self.store, f"{self.address.key}/{uuid4().hex[:8]}")
        return replace(self, address=address, twins=[])

    async def twin(self) -> Address:
        """One more upload in progress under the same key."""
        self.twins.append(await begun(self.store, self.address.key))
        return self.twins[-1]

    async def part(self, number: int = 1) -> Request:
        """The PUT of nine bytes that is allowed."""
        return Request.honest(await signed_part(self.store, self.address, number), NINE)

    async def put(self) -> Request:
        """The PUT of a whole object of nine bytes that is allowed."""
        return Request.honest(await signed_put(self.store, self.address.key), NINE)

    async def get(self) -> Request:
        """The GET that is allowed, of an object made for it."""
        await completed(self.store, self.address)
        return Request.honest(await signed_get(self.store, self.address.key))

    def path(self, key: str) -> str:
        """Of an object, as URLs have it."""
        return self.grammar.path(self.store.bucket, key)

    async def state(self) -> object:
        """What a refused request must leave as it is, of the upload attacked."""
        parts = [await listed(self.store, address) for address in (self.address, *self.twins)]
        head = await self.store.head(Address(self.store.bucket, self.address.key))
        return parts, head, None if head is None else await content(self.store, self.address.key)

    async def assert_others_untouched(self) -> None:
        """What no request must ever touch."""
        assert await listed(self.store, self.neighbour) == []
        assert await self.store.head(self.neighbour) is None
        assert await content(self.store, self.secret_key) == SECRET


# --- steps ----------------------------------------------------------------------------------------------------------


async def begun(store: ObjectStore, key: str) -> Address:
    """An upload in progress."""
    address = Address(store.bucket, key)
    return Address(store.bucket, key, await store.create_multipart(address, HEADERS))


async def signed_part(store: ObjectStore, address: Address, number: int = 1, length: int = 9) -> SignedRequest:
    part = Part(number, (number - 1) * length, length)
    [signed] = await store.presign_parts(address, [part], checksums={}, expires_in=MINUTE)
    return signed


async def signed_put(store: ObjectStore, key: str, length: int = 9) -> SignedRequest:
    address = Address(store.bucket, key)
    return await store.presign_put(address, Part(1, 0, length), HEADERS, checksum=None, expires_in=MINUTE)


async def signed_get(store: ObjectStore, key: str) -> SignedRequest:
    address = Address(store.bucket, key)
    return await store.presign_get(address, filename="f", content_type="video/mp4", expires_in=MINUTE)


async def completed(store: ObjectStore, address: Address, body: bytes = NINE) -> None:
    """Bring the upload to its end, with one part."""
    signed = await signed_part(store, address, 1, len(body))
    answer = await send(Request.honest(signed, body))
    assert answer.status == 200, answer
    parts = await store.list_parts(address)
    await store.complete_multipart(address, parts, size=len(body), checksum=None)


async def brought(store: ObjectStore, key: str, body: bytes) -> None:
    """An object."""
    await completed(store, await begun(store, key), body)


async def listed(store: ObjectStore, address: Address) -> list[tuple[int, int, str]] | None:
    """The parts the store has; `None` where it knows no such upload."""
    try:
        return [(part.part_number, part.size, part.etag) for part in await store.list_parts(address)]
    except NoSuchMultipartError:
        return None


async def content(store: ObjectStore, key: str) -> bytes | None:
    """The bytes of an object, as a client gets them; `None` where it gets none."""
    answer = await send(Request.honest(await signed_get(store, key)))
    return None if answer.status >= 400 else answer.body
