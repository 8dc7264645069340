"""Objects on disk: a record and a data file each, put in place in one step that a crash can't halve.

Whatever is to become an object is first *staged*: a folder with the data. Then it is *decided*: the record is written into that folder, durably.
From there on it goes forward only: data file and record are renamed into `objects/`, and whoever finds a decided folder (`recover`, a repeated
completion) does the same again, to the same end. Replaced and deleted objects leave by way of `deleting/`, folders by way of `trash/`, so
that a crash leaves nothing that nobody knows of.

Folders are synced where the next step, or the caller, builds on it: before data leaves its place, and before anybody is told. For the rest it is enough
that a filesystem with a journal makes renames durable in the order they were done; one that does not may, after a power cut, keep bytes that
nobody knows of, but shows no object that is not whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from uploadcore.errors import InvalidRequestError
from uploadcore_filesystem.disk import (
    create_exclusive,
    make_folders,
    sync_file,
    sync_folder,
    unlink_if_there,
)

__all__ = ["MAX_KEY_SIZE", "ObjectFolder", "ObjectRecord", "new_token"]

MAX_KEY_SIZE = 1024
"""Bytes in UTF-8. Source: S3 User Guide, "Naming Amazon S3 objects"."""

_DECISION = "object.json"
_STRIPES = 64


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """What is known of an object.

    Attributes:
        id: The staging folder's name: of a multipart upload its storage upload id.
        crc64: CRC64NVME of the whole.
        source: Where in its staging folder the data was; means nothing once it is in place.
    """

    id: str
    key: str
    size: int
    etag: str
    crc64: int
    content_type: str
    metadata: dict[str, str]
    source: str = "data"

    def dump(self) -> bytes:
        """As it is written to disk. Keys are any text, lone surrogates included: JSON escapes them."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, content: bytes) -> ObjectRecord:
        """The reverse of `dump`."""
        return cls(**json.loads(content))


