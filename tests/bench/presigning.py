"""Signing 1,000 parts, against boto3, against minio-py, and against what can't be spared: three SHA-256 states copied and finished.

    python -m tests.bench.presigning

All in one thread of one process, in turns; a ratio is the median over the turns. Then a batch of 100 over HTTP, with a warm token, against
the same handler with boto3; each served on one core, in turns. Where Swift runs the upload is begun there; else that one is left out.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import boto3
from botocore.config import Config
from minio import Minio

from tests.bench.load import post, rate
from tests.bench.server import process, uvicorn
from tests.bench.signing import initiated, token
from tests.servers.process import ServerError, free_port
from tests.servers.swift import SwiftServer
from uploadcore_s3.signing import Credentials, QuerySigner

TURNS = 9
HTTP_TURNS = 5
HTTP_SECONDS = 2.0
PARTS = 1_000
PART_SIZE = 8 * 1024 * 1024
BUCKET = "media"
REGION = "eu-central-1"
HOST = f"s3.{REGION}.amazonaws.com"
KEY = "uploads/5b1c9d0e/9f86d081884c7d65/0f8fad5b-d9cb-469f-a165-70867728950e"
UPLOAD_ID = "2~" + "Vt8dQk3xL0aZ7yBnR5cWmE1uHsJ9gPfT" * 2
LIFE = timedelta(minutes=15)
CREDENTIALS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
SIGNER = QuerySigner(f"https://{HOST}", bucket=BUCKET, region=REGION)
WHOLE = {"content-length": str(PART_SIZE)}
SAME: list[tuple[int, dict[str, str]]] = [*((n, WHOLE) for n in range(1, PARTS)), (PARTS, {"content-length": "77"})]
SUMMED = [(n, {**WHOLE, "x-amz-checksum-crc64nvme": f"AAAAAAA{n:04}="}) for n in range(1, PARTS + 1)]


@dataclass(frozen=True)
class Hashes:
    """The three hashes behind each of many signatures: a state that is begun for all, and what each goes on with."""

    request: tuple[hashlib._Hash, list[bytes]]
    inner: tuple[hashlib._Hash, list[bytes]]
    outer: tuple[hashlib._Hash, list[bytes]]

    @classmethod
    def behind(cls, urls: list[str], headers: list[dict[str, str]]) -> Hashes:
        """Made from nothing but what the URLs say, so that their signatures come out of it."""
        path, queries = urlsplit(urls[0]).path, [dict(parse_qsl(urlsplit(url).query)) for url in urls]
        date, credential = queries[0]["X-Amz-Date"], queries[0]["X-Amz-Credential"]
        signed = queries[0]["X-Amz-SignedHeaders"]
        begin = f"PUT\n{path}\n" + "".join(
            f"{name}={quote(queries[0][name], safe='')}&"
            for name in ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders")
        )
        tails = []
        for query, sent in zip(queries, headers, strict=True):
            lines = "".join(f"{name}:{value}\n" for name, value in sorted({**sent, "host": HOST}.items()))
            upload_id = quote(query["uploadId"], safe="")
            tails.append(f"{query['partNumber']}&uploadId={upload_id}\n{lines}\n{signed}\nUNSIGNED-PAYLOAD".encode())
        request = hashlib.sha256(f"{begin}partNumber=".encode())
        scope = credential.partition("/")[2]
        key = f"AWS4{CREDENTIALS.secret_key}".encode()
        for word in scope.split("/"):
            key = hmac.digest(key, word.encode(), "sha256")
        padded = key.ljust(64, b"\0")
        inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + f"AWS4-HMAC-SHA256\n{date}\n{scope}\n".encode())
        outer = hashlib.sha256(bytes(b ^ 0x5C for b in padded))
        made = cls((request, tails), (inner, []), (outer, []))
        for tail in tails:
            made.inner[1].append(_finished(request, tail).hexdigest().encode())
            made.outer[1].append(_finished(inner, made.inner[1][-1]).digest())
        assert [_finished(outer, rest).hexdigest() for rest in made.outer[1]] == [q["X-Amz-Signature"] for q in queries]
        return made

    def finish(self) -> None:
        """Copy and finish all three, for each."""
        (first, as_), (second, bs), (third, cs) = self.request, self.inner, self.outer
        for a, b, c in zip(as_, bs, cs, strict=True):
            state = first.copy()
            state.update(a)
            state.hexdigest()
            state = second.copy()
            state.update(b)
            state.hexdigest()
            state = third.copy()
            state.update(c)
            state.hexdigest()


def _finished(begun: hashlib._Hash, rest: bytes) -> hashlib._Hash:
    state = begun.copy()
    state.update(rest)
    return state


def ours(parts: list[tuple[int, dict[str, str]]]) -> list[str]:
    """All of them, signed now."""
    return SIGNER.presign_parts(CREDENTIALS, KEY, UPLOAD_ID, parts, now=datetime.now(UTC), expires_in=LIFE)


def with_boto3() -> Callable[[], list[str]]:
    """The same with boto3, which has no call for many."""
    client = boto3.client(
        "s3",
        region_name=REGION,
        aws_access_key_id=CREDENTIALS.access_key,
        aws_secret_access_key=CREDENTIALS.secret_key,
        config=Config(signature_version="s3v4"),
    )
    what = {"Bucket": BUCKET, "Key": KEY, "UploadId": UPLOAD_ID}
    seconds = int(LIFE.total_seconds())
    return lambda: [
        client.generate_presigned_url(
            "upload_part", {**what, "PartNumber": number, "ContentLength": int(sent["content-length"])}, seconds
        )
        for number, sent in SAME
    ]


def with_minio() -> Callable[[], list[str]]:
    """The same with minio-py, which can't sign a length: it is let off that."""
    client = Minio(HOST, CREDENTIALS.access_key, CREDENTIALS.secret_key, region=REGION)
    return lambda: [
        client.get_presigned_url(
            "PUT", BUCKET, KEY, LIFE, extra_query_params={"uploadId": UPLOAD_ID, "partNumber": str(number)}
        )
        for number, _ in SAME
    ]


