"""What the doctor says of stores that are not as they should be, and what it sets right."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from fnmatch import fnmatch
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.integration.s3.faults.scripted import Answer, Call, ScriptedS3, document, element, error
from tests.integration.s3.faults.stores import ALL, Bench
from uploadcore.diagnosis import Diagnosable, Finding, Needs, Verdict
from uploadcore.ports import StoreCapabilities

ORIGIN = "https://app.example.com"
NEEDS = Needs(key_prefix="up", upload_lifetime=timedelta(days=1), origins=(ORIGIN,))


class Rules:
    """A bucket's CORS and lifecycle rules, kept as S3 keeps them; and CORS, done as they say."""

    def __init__(self, **documents: bytes) -> None:
        self.documents = documents

    def __call__(self, call: Call) -> Answer:
        if call.method == "OPTIONS":
            asked = call.headers["access-control-request-headers"].split(",")
            matched = self.matched(call, call.headers["access-control-request-method"], asked)
            if matched is None:
                return error(403, "AccessForbidden")
            return Answer(200, headers={"Access-Control-Allow-Origin": call.headers["origin"]})
        what = next((name for name in ("cors", "lifecycle") if name in call.query), None)
        if what is None:
            return error(501, "NotImplemented")
        if call.method == "PUT":
            digest = base64.b64encode(hashlib.md5(call.body, usedforsecurity=False).digest()).decode()
            assert call.headers["content-md5"] == digest
            self.documents[what] = call.body
            return Answer(200)
        missing = {"cors": "NoSuchCORSConfiguration", "lifecycle": "NoSuchLifecycleConfiguration"}[what]
        return Answer(200, self.documents[what]) if what in self.documents else error(404, missing)

    def part(self, call: Call) -> Answer:
        """UploadPart, with what a browser sees of it: of a refusal too."""
        answer = call.effect()
        matched = self.matched(call, "PUT") if "origin" in call.headers else None
        shown = [] if matched is None else [one.text or "" for one in matched.findall("{*}ExposeHeader")]
        return replace(answer, headers={**answer.headers, "Access-Control-Expose-Headers": ", ".join(shown)})

    def matched(self, call: Call, method: str, asked: Sequence[str] = ()) -> ET.Element | None:
        """The first rule that does, as S3 goes by it."""
        for one in self.rules("cors") if "cors" in self.documents else []:
            said = {
                name: [child.text or "" for child in one.findall(f"{{*}}Allowed{name}")]
                for name in ("Origin", "Method", "Header")
            }
            is_let_in = any(fnmatch(call.headers["origin"], origin) for origin in said["Origin"])
            takes_all = all(any(fnmatch(name, allowed) for allowed in said["Header"]) for name in asked)
            if is_let_in and method in said["Method"] and takes_all:
                return one
        return None

    def rules(self, what: str) -> list[ET.Element]:
        return list(ET.fromstring(self.documents[what]))


@pytest.fixture
def rules(far: ScriptedS3) -> Rules:
    made = Rules()
    far.always("other", made)
    far.always("part", made.part)
    return made


async def findings(bench: Bench, *, needs: Needs = NEEDS, apply: bool = False) -> dict[str, Finding]:
    assert isinstance(bench.store, Diagnosable)
    return {finding.check: finding async for finding in bench.store.diagnose(needs, apply=apply)}


def lifecycle(*rules: str) -> bytes:
    return document("LifecycleConfiguration", *(f"<Rule>{rule}</Rule>" for rule in rules))


def rule(
    name: str, *, prefix: str = "", abandoned: int | None = None, expires: int | None = None, more: str = ""
) -> str:
    said = element("ID", name) + f"<Filter>{element('Prefix', prefix)}{more}</Filter>" + element("Status", "Enabled")
    if abandoned is not None:
        said += f"<AbortIncompleteMultipartUpload>{element('DaysAfterInitiation', abandoned)}</AbortIncompleteMultipartUpload>"
    if expires is not None:
        said += f"<Expiration>{element('Days', expires)}</Expiration>"
    return said