def new_token() -> str:
    """A name nobody can guess and nothing else has: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def key_digest(key: str) -> str:
    """A key as a file name: it can't leave the folder, has one length, and is not at the mercy of a filesystem's ideas of case.

    Raises:
        InvalidRequestError: The key is empty or too long.
    """
    encoded = key.encode("utf-8", "surrogatepass")
    if not 1 <= len(encoded) <= MAX_KEY_SIZE:
        raise InvalidRequestError(f"a key has 1 to {MAX_KEY_SIZE} bytes, not {len(encoded)}")
    return hashlib.sha256(encoded).hexdigest()


class ObjectFolder:
    """All objects below one root. Every method blocks; all but `recover` may be called from any thread at any time."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._incoming = root / "incoming"
        self._deleting = root / "deleting"
        self._trash = root / "trash"
        self._locks = tuple(threading.Lock() for _ in range(_STRIPES))

    def prepare(self) -> None:
        """Make the folders."""
        make_folders(self._objects, self._incoming, self._deleting, self._trash)

    def lock(self, key: str) -> threading.Lock:
        """Held while the object under this key is looked at in order to be changed."""
        return self._locks[int(key_digest(key)[:2], 16) % _STRIPES]

    # --- looking --------------------------------------------------------------------------------------------------

    def read(self, key: str) -> ObjectRecord | None:
        """The record of what stands under the key."""
        try:
            return ObjectRecord.load(self._record_path(key).read_bytes())
        except FileNotFoundError:
            return None

    def data_path(self, record: ObjectRecord) -> Path:
        """Where an object's bytes are. The name is this object's alone: a later one under the same key gets another."""
        return self._record_path(record.key).with_suffix(f".{record.id}")

    def _record_path(self, key: str) -> Path:
        digest = key_digest(key)
        return self._objects / digest[:2] / f"{digest}.json"

    # --- making ---------------------------------------------------------------------------------------------------

    def stage(self) -> Path:
        """A new, empty folder to put an object's data in. Lost in a crash unless decided."""
        folder = self._incoming / new_token()
        folder.mkdir(mode=0o700)
        return folder

    def is_decided(self, staged: Path) -> bool:
        """If the folder's object is to be installed, come what may."""
        return (staged / _DECISION).exists()

    def decide(self, staged: Path, record: ObjectRecord) -> None:
        """From here on the object is to be, if the process dies; if the power fails, after a `sync_folder`. Its data must be durable."""
        draft = staged / "object.draft"
        unlink_if_there(draft)
        create_exclusive(draft, record.dump())
        os.rename(draft, staged / _DECISION)

    def undecide(self, staged: Path) -> None:
        """Take a decision back of which nothing has been carried out. Durable after a `sync_folder`."""
        unlink_if_there(staged / _DECISION)

    def install(self, staged: Path) -> ObjectRecord:
        """Carry a decision out, from wherever it was left; the folder is gone afterwards. Under the key's lock."""
        record = ObjectRecord.load((staged / _DECISION).read_bytes())
        path, data = self._record_path(record.key), self.data_path(record)
        make_folders(path.parent)
        source = staged / record.source
        if source.exists():
            _cut_to_size(source, record.size)
            os.rename(source, data)
            sync_folder(data.parent)
        replaced = self.read(record.key)
        if replaced is not None and replaced.id != record.id:
            # Noted before the new record hides it, so that its data is not forgotten.
            with suppress(FileExistsError):
                os.link(path, self._deleting / f"{replaced.id}.json")
        if data.exists():
            # A second name for the decision, then that in place of the record: needs no room on a full disk.
            draft = staged / "record.draft"
            unlink_if_there(draft)
            os.link(staged / _DECISION, draft)
            os.rename(draft, path)
            sync_folder(path.parent)
        self.discard(staged)
        if replaced is not None and replaced.id != record.id:
            self._finish_deletion(self._deleting / f"{replaced.id}.json")
        return record

    # --- unmaking -------------------------------------------------------------------------------------------------

    def delete(self, key: str) -> None:
        """Delete what stands under the key, if anything does. Under the key's lock."""
        record = self.read(key)
        if record is None:
            return
        path, note = self._record_path(key), self._deleting / f"{record.id}.json"
        os.rename(path, note)
        sync_folder(path.parent)
        self._finish_deletion(note)

    def revoke(self, staged: Path) -> None:
        """Undo a decision that may be half carried out, unless it is carried out wholly. Under the key's lock."""
        note = self._deleting / f"{staged.name}.json"
        os.rename(staged / _DECISION, note)
        self._finish_deletion(note)

    def discard(self, folder: Path) -> None:
        """Drop a folder and all in it, in one step: what is left of it after a crash is nobody's any more.

        Durable after a `sync_folder` of the folder it was in. Of an installed object's folder that need not be: should it come back, it is
        found that its data has moved on.
        """
        rubbish = self._trash / folder.name
        os.rename(folder, rubbish)
        # What can't be removed now is removed when the store is next opened.
        shutil.rmtree(rubbish, ignore_errors=True)

    def _finish_deletion(self, note: Path) -> None:
        """Remove the data of the object a note in `deleting/` tells of, then the note."""
        record = ObjectRecord.load(note.read_bytes())
        current = self.read(record.key)
        if current is None or current.id != record.id:
            unlink_if_there(self.data_path(record))
        unlink_if_there(note)

    # --- after a crash --------------------------------------------------------------------------------------------

    def recover(self, multiparts: Path) -> None:
        """Finish everything that was begun; nobody else is at work yet.

        Args:
            multiparts: Folder of multipart uploads, whose decided ones are installed too.
        """
        for folder in (*self._incoming.iterdir(), *multiparts.iterdir()):
            if self.is_decided(folder):
                self.install(folder)
            elif folder.parent == self._incoming:
                self.discard(folder)
        for note in self._deleting.iterdir():
            self._finish_deletion(note)
        for rubbish in self._trash.iterdir():
            unlink_if_there(rubbish)

    def create_data(self, staged: Path) -> Path:
        """The empty data file of a staged object, durable but for its name."""
        path = staged / "data"
        create_exclusive(path)
        return path


def _cut_to_size(path: Path, size: int) -> None:
    """Drop what lies beyond: an attempt at a part that was longer than the one that counts, or parts that were not named."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, size)
            sync_file(descriptor)
    finally:
        os.close(descriptor)