def compared(
    name: str, work: Callable[[], object], other: Callable[[], object], turns: int, target: str, *, inverse: bool
) -> str:
    """One line: the ratio, and what it was made of. What is made is kept until it is made anew, as a service does while it answers: else
    the allocator would give its memory back to the system and fetch it again each time.
    """
    kept, pairs = [work(), other()], []
    for _ in range(turns):
        spent = []
        # Against an SDK, which takes a hundred times as long, often enough to be a measurement at all.
        for place, (task, times) in enumerate(((work, 20 if inverse else 1), (other, 1))):
            begun = time.thread_time()
            for _ in range(times):
                made = task()
            spent.append((time.thread_time() - begun) / times)
            kept[place] = made
        pairs.append(spent)
    ratios = [b / a if inverse else a / b for a, b in pairs]
    own, others = (statistics.median(times) / PARTS * 1e6 for times in zip(*pairs, strict=True))
    digits = 0 if inverse else 2
    return (
        f"{name} {statistics.median(ratios):.{digits}f} (target {target}; min {min(ratios):.{digits}f} max {max(ratios):.{digits}f}; "
        f"{own:.2f} against {others:.2f} µs a part)"
    )


def over_http(turns: int = HTTP_TURNS) -> str:
    """One line: 100 parts signed by the whole service."""
    secret, cores = secrets.token_hex(32), sorted(os.sched_getaffinity(0))
    swift = SwiftServer()
    swift.start()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        running.callback(swift.stop)
        env = {
            "UPLOADCORE_STORAGE": f"s3://{swift.new_bucket()}?endpoint={swift.endpoint}&region={swift.region}&capabilities=swift",
            "AWS_ACCESS_KEY_ID": swift.access_key,
            "AWS_SECRET_ACCESS_KEY": swift.secret_key,
            "AWS_DEFAULT_REGION": swift.region,
            "UPLOADCORE_AUTH_JWT_KEY": secret,
            "UPLOADCORE_LOG_LEVEL": "warning",
        }
        requests = []
        for app in ("signing_app", "presigning_app"):
            port = free_port()
            of_its_own = {**env, "UPLOADCORE_DATA_DIR": str(Path(folder) / app)}
            running.enter_context(process(uvicorn(f"tests.bench.{app}:app", port), port, core=cores[0], env=of_its_own))
            bearer = token(secret)
            asked = json.dumps({"part_numbers": list(range(1, 101))}).encode()
            requests.append((port, post(initiated(port, bearer), asked, token=bearer)))
        if len(cores) > 1:
            os.sched_setaffinity(0, {cores[-1]})
        for request in requests:
            rate(*request, seconds=HTTP_SECONDS / 2)
        rates = [[rate(*request, seconds=HTTP_SECONDS) for request in requests] for _ in range(turns)]
        os.sched_setaffinity(0, set(cores))
    ratios = [a / b for a, b in rates]
    own, others = (statistics.median(column) for column in zip(*rates, strict=True))
    return (
        f"sign_100_http_vs_boto3 {statistics.median(ratios):.0f} (target 40 or more; min {min(ratios):.0f} max {max(ratios):.0f}; "
        f"{own:.0f} against {others:.1f} requests/s on one core)"
    )


def main(turns: int = TURNS) -> list[str]:
    """Run; return the lines to print."""
    lines = [
        compared("sign_vs_boto3", partial(ours, SAME), with_boto3(), turns, "120 or more", inverse=True),
        compared("sign_vs_minio", partial(ours, SAME), with_minio(), turns, "25 or more", inverse=True),
    ]
    for name, parts in (("sign_vs_sha256_states", SAME), ("sign_checksums_vs_sha256_states", SUMMED)):
        hashes = Hashes.behind(ours(parts), [sent for _, sent in parts])
        target = "1.4 or less" if parts is SAME else "none of its own"
        lines.append(compared(name, partial(ours, parts), hashes.finish, turns * 10, target, inverse=False))
    try:
        lines.append(over_http())
    except ServerError as error:
        lines.append(f"sign_100_http_vs_boto3: left out: {error}")
    return lines


if __name__ == "__main__":
    print("\n".join(main()))
