"""The doctor against a real store, over both SDKs; and the command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.servers.s3 import S3Server
from tests.soak.service import COMMAND
from uploadcore.diagnosis import Needs, Verdict
from uploadcore.ports import StoreCapabilities
from uploadcore_s3 import Credentials, MinioObjectStore, S3ObjectStore, StoreOptions

NEEDS = Needs("up", timedelta(days=1))
Store = S3ObjectStore | MinioObjectStore


@pytest.fixture(params=["s3", "minio"])
async def store(request: pytest.FixtureRequest, s3_server: S3Server, s3_options: StoreOptions) -> AsyncIterator[Store]:
    make = S3ObjectStore if request.param == "s3" else MinioObjectStore
    made = make(s3_server.new_bucket(), **s3_options)
    await made.open()
    yield made
    await made.close()


async def test_what_the_suite_takes_the_store_for_is_what_it_does(store: Store, s3_server: S3Server) -> None:
    found = [finding async for finding in store.diagnose(NEEDS, apply=False)]

    assert not [finding for finding in found if finding.verdict is Verdict.FAILED]
    unused = {finding.check.rpartition(".")[2] for finding in found if finding.verdict is Verdict.NOTE}
    # What one race shows of `concurrent_complete` differs from run to run: that one is for an operator to say.
    tried = set(StoreCapabilities.__dataclass_fields__) - {"concurrent_complete"}
    assert not unused & tried
    client = s3_server.client()
    assert not client.list_objects_v2(Bucket=store.bucket).get("Contents"), "nothing is left behind"
    assert not client.list_multipart_uploads(Bucket=store.bucket).get("Uploads")
    client.close()


@pytest.mark.parametrize("make", [S3ObjectStore, MinioObjectStore], ids=["s3", "minio"])
async def test_what_it_is_said_to_do_and_does_not_is_found_out(
    make: type[Store], s3_server: S3Server, s3_options: StoreOptions, s3_capabilities: StoreCapabilities
) -> None:
    options = s3_options | StoreOptions(capabilities=replace(s3_capabilities, late_parts_refused=True))
    store = make(s3_server.new_bucket(), **options)
    await store.open()
    found = {finding.check: finding async for finding in store.diagnose(NEEDS, apply=False)}
    await store.close()

    assert (found["store.capability.late_parts_refused"].verdict is Verdict.FAILED) == (
        not s3_capabilities.late_parts_refused
    )


@pytest.mark.parametrize("make", [S3ObjectStore, MinioObjectStore], ids=["s3", "minio"])
async def test_wrong_keys_are_one_finding_without_a_key_in_it(
    make: type[Store], s3_server: S3Server, s3_options: StoreOptions
) -> None:
    secret = "a/secret+that/opens/nothing"
    store = make("media", **(s3_options | StoreOptions(credentials=Credentials(s3_server.access_key, secret))))
    await store.open()
    found = {finding.check: finding async for finding in store.diagnose(NEEDS, apply=False)}
    await store.close()

    assert found["store.reachable"].verdict is Verdict.FAILED
    assert "secret key" in found["store.reachable"].fix
    assert secret not in str(found)
    assert set(found) == {"store.clock", "store.reachable", "store"}


# --- the command ----------------------------------------------------------------------------------------------------


def doctor(folder: Path, server: S3Server, bucket: str, *arguments: str, **settings: str) -> tuple[int, Any, str]:
    """Its exit status, what it printed and what it complained of."""
    query = urlencode({"endpoint": server.endpoint, "region": server.region, "capabilities": "swift"})
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("UPLOADCORE_")},
        "UPLOADCORE_DATA_DIR": str(folder),
        "UPLOADCORE_STORAGE": f"s3://{bucket}?{query}",
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        **settings,
    }
    ran = subprocess.run(
        [*COMMAND, "doctor", *arguments], check=False, env=environment, capture_output=True, text=True, timeout=60
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_the_command_examines_store_database_and_cache(tmp_path: Path, s3_server: S3Server) -> None:
    status, printed, complaints = doctor(tmp_path, s3_server, s3_server.new_bucket(), "--json")

    told = json.loads(printed)
    assert (status, told["ok"], complaints) == (0, True, "")
    checks = {finding["check"] for finding in told["findings"]}
    assert {"store.reachable", "store.permission.complete_multipart", "database.schema", "cache.round_trip"} <= checks
    assert {set(finding) == {"check", "verdict", "message", "fix"} for finding in told["findings"]} == {True}


def test_a_failure_is_exit_status_1_a_table_and_what_to_do(tmp_path: Path, s3_server: S3Server) -> None:
    status, printed, complaints = doctor(tmp_path, s3_server, "no-such-bucket", UPLOADCORE_CACHE="none")

    assert status == 1
    assert complaints == ""
    assert "store.reachable: make the bucket" in printed
    assert "database.schema" in printed, "one that is wrong hides nothing of the others"
    assert "UPLOADCORE_CACHE=redis" in printed
    assert s3_server.secret_key not in printed


def test_a_url_that_can_not_be_used_is_a_finding(tmp_path: Path, s3_server: S3Server) -> None:
    status, printed, _ = doctor(tmp_path, s3_server, "media", "--json", UPLOADCORE_STORAGE="s4://media")

    [finding] = [one for one in json.loads(printed)["findings"] if one["check"].startswith("store")]
    assert status == 1
    assert (finding["check"], finding["verdict"]) == ("store.configuration", "failed")
    assert "s4://" in finding["message"]
