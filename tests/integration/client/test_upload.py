"""An upload against a far end that behaves, and one that does not."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.client.scripted import FarEnd, Handler, crc, until
from uploadcore.errors import (
    ChecksumMismatchError,
    ForbiddenError,
    PartsMissingError,
    QuotaExceededError,
    StorageFullError,
    StoreUnavailableError,
    UploadClosedError,
)
from uploadcore.file import ChecksumAlgorithm
from uploadcore_client import (
    Cancellation,
    Client,
    FileChangedError,
    Progress,
    RetryPolicy,
    ServerUnreachableError,
    Timeouts,
    TransferCancelledError,
    TransferInUseError,
    UnauthenticatedError,
    UnexpectedAnswerError,
)

MIB = 1024 * 1024
Clients = Callable[..., Client]
Blobs = Callable[..., Path]


def content_of(far: FarEnd, file_id: str) -> bytes:
    return far.files[file_id]


def void(_: object) -> None:
    """What a fault returns."""


def once(fault: Callable[[Handler], None], number: int = 2) -> Callable[[Handler, int], bool]:
    """A fault on the first try of one part."""

    def before_part(handler: Handler, tries: int) -> bool:
        if tries == 1 and f"partNumber={number}&" in handler.path:
            fault(handler)
            return True
        return False

    return before_part


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 7 * MIB + 5])
def test_every_byte_arrives_whatever_the_size(far: FarEnd, client_of: Clients, blob: Blobs, size: int) -> None:
    path = blob(size)

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert file.checksum is not None
    assert file.checksum.value == crc(path.read_bytes())


def test_parts_larger_than_the_buffer_arrive_whole(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path = blob(7 * MIB + 5)

    file = client_of(far).upload(path, part_size=3 * MIB + 7)

    assert content_of(far, file.id) == path.read_bytes()


def test_no_more_parts_than_asked_for_are_in_flight(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    def wait_for_another(handler: Handler, tries: int) -> bool:
        until(lambda: far.most_in_flight > 1)
        return False

    far.before_part = wait_for_another

    client_of(far, parallel=3).upload(blob(12 * MIB), part_size=MIB // 2)

    assert 2 <= far.most_in_flight <= 3


def test_completion_is_asked_for_when_no_put_is_in_flight(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    far.before_part = once(lambda handler: handler.refuse(503, "SlowDown"), number=3)

    client_of(far).upload(blob(8 * MIB))

    assert far.in_flight_at_complete == [0]


def test_connections_are_kept_from_part_to_part(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    client_of(far, parallel=3).upload(blob(60 * 1000), part_size=1000)

    assert far.connections <= 3 + 2  # the caller's and that of the batch signed ahead


def test_urls_are_signed_in_batches_just_in_time(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    client_of(far, parallel=4).upload(blob(200 * 1000), part_size=1000)

    assert [len(batch) for batch in far.signed] == [32, 32, 32, 32, 32, 32, 8]
    assert sorted(number for batch in far.signed for number in batch) == list(range(1, 201))


def test_urls_that_would_run_out_soon_are_signed_again(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    far.url_lifetime = 30.0  # less than the leeway

    client_of(far, parallel=1).upload(blob(40 * 1000), part_size=1000)

    assert sum(number == 20 for batch in far.signed for number in batch) >= 2


def test_a_wrong_clock_here_does_not_make_good_urls_look_old(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    far.clock_offset = -7200.0

    client_of(far).upload(blob(40 * 1000), part_size=1000)

    assert sorted(number for batch in far.signed for number in batch) == list(range(1, 41))


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (400, "ExpiredToken")])
def test_a_refused_url_is_signed_again(far: FarEnd, client_of: Clients, blob: Blobs, status: int, code: str) -> None:
    far.before_part = once(lambda handler: handler.refuse(status, code))
    path = blob()

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert sum(2 in batch for batch in far.signed) == 2


def test_a_store_that_refuses_fresh_urls_is_not_asked_for_ever(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    def refuse(handler: Handler, tries: int) -> bool:
        handler.refuse(403, "SignatureDoesNotMatch")
        return True

    far.before_part = refuse

    with pytest.raises(ForbiddenError, match="403 SignatureDoesNotMatch"):
        client_of(far, parallel=1).upload(blob())

    assert far.tries[1] == 3


@pytest.mark.parametrize(
    "fault",
    [
        lambda handler: handler.refuse(500, "InternalError"),
        lambda handler: handler.refuse(503, "SlowDown", Retry_After="0"),
        lambda handler: handler.refuse(400, "RequestTimeout"),
        lambda handler: handler.refuse(409, "OperationAborted"),
        lambda handler: handler.refuse(400, "BadDigest"),
        lambda handler: handler.cut(),
        Handler.lose_answer,
        lambda handler: handler.wfile.write(b"nonsense\r\n\r\n"),
    ],
    ids=["500", "503", "request-timeout", "409", "bad-digest", "cut", "answer-lost", "nonsense"],
)
def test_a_part_that_fails_for_now_is_sent_again(far: FarEnd, client_of: Clients, blob: Blobs, fault: Any) -> None:
    far.before_part = once(fault)
    path = blob()

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert far.tries[2] == 2
    assert far.calls["initiate"] == far.calls["complete"] == 1


def test_a_part_that_stalls_is_given_up_and_sent_again(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    is_over = threading.Event()
    far.before_part = once(lambda handler: void(is_over.wait(30)), number=1)
    path = blob(24 * MIB)  # more than the sockets' buffers hold

    file = client_of(far, timeouts=Timeouts(connect=30, stall=1, answer=30)).upload(path, part_size=16 * MIB)
    is_over.set()

    assert content_of(far, file.id) == path.read_bytes()
    assert far.tries[1] == 2


def test_a_part_that_arrives_damaged_is_sent_again(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    def damage(handler: Handler) -> None:
        far.uploads["u1"].parts[2] = os.urandom(len(handler.body()))
        handler.answer(200, ETag='"e"', x_amz_checksum_crc64nvme=crc(far.uploads["u1"].parts[2]))

    far.before_part = once(damage)
    path = blob()

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert far.tries[2] == 2


def test_retries_end_with_what_went_wrong(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    def refuse(handler: Handler, tries: int) -> bool:
        handler.refuse(503, "SlowDown")
        return True

    far.before_part = refuse

    with pytest.raises(StoreUnavailableError, match="503 SlowDown"):
        client_of(far, parallel=1).upload(blob())

    assert far.tries[1] == 6


def test_retries_of_all_parts_share_one_budget(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    def refuse(handler: Handler, tries: int) -> bool:
        handler.refuse(503, "SlowDown")
        return True

    far.before_part = refuse
    policy = RetryPolicy(attempts=1000, initial=0.0001, longest=0.001)

    with pytest.raises(StoreUnavailableError):
        client_of(far, parallel=2, retry=policy).upload(blob())

    assert sum(far.tries.values()) <= 2 * 10 + 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [((507, "InsufficientStorage"), StorageFullError), ((400, "InvalidRequest"), UnexpectedAnswerError)],
)
def test_a_part_refused_for_good_ends_the_upload_at_once(
    far: FarEnd, client_of: Clients, blob: Blobs, answer: tuple[int, str], error: type[Exception]
) -> None:
    far.before_part = once(lambda handler: handler.refuse(*answer))

    with pytest.raises(error):
        client_of(far).upload(blob())

    assert far.tries[2] == 1
    assert far.calls["complete"] == 0


def test_after_a_full_disk_the_same_call_goes_on(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path = blob()
    far.before_part = once(lambda handler: handler.refuse(507, "InsufficientStorage"), number=4)
    with pytest.raises(StorageFullError):
        client_of(far, parallel=1).upload(path)

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert [far.tries[number] for number in range(1, 7)] == [1, 1, 1, 2, 1, 1]
    assert len(far.uploads) == 1


def test_a_single_put_that_finds_its_object_there_is_completed(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path = blob(1000)

    def initiate_single(handler: Handler, route: str) -> bool:
        for upload in far.uploads.values():
            upload.body["strategy"] = "single"
        return False

    def stored_but_answer_lost(handler: Handler, tries: int) -> bool:
        if tries == 1:
            far.uploads["u1"].body["strategy"] = "single"
            far.uploads["u1"].parts[1] = handler.body()
            handler.cut()
        else:
            handler.refuse(412, "PreconditionFailed")
        return True

    far.before_call = initiate_single
    far.before_part = stored_but_answer_lost
    original = far.document
    far.document = lambda upload: {**original(upload), "strategy": "single"}  # type: ignore[method-assign]

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert far.tries[1] == 2


def test_an_upload_the_store_lost_is_sent_again_whole(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    def lose(handler: Handler, tries: int) -> bool:
        upload = far.uploads["u1"]
        if "partNumber=4&" in handler.path and upload.generation == 1:
            with far.lock:
                upload.generation, upload.parts = 2, {}
        return False

    far.before_part = lose
    path = blob(8 * MIB)

    file = client_of(far, parallel=2).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert len(far.uploads) == 1


def test_parts_found_missing_at_completion_are_sent_again(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    def forget(handler: Handler, route: str) -> bool:
        if route == "complete" and far.calls["complete"] == 1:
            del far.uploads["u1"].parts[2]
        return False

    far.before_call = forget
    path = blob()

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert [far.tries[number] for number in range(1, 7)] == [1, 2, 1, 1, 1, 1]


def test_parts_beyond_the_file_are_reported_not_resent(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    def complain(handler: Handler, route: str) -> bool:
        if route == "complete":
            handler.problem(409, "parts_missing", upload_id="u1", missing=[], mismatched=[9])
        return route == "complete"

    far.before_call = complain

    with pytest.raises(PartsMissingError, match="does not have"):
        client_of(far).upload(blob())


def test_an_assembling_store_is_polled(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    far.assembly_polls = 1
    path = blob()

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert far.calls["complete"] == 2


def test_the_result_is_compared_with_what_was_read(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    original = far.file_document

    def other(file_id: str, name: str = "") -> dict[str, Any]:
        document = original(file_id)
        return {**document, "checksum": {**document["checksum"], "value": crc(b"other")}}

    far.file_document = other  # type: ignore[method-assign]

    with pytest.raises(ChecksumMismatchError):
        client_of(far).upload(blob())


def test_sha256_on_request_is_what_completion_declares(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    declared: list[Any] = []
    original = Handler.complete

    def watch(handler: Handler, upload: Any, content: dict[str, Any]) -> None:
        declared.append(content["checksum"])
        original(handler, upload, content)

    path = blob()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "complete", watch)
        client_of(far).upload(path, checksum=ChecksumAlgorithm.SHA256)

    expected = base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
    assert declared == [{"algorithm": "sha256", "value": expected}]


# --- the file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (lambda path: os.utime(path, ns=(1, 1)), "written to"),
        (lambda path: os.truncate(path, 10 * MIB), "bytes"),
        (lambda path: os.truncate(path, 100), "bytes|shorter"),
        (lambda path: (path.rename(f"{path}.old"), path.write_bytes(b"new")), "replaced"),
        (lambda path: path.unlink(), "removed"),
    ],
    ids=["touched", "grown", "cut", "replaced", "removed"],
)
def test_a_file_that_changes_is_not_completed(
    far: FarEnd, client_of: Clients, blob: Blobs, change: Any, how: str
) -> None:
    path = blob()

    def meddle(handler: Handler, tries: int) -> bool:
        if "partNumber=3&" in handler.path:
            change(path)
        return False

    far.before_part = meddle

    with pytest.raises(FileChangedError, match=how) as raised:
        client_of(far, parallel=1).upload(path)

    assert raised.value.path == path
    assert far.calls["complete"] == 0
    assert far.uploads["u1"].state == "aborted"


def test_a_file_that_changes_after_its_last_part_is_not_completed(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path = blob()

    def meddle(handler: Handler, route: str) -> bool:
        if route == "complete" and far.calls["complete"] == 1:
            os.utime(path, ns=(1, 1))
            handler.problem(409, "parts_missing", upload_id="u1", missing=[], mismatched=[])
            return True
        return False

    far.before_call = meddle

    with pytest.raises(FileChangedError):
        client_of(far).upload(path)

    assert far.files == {}


# --- resuming -----------------------------------------------------------------------------------------------------


def interrupted(far: FarEnd, client: Client, path: Path, at: int = 4) -> None:
    """An upload whose process ended while part `at` was being sent."""
    cancellation = Cancellation()

    def cancel(handler: Handler, tries: int) -> bool:
        if f"partNumber={at}&" in handler.path:
            cancellation.cancel()
            handler.cut()
            return True
        return False

    far.before_part = cancel
    with pytest.raises(TransferCancelledError):
        client.upload(path, cancellation=cancellation)
    far.before_part = lambda handler, tries: False


def test_an_interrupted_upload_goes_on_from_its_journal(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path = blob()
    interrupted(far, client_of(far, parallel=1), path)
    seen: list[Progress] = []

    file = client_of(far).upload(path, progress=seen.append)

    assert content_of(far, file.id) == path.read_bytes()
    assert [far.tries[number] for number in range(1, 7)] == [1, 1, 1, 2, 1, 1]
    assert far.calls["initiate"] == 1
    assert seen[-1].resumed == 3 * MIB
    assert seen[-1].sent == path.stat().st_size - 3 * MIB
    assert seen[-1].parts_resent == 1


@pytest.mark.parametrize("shows_checksums", [True, False])
def test_without_its_journal_it_is_found_by_the_servers_record(
    far: FarEnd, client_of: Clients, blob: Blobs, tmp_path: Path, shows_checksums: bool
) -> None:
    path = blob()
    far.shows_checksums = shows_checksums
    interrupted(far, client_of(far, parallel=1), path)
    for journal in (tmp_path / "state").iterdir():
        journal.unlink()

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert [far.tries[number] for number in range(1, 7)] == [1, 1, 1, 2, 1, 1]
    assert far.calls["initiate"] == 1


@pytest.mark.parametrize("has_journal", [True, False])
def test_a_part_at_the_store_that_is_not_ours_is_sent_again(
    far: FarEnd, client_of: Clients, blob: Blobs, tmp_path: Path, has_journal: bool
) -> None:
    path = blob()
    interrupted(far, client_of(far, parallel=1), path)
    far.uploads["u1"].parts[2] = os.urandom(MIB)
    if not has_journal:
        next((tmp_path / "state").iterdir()).unlink()

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert [far.tries[number] for number in range(1, 7)] == [1, 2, 1, 2, 1, 1]


def test_parts_that_turn_out_wrong_at_completion_are_sent_again(
    far: FarEnd, client_of: Clients, blob: Blobs, tmp_path: Path
) -> None:
    path = blob()
    far.shows_checksums = False
    interrupted(far, client_of(far, parallel=1), path)
    far.uploads["u1"].parts[2] = os.urandom(MIB)

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()
    assert [far.tries[number] for number in range(1, 7)] == [2, 2, 2, 2, 1, 1]


def test_an_upload_that_ended_meanwhile_is_begun_anew(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path = blob()
    interrupted(far, client_of(far, parallel=1), path)
    far.uploads["u1"].state = "expired"

    file = client_of(far).upload(path)

    assert file.id == "file-u2"
    assert content_of(far, file.id) == path.read_bytes()


def completed_silently(far: FarEnd, client: Client, path: Path) -> None:
    """An upload that was completed, and the answer that said so did not come."""

    def complete_silently(handler: Handler, route: str) -> bool:
        if route == "complete":
            upload = far.uploads["u1"]
            upload.state = "completed"
            far.files["file-u1"] = b"".join(upload.parts[number] for number in sorted(upload.parts))
            handler.cut()
        return route == "complete"

    far.before_call = complete_silently
    with pytest.raises(ServerUnreachableError):
        client.upload(path)
    far.before_call = lambda handler, route: False


def test_an_upload_that_was_completed_before_its_answer_came_is_not_sent_again(
    far: FarEnd, client_of: Clients, blob: Blobs
) -> None:
    path = blob()
    completed_silently(far, client_of(far), path)

    file = client_of(far).upload(path)

    assert file.id == "file-u1"
    assert len(far.puts) == 6


def test_a_completed_upload_whose_file_was_deleted_since_is_begun_anew(
    far: FarEnd, client_of: Clients, blob: Blobs
) -> None:
    path = blob()
    completed_silently(far, client_of(far), path)
    far.deleted.add("file-u1")

    file = client_of(far).upload(path)

    assert (file.id, file.status) == ("file-u2", "available")
    assert content_of(far, file.id) == path.read_bytes()


def test_the_key_of_a_completed_upload_whose_file_was_deleted_since_is_not_used_again(
    far: FarEnd, client_of: Clients, blob: Blobs, tmp_path: Path
) -> None:
    path = blob()
    completed_silently(far, client_of(far), path)
    far.deleted.add("file-u1")
    (journal,) = (tmp_path / "state").iterdir()
    journal.write_text(journal.read_text().splitlines()[0] + "\n")  # as if ended before it knew the upload

    file = client_of(far).upload(path)

    assert (file.id, file.status) == ("file-u2", "available")


def test_resume_refuses_a_completed_upload_whose_file_was_deleted_since(
    far: FarEnd, client_of: Clients, blob: Blobs
) -> None:
    path = blob()
    completed_silently(far, client_of(far), path)
    far.deleted.add("file-u1")
    client = client_of(far)

    with pytest.raises(UploadClosedError, match="its file is no more"):
        client.resume("u1")

    assert client.unfinished() == []


@pytest.mark.parametrize("content", [b"short", bytes(5 * MIB + 123)], ids=["of another size", "of the same size"])
def test_a_completed_upload_whose_file_has_another_version_since_is_begun_anew_when_asked_again(
    far: FarEnd, client_of: Clients, blob: Blobs, content: bytes
) -> None:
    path = blob()
    completed_silently(far, client_of(far), path)
    far.files["file-u1"] = content

    with pytest.raises(UploadClosedError, match="has other content"):
        client_of(far).upload(path)

    file = client_of(far).upload(path)
    assert file.id == "file-u2"
    assert content_of(far, "file-u1") == content
    assert content_of(far, "file-u2") == path.read_bytes()


def test_a_file_deleted_while_it_was_being_completed_is_no_success(
    far: FarEnd, client_of: Clients, blob: Blobs
) -> None:
    far.deleted.add("file-u1")

    with pytest.raises(UploadClosedError, match="its file is deleted"):
        client_of(far).upload(blob())


def test_a_crash_between_intent_and_answer_makes_no_second_upload(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path = blob()
    original = Handler.initiate

    def answer_lost(handler: Handler, content: dict[str, Any]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Handler, "say", lambda *_, **__: None)
            original(handler, content)
        handler.cut()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "initiate", answer_lost)
        patch.setattr(Handler, "find", lambda handler, query: handler.say({"uploads": [], "next": None}))
        with pytest.raises(ServerUnreachableError):
            client_of(far).upload(path)

        patch.setattr(Handler, "initiate", original)
        client_of(far).upload(path)

    assert list(far.uploads) == ["u1"]


def test_the_same_file_is_uploaded_by_one_process_at_a_time(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path, is_there, may_go = blob(), threading.Event(), threading.Event()

    def hold(handler: Handler, tries: int) -> bool:
        is_there.set()
        may_go.wait(10)
        return False

    far.before_part = hold
    first = threading.Thread(target=client_of(far).upload, args=(path,))
    first.start()
    is_there.wait(10)

    with pytest.raises(TransferInUseError):
        client_of(far).upload(path)

    may_go.set()
    first.join()
    assert len(far.files) == 1


def test_resume_takes_up_the_upload_that_is_named(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path = blob()
    interrupted(far, client_of(far, parallel=1), path)
    client = client_of(far)

    assert client.unfinished() == [("u1", path)]
    file = client.resume("u1")

    assert content_of(far, file.id) == path.read_bytes()
    assert client.unfinished() == []


def test_resuming_a_file_that_was_edited_in_place_sends_what_differs(
    far: FarEnd, client_of: Clients, blob: Blobs
) -> None:
    path = blob()
    interrupted(far, client_of(far, parallel=1), path)
    with path.open("r+b") as file:
        file.seek(MIB)
        file.write(b"edited")
    client = client_of(far)

    file_ = client.resume("u1")

    assert content_of(far, file_.id) == path.read_bytes()
    assert [far.tries[number] for number in range(1, 7)] == [1, 2, 1, 2, 1, 1]
    assert client.unfinished() == []


def test_resume_refuses_an_upload_that_has_ended(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    path = blob()
    interrupted(far, client_of(far, parallel=1), path)
    far.uploads["u1"].state = "aborted"

    with pytest.raises(UploadClosedError):
        client_of(far).resume("u1")


# --- cutting ------------------------------------------------------------------------------------------------------


def test_cutting_ends_promptly_though_the_store_is_silent(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    is_over, cancellation = threading.Event(), Cancellation()
    far.before_part = lambda handler, tries: is_over.wait(30)
    client = client_of(far, timeouts=Timeouts(connect=60, stall=60, answer=60))
    raised: list[BaseException] = []

    def upload() -> None:
        try:
            client.upload(blob(), cancellation=cancellation)
        except TransferCancelledError as exc:
            raised.append(exc)

    thread = threading.Thread(target=upload)
    thread.start()
    until(lambda: far.in_flight == 4)
    cancellation.cancel()
    thread.join(20)  # the store is silent for longer
    is_over.set()

    assert not thread.is_alive()
    assert raised


def test_cutting_ends_promptly_though_the_service_is_silent(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    is_over, is_asked, cancellation = threading.Event(), threading.Event(), Cancellation()

    def wait(handler: Handler, route: str) -> bool:
        is_asked.set()
        return is_over.wait(30)

    def cut() -> None:
        is_asked.wait(10)
        cancellation.cancel()

    far.before_call = wait
    threading.Thread(target=cut).start()

    with pytest.raises(TransferCancelledError):
        client_of(far, timeouts=Timeouts(connect=60, stall=60, answer=60)).upload(blob(), cancellation=cancellation)
    is_over.set()


def test_ctrl_c_before_all_threads_have_begun_cuts_those_that_have(
    far: FarEnd, client_of: Clients, blob: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, is_over = blob(), threading.Event()
    start = threading.Thread.start
    begun: list[threading.Thread] = []

    def start_two(thread: threading.Thread) -> None:
        if thread.name.startswith("uploadcore-part"):
            if len(begun) == 2:
                until(lambda: far.in_flight == 2)
                raise KeyboardInterrupt
            begun.append(thread)
        start(thread)

    far.before_part = lambda handler, tries: is_over.wait(30)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_two)
        with pytest.raises(KeyboardInterrupt):
            client_of(far, timeouts=Timeouts(connect=60, stall=60, answer=60)).upload(path)
    for thread in begun:
        thread.join(20)  # the store is silent for longer
    is_over.set()

    assert not any(thread.is_alive() for thread in begun)
    far.before_part = lambda handler, tries: False
    file = client_of(far).upload(path)
    assert content_of(far, file.id) == path.read_bytes()
    assert far.calls["initiate"] == 1


# --- the service --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error"),
    [((401, "unauthenticated"), UnauthenticatedError), ((403, "quota_exceeded"), QuotaExceededError)],
)
def test_what_the_service_refuses_is_raised_by_its_name(
    far: FarEnd, client_of: Clients, blob: Blobs, answer: tuple[int, str], error: type[Exception]
) -> None:
    def refuse(handler: Handler, route: str) -> bool:
        handler.problem(*answer)
        return True

    far.before_call = refuse

    with pytest.raises(error):
        client_of(far).upload(blob())

    assert sum(far.calls.values()) == 1


def test_a_busy_service_is_asked_again(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    def busy(handler: Handler, route: str) -> bool:
        if far.calls[route] > 1:
            return False
        code, status = {"find": ("overloaded", 503), "initiate": ("upload_busy", 409)}.get(
            route, ("store_unavailable", 503)
        )
        handler.problem(status, code, {"Retry_After": "0"})
        return True

    far.before_call = busy
    path = blob()

    file = client_of(far).upload(path)

    assert content_of(far, file.id) == path.read_bytes()


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: handler.answer(200, b"<html>It works!</html>", Content_Type="text/html"),
        lambda handler: handler.answer(301, Location="https://elsewhere.example/"),
        lambda handler: handler.answer(404, b"not here"),
        lambda handler: handler.say({"uploads": [{"id": "u1"}]}),
        lambda handler: handler.say({"uploads": None}),
        lambda handler: handler.say([]),
    ],
    ids=["page", "redirect", "not-found", "other-shape", "null", "list"],
)
def test_another_server_is_told_from_ours(far: FarEnd, client_of: Clients, blob: Blobs, answer: Any) -> None:
    def reply(handler: Handler, route: str) -> bool:
        answer(handler)
        return True

    far.before_call = reply

    with pytest.raises(UnexpectedAnswerError):
        client_of(far).upload(blob())


def test_nobody_there_is_said_at_once(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    client = client_of(far, retry=RetryPolicy(initial=60, longest=60))
    client._api.url = "http://127.0.0.1:9"

    with pytest.raises(ServerUnreachableError) as raised:
        client.upload(blob())

    assert raised.value.refused


def test_the_token_goes_to_the_service_and_not_to_the_store(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    seen: list[str | None] = []

    def note(handler: Handler, route: str) -> bool:
        seen.append(handler.headers.get("Authorization"))
        return False

    far.before_call = note
    client = client_of(far, token="t0ken")

    file = client.upload(blob())
    client.download(file.id, blob().with_name("copy"))

    assert set(seen) == {"Bearer t0ken"}
    assert set(far.tokens) == {None}


def test_neither_token_nor_signed_url_is_logged_or_shown(
    far: FarEnd, client_of: Clients, blob: Blobs, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(handler: Handler, tries: int) -> bool:
        if tries == 1:
            handler.cut()
        else:
            handler.refuse(400, "InvalidRequest")
        return True

    far.before_part = refuse
    caplog.set_level("DEBUG")

    with pytest.raises(UnexpectedAnswerError) as raised:
        client_of(far, token="t0ken").upload(blob())

    shown = caplog.text + repr(raised.value) + repr(raised.value.__cause__)
    assert "SECRET" not in shown
    assert "t0ken" not in shown


def test_progress_adds_up(far: FarEnd, client_of: Clients, blob: Blobs) -> None:
    far.before_part = once(Handler.lose_answer, number=2)
    path = blob()
    seen: list[Progress] = []

    client_of(far).upload(path, progress=seen.append)

    last, size = seen[-1], path.stat().st_size
    assert (last.done, last.total, last.parts_done, last.parts_total) == (size, size, 6, 6)
    assert last.sent == size + last.resent
    assert (last.resent, last.parts_resent) == (MIB, 1)