async def test_a_store_that_does_what_is_needed_fails_nowhere_and_keeps_nothing(
    bench_of: Callable[..., Any], far: ScriptedS3, rules: Rules
) -> None:
    # The scripted store completes again and again with success, and its URLs for GET answer HEAD, for it verifies none.
    can = StoreCapabilities(conditional_put=True, repeatable_complete=True, concurrent_complete=True)
    bench = await bench_of(capabilities=can)
    found = await findings(bench, needs=Needs("up", timedelta(days=1)))

    failed = {check for check, finding in found.items() if finding.verdict is Verdict.FAILED}
    assert not failed
    assert found["store.permission.put_object"].verdict is Verdict.OK
    # It verifies neither signatures nor lengths: what depends on them is found out.
    assert found["store.length"].verdict is Verdict.WARNING
    assert found["store.reachable"].verdict is Verdict.OK
    assert {check for check in found if check.startswith("store.permission.")} >= {
        f"store.permission.{call}"
        for call in ("create_multipart", "put_part", "list_parts", "abort_multipart", "delete")
    }
    assert not far.objects
    assert not [name for name, multipart in far.multiparts.items() if not multipart.completed]


async def test_what_is_configured_and_not_enforced_is_a_failure(bench: Bench, far: ScriptedS3, rules: Rules) -> None:
    far.always("put", lambda call: Answer(200, headers={"ETag": '"1"'}))
    far.late_parts_land = True

    found = await findings(bench)

    for name in ("conditional_put", "late_parts_refused"):
        assert getattr(ALL, name)
        finding = found[f"store.capability.{name}"]
        assert finding.verdict is Verdict.FAILED
        assert name in finding.fix
    assert "capabilities=" in found["store.capabilities"].fix
    assert "late_parts_refused" not in found["store.capabilities"].fix


@pytest.mark.parametrize(
    ("operation", "check"),
    [
        ("create", "create_multipart"),
        ("part", "put_part"),
        ("list_parts", "list_parts"),
        ("complete", "complete_multipart"),
        ("get", "get"),
        ("abort", "abort_multipart"),
        ("delete", "delete"),
    ],
)
async def test_a_missing_permission_is_named(
    bench: Bench, far: ScriptedS3, rules: Rules, operation: str, check: str
) -> None:
    far.always(operation, lambda call: error(403, "AccessDenied"))

    found = (await findings(bench))[f"store.permission.{check}"]

    assert found.verdict is Verdict.FAILED
    assert "AccessDenied" in found.message
    assert "s3:" in found.fix


async def test_a_failure_that_is_no_refusal_is_not_told_to_be_a_missing_permission(
    bench: Bench, far: ScriptedS3, rules: Rules
) -> None:
    far.always("list_parts", lambda call: error(500, "InternalError"))

    found = (await findings(bench))["store.permission.list_parts"]

    assert found.verdict is Verdict.FAILED
    assert "allow" not in found.fix


async def test_403_where_nothing_stands_is_a_missing_permission_to_list(
    bench: Bench, far: ScriptedS3, rules: Rules
) -> None:
    far.always("head", lambda call: call.effect() if call.key in far.objects else error(403, "AccessDenied"))

    found = await findings(bench)

    assert found["store.permission.head_of_nothing"].verdict is Verdict.FAILED
    assert "s3:ListBucket " in f"{found['store.permission.head_of_nothing'].fix} "
    assert found["store.permission.head"].verdict is Verdict.OK


@pytest.mark.parametrize(
    ("answer", "fix"),
    [
        (error(404, "NoSuchBucket"), "make the bucket"),
        (error(403, "SignatureDoesNotMatch"), "secret key"),
        (error(403, "RequestTimeTooSkewed"), "synchronise"),
        (Answer(301, headers={"x-amz-bucket-region": "eu-west-3"}), "region=eu-west-3"),
    ],
)
async def test_a_bucket_out_of_reach_says_what_to_mend_and_ends_the_visit(
    bench: Bench, far: ScriptedS3, answer: Answer, fix: str
) -> None:
    far.always("list_multiparts", lambda call: answer)

    found = await findings(bench)

    assert found["store.reachable"].verdict is Verdict.FAILED
    assert fix in found["store.reachable"].fix
    assert set(found) == {"store.clock", "store.reachable", "store"}
    assert far.count("create") == 0


async def test_a_store_that_is_away_is_one_finding(bench_of: Callable[..., Any], far: ScriptedS3) -> None:
    bench = await bench_of()
    far.always("list_multiparts", lambda call: call.handler.cut(reset=True))

    found = await findings(bench)

    assert found["store.reachable"].verdict is Verdict.FAILED
    assert "X-Amz" not in str(found)


