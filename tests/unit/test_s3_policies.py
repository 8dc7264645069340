"""The policies that are shipped allow what the store calls, and no more."""

from __future__ import annotations

import inspect
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from uploadcore.config import UploadConfig
from uploadcore_s3.bucket_rules import _ACTIONS, CORS_ID, rule_id
from uploadcore_s3.client import S3Client

POLICIES = Path(__file__).parents[2] / "docs" / "policies"
ACTIONS = {
    "create_multipart": {"s3:PutObject"},
    "list_parts": {"s3:ListMultipartUploadParts"},
    "complete_multipart": {"s3:PutObject"},
    "abort_multipart": {"s3:AbortMultipartUpload"},
    "list_multiparts": {"s3:ListBucketMultipartUploads"},
    # Without s3:ListBucket an object that is not there answers 403.
    "head": {"s3:GetObject", "s3:ListBucket"},
    "delete": {"s3:DeleteObject"},
    "put_empty": {"s3:PutObject"},
}
"""Source: S3 User Guide, "Required permissions for Amazon S3 API operations"."""
OF_BUCKETS = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}
NO_CALLS = {"close", "credentials", "endpoint", "region", "transport"}


def policy(name: str) -> Any:
    return json.loads((POLICIES / name).read_text())


def actions(name: str) -> set[str]:
    return {action for statement in policy(name)["Statement"] for action in statement["Action"]}


def test_every_call_of_the_store_is_in_the_table_above() -> None:
    members = {name for name, _ in inspect.getmembers(S3Client) if not name.startswith("_")}

    assert members == ACTIONS.keys() | NO_CALLS


def test_control_may_do_what_the_store_calls_and_signs_gets_with() -> None:
    assert actions("uploadcore-control.json") == set().union(*ACTIONS.values())


def test_the_doctor_may_see_and_set_the_rules_of_the_bucket_and_nothing_else() -> None:
    [statement] = policy("uploadcore-doctor.json")["Statement"]

    assert set(statement["Action"]) == set(_ACTIONS.values())
    assert (statement["Effect"], statement["Resource"]) == ("Allow", "arn:aws:s3:::BUCKET")


def test_write_may_put_objects_and_parts_only() -> None:
    assert actions("uploadcore-write.json") == {"s3:PutObject"}


@pytest.mark.parametrize("name", ["uploadcore-control.json", "uploadcore-write.json"])
def test_actions_are_allowed_on_what_they_are_of_and_below_the_default_prefix(name: str) -> None:
    for statement in policy(name)["Statement"]:
        is_of_bucket = set(statement["Action"]) <= OF_BUCKETS
        below = f"arn:aws:s3:::BUCKET/{UploadConfig().key_prefix}/*"
        assert statement["Resource"] == ("arn:aws:s3:::BUCKET" if is_of_bucket else below)
        assert statement["Effect"] == "Allow"


def test_a_browser_sees_the_etag_and_may_send_what_is_signed() -> None:
    [rule] = policy("bucket-cors.json")["CORSRules"]

    assert rule["ID"] == CORS_ID
    assert "ETag" in rule["ExposeHeaders"]
    assert {"PUT", "GET"} <= set(rule["AllowedMethods"])
    assert {"content-type", "if-none-match", "x-amz-*"} <= set(rule["AllowedHeaders"])


def test_an_upload_outlives_its_deadline_before_the_rule_takes_it() -> None:
    [rule] = policy("bucket-lifecycle.json")["Rules"]

    assert rule["ID"] == rule_id(rule["Filter"]["Prefix"])
    assert (
        timedelta(days=rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]) > UploadConfig().upload_lifetime
    )
