"""The service in this process, on memory adapters, and the tokens of its callers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import httpx
import jwt

from uploadcore import StaticPolicy, UploadConfig, UploadCore
from uploadcore.ports import Admission, SignedRequest
from uploadcore_http import JwtAuthenticator, SharedKey, create_asgi
from uploadcore_memory import MemoryCache, MemoryDatabase, MemoryObjectStore

KEY = "a secret of the tests, 32 bytes or more"
PEER = ("127.0.0.1", 50_000)
BASE = "http://127.0.0.1:8484"


def token(owner: str = "owner", *, key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    """A token as an issuer would make it; a claim given as `None` is left out."""
    now = int(time.time())
    all_claims = {"sub": owner, "aud": "uploadcore", "iss": "uploadcore", "iat": now, "exp": now + 600, **claims}
    return jwt.encode({name: value for name, value in all_claims.items() if value is not None}, key, algorithm)


def bearer(owner: str = "owner") -> dict[str, str]:
    """The headers of a request by that owner."""
    return {"authorization": f"Bearer {token(owner)}"}


class CountingStore(MemoryObjectStore):
    """Remembers which of its calls were made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name in PORT_CALLS:
            self.calls.append(name)
        return super().__getattribute__(name)


PORT_CALLS = frozenset(
    {
        "abort_multipart",
        "complete_multipart",
        "create_multipart",
        "delete",
        "head",
        "list_multiparts",
        "list_parts",
        "presign_get",
        "presign_parts",
        "presign_put",
    }
)


@dataclass
class Service:
    """The service, and what is behind it."""

    store: CountingStore
    database: MemoryDatabase
    core: UploadCore
    app: Any
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def client(
        self, owner: str | None = "owner", *, headers: Mapping[str, str] | None = None, app: Any = None
    ) -> httpx.AsyncClient:
        """A client of that owner, or of nobody."""
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app or self.app, raise_app_exceptions=False, client=PEER),
            base_url=BASE,
            headers={**({} if owner is None else bearer(owner)), **(headers or {})},
        )
        self.clients.append(client)
        return client

    async def initiated(self, owner: str = "owner", *, size: int | None = 25, part_size: int = 10, **more: Any) -> str:
        """The id of a new upload, of three parts unless said otherwise."""
        view = await self.core.uploads.initiate(
            owner=owner, filename="trip.mp4", size=size, part_size=part_size, **more
        )
        return view.id

    async def upload_parts(self, upload_id: str, owner: str = "owner", *, size: int = 25, part_size: int = 10) -> None:
        """Upload every part."""
        count = max(1, -(-size // part_size))
        signed = await self.core.uploads.sign_parts(upload_id, owner=owner, part_numbers=range(1, count + 1))
        for part in signed:
            await self.store.put(part.request, b"x" * (part.length or 0))

    async def completed(self, owner: str = "owner") -> tuple[str, str]:
        """The ids of a completed upload and its file."""
        upload_id = await self.initiated(owner)
        await self.upload_parts(upload_id, owner)
        completion = await self.core.uploads.complete(upload_id, owner=owner)
        assert completion.file is not None
        return upload_id, completion.file.id


@asynccontextmanager
async def serving(
    *,
    limits: Admission | None = None,
    config: UploadConfig | None = None,
    store: CountingStore | None = None,
    **options: Any,
) -> AsyncIterator[Service]:
    """A service while the block runs; `options` go to `create_asgi`."""
    store = store or CountingStore()
    database = MemoryDatabase()
    core = UploadCore(
        store=store,
        database=database,
        cache=MemoryCache(),
        policy=StaticPolicy(limits or Admission()),
        config=config or UploadConfig(),
    )
    options.setdefault("authenticate", JwtAuthenticator(SharedKey(KEY), audience="uploadcore", issuer="uploadcore"))
    async with core:
        service = Service(store, database, core, create_asgi(core, **options))
        try:
            yield service
        finally:
            for client in service.clients:
                await client.aclose()


def redeemable(part: Mapping[str, Any]) -> SignedRequest:
    """A part of an answer as what a store in memory redeems."""
    return SignedRequest(part["method"], part["url"], part["headers"], datetime.fromisoformat(part["expires_at"]))
