"""The attempts, by name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

from tests.integration.s3.attacking import (
    NINE,
    OTHER,
    Request,
    Scene,
    completed,
    signed_get,
    signed_part,
    signed_put,
)

Attack = Callable[[Scene], Awaitable[Request]]
Change = Callable[[Scene, Request], Request]


def altered(value: str) -> str:
    """Another of the same form."""
    return ("1" if value[:1] != "1" else "2") + value[1:]


def of_part(change: Change) -> Attack:
    async def attack(scene: Scene) -> Request:
        return change(scene, await scene.part())

    return attack


def of_put(change: Change) -> Attack:
    async def attack(scene: Scene) -> Request:
        return change(scene, await scene.put())

    return attack


def of_get(change: Change) -> Attack:
    async def attack(scene: Scene) -> Request:
        return change(scene, await scene.get())

    return attack


def to_neighbour(scene: Scene, request: Request) -> Request:
    """The same for another key."""
    return request.at(scene.path(scene.neighbour.key))


def to_secret(scene: Scene, request: Request) -> Request:
    """The same for somebody else's object."""
    return request.at(scene.path(scene.secret_key))


async def _of_twin(scene: Scene) -> Request:
    twin = await scene.twin()
    return (await scene.part()).changing(scene.grammar.upload, lambda _: twin.storage_upload_id or "")


# --- a part's URL -----------------------------------------------------------------------------------------------------

PART: dict[str, Attack] = {
    "one byte more": of_part(lambda _, request: replace(request, body=NINE + b"0")),
    "one byte less": of_part(lambda _, request: replace(request, body=NINE[:-1])),
    "no byte": of_part(lambda _, request: replace(request, body=b"")),
    "one byte more, in chunks": of_part(lambda _, request: replace(request, body=NINE + b"0", is_chunked=True)),
    "one byte more, in chunks beside the signed length": of_part(
        lambda _, request: replace(request, body=NINE + b"0", is_chunked=True).adding("content-length", "9")
    ),
    "another part number": of_part(lambda scene, request: request.changing(scene.grammar.part, lambda _: "2")),
    "a second part number": of_part(
        lambda scene, request: replace(request, url=f"{request.url}&{scene.grammar.part}=2")
    ),
    "another upload under the key": _of_twin,
    "another key's upload": of_part(
        lambda scene, request: to_neighbour(scene, request).changing(
            scene.grammar.upload, lambda _: scene.neighbour.storage_upload_id or ""
        )
    ),
    "the object itself": of_part(
        lambda scene, request: request.querying(**{scene.grammar.upload: None, scene.grammar.part: None})
    ),
    "another key": of_part(to_neighbour),
    "somebody else's object": of_part(to_secret),
    "another bucket": of_part(lambda scene, request: request.at(scene.grammar.path("another", scene.address.key))),
    "as GET": of_part(lambda _, request: replace(request, method="GET", body=b"")),
    "as HEAD": of_part(lambda _, request: replace(request, method="HEAD", body=b"")),
    "as POST": of_part(lambda _, request: replace(request, method="POST")),
    "as DELETE": of_part(lambda _, request: replace(request, method="DELETE", body=b"")),
    "as PUT with another method in a header": of_part(
        lambda _, request: replace(request, method="POST").adding("x-http-method-override", "PUT")
    ),
    "one more parameter": of_part(lambda _, request: request.querying(acl="")),
}


def _here(request: Request, url: str) -> Request:
    """What was signed for another host, sent to this one."""
    here = urlsplit(request.url)
    return replace(request, url=urlunsplit(urlsplit(url)._replace(scheme=here.scheme, netloc=here.netloc)))


async def _expired(scene: Scene) -> Request:
    return Request.honest(await scene.expire(lambda: signed_part(scene.store, scene.address)), NINE)


PART |= {
    "signed with another secret": of_part(
        lambda scene, request: Request.honest(scene.forge(scene.address), request.body)
    ),
    "signed for another host": of_part(lambda scene, request: _here(request, scene.elsewhere(scene.address).url)),
    "signed for another host, and said to be sent there": of_part(
        lambda scene, request: replace(
            _here(request, (url := scene.elsewhere(scene.address).url)), host=urlsplit(url).netloc
        )
    ),
    "expired": _expired,
}


def altering(name: str) -> Attack:
    """With one of the signature's own parameters altered."""
    return of_part(lambda _, request: request.changing(name, altered))


def dropping(name: str) -> Attack:
    """Without it."""
    return of_part(lambda _, request: request.changing(name, None))


# --- a header that was not signed -------------------------------------------------------------------------------------


def source(scene: Scene) -> str:
    """Somebody else's object, for a copy."""
    return f"/{scene.store.bucket}/{scene.secret_key}"


ADDED: dict[str, Callable[[Scene], str]] = {
    "x-amz-copy-source": source,
    "x-amz-copy-source-range": lambda _: "bytes=0-3",
    "x-amz-acl": lambda _: "public-read",
    "x-amz-meta-uploadcore-upload": lambda _: "upload-2",
    "x-amz-tagging": lambda _: "a=b",
    "x-amz-storage-class": lambda _: "GLACIER",
    "x-amz-checksum-crc32c": lambda _: "AAAAAA==",
    "x-amz-content-sha256": lambda _: "0" * 64,
    "x-amz-date": lambda _: "20200101T000000Z",
    "x-amz-security-token": lambda _: "another",
    "x-amz-decoded-content-length": lambda _: "4",
    "x-amz-server-side-encryption-customer-algorithm": lambda _: "AES256",
    "x-amz-website-redirect-location": lambda _: "/elsewhere",
}
"""What could steer a store that speaks S3."""

