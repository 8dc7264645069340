"""Clients: many small uploads with stock HTTP, that try again as the SDK does."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import httpx
import jwt
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

__all__ = ["JWT_KEY", "CallError", "Client", "Uploaded", "call_many", "each", "token"]

T = TypeVar("T")

JWT_KEY = "key-of-the-issuer-secret-of-the-tests"
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
ATTEMPTS = 10
WORTH_ANOTHER_TRY = frozenset({429, 502, 503, 504})
"""The same as the SDK's (`uploadcore_client.api`)."""
BUSY = "upload_busy"
DISTINCT = 8
"""Bytes that nobody draws twice."""
ROUNDS = 50
"""How often a client asks for completion anew: parts were missing, or the store still assembled."""
LIMITS = httpx.Limits(max_connections=400, max_keepalive_connections=400)


def token(owner: str) -> str:
    """A bearer token of this owner's, good for an hour."""
    now = int(time.time())
    claims = {"sub": owner, "aud": "uploadcore", "iss": "uploadcore", "iat": now, "exp": now + 3_600}
    return jwt.encode(claims, JWT_KEY, algorithm="HS256")


class CallError(Exception):
    """A call was refused for good, or every try of it failed.

    Attributes:
        retry_after: Seconds after which the service says it may go well.
    """

    retry_after: float | None = None

    def __init__(self, what: str, status: int = 0, document: Any = None) -> None:
        super().__init__(f"{what}: {status} {document}")
        self.status = status
        self.document = document if isinstance(document, dict) else {}

    @property
    def code(self) -> str:
        """The problem's code."""
        return str(self.document.get("code", ""))


class _TransientError(CallError):
    """Worth another try."""


@dataclass(slots=True)
class Uploaded:
    """One upload as its client saw it.

    Attributes:
        upload_id: Its id, once known.
        file_id: Of the file it brought; empty until completed.
        body: Its bytes.
        owner: Whose.
        key: The idempotency key it was initiated with.
        sent: Bytes of parts that were sent, again ones included.
    """

    body: bytes
    owner: str
    key: str = field(default_factory=lambda: uuid4().hex)
    upload_id: str = ""
    file_id: str = ""
    part_size: int = 0
    sent: int = 0
    parts: list[dict[str, Any]] = field(default_factory=list)


