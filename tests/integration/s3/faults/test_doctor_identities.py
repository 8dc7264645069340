"""What the doctor finds where one identity signs PUTs and another does the rest; and of the rules and words it suggests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.integration.s3.faults.scripted import Answer, Call, ScriptedS3, document, error, hangs
from tests.integration.s3.faults.stores import ALL, Bench, until
from tests.integration.s3.faults.test_doctor import NEEDS, ORIGIN, Rules, findings, lifecycle, rule
from uploadcore.diagnosis import Needs, Verdict
from uploadcore.file import ChecksumAlgorithm
from uploadcore_s3 import Credentials
from uploadcore_s3.configuration import parse_capabilities

WRITE = Credentials("AKIDWRITE", "write/secret+that/nobody/sees")


@pytest.fixture
def bucket(far: ScriptedS3) -> Rules:
    made = Rules()
    far.always("other", made)
    far.always("part", made.part)
    return made


@pytest.fixture
async def two(bench_of: Callable[..., Any]) -> Bench:
    """A store where another identity signs PUTs."""
    bench: Bench = await bench_of(write_credentials=WRITE)
    return bench


def denied_to_write(call: Call) -> Answer:
    return error(403, "AccessDenied") if call.access_key == WRITE.access_key else call.effect()


# --- identities -------------------------------------------------------------------------------------------------------


async def test_cors_is_looked_at_with_what_the_write_identity_may(two: Bench, far: ScriptedS3, bucket: Rules) -> None:
    for operation in ("get", "delete", "list_multiparts"):
        far.always(operation, denied_to_write)

    assert (await findings(two, apply=True))["store.cors"].verdict is Verdict.OK
    assert (await findings(two))["store.cors"].verdict is Verdict.OK


async def test_an_identity_that_may_read_is_found_out_though_it_may_not_list(
    two: Bench, far: ScriptedS3, bucket: Rules
) -> None:
    for operation in ("delete", "list_multiparts"):
        far.always(operation, denied_to_write)
    far.always("get", lambda call: call.effect() if call.key in far.objects else denied_to_write(call))

    found = (await findings(two))["store.identities"]

    assert found.verdict is Verdict.WARNING
    assert found.message.endswith("may also read")
    assert not far.objects


@pytest.mark.parametrize("may_read", [True, False])
async def test_what_a_url_copies_is_what_the_identity_that_signs_it_may_read(
    two: Bench, far: ScriptedS3, bucket: Rules, may_read: bool
) -> None:
    def copies(call: Call) -> Answer:
        source = call.headers.get("x-amz-copy-source")
        if source is None:
            return bucket.part(call)
        if call.access_key == WRITE.access_key and not may_read:
            return error(403, "AccessDenied")
        return replace(call, body=far.objects[source.split("/", 2)[2]].body).effect()

    far.always("part", copies)

    assert (await findings(two))["store.copy_source"].verdict is (Verdict.FAILED if may_read else Verdict.OK)


async def test_a_copy_refused_as_not_implemented_is_refused(bench: Bench, far: ScriptedS3, bucket: Rules) -> None:
    far.always(
        "part",
        lambda call: error(501, "NotImplemented") if "x-amz-copy-source" in call.headers else bucket.part(call),
    )

    assert (await findings(bench))["store.copy_source"].verdict is Verdict.OK


# --- reaching it ------------------------------------------------------------------------------------------------------


async def test_a_clock_that_is_wrong_is_told_before_the_refusal_it_causes(bench: Bench, far: ScriptedS3) -> None:
    far.clock_offset = timedelta(hours=1)
    far.always("list_multiparts", lambda call: error(403, "AccessDenied"))

    found = await findings(bench)

    assert [*found][:2] == ["store.clock", "store.reachable"]
    assert found["store.clock"].verdict is Verdict.WARNING


async def test_the_region_that_is_set_is_not_told_to_be_set(bench: Bench, far: ScriptedS3) -> None:
    far.always("list_multiparts", lambda call: error(403, "InvalidAccessKeyId", x_amz_bucket_region="us-east-1"))

    assert "access key" in (await findings(bench))["store.reachable"].fix


async def test_a_put_that_is_refused_is_found_where_one_would_be_sent(
    bench: Bench, far: ScriptedS3, bucket: Rules
) -> None:
    refused = [error(403, "AccessDenied")]
    far.always("put", lambda call: refused.pop() if refused and "if-none-match" in call.headers else call.effect())

    assert (await findings(bench))["store.permission.put_object"].verdict is Verdict.FAILED


async def test_a_visit_that_is_broken_off_leaves_nothing(bench: Bench, far: ScriptedS3) -> None:
    far.always("list_parts", hangs)
    visit = asyncio.ensure_future(findings(bench))
    await until(lambda: far.in_flight["list_parts"] == 1)
    assert far.multiparts
    visit.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visit

    assert not far.multiparts


# --- rules of the bucket ----------------------------------------------------------------------------------------------


def cors(origin: str, *, headers: str = "*", exposed: str = "ETag", name: str = "other") -> str:
    return (
        f"<CORSRule><ID>{name}</ID><AllowedOrigin>{origin}</AllowedOrigin><AllowedMethod>PUT</AllowedMethod>"
        f"<AllowedHeader>{headers}</AllowedHeader><ExposeHeader>{exposed}</ExposeHeader></CORSRule>"
    )


async def test_our_cors_rule_comes_before_one_that_would_hide_the_etag_and_is_one(bench: Bench, bucket: Rules) -> None:
    bucket.documents["cors"] = document("CORSConfiguration", cors("*", exposed="Date"))

    assert (await findings(bench))["store.cors"].verdict is Verdict.FAILED
    assert (await findings(bench, apply=True))["store.cors"].verdict is Verdict.OK
    other = "https://other.example"
    bucket.documents["cors"] = bucket.documents["cors"].replace(b"ETag", b"Date")
    needs = Needs("up", timedelta(days=1), origins=(other,))
    assert (await findings(bench, needs=needs, apply=True))["store.cors"].verdict is Verdict.OK

    [ours, _] = bucket.rules("cors")
    assert [one.text for one in ours.findall("{*}AllowedOrigin")] == [ORIGIN, other]


async def test_a_cors_rule_that_does_not_take_effect_at_once_is_not_told_to_have(bench: Bench, far: ScriptedS3) -> None:
    bucket = Rules()
    far.always("other", lambda call: error(403, "AccessForbidden") if call.method == "OPTIONS" else bucket(call))

    found = (await findings(bench, apply=True))["store.cors"]

    assert found.verdict is Verdict.WARNING
    assert "again" in found.fix


async def test_a_preflight_asks_for_what_clients_send(bench: Bench, bucket: Rules) -> None:
    bucket.documents["cors"] = document("CORSConfiguration", cors(ORIGIN, headers="content-type"))

    assert (await findings(bench))["store.cors"].verdict is Verdict.FAILED


async def test_services_that_share_a_bucket_leave_each_other_their_lifecycle_rules(bench: Bench, bucket: Rules) -> None:
    await findings(bench, apply=True)
    await findings(bench, needs=Needs("other", timedelta(days=3)), apply=True)

    made = {one.findtext("{*}ID"): one.findtext("{*}Filter/{*}Prefix") for one in bucket.rules("lifecycle")}
    assert len(made) == 2
    assert set(made.values()) == {"up/", "other/"}


async def test_what_a_lifecycle_says_of_small_objects_is_said_again(
    bench: Bench, far: ScriptedS3, bucket: Rules
) -> None:
    name = "x-amz-transition-default-minimum-object-size"
    sent: list[str | None] = []

    def answered(call: Call) -> Answer:
        if "lifecycle" in call.query and call.method == "PUT":
            sent.append(call.headers.get(name))
        return replace(bucket(call), headers={name: "varies_by_storage_class"})

    bucket.documents["lifecycle"] = lifecycle(rule("logs", prefix="logs/", expires=3))
    far.always("other", answered)
    await findings(bench, needs=Needs("up", timedelta(days=1)), apply=True)

    assert sent == ["varies_by_storage_class"]


DATED = "<ID>dated</ID><Filter><Prefix/></Filter><Status>Enabled</Status><Expiration><Date>2030-01-01T00:00:00Z</Date></Expiration>"


@pytest.mark.parametrize(
    ("there", "verdicts"),
    [
        (rule("below", prefix="up/a", abandoned=1), {"store.lifecycle": Verdict.FAILED}),
        (rule("part of it", prefix="up/a", abandoned=9), {"store.lifecycle": Verdict.WARNING}),
        (rule("below", prefix="up/a", expires=3), {"store.expiration": Verdict.WARNING}),
        (DATED, {"store.expiration": Verdict.WARNING}),
    ],
    ids=["hasty", "slow", "expiring", "dated"],
)
async def test_a_lifecycle_rule_counts_where_it_meets_some_of_our_keys(
    bench: Bench, bucket: Rules, there: str, verdicts: Mapping[str, Verdict]
) -> None:
    bucket.documents["lifecycle"] = lifecycle(there)

    found = await findings(bench)

    assert {check: found[check].verdict for check in verdicts} == verdicts


async def test_rules_that_may_not_be_seen_are_told_apart_from_none(bench: Bench, far: ScriptedS3) -> None:
    far.always("other", lambda call: error(403, "AccessDenied"))

    found = await findings(bench, apply=True)

    assert "s3:GetLifecycleConfiguration" in found["store.lifecycle"].fix
    assert "s3:GetBucketCORS" in found["store.cors"].fix


# --- words ------------------------------------------------------------------------------------------------------------


async def test_the_words_that_are_suggested_can_be_used_together(
    bench_of: Callable[..., Any], far: ScriptedS3, bucket: Rules
) -> None:
    """A store as S3 is: it has either checksum of the whole, and takes of parts the one that was declared."""
    declared: dict[str, str] = {}

    def creates(call: Call) -> Answer:
        answer = call.effect()
        declared[call.key] = call.headers.get("x-amz-checksum-algorithm", "").lower()
        return answer

    def verifies(call: Call) -> Answer:
        for algorithm in ChecksumAlgorithm:
            told = call.headers.get(f"x-amz-checksum-{algorithm}")
            if told is not None and (algorithm != declared[call.key] or set(told) <= set("A=")):
                return error(400, "BadDigest")
        return call.effect()

    def heads(call: Call) -> Answer:
        answer = call.effect()
        known = {"crc64nvme": "rosUhgp5mIg=", "crc32c": "4waSgw=="}
        told = {f"x-amz-checksum-{name}": value for name, value in known.items() if declared.get(call.key) == name}
        return replace(answer, headers={**answer.headers, **told})

    for operation, script in (("create", creates), ("part", verifies), ("complete", verifies), ("head", heads)):
        far.always(operation, script)
    bench = await bench_of(capabilities=replace(ALL, concurrent_complete=False))

    found = await findings(bench, needs=replace(NEEDS, origins=()))

    words = found["store.capabilities"].fix.partition("capabilities=")[2]
    options = parse_capabilities(words)
    await bench_of(is_open=False, **options)  # it is no error
    assert {word for word in words.split(",") if "crc" in word or "sha" in word} == {
        "object_crc64nvme",
        "part_crc64nvme",
    }
    assert "concurrent_complete" not in words
    assert "store.capability.object_crc32c" in found
    assert "store.capability.concurrent_complete" in found
