"""The file record and checksums."""

from __future__ import annotations

import base64
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploadcore.address import Address
from uploadcore.errors import FileNotReadyError, InvalidRequestError
from uploadcore.file import Checksum, ChecksumAlgorithm, FileStatus, FileView, VerifiedBy, Visibility
from uploadcore.testing import make_file

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(algorithm=st.sampled_from(ChecksumAlgorithm), data=st.data())
def test_base64_of_a_digest_is_a_checksum(algorithm: ChecksumAlgorithm, data: st.DataObject) -> None:
    digest = data.draw(st.binary(min_size=algorithm.digest_size, max_size=algorithm.digest_size))
    value = base64.b64encode(digest).decode()
    assert Checksum(algorithm, value).value == value


@given(algorithm=st.sampled_from(ChecksumAlgorithm), digest=st.binary(max_size=40))
def test_a_digest_of_another_length_is_refused(algorithm: ChecksumAlgorithm, digest: bytes) -> None:
    if len(digest) != algorithm.digest_size:
        with pytest.raises(InvalidRequestError, match=f"base64 of {algorithm.digest_size} bytes"):
            Checksum(algorithm, base64.b64encode(digest).decode())


@pytest.mark.parametrize(
    "value", ["", "AAAAAA", "AAAAAA=", "AAAA AA==", "AAAAAA==\n", "é" * 8, "AAAA-_==", "\x00", "=" * 8]
)
def test_what_is_not_base64_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequestError):
        Checksum(ChecksumAlgorithm.CRC32C, value)


def test_one_digest_has_one_spelling() -> None:
    # Both decode to four zero bytes. Were both taken, one could never equal what the store computes.
    assert base64.b64decode("AAAAAA==", validate=True) == base64.b64decode("AAAAAB==", validate=True)
    with pytest.raises(InvalidRequestError):
        Checksum(ChecksumAlgorithm.CRC32C, "AAAAAB==")


def test_a_file_that_becomes_available_has_the_uploads_content_and_keeps_the_rest() -> None:
    file = make_file("f", title="t", labels=("x",))
    checksum = Checksum(ChecksumAlgorithm.CRC32C, "AAAAAA==")
    available = file.becomes_available(
        upload_id="u2",
        address=Address("b2", "k2", "multipart"),
        size=5,
        content_type="image/png",
        checksum=checksum,
        verified_by=VerifiedBy.STORE,
    )
    assert available == replace(
        file,
        status=FileStatus.AVAILABLE,
        upload_id="u2",
        address=Address("b2", "k2"),
        size=5,
        content_type="image/png",
        checksum=checksum,
        verified_by=VerifiedBy.STORE,
    )


def test_a_file_can_fail() -> None:
    assert make_file("f").fails() == make_file("f", status=FileStatus.FAILED)


@pytest.mark.parametrize("status", [FileStatus.AVAILABLE, FileStatus.DELETING])
def test_a_file_with_content_can_be_deleted(status: FileStatus) -> None:
    deleting = make_file("f", status=status).starts_deleting()
    assert deleting.status is FileStatus.DELETING
    assert deleting.is_deleted().status is FileStatus.DELETED


@pytest.mark.parametrize("status", [FileStatus.UPLOADING, FileStatus.FAILED, FileStatus.DELETED])
def test_a_file_without_content_can_not_be_deleted(status: FileStatus) -> None:
    with pytest.raises(FileNotReadyError) as refused:
        make_file("f", status=status).starts_deleting()
    assert (refused.value.file_id, refused.value.status) == ("f", status)


def test_a_view_shows_what_the_file_has_and_neither_owner_nor_upload() -> None:
    file = make_file(
        "f", created_at=NOW, updated_at=NOW, title="t", labels=("x",), metadata={"a": "b"}, size=5, version=3
    )
    view = FileView.of(file)
    for field in fields(FileView):
        assert getattr(view, field.name) == getattr(file, field.name)
    assert {"owner", "upload_id", "address", "lease_until"}.isdisjoint(field.name for field in fields(FileView))


@pytest.mark.parametrize("missing", ["created_at", "updated_at"])
def test_a_file_never_saved_has_no_view(missing: str) -> None:
    times: dict[str, Any] = {"created_at": NOW, "updated_at": NOW} | {missing: None}
    with pytest.raises(ValueError, match="not been saved"):
        FileView.of(make_file("f", **times))


@pytest.mark.parametrize("status", FileStatus)
@pytest.mark.parametrize(
    ("visibility", "to_a_stranger", "to_somebody_unknown"),
    [(Visibility.PRIVATE, False, False), (Visibility.UNLISTED, True, False), (Visibility.PUBLIC, True, True)],
)
def test_a_file_is_visible_to_its_owner_always_and_to_others_while_it_is_available(
    status: FileStatus, visibility: Visibility, *, to_a_stranger: bool, to_somebody_unknown: bool
) -> None:
    file = make_file("f", owner="u_1", status=status, visibility=visibility)
    is_available = status is FileStatus.AVAILABLE
    assert file.is_visible_to("u_1")
    assert file.is_visible_to("u_2") is (is_available and to_a_stranger)
    assert file.is_visible_to(None) is (is_available and to_somebody_unknown)


def test_where_a_file_lies_is_in_no_repr() -> None:
    assert "up/secret" not in repr(make_file("f", address=Address("bucket", "up/secret")))


def test_a_file_is_immutable() -> None:
    file = make_file("f")
    with pytest.raises(FrozenInstanceError):
        file.title = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        file.metadata["a"] = "b"  # type: ignore[index]