class Client:
    """Talks to the service at `url`, and sends parts to wherever their URLs lead.

    Attributes:
        statuses: Of every try of every call to the service; 0 where none came.
        seconds: How long each answered call took, by operation.
    """

    def __init__(
        self,
        url: str,
        *,
        chance: random.Random | None = None,
        attempts: int = ATTEMPTS,
        owners: int = 8,
    ) -> None:
        self.url = url
        self.chance = chance or random.Random()
        self.statuses: Counter[int] = Counter()
        self.seconds: dict[str, list[float]] = {}
        self._attempts = attempts
        self._owners = [f"owner-{number}" for number in range(owners)]
        self._tokens = {owner: token(owner) for owner in self._owners}
        self._http = httpx.AsyncClient(timeout=TIMEOUT, limits=LIMITS, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    # --- the steps ------------------------------------------------------------------------------------------------

    def new(self, size: int | None = None, *, part_size: int = 16) -> Uploaded:
        """An upload to be made: one to four parts of a few random bytes, but enough of them that no other has the same."""
        length = self.chance.randint(DISTINCT, 4 * part_size) if size is None else size
        return Uploaded(body=self.chance.randbytes(length), owner=self.chance.choice(self._owners), part_size=part_size)

    async def upload(self, wanted: Uploaded | None = None) -> Uploaded:
        """From initiate to completed."""
        upload = wanted or self.new()
        await self.initiate(upload)
        await self.send(upload, upload.parts)
        await self.complete(upload)
        return upload

    async def initiate(self, upload: Uploaded, *, url: str | None = None) -> dict[str, Any]:
        """Begin it, with its first parts signed."""
        asked = {"filename": "blob.bin", "size": len(upload.body), "part_size": upload.part_size, "sign": 8}
        document = await self.call(
            "initiate",
            "POST",
            "/v1/uploads",
            asked,
            owner=upload.owner,
            headers={"Idempotency-Key": upload.key},
            url=url,
        )
        upload.upload_id = document["id"]
        upload.parts = document["parts"]
        return document

    async def sign(self, upload: Uploaded, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """URLs for parts."""
        path = f"/v1/uploads/{upload.upload_id}/part-urls"
        document = await self.call("sign", "POST", path, {"part_numbers": list(numbers)}, owner=upload.owner)
        found: list[dict[str, Any]] = document["parts"]
        return found

    async def send(self, upload: Uploaded, parts: Iterable[dict[str, Any]]) -> None:
        """Send parts to the store."""
        for part in parts:
            await self._retrying(partial(self._put, upload, part))

    async def complete(self, upload: Uploaded, *, url: str | None = None) -> dict[str, Any]:
        """Have it assembled; what is missing is sent again. Asks again while the store assembles."""
        path = f"/v1/uploads/{upload.upload_id}/complete"
        for _ in range(ROUNDS):
            try:
                document = await self.call("complete", "POST", path, {}, owner=upload.owner, url=url)
            except CallError as error:
                if error.code != "parts_missing":
                    raise
                missing = [number for first, last in error.document["missing"] for number in range(first, last + 1)]
                await self.send(upload, await self.sign(upload, missing))
                continue
            if document.get("file"):
                upload.file_id = document["file"]["id"]
                return document
            await asyncio.sleep(0.2)
        raise CallError(f"complete {upload.upload_id}: no end in {ROUNDS} rounds")

    async def abort(self, upload: Uploaded, *, url: str | None = None) -> None:
        """Give it up."""
        await self.call("abort", "DELETE", f"/v1/uploads/{upload.upload_id}", owner=upload.owner, url=url)

    async def delete_file(self, upload: Uploaded) -> None:
        """Delete the file it brought."""
        await self.call("delete", "DELETE", f"/v1/files/{upload.file_id}", owner=upload.owner)

    async def content(self, upload: Uploaded) -> bytes:
        """The bytes of its file, through the redirect to the store."""

        async def fetched() -> bytes:
            answer = await self._answer("GET", f"{self.url}/v1/files/{upload.file_id}/content", owner=upload.owner)
            if answer.status_code != 307:
                raise CallError("content", answer.status_code, answer.text[:500])
            found = await self._answer("GET", answer.headers["location"])
            if found.status_code != 200:
                raise CallError("content", found.status_code, found.text[:500])
            return found.content

        body: bytes = await self._retrying(fetched)
        return body

    # --- how ------------------------------------------------------------------------------------------------------

    async def call(
        self,
        operation: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        owner: str,
        headers: dict[str, str] | None = None,
        url: str | None = None,
    ) -> dict[str, Any]:
        """One call to the service, tried again where that may help; the answer's JSON.

        Args:
            operation: Under which name it is counted.
            method: HTTP's.
            path: With query.
            body: To be sent as JSON.
            owner: On whose behalf.
            headers: More of them.
            url: Whom to ask first, past the balancer; later tries go through it.

        Raises:
            CallError: It was refused for good.
        """

        first = url

        async def attempt() -> dict[str, Any]:
            nonlocal first
            began = time.perf_counter()
            base, first = first or self.url, None
            answer = await self._answer(method, base + path, owner=owner, body=body, headers=headers)
            self.statuses[answer.status_code] += 1
            self.seconds.setdefault(operation, []).append(time.perf_counter() - began)
            document = _document(answer)
            if answer.status_code < 400:
                return document
            error = CallError(operation, answer.status_code, document)
            if answer.status_code in WORTH_ANOTHER_TRY or error.code == BUSY:
                transient = _TransientError(operation, answer.status_code, document)
                asked = answer.headers.get("retry-after", "")
                transient.retry_after = float(asked) if asked.isdigit() else None
                raise transient
            raise error

        document: dict[str, Any] = await self._retrying(attempt)
        return document

    async def _put(self, upload: Uploaded, part: dict[str, Any]) -> None:
        content = upload.body[part["offset"] : part["offset"] + part["length"]]
        upload.sent += len(content)
        try:
            answer = await self._http.request(part["method"], part["url"], headers=part["headers"], content=content)
        except httpx.HTTPError as error:
            raise _TransientError(f"part {part['part_number']}: {type(error).__name__}") from None
        if answer.status_code == 412:  # a single PUT that is there already: completing tells
            return
        if answer.status_code >= 500:
            raise _TransientError("part", answer.status_code, answer.text[:200])
        if answer.status_code >= 400 and "NoSuchUpload" not in answer.text:  # reopened meanwhile: completing tells
            raise CallError("part", answer.status_code, answer.text[:500])

    async def _answer(
        self,
        method: str,
        url: str,
        *,
        owner: str | None = None,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        sent = dict(headers or {})
        if owner is not None:
            sent["Authorization"] = f"Bearer {self._tokens[owner]}"
        try:
            return await self._http.request(method, url, json=body, headers=sent)
        except httpx.HTTPError as error:
            self.statuses[0] += 1
            raise _TransientError(f"{method}: {type(error).__name__}") from error

    async def _retrying(self, attempt: Callable[[], Awaitable[Any]]) -> Any:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TransientError),
            wait=_wait,
            stop=stop_after_attempt(self._attempts),
            reraise=True,
        )
        return await retrying(attempt)


def _document(answer: httpx.Response) -> dict[str, Any]:
    """What it says, if that is a JSON object: a balancer answers with pages of its own."""
    try:
        document = answer.json() if answer.content else {}
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


_JITTER = wait_random_exponential(multiplier=0.5, max=30.0)
"""The SDK's."""


def _wait(state: RetryCallState) -> float:
    jitter = _JITTER(state)
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.retry_after if isinstance(failure, _TransientError) else None
    return jitter if asked is None else asked + min(jitter, 1.0)


async def call_many(
    count: int, call: Callable[[int], Awaitable[T]], *, at_once: int = 32
) -> tuple[list[T], list[BaseException]]:
    """Run `call(0)` … `call(count - 1)`, so many at a time; what they returned, and what they raised."""
    gate = asyncio.Semaphore(at_once)

    async def one(number: int) -> T:
        async with gate:
            return await call(number)

    ended = await asyncio.gather(*(one(number) for number in range(count)), return_exceptions=True)
    failed = [each for each in ended if isinstance(each, BaseException)]
    return [each for each in ended if not isinstance(each, BaseException)], failed


async def each(uploads: Iterable[Uploaded], call: Callable[[Uploaded], Awaitable[object]]) -> None:
    """Do it for each of them, many at once; raise the first failure."""
    waiting = list(uploads)
    _, failed = await call_many(len(waiting), lambda number: call(waiting[number]))
    if failed:
        raise failed[0]
