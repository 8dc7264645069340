"""Every value of a request is bounded, and text is what any database can keep (rule 16)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploadcore import Admission, StaticPolicy, UploadRequest
from uploadcore.admission import NewUpload, admit
from uploadcore.errors import ContentTypeNotAllowedError, InvalidRequestError, TooLargeError


def new(**said: Any) -> NewUpload:
    return NewUpload(**{"owner": "u", "filename": "a", "size": 1, "content_type": "video/mp4", **said})


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"owner": ""}, "owner is empty"),
        ({"filename": ""}, "filename is empty"),
        ({"filename": "a\x00b"}, "filename has a control character"),
        ({"filename": "a\nb"}, "filename has a control character"),
        ({"filename": "ü" * 513}, "filename is 1026 bytes long"),
        ({"filename": "\ud800"}, "filename is not valid Unicode"),
        ({"title": "t" * 1_025}, "title is 1025 bytes long"),
        ({"fingerprint": ""}, "fingerprint is empty"),
        ({"fingerprint": "f" * 256}, "fingerprint is 256 bytes long"),
        ({"content_type": "video"}, "content_type"),
        ({"content_type": "video/mp4\r\nx: y"}, "content_type"),
        ({"content_type": "video/mp4;" + "x" * 201}, "content_type"),
        ({"metadata": {"": "v"}}, "a metadata key is empty"),
        ({"metadata": {"k": "\x7f"}}, r"metadata\['k'\] has a control character"),
        ({"metadata": {"k": "v" * 1_024, "l": "w" * 1_023}}, "metadata is at most 2048 bytes"),
    ],
)
def test_a_value_that_can_not_be_kept_is_refused_by_name(said: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        new(**said)


@pytest.mark.parametrize(
    "said",
    [
        {"filename": "ü" * 512},
        {"title": ""},
        {"fingerprint": "f" * 255},
        {"content_type": "application/vnd.api+json; charset=utf-8"},
        {"metadata": {"k": "v" * 1_024, "l": "w" * 1_022}},
        {"metadata": {"k": ""}},
    ],
)
def test_what_fits_is_taken(said: dict[str, Any]) -> None:
    taken = new(**said)

    assert {name: getattr(taken, name) for name in said} == said


@given(st.text(max_size=2_000))
def test_any_text_is_taken_or_refused_and_what_is_taken_can_be_written_as_utf8(name: str) -> None:
    try:
        taken = new(filename=name)
    except InvalidRequestError:
        return
    assert "\x00" not in taken.filename
    assert 1 <= len(taken.filename.encode()) <= 1_024


@pytest.mark.parametrize(
    ("accepted", "content_type", "taken"),
    [
        ((), "anything/at-all", True),
        (("video/mp4",), "video/mp4", True),
        (("video/mp4",), "VIDEO/MP4; codecs=x", True),
        (("video/mp4",), "video/mp4x", False),
        (("video/*", "image/png"), "image/png", True),
        (("Video/*",), "video/webm", True),
        (("video/*",), "videos/webm", False),
    ],
)
def test_a_content_type_is_compared_without_case_and_parameters(
    accepted: tuple[str, ...], content_type: str, taken: bool
) -> None:
    request = UploadRequest(owner="u", filename="a", size=1, content_type=content_type)
    limits = Admission(content_types=accepted)

    if taken:
        assert admit(request, limits) == 1
    else:
        with pytest.raises(ContentTypeNotAllowedError):
            admit(request, limits)


def test_the_quota_is_charged_with_the_size_or_what_an_unknown_size_may_become() -> None:
    limits = Admission(max_size=10, max_unknown_size=7)

    def ask(size: int | None) -> int:
        return admit(UploadRequest(owner="u", filename="a", size=size, content_type="a/b"), limits)

    assert (ask(10), ask(0), ask(None)) == (10, 0, 7)
    with pytest.raises(TooLargeError):
        ask(11)


def test_an_unknown_size_is_charged_no_more_than_the_largest_blob() -> None:
    request = UploadRequest(owner="u", filename="a", size=None, content_type="a/b")

    assert admit(request, Admission(max_size=7, max_unknown_size=10)) == 7


def test_the_static_policy_has_the_same_limits_for_everybody() -> None:
    limits = Admission(max_size=1)
    request = UploadRequest(owner="u", filename="a", size=1, content_type="a/b")

    assert asyncio.run(StaticPolicy(limits).admit(request)) is limits
