"""What `uploadcore doctor` says of an S3 store: can it be reached, may we do what we need, does it enforce what it is said to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from secrets import token_hex

from uploadcore.diagnosis import Finding, Needs, Verdict
from uploadcore.errors import StoreUnavailableError, UploadCoreError
from uploadcore.file import ChecksumAlgorithm
from uploadcore.plan import Part, StoredPart
from uploadcore.ports import MARKER, ObjectHeaders, ObjectStore, SignedRequest, StoreCapabilities
from uploadcore.upload import Address
from uploadcore_s3.bucket_rules import RulesUnsupportedError, add_cors_rule, add_lifecycle_rule, lifecycle_rules
from uploadcore_s3.probe import Probe, Reply, SignedHttp

__all__ = ["Examined", "examine"]

_MAX_SKEW = timedelta(minutes=15)
"""Beyond it S3 refuses every signature (S3 API, "Error responses", RequestTimeTooSkewed)."""
_SKEW_TO_MEND = timedelta(minutes=1)
_MINIO_REAPS_AFTER = timedelta(hours=24)
"""`stale_uploads_expiry` by default (MinIO, "api" settings)."""
_MINUTE = timedelta(minutes=1)
_DAY = timedelta(days=1)
_BODY = b"uploadcore doctor"


@dataclass(frozen=True, slots=True)
class Examined:
    """What is looked at.

    Attributes:
        store: The store, open: it makes the calls whose permissions are tried.
        control: Requests by hand to the service's endpoint, as who may do everything.
        write: Requests by hand to the clients' endpoint, as who signs PUTs.
        capabilities: As configured.
        conditional_complete: Whether completions are sent with `If-None-Match: *`.
        declares_object_size: Whether they are sent with `x-amz-mp-object-size`.
    """

    store: ObjectStore
    control: SignedHttp
    write: SignedHttp
    capabilities: StoreCapabilities
    conditional_complete: bool
    declares_object_size: bool


async def examine(examined: Examined, needs: Needs, *, apply: bool) -> AsyncIterator[Finding]:
    """Every finding, as it is made. What can't work without the bucket is left out where that can't be reached."""
    is_reached = True
    for finding in await asyncio.to_thread(lambda: list(_reaching(examined))):
        is_reached = is_reached and finding.verdict is not Verdict.FAILED
        yield finding
    if not is_reached:
        yield Finding("store", Verdict.NOTE, "the rest was not looked at: the bucket is out of reach")
        return
    async for finding in _permissions(examined, needs):
        yield finding
    for look in (_identities, _origins, _lifecycle, _enforcement):
        for finding in await asyncio.to_thread(_found, look, examined, needs, apply):
            yield finding


_Look = Callable[[Examined, Needs, bool], Iterator[Finding]]


def _found(look: _Look, examined: Examined, needs: Needs, apply: bool) -> list[Finding]:
    """What a look finds; a store that stops answering is a finding."""
    findings: list[Finding] = []
    try:
        findings.extend(look(examined, needs, apply))
    except UploadCoreError as exc:
        findings.append(
            Finding(
                f"store{look.__name__.replace('_', '.', 1)}",
                Verdict.FAILED,
                exc.message,
                "see what the store's log says",
            )
        )
    return findings


# --- reaching it --------------------------------------------------------------------------------------------------


def _reaching(examined: Examined) -> Iterator[Finding]:
    bucket = examined.control.bucket
    try:
        reply = examined.control.request("GET", query={"uploads": "", "max-uploads": "1"})
    except UploadCoreError as exc:
        yield Finding("store.reachable", Verdict.FAILED, exc.message, "see that it runs, and that `endpoint` is right")
        return
    if reply.code:
        fix = _FIXES.get(reply.code, "compare endpoint, region, addressing and credentials with the store's own")
        if reply.region:
            fix = f"set region={reply.region}"
        yield Finding("store.reachable", Verdict.FAILED, f"the store refuses to show bucket {bucket}: {reply}", fix)
        return
    yield Finding("store.reachable", Verdict.OK, f"bucket {bucket} is there; endpoint, region and addressing fit")
    date = reply.headers.get("date")
    if date is not None:
        yield _skew(datetime.now(UTC) - parsedate_to_datetime(date))
    server = reply.headers.get("server", "")
    try:
        examined.write.request("GET", "none")
    except UploadCoreError as exc:
        message = f"where clients are sent, nobody answers, seen from here: {exc.message}"
        yield Finding("store.public_endpoint", Verdict.WARNING, message, "see that `public_endpoint` is right")
    else:
        yield Finding("store.public_endpoint", Verdict.OK, "where clients are sent, somebody answers")
    if "minio" in server.lower():
        yield Finding(
            "store.reaper",
            Verdict.NOTE,
            f"MinIO drops multipart uploads that have been idle for {_MINIO_REAPS_AFTER / _DAY * 24:.0f} h",
            "mc admin config set ALIAS api stale_uploads_expiry=… (longer than UPLOADCORE_UPLOAD_LIFETIME)",
        )


_FIXES = {
    "AccessDenied": "allow s3:ListBucketMultipartUploads on the bucket: see docs/policies",
    "AuthorizationHeaderMalformed": "the signature names another region than the bucket's: set `region`",
    "InvalidAccessKeyId": "the store does not know the access key: see which credentials the SDK's chain finds",
    "NoSuchBucket": "make the bucket, or correct its name; with addressing=virtual the name is part of the host",
    "PermanentRedirect": "the bucket is reached at another endpoint: set `endpoint`, or `region`",
    "RequestTimeTooSkewed": "this machine's clock and the store's differ too much: synchronise it",
    "SignatureDoesNotMatch": "the secret key is wrong, or a proxy changes host or path: see `endpoint` and `addressing`",
}


def _skew(skew: timedelta) -> Finding:
    seconds = f"{skew.total_seconds():+.0f} s"
    if abs(skew) < _SKEW_TO_MEND:
        return Finding("store.clock", Verdict.OK, f"this machine's clock and the store's agree ({seconds})")
    verdict = Verdict.FAILED if abs(skew) >= _MAX_SKEW else Verdict.WARNING
    message = f"this machine's clock is off by {seconds}: URLs begin or end at another time than they say"
    return Finding("store.clock", verdict, message, "synchronise this machine's clock (chrony, systemd-timesyncd)")


# --- permissions --------------------------------------------------------------------------------------------------


async def _permissions(examined: Examined, needs: Needs) -> AsyncIterator[Finding]:
    """Every call there is, made as the service makes it, one by one."""
    trial = _Trial(examined, f"{needs.key_prefix}/doctor/{token_hex(8)}")
    for call, permission in (
        (trial.create_multipart, "s3:PutObject"),
        (trial.put_part, "s3:PutObject, for the identity that signs PUTs,"),
        (trial.list_parts, "s3:ListMultipartUploadParts"),
        (trial.list_multiparts, "s3:ListBucketMultipartUploads"),
        (trial.head_of_nothing, "s3:ListBucket"),
        (trial.complete_multipart, "s3:PutObject"),
        (trial.head, "s3:GetObject"),
        (trial.get, "s3:GetObject"),
        (trial.put_marker, "s3:PutObject"),
        (trial.abort_multipart, "s3:AbortMultipartUpload"),
        (trial.delete, "s3:DeleteObject"),
    ):
        check = f"store.permission.{call.__name__}"
        try:
            await call()
        except UploadCoreError as exc:
            yield Finding(check, Verdict.FAILED, exc.message, f"allow {permission} under {needs.key_prefix}/")
            if call in {trial.create_multipart, trial.put_part}:
                yield Finding(
                    "store.permission", Verdict.NOTE, "the other calls were not tried: they need a part to work on"
                )
                break
        else:
            yield Finding(check, Verdict.OK, f"{permission} is allowed")
    await trial.clean_up()


class _Trial:
    """One upload from beginning to end, and what is done beside it. Each step takes what the one before has left."""

    def __init__(self, examined: Examined, key: str) -> None:
        self._store = examined.store
        self._http = examined.write
        self._address = Address(examined.store.bucket, key)
        self._headers = ObjectHeaders(content_type="text/plain", metadata={MARKER: "doctor"})
        self._parts: list[StoredPart] = []

    async def create_multipart(self) -> None:
        made = await self._store.create_multipart(self._address, self._headers)
        self._address = replace(self._address, storage_upload_id=made)

    async def put_part(self) -> None:
        part = [Part(1, 0, len(_BODY))]
        [signed] = await self._store.presign_parts(self._address, part, checksums={}, expires_in=_MINUTE)
        reply = await self._send(signed, _BODY)
        self._parts = [StoredPart(1, len(_BODY), reply.headers.get("etag", ""))]

    async def list_parts(self) -> None:
        await self._store.list_parts(self._address)

    async def list_multiparts(self) -> None:
        found = [one.storage_upload_id async for one in self._store.list_multiparts(self._address.key)]
        if self._address.storage_upload_id not in found:
            raise StoreUnavailableError(
                "an upload just begun is not listed under its key: nothing left behind would be found"
            )

    async def head_of_nothing(self) -> None:
        if await self._store.head(self._address) is not None:
            raise StoreUnavailableError("an object is there before it was completed")

    async def complete_multipart(self) -> None:
        await self._store.complete_multipart(self._address, self._parts, size=len(_BODY), checksum=None)

    async def head(self) -> None:
        found = await self._store.head(self._address)
        if found is None or found.size != len(_BODY) or found.metadata.get(MARKER) != "doctor":
            raise StoreUnavailableError("the completed object does not carry the size and the metadata it was given")

    async def get(self) -> None:
        signed = await self._store.presign_get(
            self._address, filename="doctor.txt", content_type="text/plain", expires_in=_MINUTE
        )
        await self._send(signed, b"")

    async def put_marker(self) -> None:
        await self._store.put_marker(self._address, self._headers)

    async def abort_multipart(self) -> None:
        made = await self._store.create_multipart(self._address, self._headers)
        await self._store.abort_multipart(replace(self._address, storage_upload_id=made))

    async def delete(self) -> None:
        await self._store.delete(self._address)

    async def clean_up(self) -> None:
        """Leave nothing behind, whatever failed."""
        with suppress(UploadCoreError):
            if self._address.storage_upload_id is not None:
                await self._store.abort_multipart(self._address)
        with suppress(UploadCoreError):
            await self._store.delete(self._address)

    async def _send(self, signed: SignedRequest, body: bytes) -> Reply:
        headers = {name: value for name, value in signed.headers.items() if name.lower() != "content-length"}
        reply = await asyncio.to_thread(self._http.send, signed.method, signed.url, headers, body)
        if reply.code:
            raise StoreUnavailableError(f"a signed {signed.method} is refused: {reply}")
        return reply


def _identities(examined: Examined, needs: Needs, _apply: bool) -> Iterator[Finding]:
    """Whether who signs PUTs can do no more than that."""
    check = "store.identities"
    if examined.write.access_key == examined.control.access_key:
        yield Finding(
            check,
            Verdict.NOTE,
            "one identity signs PUTs and does everything else",
            "write_role=… or write_profile=… with docs/policies/uploadcore-write.json: a signature that leaks can then only write",
        )
        return
    allowed = [
        what
        for what, method, query in (("read", "GET", {}), ("delete", "DELETE", {}), ("list", "GET", {"uploads": ""}))
        if not _is_denied(
            examined.write.request(method, "" if query else f"{needs.key_prefix}/doctor/none", query=query)
        )
    ]
    if allowed:
        fix = "give it docs/policies/uploadcore-write.json and nothing else"
        yield Finding(check, Verdict.WARNING, f"the identity that signs PUTs may also {', '.join(allowed)}", fix)
    else:
        yield Finding(check, Verdict.OK, "the identity that signs PUTs can neither read, list nor delete")


def _is_denied(reply: Reply) -> bool:
    return reply.status in {401, 403}


# --- browsers -----------------------------------------------------------------------------------------------------


def _origins(examined: Examined, needs: Needs, apply: bool) -> Iterator[Finding]:
    """Whether a browser may PUT a part and see its ETag, from every origin configured."""
    check = "store.cors"
    if not needs.origins:
        yield Finding(check, Verdict.NOTE, "no browser uploads: UPLOADCORE_CORS_ORIGINS names no origin")
        return
    barred = [origin for origin in needs.origins if not _lets_in(examined.write, needs, origin)]
    if not barred:
        yield Finding(check, Verdict.OK, f"pages of {', '.join(needs.origins)} may PUT, and see ETag")
    elif not apply:
        message = f"pages of {', '.join(barred)} can't PUT, or don't see ETag"
        yield Finding(
            check, Verdict.FAILED, message, "uploadcore doctor --apply, or the bucket's CORS rules: see docs/s3.md"
        )
    else:
        try:
            add_cors_rule(examined.control, origins=barred)
        except RulesUnsupportedError as exc:
            fix = "set them where the store has them: in its own configuration, or at a proxy in front"
            yield Finding(check, Verdict.FAILED, f"the store does not take CORS rules: {exc}", fix)
        else:
            yield Finding(check, Verdict.OK, f"pages of {', '.join(barred)} may PUT now: a CORS rule was added")


def _lets_in(http: SignedHttp, needs: Needs, origin: str) -> bool:
    url = http.sign("PUT", f"{needs.key_prefix}/doctor/cors", {"partNumber": "1", "uploadId": "none"})
    asked = {"origin": origin, "access-control-request-method": "PUT", "access-control-request-headers": "content-type"}
    preflight = http.send("OPTIONS", url, asked)
    if preflight.code or preflight.headers.get("access-control-allow-origin") not in {origin, "*"}:
        return False
    exposed = http.send("GET", http.sign("GET", "", {"uploads": "", "max-uploads": "1"}), {"origin": origin}).headers
    names = {name.strip().lower() for name in exposed.get("access-control-expose-headers", "").split(",")}
    return bool(names & {"etag", "*"})


# --- lifecycle ----------------------------------------------------------------------------------------------------


def _lifecycle(examined: Examined, needs: Needs, apply: bool) -> Iterator[Finding]:
    """Whether the store drops what is left behind, and not before our own deadline."""
    check, prefix = "store.lifecycle", f"{needs.key_prefix}/"
    # A day more: rules run once a day, and the deadline is followed by the sweeper's own work.
    days = math.ceil(needs.upload_lifetime / _DAY) + 1
    try:
        rules = [rule for rule in lifecycle_rules(examined.control) if rule.covers(prefix)]
    except RulesUnsupportedError as exc:
        yield Finding(check, Verdict.NOTE, f"the store shows no lifecycle rules ({exc}): only the sweeper cleans up")
        return
    for rule in rules:
        if rule.expires_after is not None:
            message = (
                f"rule {rule.name!r} deletes objects after {rule.expires_after} days: files will vanish behind our back"
            )
            yield Finding("store.expiration", Verdict.WARNING, message, f"exclude {prefix} from it")
    reaping = [rule for rule in rules if rule.abandoned_after is not None]
    hasty = [rule for rule in reaping if (rule.abandoned_after or 0) < days]
    if hasty:
        message = f"rule {hasty[0].name!r} drops multipart uploads after {hasty[0].abandoned_after} days, before their deadline"
        yield Finding(check, Verdict.FAILED, message, f"{days} days or more, or a shorter UPLOADCORE_UPLOAD_LIFETIME")
    elif reaping:
        yield Finding(
            check, Verdict.OK, f"multipart uploads left behind are dropped after {reaping[0].abandoned_after} days"
        )
    elif not apply:
        message = "no rule drops multipart uploads left behind: should the database be lost, they are stored and paid for ever"
        yield Finding(check, Verdict.WARNING, message, f"uploadcore doctor --apply adds one of {days} days")
    else:
        try:
            add_lifecycle_rule(examined.control, prefix=prefix, days=days)
        except RulesUnsupportedError as exc:
            yield Finding(
                check, Verdict.WARNING, f"the store does not take a lifecycle rule: {exc}", "set one by its own means"
            )
        else:
            yield Finding(
                check, Verdict.OK, f"a rule was added: multipart uploads left behind are dropped after {days} days"
            )


# --- what it enforces ---------------------------------------------------------------------------------------------


def _enforcement(examined: Examined, needs: Needs, _apply: bool) -> Iterator[Finding]:
    """What the store is said to do against what it does; and what no store may let through."""
    probe = Probe(examined.control, needs.key_prefix)
    found = words(probe.capabilities())
    found |= {
        name
        for name, is_so in (("conditional_complete", probe.conditional_complete), ("object_size", probe.object_size))
        if is_so()
    }
    said = words(examined.capabilities)
    said |= {"conditional_complete"} if examined.conditional_complete else set()
    said |= {"object_size"} if examined.declares_object_size else set()
    for word in sorted(said - found):
        message = f"configured, and the store does not do it: {_DOES[word]}"
        yield Finding(f"store.capability.{word}", Verdict.FAILED, message, f"take {word} out of `capabilities`")
    for word in sorted(found - said):
        message = f"the store does it, and it is not used: {_DOES[word]}"
        yield Finding(f"store.capability.{word}", Verdict.NOTE, message)
    for word in sorted(found & said):
        yield Finding(f"store.capability.{word}", Verdict.OK, _DOES[word])
    if found != said:
        told = f"capabilities={','.join(sorted(found)) or 'none'}"
        yield Finding("store.capabilities", Verdict.NOTE, "not all is used as it is", f"UPLOADCORE_STORAGE=…?…&{told}")
    if not probe.length_bound():
        message = "a URL signed for one length takes another: sizes are found wrong only at completion"
        yield Finding("store.length", Verdict.WARNING, message, "see whether a proxy in front drops Content-Length")
    else:
        yield Finding("store.length", Verdict.OK, "a URL takes the length it was signed for and no other")
    if not probe.unsigned_copy_source_refused():
        message = "a part's URL honours an unsigned x-amz-copy-source: whoever has one can copy any object its signer may read"
        fix = "write_role=… with docs/policies/uploadcore-write.json, which can read nothing; or refuse that header at a proxy"
        yield Finding("store.copy_source", Verdict.FAILED, message, fix)
    else:
        yield Finding("store.copy_source", Verdict.OK, "an x-amz-copy-source that was not signed is refused")


def words(capabilities: StoreCapabilities) -> set[str]:
    """Capabilities as `capabilities=…` of a store's URL spells them."""
    spelled = set()
    for field in fields(capabilities):
        value = getattr(capabilities, field.name)
        if isinstance(value, frozenset):
            spelled |= {f"{field.name.removesuffix('_checksums')}_{algorithm}" for algorithm in value}
        elif value:
            spelled.add(field.name)
    return spelled


_DOES = {
    "concurrent_complete": "completions at once do no harm",
    "conditional_complete": "completion with If-None-Match: * does not overwrite",
    "conditional_put": "PUT with If-None-Match: * does not overwrite; small files then take one request",
    "forgets_completed": "a completed upload's parts are listed no more",
    "get_signs_head": "a URL signed for GET answers HEAD",
    "late_parts_refused": "a part sent after completion is refused",
    "list_by_prefix": "multipart uploads are listed by prefix",
    "object_size": "completion with a wrong x-amz-mp-object-size is refused",
    "repeatable_complete": "completing again answers success",
    **{f"object_{algorithm}": f"completion verifies a {algorithm} of the whole" for algorithm in ChecksumAlgorithm},
    **{f"part_{algorithm}": f"a part's {algorithm} is verified" for algorithm in ChecksumAlgorithm},
}