@pytest.mark.parametrize(
    ("offset", "verdict"),
    [(timedelta(0), Verdict.OK), (timedelta(minutes=5), Verdict.WARNING), (timedelta(minutes=-20), Verdict.WARNING)],
)
async def test_clocks_that_differ_are_told(
    bench: Bench, far: ScriptedS3, rules: Rules, offset: timedelta, verdict: Verdict
) -> None:
    far.clock_offset = offset

    assert (await findings(bench))["store.clock"].verdict is verdict


async def test_two_identities_are_told_apart_by_what_they_may_do(
    bench_of: Callable[..., Any], far: ScriptedS3, rules: Rules
) -> None:
    from uploadcore_s3 import Credentials

    bench = await bench_of(write_credentials=Credentials("AKIDWRITE", "write/secret+that/nobody/sees"))
    assert (await findings(bench))["store.identities"].verdict is Verdict.WARNING

    def only_put(call: Call) -> Answer:
        return error(403, "AccessDenied") if call.access_key == "AKIDWRITE" else call.effect()

    for operation in ("get", "delete", "list_multiparts"):
        far.always(operation, only_put)
    assert (await findings(bench))["store.identities"].verdict is Verdict.OK


# --- rules of the bucket --------------------------------------------------------------------------------------------


async def test_cors_is_found_missing_set_and_found(bench: Bench, rules: Rules) -> None:
    other = document("CORSConfiguration", "<CORSRule><AllowedOrigin>https://other.example</AllowedOrigin></CORSRule>")
    rules.documents["cors"] = other

    assert (await findings(bench))["store.cors"].verdict is Verdict.FAILED
    assert rules.documents["cors"] == other, "nothing is changed without being asked"
    assert "added" in (await findings(bench, apply=True))["store.cors"].message
    assert (await findings(bench))["store.cors"].verdict is Verdict.OK

    [made, kept] = rules.rules("cors")
    assert kept.findtext("{*}AllowedOrigin") == "https://other.example", "what stood there stands"
    assert made.findtext("{*}AllowedOrigin") == ORIGIN
    assert {"PUT", "GET"} <= {one.text for one in made.findall("{*}AllowedMethod")}
    assert "ETag" in {one.text for one in made.findall("{*}ExposeHeader")}


async def test_a_lifecycle_rule_is_found_missing_set_and_found(bench: Bench, rules: Rules) -> None:
    rules.documents["lifecycle"] = lifecycle(rule("logs", prefix="logs/", expires=3))

    assert (await findings(bench))["store.lifecycle"].verdict is Verdict.WARNING
    assert "added" in (await findings(bench, apply=True))["store.lifecycle"].message
    found = await findings(bench)
    assert found["store.lifecycle"].verdict is Verdict.OK
    assert "store.expiration" not in found, "that rule is of another prefix"

    [kept, made] = rules.rules("lifecycle")
    assert kept.findtext("{*}ID") == "logs"
    assert made.findtext("{*}Filter/{*}Prefix") == "up/"
    assert made.findtext("{*}AbortIncompleteMultipartUpload/{*}DaysAfterInitiation") == "2"
    await findings(bench, apply=True)
    assert len(rules.rules("lifecycle")) == 2


@pytest.mark.parametrize(
    ("rules_there", "verdicts"),
    [
        ([rule("hasty", abandoned=1)], {"store.lifecycle": Verdict.FAILED}),
        ([rule("fitting", prefix="u", abandoned=7)], {"store.lifecycle": Verdict.OK}),
        ([rule("elsewhere", prefix="other/", abandoned=7)], {"store.lifecycle": Verdict.WARNING}),
        ([rule("tagged", abandoned=1, more="<Tag><Key>k</Key></Tag>")], {"store.lifecycle": Verdict.WARNING}),
        ([rule("all", expires=30)], {"store.lifecycle": Verdict.WARNING, "store.expiration": Verdict.WARNING}),
    ],
    ids=lambda value: None,
)
async def test_lifecycle_rules_are_held_against_the_deadline(
    bench: Bench, rules: Rules, rules_there: list[str], verdicts: Mapping[str, Verdict]
) -> None:
    rules.documents["lifecycle"] = lifecycle(*rules_there)

    found = await findings(bench)

    assert {check: found[check].verdict for check in verdicts} == verdicts


async def test_a_store_without_rules_is_told_and_left_alone(bench: Bench, far: ScriptedS3) -> None:
    far.always("other", lambda call: error(501, "NotImplemented"))

    found = await findings(bench, apply=True)

    assert found["store.lifecycle"].verdict is Verdict.NOTE
    assert found["store.cors"].verdict is Verdict.FAILED
    assert "NotImplemented" in found["store.cors"].message
