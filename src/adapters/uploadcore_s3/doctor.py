"""What `uploadcore doctor` says of an S3 store: can it be reached, may we do what we need, does it enforce what it is said to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from secrets import token_hex

from uploadcore.diagnosis import Finding, Needs, Verdict
from uploadcore.errors import StoreUnavailableError, UploadCoreError
from uploadcore.file import ChecksumAlgorithm
from uploadcore.plan import Part, StoredPart
from uploadcore.ports import MARKER, ObjectHeaders, SignedRequest, StoreCapabilities
from uploadcore.upload import Address
from uploadcore_s3.doctor_bucket import lifecycle, origins
from uploadcore_s3.errors import S3CallError
from uploadcore_s3.examined import Examined
from uploadcore_s3.probe import Probe, Reply
from uploadcore_s3.store_clock import parse_date

__all__ = ["examine"]

_SKEW_TO_MEND = timedelta(minutes=1)
_MINIO_REAPS_AFTER = timedelta(hours=24)
"""`stale_uploads_expiry` by default (MinIO, "api" settings)."""
_MINUTE = timedelta(minutes=1)
_BODY = b"uploadcore doctor"


async def examine(examined: Examined, needs: Needs, *, apply: bool) -> AsyncIterator[Finding]:
    """Every finding, as it is made. What can't work without the bucket is left out where that can't be reached."""
    is_reached = True
    for finding in await asyncio.to_thread(lambda: list(_reaching(examined))):
        is_reached = is_reached and finding.verdict is not Verdict.FAILED
        yield finding
    if not is_reached:
        yield Finding("store", Verdict.NOTE, "the rest was not looked at: the bucket is out of reach")
        return
    for finding in await _permissions(examined, needs):
        yield finding
    examined = replace(examined, sent_headers=examined.sent_headers | await _sent_with_puts(examined))
    for look in (_identities, origins, lifecycle, _enforcement):
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
                f"store.{look.__name__.removeprefix('_')}",
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
    date = parse_date(reply.headers.get("date", ""))
    if date is not None:  # first: where a URL's time is wrong, S3 refuses it as it would for want of a permission
        yield _skew(datetime.now(UTC) - date)
    if reply.code:
        fix = _FIXES.get(reply.code, "compare endpoint, region, addressing and credentials with the store's own")
        if reply.region and reply.region != examined.region:
            fix = f"set region={reply.region}"
        yield Finding("store.reachable", Verdict.FAILED, f"the store refuses to show bucket {bucket}: {reply}", fix)
        return
    yield Finding("store.reachable", Verdict.OK, f"bucket {bucket} is there; endpoint, region and addressing fit")
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
            f"MinIO drops multipart uploads that have been idle for {_MINIO_REAPS_AFTER / timedelta(hours=1):.0f} h",
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
    message = (
        f"this machine's clock is off by {seconds}: signatures go by the store's time, "
        "but credentials that expire are renewed, and tokens checked, by this machine's"
    )
    fix = "synchronise this machine's clock (chrony, systemd-timesyncd)"
    return Finding("store.clock", Verdict.WARNING, message, fix)


# --- permissions --------------------------------------------------------------------------------------------------


async def _permissions(examined: Examined, needs: Needs) -> list[Finding]:
    """Every call there is, made as the service makes it, one by one. What they leave goes, also where the visit is broken off."""
    trial = _Trial(examined, f"{needs.key_prefix}/doctor/{token_hex(8)}")
    try:
        return [finding async for finding in _tried(trial, needs, can_put=examined.capabilities.conditional_put)]
    finally:
        await trial.clean_up()


async def _tried(trial: _Trial, needs: Needs, *, can_put: bool) -> AsyncIterator[Finding]:
    for call, permission in (
        (trial.create_multipart, "s3:PutObject"),
        (trial.put_part, "s3:PutObject, for the identity that signs PUTs,"),
        (trial.list_parts, "s3:ListMultipartUploadParts"),
        (trial.list_multiparts, "s3:ListBucketMultipartUploads"),
        (trial.head_of_nothing, "s3:ListBucket"),
        (trial.complete_multipart, "s3:PutObject"),
        (trial.head, "s3:GetObject"),
        (trial.get, "s3:GetObject"),
        *([(trial.put_object, "s3:PutObject, for the identity that signs PUTs,")] if can_put else []),
        (trial.put_marker, "s3:PutObject"),
        (trial.abort_multipart, "s3:AbortMultipartUpload"),
        (trial.delete, "s3:DeleteObject"),
    ):
        check = f"store.permission.{call.__name__}"
        try:
            await call()
        except UploadCoreError as exc:
            fix = _fix_of(exc, f"allow {permission} under {needs.key_prefix}/")
            yield Finding(check, Verdict.FAILED, exc.message, fix)
            if call in {trial.create_multipart, trial.put_part}:
                yield Finding(
                    "store.permission", Verdict.NOTE, "the other calls were not tried: they need a part to work on"
                )
                break
        else:
            yield Finding(check, Verdict.OK, f"{permission} is allowed")


def _fix_of(error: UploadCoreError, permission: str) -> str:
    """Permissions mend what is a matter of them; not a store that failed, nor a key or a clock that is wrong."""
    refusal = error.__cause__
    if not isinstance(refusal, S3CallError) or refusal.status not in {401, 403}:
        return _FIXES.get(getattr(refusal, "code", ""), "see what the store's log says")
    return permission if refusal.code == "AccessDenied" else _FIXES.get(refusal.code, permission)


_HEADERS = ObjectHeaders(content_type="text/plain", metadata={MARKER: "doctor"})


async def _sent_with_puts(examined: Examined) -> set[str]:
    """The headers that signed PUTs of this store come with."""
    algorithms = examined.capabilities.part_checksums
    names = {f"x-amz-checksum-{algorithm}" for algorithm in algorithms}
    if examined.capabilities.conditional_put:
        address = Address(examined.store.bucket, "doctor")
        with suppress(UploadCoreError):  # that it can't be signed is a finding already
            part = Part(1, 0, 1)
            signed = await examined.store.presign_put(address, part, _HEADERS, checksum=None, expires_in=_MINUTE)
            names |= {name.lower() for name in signed.headers}
    return names


class _Trial:
    """One upload from beginning to end, and what is done beside it. Each step takes what the one before has left."""

    def __init__(self, examined: Examined, key: str) -> None:
        self._store = examined.store
        self._http = examined.write
        self._address = Address(examined.store.bucket, key)
        self._parts: list[StoredPart] = []

    async def create_multipart(self) -> None:
        made = await self._store.create_multipart(self._address, _HEADERS)
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

    async def put_object(self) -> None:
        beside = replace(self._address, key=f"{self._address.key}-put")
        signed = await self._store.presign_put(
            beside, Part(1, 0, len(_BODY)), _HEADERS, checksum=None, expires_in=_MINUTE
        )
        try:
            await self._send(signed, _BODY)
        finally:
            with suppress(UploadCoreError):
                await self._store.delete(beside)

    async def put_marker(self) -> None:
        await self._store.put_marker(self._address, _HEADERS)

    async def abort_multipart(self) -> None:
        made = await self._store.create_multipart(self._address, _HEADERS)
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
            refusal = S3CallError(reply.status, reply.code)
            raise StoreUnavailableError(f"a signed {signed.method} is refused: {reply}") from refusal
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
    # An object that is there: of one that is not, S3 says 403 to whoever may not list, whatever else they may.
    key = f"{needs.key_prefix}/doctor/{token_hex(8)}"
    put = examined.control.request("PUT", key, body=_BODY)
    if put.code:
        raise StoreUnavailableError(f"the store refuses the object to try the other identity on: {put}")
    try:
        allowed = [
            what
            for what, tries in (
                ("read", [("GET", key, {})]),
                ("list", [("GET", "", {"uploads": ""}), ("GET", "", {"list-type": "2", "prefix": key})]),
                ("delete", [("DELETE", key, {})]),
            )
            if any(_is_allowed(examined.write.request(method, at, query=query)) for method, at, query in tries)
        ]
    finally:
        examined.control.request("DELETE", key)
    if allowed:
        fix = "give it docs/policies/uploadcore-write.json and nothing else"
        yield Finding(check, Verdict.WARNING, f"the identity that signs PUTs may also {', '.join(allowed)}", fix)
    else:
        yield Finding(check, Verdict.OK, "the identity that signs PUTs can neither read, list nor delete")


def _is_allowed(reply: Reply) -> bool:
    if reply.status >= 500 and reply.status != 501:
        raise StoreUnavailableError(f"the store answered {reply}")
    return not reply.code


# --- what it enforces ---------------------------------------------------------------------------------------------


def _enforcement(examined: Examined, needs: Needs, _apply: bool) -> Iterator[Finding]:
    """What the store is said to do against what it does; and what no store may let through."""
    probe = Probe(examined.control, needs.key_prefix)
    configured = next(iter(examined.capabilities.object_checksums), None)
    able = probe.capabilities(declared=configured)
    found = words(able)
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
    fitting = words(_fitting(probe, able, configured)) | (found & {"conditional_complete", "object_size"})
    fitting -= {"concurrent_complete"} - said  # one race that went well proves little: that is for an operator to say
    if fitting != said:
        told = f"capabilities={','.join(sorted(fitting)) or 'none'}"
        yield Finding("store.capabilities", Verdict.NOTE, "not all is used as it is", f"UPLOADCORE_STORAGE=…?…&{told}")
    if not probe.length_bound():
        message = "a URL signed for one length takes another: sizes are found wrong only at completion"
        yield Finding("store.length", Verdict.WARNING, message, "see whether a proxy in front drops Content-Length")
    else:
        yield Finding("store.length", Verdict.OK, "a URL takes the length it was signed for and no other")
    if not probe.unsigned_copy_source_refused(examined.write):
        message = "a part's URL honours an unsigned x-amz-copy-source: whoever has one can copy any object its signer may read"
        fix = "write_role=… with docs/policies/uploadcore-write.json, which can read nothing; or refuse that header at a proxy"
        yield Finding("store.copy_source", Verdict.FAILED, message, fix)
    else:
        yield Finding("store.copy_source", Verdict.OK, "an x-amz-copy-source that was not signed copies nothing")


def _fitting(probe: Probe, able: StoreCapabilities, configured: ChecksumAlgorithm | None) -> StoreCapabilities:
    """What can be configured together: an upload has one checksum of the whole, and what it declares decides which its parts take."""
    preferred = (configured, ChecksumAlgorithm.CRC64NVME, ChecksumAlgorithm.CRC32C)
    whole = next((algorithm for algorithm in preferred if algorithm in able.object_checksums), None)
    parts = able.part_checksums if whole is configured else probe.part_checksums(declared=whole)
    return replace(able, object_checksums=frozenset() if whole is None else frozenset({whole}), part_checksums=parts)


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
    "late_parts_refused": "a part sent after completion changes nothing",
    "list_by_prefix": "multipart uploads are listed by prefix",
    "object_size": "completion with a wrong x-amz-mp-object-size is refused",
    "repeatable_complete": "completing again answers success",
    **{f"object_{algorithm}": f"completion verifies a {algorithm} of the whole" for algorithm in ChecksumAlgorithm},
    **{f"part_{algorithm}": f"a part's {algorithm} is verified" for algorithm in ChecksumAlgorithm},
}