NATIVE: dict[str, Callable[[Scene], str]] = {
    "x-copy-from": source,
    "x-object-manifest": lambda scene: source(scene)[1:],
    "x-symlink-target": lambda scene: source(scene)[1:],
    "x-object-meta-a": lambda _: "1",
    "x-object-sysmeta-a": lambda _: "1",
    "x-backend-timestamp": lambda _: "1.0",
    "x-auth-token": lambda _: "another",
    "authorization": lambda _: "AWS4-HMAC-SHA256 Credential=another",
    "content-encoding": lambda _: "aws-chunked",
    "content-type": lambda _: "text/html",
}
"""What S3 does not know: Swift's own headers, and HTTP's. Unsigned they may be sent, and do nothing."""


# --- a URL that comes late ------------------------------------------------------------------------------------------------


async def _late_part(scene: Scene) -> Request:
    late = await scene.part()
    await completed(scene.store, scene.address)
    return replace(late, body=OTHER)


async def _late_new_part(scene: Scene) -> Request:
    late = await scene.part(2)
    await completed(scene.store, scene.address)
    return replace(late, body=OTHER)


async def _part_after_abort(scene: Scene) -> Request:
    late = await scene.part()
    await scene.store.abort_multipart(scene.address)
    return late


async def _part_after_deletion(scene: Scene) -> Request:
    late = await scene.part()
    await completed(scene.store, scene.address)
    await scene.store.delete(scene.address)
    return late


async def _get_after_deletion(scene: Scene) -> Request:
    late = await scene.get()
    await scene.store.delete(scene.address)
    return late


LATE: dict[str, Attack] = {
    "a part after completion": _late_part,
    "one more part after completion": _late_new_part,
    "a part after abort": _part_after_abort,
    "a part after deletion": _part_after_deletion,
    "a GET after deletion": _get_after_deletion,
}


# --- the URL of a PUT or GET ------------------------------------------------------------------------------------------------


async def _put_again(scene: Scene) -> Request:
    again = await scene.put()
    await completed(scene.store, scene.address)
    return replace(again, body=OTHER)


async def _put_after_deletion(scene: Scene) -> Request:
    late = await _put_again(scene)
    await scene.store.delete(scene.address)
    return late


async def _expired_put(scene: Scene) -> Request:
    return Request.honest(await scene.expire(lambda: signed_put(scene.store, scene.address.key)), NINE)


async def _expired_get(scene: Scene) -> Request:
    await completed(scene.store, scene.address)
    return Request.honest(await scene.expire(lambda: signed_get(scene.store, scene.address.key)))


PUT: dict[str, Attack] = {
    "PUT: one byte more": of_put(lambda _, request: replace(request, body=NINE + b"0")),
    "PUT: one byte less": of_put(lambda _, request: replace(request, body=NINE[:-1])),
    "PUT: one byte more, in chunks beside the signed length": of_put(
        lambda _, request: replace(request, body=NINE + b"0", is_chunked=True).adding("content-length", "9")
    ),
    "PUT: another key": of_put(to_neighbour),
    "PUT: somebody else's object": of_put(to_secret),
    "PUT: as POST": of_put(lambda _, request: replace(request, method="POST")),
    "PUT: as DELETE": of_put(lambda _, request: replace(request, method="DELETE", body=b"")),
    "PUT: into a multipart upload": of_put(
        lambda scene, request: request.querying(
            **{scene.grammar.part: "1", scene.grammar.upload: scene.address.storage_upload_id}
        )
    ),
    "PUT: without its condition": of_put(lambda _, request: request.without("if-none-match")),
    "PUT: under another marker": of_put(lambda _, request: request.adding("x-amz-meta-uploadcore-upload", "upload-2")),
    "PUT: as another type": of_put(lambda _, request: request.adding("content-type", "text/html")),
    "PUT: a copy": of_put(lambda scene, request: request.adding("x-amz-copy-source", source(scene))),
    "PUT: for all to read": of_put(lambda _, request: request.adding("x-amz-acl", "public-read")),
    "PUT: expired": _expired_put,
    "PUT: onto what stands": _put_again,
    "PUT: after deletion": _put_after_deletion,
}

GET: dict[str, Attack] = {
    "GET: somebody else's object": of_get(to_secret),
    "GET: the bucket": of_get(lambda scene, request: request.at(scene.path(""))),
    "GET: as PUT": of_get(lambda _, request: replace(request, method="PUT", body=OTHER)),
    "GET: as POST": of_get(lambda _, request: replace(request, method="POST", body=OTHER)),
    "GET: as DELETE": of_get(lambda _, request: replace(request, method="DELETE")),
    "GET: as another type": of_get(lambda scene, request: request.changing(scene.grammar.media_type, altered)),
    "GET: one more parameter": of_get(lambda _, request: request.querying(acl="")),
    "GET: expired": _expired_get,
}

ATTACKS = {"part": PART, "late": LATE, "put": PUT, "get": GET}
