"""The conservation check that every chaos experiment ends with finds each kind of violation: one that finds nothing proves nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.chaos.conservation import Books, violations

PREFIX = "uploads/installation/"
SENT = {"whole": b"content", "deleted": b"what was deleted"}


def sound_books() -> Books:
    """One upload completed, one open, one aborted, and one whose file was deleted; all of their events arrived."""

    def upload(name: str, state: str, reserved: int = 0) -> dict[str, object]:
        return {
            "id": name,
            "state": state,
            "owner": "owner",
            "key": f"{PREFIX}{name}",
            "file_id": f"file-of-{name}",
            "storage_upload_id": f"multipart-of-{name}",
            "reserved_bytes": reserved,
        }

    def file(name: str, status: str) -> dict[str, object]:
        return {"id": f"file-of-{name}", "upload_id": name, "status": status, "size": 7}

    event_ids = {"whole": ["1", "3"], "open": ["2"], "dropped": ["4", "5"], "deleted": ["6", "7", "8"]}
    return Books(
        uploads={
            "whole": upload("whole", "completed"),
            "open": upload("open", "uploading", 9),
            "dropped": upload("dropped", "aborted"),
            "deleted": upload("deleted", "completed"),
        },
        files={
            "file-of-whole": file("whole", "available"),
            "file-of-open": file("open", "uploading"),
            "file-of-dropped": file("dropped", "failed"),
            "file-of-deleted": file("deleted", "deleted"),
        },
        events=Counter(
            {
                ("upload.initiated", "open"): 1,
                ("upload.completed", "whole"): 1,
                ("upload.completed", "deleted"): 1,
                ("upload.aborted", "dropped"): 1,
                ("file.deleted", "file-of-deleted"): 1,
            }
        ),
        event_ids=event_ids,
        arrived={upload_id: list(ids) for upload_id, ids in event_ids.items()},
        quotas={"owner": (1, 9), "another": (0, 0)},
        objects={f"{PREFIX}whole": 7},
        contents={f"{PREFIX}whole": b"content"},
        multiparts={(f"{PREFIX}open", "multipart-of-open")},
        prefix=PREFIX,
    )


def arrived(books: Books) -> dict[str, list[str]]:
    """What arrived, which was looked at."""
    assert books.arrived is not None
    return books.arrived


def test_nothing_is_wrong_with_sound_books() -> None:
    assert violations(sound_books(), completed=["whole", "deleted"], sent=SENT) == []


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda books: books.objects.update({f"{PREFIX}stray": 1}), "object uploads/installation/stray belongs to no"),
        (lambda books: books.objects.clear(), "file file-of-whole is available and its object is not there"),
        (lambda books: books.objects.update({f"{PREFIX}whole": 6}), "file file-of-whole has 6 bytes, not 7"),
        (
            lambda books: books.contents.update({f"{PREFIX}whole": b"contenT"}),
            "whole has other bytes than were sent for",
        ),
        (lambda books: books.contents.clear(), "object uploads/installation/whole has other bytes than were sent for"),
        (lambda books: books.files["file-of-deleted"].update(status="failed"), "completed and its file is failed"),
        (lambda books: books.files["file-of-deleted"].update(status="deleting"), "is still deleting"),
        (lambda books: books.uploads["open"].update(state="completing"), "1 uploads are still completing"),
        (lambda books: books.events.update([("upload.completed", "whole")]), "of whole: 2 events, not 1"),
        (lambda books: books.events.pop(("upload.aborted", "dropped")), "of dropped: 0 events, not 1"),
        (lambda books: books.events.update([("upload.expired", "open")]), "of open: 1 events, not 0"),
        (
            lambda books: books.events.update([("upload.reopened", "whole")]),
            "upload.reopened of whole: 1 events, not 0",
        ),
        (lambda books: books.events.update([("file.damaged", "file-of-whole")]), "file.damaged of file-of-whole: 1"),
        (lambda books: books.events.update([("upload.aborted", "gone")]), "upload.aborted of gone: 1 events, not 0"),
        (lambda books: books.events.pop(("file.deleted", "file-of-deleted")), "file.deleted of file-of-deleted: 0"),
        (lambda books: books.quotas.update(owner=(1, 8)), "quota of owner is (1, 8)"),
        (lambda books: books.quotas.update(another=(1, 0)), "quota of another is (1, 0)"),
        (lambda books: books.quotas.clear(), "quota of owner is (0, 0)"),
        (lambda books: books.multiparts.add((f"{PREFIX}x", "y")), "multipart upload of uploads/installation/x"),
        (lambda books: setattr(books, "undelivered", 2), "2 events are not delivered"),
        (lambda books: arrived(books)["whole"].pop(), "arrived as ['1'], written were ['1', '3']"),
        (lambda books: arrived(books)["whole"].reverse(), "arrived as ['3', '1'], written were ['1', '3']"),
        (lambda books: arrived(books).update(unknown=["9"]), "events of upload unknown arrived as ['9']"),
        (lambda books: setattr(books, "arrived", {}), "events of upload whole arrived as []"),
    ],
)
def test_each_kind_of_violation_is_found(spoil: Callable[[Books], object], found: str) -> None:
    books = sound_books()

    spoil(books)

    told = violations(books, sent=SENT)
    assert any(found in one for one in told), told


def test_what_a_client_was_told_is_completed_has_to_be() -> None:
    told = violations(sound_books(), completed=["open", "unknown"])

    assert told == ["upload open was acknowledged and is uploading", "upload unknown was acknowledged and is gone"]


@pytest.mark.parametrize(("events", "found"), [(0, 1), (1, 0), (2, 1)])
def test_what_was_reopened_as_foreseen_was_so_once(events: int, found: int) -> None:
    books = sound_books()
    books.events["upload.reopened", "whole"] = events

    assert len(violations(books, reopened=["whole"])) == found


def test_contents_are_let_be_of_uploads_whose_bytes_nobody_names() -> None:
    books = sound_books()
    books.contents.clear()

    assert violations(books, sent={"deleted": b"what was deleted"}) == []


def test_deliveries_are_let_be_where_no_destination_was_looked_at() -> None:
    books = sound_books()
    books.arrived = None

    assert violations(books) == []
