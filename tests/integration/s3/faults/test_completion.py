"""CompleteMultipartUpload: an answer may be an error in disguise, come in pieces, or never; and it is never blindly asked for again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.integration.s3.faults.scripted import (
    Answer,
    Script,
    ScriptedS3,
    cuts_body,
    document,
    drips,
    edits,
    edits_body,
    element,
    error,
    hangs,
    hangs_in_body,
    refuses,
    resets,
    says,
    says_nothing,
    then,
)
from tests.integration.s3.faults.stores import Bench, at_most, refused
from uploadcore.errors import NoSuchMultipartError, PartsRejectedError, StoreUnavailableError
from uploadcore.plan import StoredPart
from uploadcore_s3.configuration import Timeouts

HTML = Answer(200, b"<html><body>It works!</body></html>", {"Content-Type": "text/html"})
IN_DOUBT: dict[str, Script] = {
    "200_with_an_error_body": says(error(200, "InternalError")),
    "200_with_an_error_body_after_the_effect": then(says(error(200, "InternalError"))),
    "200_with_an_error_body_of_slow_down": says(error(200, "SlowDown")),
    "200_with_an_unknown_document": says(Answer(200, document("Surprise", element("ETag", '"e"')))),
    "200_with_no_body": then(says(Answer(200))),
    "200_with_html": says(HTML),
    "200_cut_short": cuts_body,
    "200_not_well_formed": edits(lambda answer: replace(answer, body=answer.body[:-30])),
    "200_with_a_document_type": edits(lambda answer: replace(answer, body=b"<!DOCTYPE x>" + answer.body[39:])),
    "500": refuses(500, "InternalError"),
    "500_after_the_effect": then(refuses(500, "InternalError")),
    "502_of_a_proxy": says(Answer(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"})),
    "503": refuses(503, "SlowDown"),
    "504_without_a_body": then(says(Answer(504))),
    "no_answer": says_nothing,
    "no_answer_after_the_effect": then(says_nothing),
    "reset": resets,
    "reset_after_the_effect": then(resets),
    "whitespace_then_an_error": drips(3, gap=0.02, ends_with=lambda call: error(200, "InternalError")),
    "412": refuses(412, "PreconditionFailed"),
    "409": refuses(409, "ConditionalRequestConflict"),
}


@pytest.mark.parametrize("script", IN_DOUBT.values(), ids=IN_DOUBT)
async def test_an_answer_that_says_nothing_of_the_outcome_leaves_it_in_doubt_and_is_not_asked_for_again(
    bench: Bench, far: ScriptedS3, script: Script
) -> None:
    address, parts = await bench.sent()
    far.script("complete", script)

    async with at_most(10):
        await refused(bench.complete(address, parts), StoreUnavailableError, far.secrets)

    assert far.count("complete") == 1


@pytest.mark.parametrize("script", [hangs, hangs_in_body], ids=["before_the_head", "in_the_body"])
async def test_an_answer_that_never_comes_is_waited_for_only_so_long(
    bench_of: Callable[..., Any], far: ScriptedS3, script: Script
) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(completion=2.0))
    address, parts = await bench.sent()
    far.script("complete", script)

    async with at_most(10):
        await refused(bench.complete(address, parts), StoreUnavailableError, far.secrets)

    assert far.count("complete") == 1


@pytest.mark.parametrize("declared_first", [True, False], ids=["declaration_first", "whitespace_first"])
async def test_whitespace_may_keep_the_connection_alive_for_longer_than_other_calls_may_take(
    bench_of: Callable[..., Any], far: ScriptedS3, declared_first: bool
) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(call=0.5, completion=20.0))
    patient: Bench = await bench_of()
    address, parts = await patient.sent()
    far.script("complete", drips(12, gap=0.1, declared_first=declared_first))

    async with at_most(30):
        await bench.complete(address, parts)

    assert far.objects["up/a"].body == b"123456789"
    assert far.count("complete") == 1


async def test_whitespace_for_ever_is_given_up(bench_of: Callable[..., Any], far: ScriptedS3) -> None:
    bench: Bench = await bench_of(timeouts=Timeouts(completion=2.0))
    address, parts = await bench.sent()
    far.script("complete", drips(None, gap=0.05))

    async with at_most(20):
        await refused(bench.complete(address, parts), StoreUnavailableError, far.secrets)

    assert far.count("complete") == 1


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"<ETag>.*</ETag>", "<ETag></ETag>"),
        (r"<ETag>.*</ETag>", ""),
        (r"<ETag>&quot;|<ETag>\"", "<ETag>"),
    ],
    ids=["empty", "missing", "half_quoted"],
)
async def test_the_etag_of_the_answer_means_nothing(bench: Bench, far: ScriptedS3, pattern: str, text: str) -> None:
    address, parts = await bench.sent()
    far.script("complete", edits_body(pattern, text))

    await bench.complete(address, parts)

    assert far.objects["up/a"].body == b"123456789"


@pytest.mark.parametrize("code", ["InvalidPart", "InvalidPartOrder", "EntityTooSmall"])
@pytest.mark.parametrize("status", [400, 200])
async def test_a_definite_refusal_is_one_with_whatever_status(
    bench: Bench, far: ScriptedS3, code: str, status: int
) -> None:
    address, parts = await bench.sent()
    far.script("complete", refuses(status, code))

    raised = await refused(bench.complete(address, parts), PartsRejectedError, far.secrets)

    assert code in raised.message
    assert far.count("complete") == 1


@pytest.mark.parametrize("status", [404, 200])
async def test_a_multipart_upload_it_does_not_know_is_one_with_whatever_status(
    bench: Bench, far: ScriptedS3, status: int
) -> None:
    address, parts = await bench.sent()
    far.script("complete", refuses(status, "NoSuchUpload"))

    await refused(bench.complete(address, parts), NoSuchMultipartError, far.secrets)


async def test_a_repeated_completion_may_answer_success(bench: Bench, far: ScriptedS3) -> None:
    address, parts = await bench.sent()
    await bench.complete(address, parts)
    await bench.complete(address, parts)
    assert far.objects["up/a"].body == b"123456789"


async def test_a_repeated_completion_may_answer_that_it_knows_it_no_more(bench: Bench, far: ScriptedS3) -> None:
    far.repeated_completion = "NoSuchUpload"
    address, parts = await bench.sent()
    await bench.complete(address, parts)
    await refused(bench.complete(address, parts), NoSuchMultipartError, far.secrets)


async def test_a_store_that_wants_every_uploaded_part_named_refuses_the_others(bench: Bench, far: ScriptedS3) -> None:
    """Ceph: a part left out is InvalidPart. uploadcore names all there are: what is listed and not planned is refused before."""
    address, parts = await bench.sent(b"1", b"2", b"stray")
    far.script("complete", refuses(400, "InvalidPart"))
    await refused(bench.complete(address, parts[:2]), PartsRejectedError, far.secrets)
    await bench.complete(address, parts)
    named = far.calls[-1].body
    assert [named.count(b"<PartNumber>%d</PartNumber>" % number) for number in (1, 2, 3)] == [1, 1, 1]


@pytest.mark.parametrize(("pattern", "text"), [(r"(&quot;|\")", "")], ids=["unquoted"])
async def test_etags_of_parts_are_handed_back_as_they_came(
    bench: Bench, far: ScriptedS3, pattern: str, text: str
) -> None:
    address, _ = await bench.sent()

    def unquoted(answer: Answer) -> Answer:
        body = answer.body.replace(b"&quot;", b"")
        head, found, rest = body.partition(b"<Part>")
        return Answer(answer.status, head + found + rest.replace(b'"', b""), answer.headers)

    far.script("list_parts", lambda call: unquoted(call.effect()))
    parts = await bench.store.list_parts(address)
    await bench.complete(address, parts)
    assert far.objects["up/a"].body == b"123456789"


async def test_a_part_without_an_etag_is_no_part_to_be_named(bench: Bench, far: ScriptedS3) -> None:
    address, parts = await bench.sent()
    nameless = [StoredPart(part.part_number, part.size, "") for part in parts]
    await refused(bench.complete(address, nameless), PartsRejectedError, far.secrets)
    assert "up/a" not in far.objects
