"""What the service makes on a disk is for its own user to read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from uploadcore import UploadCore
from uploadcore_filesystem import FilesystemObjectStore
from uploadcore_sql import SqlDatabase


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
async def test_nobody_else_may_read_what_is_in_the_data_folder(tmp_path: Path) -> None:
    data = tmp_path / "data"
    store = FilesystemObjectStore(data / "files", public_url="http://127.0.0.1:8484", secret_file=data / "signing.key")
    database = SqlDatabase(f"sqlite:///{data / 'uploadcore.db'}")

    async with UploadCore(store=store, database=database) as core:
        upload = await core.uploads.initiate(owner="u", filename="a", size=20_000_000, sign=1)
        made = {path.name: path for path in data.iterdir()}
        modes = {name: stat.S_IMODE(path.stat().st_mode) for name, path in made.items()}
        await core.uploads.abort(upload.id, owner="u")

    assert {"files", "signing.key", "uploadcore.db", "uploadcore.db-wal"} <= set(modes)
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.usefixtures("usual_umask")
async def test_a_database_that_was_shared_on_purpose_stays_so(tmp_path: Path) -> None:
    path = tmp_path / "uploadcore.db"
    path.touch(mode=0o640)

    database = SqlDatabase(f"sqlite:///{path}")
    await database.open()
    await database.close()

    assert stat.S_IMODE(path.stat().st_mode) == 0o640
