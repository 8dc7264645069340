"""What its owner may change of a file, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from uploadcore.admission import MAX_FILENAME_BYTES, MAX_TEXT, check_metadata, check_text
from uploadcore.errors import InvalidRequestError
from uploadcore.file import File, Visibility

__all__ = ["FileChanges", "check_label"]

MAX_DESCRIPTION_BYTES = 16_384
"""4,096 characters of any script."""
MAX_LABELS = 32
MAX_LABEL = 64


@dataclass(frozen=True, slots=True)
class FileChanges:
    """Values to take the place of a file's; `None` leaves one as it is. Made only of values that can be used.

    Raises:
        InvalidRequestError: Naming the first value that can't.
    """

    name: str | None = None
    title: str | None = None
    description: str | None = None
    labels: Sequence[str] | None = None
    visibility: Visibility | None = None
    metadata: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Check every value on its own."""
        if self.name is not None:
            check_text("name", self.name, MAX_FILENAME_BYTES)
        if self.title is not None:
            check_text("title", self.title, MAX_TEXT, empty=True)
        if self.description is not None:
            check_text("description", self.description, MAX_DESCRIPTION_BYTES, empty=True, lines=True)
        if self.labels is not None:
            _check_labels(self.labels)
        if self.metadata is not None:
            check_metadata(self.metadata)

    def applied_to(self, file: File) -> File:
        """The file with these values; equal to it, if it has them already."""
        changed = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.labels is not None:
            changed["labels"] = tuple(self.labels)
        if self.metadata is not None:
            changed["metadata"] = MappingProxyType(dict(self.metadata))
        return replace(file, **{name: value for name, value in changed.items() if value is not None})


def _check_labels(labels: Sequence[str]) -> None:
    if isinstance(labels, str):
        raise InvalidRequestError("labels is a list of texts, not one text")
    if len(labels) > MAX_LABELS:
        raise InvalidRequestError(f"a file has at most {MAX_LABELS} labels, not {len(labels)}")
    for label in labels:
        check_label(label)
    if len(set(labels)) != len(labels):
        raise InvalidRequestError("each label is given once")


def check_label(label: str) -> None:
    """Refuse what can't be a label.

    Raises:
        InvalidRequestError: It is empty, longer than 64 characters, or has a control character.
    """
    check_text("a label", label, 4 * MAX_LABEL)
    if len(label) > MAX_LABEL:
        raise InvalidRequestError(f"a label is {len(label)} characters long, more than {MAX_LABEL}")
