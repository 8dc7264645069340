"""Every verb of the aggregate, from every state: what it changes, under which conditions, and what it announces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from uploadcore.errors import IllegalTransitionError
from uploadcore.events import EventType
from uploadcore.file import Checksum, ChecksumAlgorithm
from uploadcore.states import TERMINAL_STATES, UPLOAD_TRANSITIONS, UploadInput, UploadState
from uploadcore.testing import make_upload
from uploadcore.upload import Address, Condition, Expected, Lease, Reason, Timer, Transition, Upload

S, H = UploadState, UploadInput
LEASE = Lease("me", timedelta(seconds=30))
HELD = LEASE.duration
LATER = timedelta(hours=2)
NOW = timedelta(0)
EXPECTED = Expected(part_count=3, size=25)


@dataclass(frozen=True)
class Verb:
    """One verb, and all it is to do beside the state."""

    call: Callable[[Upload], Transition]
    happened: UploadInput
    timers: Mapping[Timer, timedelta | None]
    changes: Mapping[str, Any]
    conditions: tuple[Condition, ...] = ()
    event: EventType | None = None


ADDRESS = make_upload("u").address
NEW_ADDRESS = replace(ADDRESS, storage_upload_id="new")
SETTLED: Mapping[Timer, timedelta | None] = {
    Timer.LEASE: None,
    Timer.FENCED: None,
    Timer.CALLED: None,
    Timer.LOST: None,
}

VERBS = {
    "opened": Verb(lambda u: u.opened("new"), H.OPENED, {Timer.LEASE: None}, {"address": NEW_ADDRESS}),
    "opened without a multipart upload": Verb(lambda u: u.opened(None), H.OPENED, {Timer.LEASE: None}, {}),
    "opening refused": Verb(
        lambda u: u.opening_refused(LEASE), H.OPENING_REFUSED, {Timer.LEASE: HELD}, {"reason": Reason.OPENING_REFUSED}
    ),
    "fenced": Verb(
        lambda u: u.fenced(EXPECTED, LEASE),
        H.FENCED,
        {Timer.LEASE: HELD, Timer.FENCED: NOW, Timer.LOST: None},
        {"expected": EXPECTED},
        (Condition(Timer.DEADLINE, passed=False),),
    ),
    "lease renewed": Verb(lambda u: u.lease_renewed(LEASE), H.LEASE_TAKEN, {Timer.LEASE: HELD}, {}),
    "lease taken over": Verb(
        lambda u: u.lease_taken_over(LEASE),
        H.LEASE_TAKEN,
        {Timer.LEASE: HELD},
        {},
        (Condition(Timer.LEASE, passed=True),),
    ),
    "lease given up": Verb(lambda u: u.lease_given_up(), H.LEASE_TAKEN, {Timer.LEASE: NOW}, {}),
    "seen known": Verb(lambda u: u.seen_known(), H.LEASE_TAKEN, {Timer.LEASE: NOW, Timer.LOST: None}, {}),
    "seen lost": Verb(lambda u: u.seen_lost(), H.LEASE_TAKEN, {Timer.LEASE: NOW, Timer.LOST: NOW}, {}),
    "completed again": Verb(
        lambda u: u.completed_again(EXPECTED, LEASE, after=LATER),
        H.LEASE_TAKEN,
        {Timer.LEASE: HELD, Timer.CALLED: NOW},
        {"expected": EXPECTED},
        (Condition(Timer.FENCED, passed=True, margin=LATER),),
    ),
    "assembled": Verb(
        lambda u: u.assembled(),
        H.ASSEMBLED,
        {Timer.LEASE: None, Timer.LOST: None},
        {},
        event=EventType.UPLOAD_COMPLETED,
    ),
    "assembly rejected": Verb(lambda u: u.assembly_rejected(), H.ASSEMBLY_REJECTED, SETTLED, {"expected": None}),
    "integrity failed": Verb(
        lambda u: u.integrity_failed(LEASE),
        H.INTEGRITY_FAILED,
        {Timer.LEASE: HELD},
        {"reason": Reason.INTEGRITY_FAILED},
    ),
    "file deleted": Verb(
        lambda u: u.integrity_failed(LEASE, Reason.FILE_DELETED),
        H.INTEGRITY_FAILED,
        {Timer.LEASE: HELD},
        {"reason": Reason.FILE_DELETED},
    ),
    "gave up": Verb(
        lambda u: u.gave_up(LEASE, after=LATER),
        H.GAVE_UP,
        {Timer.LEASE: HELD},
        {"reason": Reason.GAVE_UP},
        (Condition(Timer.FENCED, passed=True, margin=LATER),),
    ),
}
"""Verbs that do the same from every state they are legal in. The others have tests of their own."""


def upload_in(state: UploadState, *, reason: Reason | None = None, expected: Expected | None = None) -> Upload:
    return make_upload("u", state=state, reason=reason, expected=expected, version=7)


@pytest.mark.parametrize(("name", "state"), list(product(VERBS, UploadState)))
def test_a_verb_does_what_it_is_to_do_or_nothing(name: str, state: UploadState) -> None:
    verb, upload = VERBS[name], upload_in(state)
    untouched = upload_in(state)
    if (state, verb.happened) not in UPLOAD_TRANSITIONS:
        with pytest.raises(IllegalTransitionError):
            verb.call(upload)
        assert upload == untouched
        return
    transition = verb.call(upload)
    after = UPLOAD_TRANSITIONS[state, verb.happened]
    assert transition.upload == replace(upload, state=after, **verb.changes)
    assert dict(transition.timers) == dict(verb.timers)
    assert transition.conditions == verb.conditions
    assert [event.type for event in transition.events] == ([verb.event] if verb.event else [])
    assert upload == untouched


CLOSING: dict[str, tuple[Callable[[Upload], Transition], UploadInput, Reason, tuple[Condition, ...]]] = {
    "abort": (lambda u: u.abort_requested(LEASE), H.ABORT_REQUESTED, Reason.ABORTED, ()),
    "deadline": (
        lambda u: u.deadline_passed(LEASE),
        H.DEADLINE_PASSED,
        Reason.EXPIRED,
        (Condition(Timer.DEADLINE, passed=True),),
    ),
}


@pytest.mark.parametrize(("name", "state"), list(product(CLOSING, UploadState)))
def test_abort_and_deadline_close_what_is_open_and_leave_the_first_reason(name: str, state: UploadState) -> None:
    call, happened, reason, conditions = CLOSING[name]
    upload = upload_in(state, reason=Reason.GAVE_UP if state is S.ABORTING else None)
    if (state, happened) not in UPLOAD_TRANSITIONS:
        with pytest.raises(IllegalTransitionError):
            call(upload)
        return
    transition = call(upload)
    assert transition.conditions == conditions
    assert transition.events == ()
    if state is S.ABORTING:
        assert transition.upload == upload
        assert dict(transition.timers) == {}, "whoever holds the lease keeps it"
    else:
        assert transition.upload == replace(upload, state=S.ABORTING, reason=reason)
        assert dict(transition.timers) == {Timer.LEASE: HELD}


@pytest.mark.parametrize("state", list(UploadState))
def test_a_lost_upload_is_reopened_from_completing_only_when_seen_twice(state: UploadState) -> None:
    upload = upload_in(state, expected=EXPECTED)
    if (state, H.LOST) not in UPLOAD_TRANSITIONS:
        with pytest.raises(IllegalTransitionError):
            upload.reopened("new", confirmed_after=LATER)
        return
    transition = upload.reopened("new", confirmed_after=LATER)
    assert transition.upload == replace(upload, state=S.UPLOADING, address=NEW_ADDRESS, expected=None)
    assert dict(transition.timers) == SETTLED
    twice = (Condition(Timer.LOST, passed=True, margin=LATER),)
    assert transition.conditions == (twice if state is S.COMPLETING else ())
    assert [event.type for event in transition.events] == [EventType.UPLOAD_REOPENED]


ENDS = {
    Reason.ABORTED: (S.ABORTED, EventType.UPLOAD_ABORTED),
    Reason.EXPIRED: (S.EXPIRED, EventType.UPLOAD_EXPIRED),
    Reason.OPENING_REFUSED: (S.FAILED, EventType.UPLOAD_FAILED),
    Reason.INTEGRITY_FAILED: (S.FAILED, EventType.UPLOAD_FAILED),
    Reason.FILE_DELETED: (S.FAILED, EventType.UPLOAD_FAILED),
    Reason.GAVE_UP: (S.FAILED, EventType.UPLOAD_FAILED),
    None: (S.FAILED, EventType.UPLOAD_FAILED),
}


def test_every_reason_has_an_end() -> None:
    assert set(ENDS) == {*Reason, None}


@pytest.mark.parametrize(("state", "reason"), list(product(UploadState, ENDS)))
def test_a_cleaned_upload_ends_by_its_reason(state: UploadState, reason: Reason | None) -> None:
    upload = upload_in(state, reason=reason)
    if state is not S.ABORTING:
        with pytest.raises(IllegalTransitionError):
            upload.cleaned(recheck_after=LATER)
        return
    transition = upload.cleaned(recheck_after=LATER)
    end, kind = ENDS[reason]
    assert transition.upload == replace(upload, state=end)
    assert dict(transition.timers) == {Timer.LEASE: None, Timer.RECHECK: LATER}
    assert [event.type for event in transition.events] == [kind]


@pytest.mark.parametrize("after", [None, LATER])
def test_a_recheck_changes_its_timer_only(after: timedelta | None) -> None:
    upload = upload_in(S.ABORTED)
    assert upload.recheck(after) == Transition(upload, timers={Timer.RECHECK: after})


def test_put_off_a_deadline_that_has_passed_is_now_and_nothing_else_changes() -> None:
    upload = upload_in(S.UPLOADING)
    passed = Condition(Timer.DEADLINE, passed=True)
    assert upload.put_off() == Transition(upload, timers={Timer.DEADLINE: timedelta(0)}, conditions=(passed,))


def test_an_event_tells_what_happened_and_has_an_id_of_its_version_and_type() -> None:
    [event] = upload_in(S.COMPLETING, expected=EXPECTED).assembled().events
    assert (event.id, event.owner, event.upload_id, event.file_id) == ("u-8-completed", "u_1", "u", "file-of-u")
    assert dict(event.data) == {
        "state": "completed",
        "filename": "trip.mp4",
        "content_type": "video/mp4",
        "size": "25",
    }
    assert event.occurred_at is None, "the database sets it"


def test_an_event_of_an_upload_of_unknown_size_tells_none_and_the_reason() -> None:
    upload = replace(make_upload("u", size=None, state=S.ABORTING), reason=Reason.EXPIRED)
    [event] = upload.cleaned(recheck_after=LATER).events
    assert "size" not in event.data
    assert event.data["reason"] == "expired"


def test_events_of_different_versions_have_different_ids() -> None:
    upload = upload_in(S.UPLOADING)
    ids = {replace(upload, version=n).reopened(None, confirmed_after=NOW).events[0].id for n in range(10)}
    assert len(ids) == 10


def test_no_event_tells_an_address() -> None:
    upload = make_upload("u", state=S.COMPLETING, address=Address("secret-b", "secret-k", "secret-s"))
    assert "secret" not in repr(upload.assembled().events)


def test_no_repr_tells_an_address() -> None:
    upload = make_upload("u", address=Address("secret-b", "secret-k", "secret-s"))
    assert "secret" not in repr(upload)
    assert "secret" not in repr(upload.address)
    assert "secret" not in repr(upload.opened("secret-new"))


def test_the_size_is_the_planned_one_until_the_fence_says_otherwise() -> None:
    opened = make_upload("u", size=None)
    assert opened.size is None
    assert replace(opened, expected=EXPECTED).size == 25
    assert make_upload("u", size=0).size == 0


def test_a_transition_collects_timers_conditions_and_events() -> None:
    upload = upload_in(S.UPLOADING)
    one, two = Condition(Timer.LEASE, passed=True), Condition(Timer.LOST, passed=False)
    plain = Transition(upload)
    full = plain.setting(Timer.LEASE, HELD).clearing(Timer.LEASE, Timer.LOST).setting(Timer.LOST, NOW).only_if(one)
    full = full.only_if(two).announcing(EventType.UPLOAD_ABORTED)
    assert dict(full.timers) == {Timer.LEASE: None, Timer.LOST: NOW}
    assert full.conditions == (one, two)
    assert len(full.events) == 1
    assert plain == Transition(upload), "each step makes another"


def test_a_timer_is_the_name_of_an_attribute_of_the_upload() -> None:
    assert all(getattr(make_upload("u"), timer) is None for timer in Timer)


@pytest.mark.parametrize("state", list(UploadState))
def test_an_upload_knows_whether_it_has_ended(state: UploadState) -> None:
    assert upload_in(state).is_terminal is (state in TERMINAL_STATES)


def test_an_upload_is_immutable() -> None:
    upload = upload_in(S.PENDING)
    with pytest.raises(FrozenInstanceError):
        upload.state = S.COMPLETED  # type: ignore[misc]
    with pytest.raises(TypeError):
        upload.metadata["a"] = "b"  # type: ignore[index]


def test_the_fence_keeps_the_declared_checksum() -> None:
    checksum = Checksum(ChecksumAlgorithm.CRC32C, "AAAAAA==")
    fenced = make_upload("u", state=S.UPLOADING, checksum=checksum).fenced(Expected(1, 25, checksum), LEASE)
    assert fenced.upload.checksum == checksum
    assert fenced.upload.expected == Expected(1, 25, checksum)
