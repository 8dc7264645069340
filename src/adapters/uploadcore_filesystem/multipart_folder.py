"""All multipart uploads of a store: made, listed, and each in memory once, however many use it."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from uploadcore.errors import NoSuchMultipartError
from uploadcore_filesystem.disk import create_exclusive, make_folders, sync_folder
from uploadcore_filesystem.multipart import Multipart, MultipartInfo, read_info
from uploadcore_filesystem.objects import ObjectFolder

__all__ = ["MultipartFolder", "MultipartInfo"]

_IDLE_KEPT = 64
"""Uploads whose part listing stays in memory while nobody uses them: about 4 MB each at 10,000 parts."""
_UPLOAD_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class MultipartFolder:
    """All multipart uploads below one root. Every method blocks."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "multiparts"
        self._lock = threading.Lock()
        self._used: OrderedDict[str, Multipart] = OrderedDict()

    def prepare(self) -> None:
        """Make the folder."""
        make_folders(self.folder)

    def create(self, objects: ObjectFolder, info: MultipartInfo) -> str:
        """Make an upload, there as a whole or not at all; return its storage upload id."""
        staged = objects.stage()
        try:
            content = {
                "key": info.key,
                "content_type": info.headers.content_type,
                "metadata": dict(info.headers.metadata),
                "initiated": info.initiated.isoformat(),
            }
            create_exclusive(staged / "upload.json", json.dumps(content).encode())
            create_exclusive(staged / "data")
            for name in ("parts", "chunks"):
                (staged / name).mkdir(mode=0o700)
            sync_folder(staged)
            os.rename(staged, self.folder / staged.name)
            sync_folder(self.folder)
        except OSError:
            with suppress(OSError):
                objects.discard(staged)
            raise
        return staged.name

    @contextmanager
    def use(self, upload_id: str) -> Iterator[Multipart]:
        """An upload, for a while.

        Raises:
            NoSuchMultipartError: There is none of that name.
        """
        multipart = self.acquire(upload_id)
        try:
            yield multipart
        finally:
            self.release(multipart)

    def acquire(self, upload_id: str) -> Multipart:
        """An upload, until it is released: all who have it at a time have the same one.

        Raises:
            NoSuchMultipartError: There is none of that name.
        """
        if not _UPLOAD_ID.fullmatch(upload_id):
            raise NoSuchMultipartError("the store knows no such multipart upload")
        with self._lock:
            multipart = self._used.get(upload_id)
            if multipart is None or multipart.is_gone:
                multipart = self._used[upload_id] = Multipart(self.folder / upload_id)
            multipart.users += 1
            self._used.move_to_end(upload_id)
        try:
            multipart.load()
        except BaseException:
            self.release(multipart)
            raise
        return multipart

    def release(self, multipart: Multipart) -> None:
        """Done with it. The longest unused are forgotten: they can be loaded again."""
        with self._lock:
            multipart.users -= 1
            upload_id = multipart.folder.name
            useless = multipart.is_gone or not multipart.is_loaded
            if useless and multipart.users == 0 and self._used.get(upload_id) is multipart:
                del self._used[upload_id]
            idle = (
                [name for name, other in self._used.items() if other.users == 0] if len(self._used) > _IDLE_KEPT else []
            )
            for name in idle[: len(self._used) - _IDLE_KEPT]:
                del self._used[name]

    def names(self) -> list[str]:
        """The storage upload ids there are."""
        return [name for name in os.listdir(self.folder) if _UPLOAD_ID.fullmatch(name)]

    def infos(self, upload_ids: Sequence[str]) -> list[MultipartInfo | None]:
        """What was said when these were created; `None` where there is none of that name any more."""
        infos: list[MultipartInfo | None] = []
        for upload_id in upload_ids:
            try:
                infos.append(read_info(self.folder / upload_id))
            except FileNotFoundError:
                infos.append(None)
        return infos

    def clean(self) -> None:
        """Remove what a crash left of parts that were never listed."""
        for name in self.names():
            with self.use(name):
                pass
