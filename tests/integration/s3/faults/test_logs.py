"""The log of a service on a store: what its SDKs would say is in it as JSON, or not at all where it tells storage addresses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import httpx

from tests.integration.http.process import service_process
from tests.integration.s3.faults.scripted import ScriptedS3, edits, refuses
from tests.integration.s3.faults.stores import BUCKET

OPTIONS = "region=us-east-1&part_size_min=1"
BODY = b"0123456789"


def test_no_storage_address_is_in_the_log_even_at_its_most_talkative(far: ScriptedS3, sdk: str, tmp_path: Path) -> None:
    storage = {
        "s3": f"s3://{BUCKET}?endpoint={far.url}&addressing=path&{OPTIONS}",
        "minio": f"minio://{far.url.removeprefix('http://')}/{BUCKET}?secure=false&{OPTIONS}",
    }[sdk]
    far.script("head", refuses(500, "InternalError"))  # is tried again
    # A line that is no header, in an answer that counts all the same: urllib3 warns of it, with the whole URL.
    far.always("list_parts", edits(lambda answer: replace(answer, headers={**answer.headers, "X-A": "b\r\nno header"})))

    log, said = _told_by_an_upload(tmp_path, storage)

    [key] = {call.key for call in far.calls if call.operation == "complete"}
    assert far.count("list_parts") > 0
    for secret in (f"/{BUCKET}", *key.split("/")[1:], *far.secrets, "uploadId="):
        assert secret not in log
    lines = [json.loads(line) for line in log.splitlines()]
    assert {line["logger"] for line in lines if line["event"] == "request"} == {"uploadcore.http"}
    assert "stamina" in {line["logger"] for line in lines}, "what is tried again is told"
    assert said == "", "and not on stdout"


def _told_by_an_upload(folder: Path, storage: str) -> tuple[str, str]:
    """What a service logs, and what it says besides, while a file is uploaded to that store and deleted."""
    with service_process(folder, log_level="debug", storage=storage) as served:
        with httpx.Client(base_url=served.url, timeout=60) as api:
            asked = {"filename": "a", "size": len(BODY), "part_size": 5, "sign": 2}
            upload = api.post("/v1/uploads", json=asked).raise_for_status().json()
            for part in upload["parts"]:
                body = BODY[part["offset"] : part["offset"] + part["length"]]
                httpx.put(part["url"], headers=part["headers"], content=body).raise_for_status()
            api.post(f"/v1/uploads/{upload['id']}/complete").raise_for_status()
            api.delete(f"/v1/files/{upload['file_id']}").raise_for_status()
        served.stop()
        assert served.process.stdout is not None
        return served.log.read_text(), served.process.stdout.read()
