"""Rule 12, with the code itself: the version before this one, from the project's history, works on the migrated schema beside this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from uploadcore import UploadCore
from uploadcore.errors import UploadClosedError
from uploadcore.events import Event
from uploadcore.states import UploadState
from uploadcore_memory import MemoryObjectStore
from uploadcore_sql import SqlDatabase

PREVIOUS = {
    "0002": "d8667813fe063e4aa482d1f51f61376c79b1539a",
    "0003": "8d009214486dfa1328239ce08f178639df7d5a47",
    "0004": "917a17879bc3db811ed958bfe33762be3cd60bde",
    "0005": "1b7b0aff31bbc63e7386a8d90a7c5a141029d46a",
}
"""By revision, the last commits whose newest it is. Rule 12 asks for the one before ours; the older ones should go on working too."""
SCRIPT = """
import asyncio, inspect, json, sys
from uploadcore import UploadCore
from uploadcore_memory import MemoryObjectStore
from uploadcore_sql import SqlDatabase
from uploadcore_sql.schema import scripts

class Kept:
    def __init__(self):
        self.events = []
    async def open(self):
        pass
    async def close(self):
        pass
    async def publish(self, event):
        self.events.append([event.type, event.upload_id])

async def main(url, theirs, their_open):
    store, kept = MemoryObjectStore(), Kept()
    takes_several = "publishers" in inspect.signature(UploadCore).parameters
    told = {"publishers": {"kept": kept}} if takes_several else {"publisher": kept}
    async with UploadCore(store=store, database=SqlDatabase(url), **told) as core:
        async def begin(name):
            asked = dict(owner="u_1", filename=name, size=25, part_size=10, idempotency_key=f"old-{name}")
            upload = await core.uploads.initiate(**asked)
            assert (await core.uploads.initiate(**asked)).id == upload.id
            for part in await core.uploads.sign_parts(upload.id, owner="u_1", part_numbers=[1, 2, 3]):
                await store.put(part.request, b"x" * part.length)
            return upload
        done, dropped, open_ = [await begin(name) for name in ("done", "dropped", "open")]
        completion = await core.uploads.complete(done.id, owner="u_1")
        await core.files.update(completion.file.id, owner="u_1", title="by the old")
        await core.uploads.abort(dropped.id, owner="u_1")
        read = await core.files.update(theirs, owner="u_1", description="by the old")
        assert (read.title, read.status) == ("by the new", "available"), read
        assert (await core.uploads.abort(their_open, owner="u_1")).state == "aborted"
        report = await core.sweep()
        while getattr(report_ := await core.relay(), "more", report_):
            pass
        page = await core.uploads.find(owner="u_1")
        print(json.dumps({
            "newest": scripts().get_current_head(),
            "done": done.id, "dropped": dropped.id, "open": open_.id, "file": completion.file.id,
            "states": {upload.id: upload.state for upload in page.uploads},
            "failed": report.failed,
            "events": kept.events,
        }))

asyncio.run(main(*sys.argv[1:]))
"""


class Kept:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[list[str]] = []

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def publish(self, event: Event) -> None:
        self.events.append([str(event.type), event.upload_id])


@pytest.fixture(scope="module", params=PREVIOUS)
def previous(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where its source lies."""
    root = Path(__file__).parents[3]
    wanted = ["src/uploadcore", "src/adapters/uploadcore_memory", "src/adapters/uploadcore_sql"]
    archived = subprocess.run(
        ["git", "-c", f"safe.directory={root}", "archive", PREVIOUS[request.param], *wanted],
        cwd=root,
        capture_output=True,
        check=False,
    )
    if archived.returncode:
        pytest.skip(f"the version before this one is not at hand: {archived.stderr.decode().strip()}")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=BytesIO(archived.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


def run_previous(source: Path, *arguments: str) -> dict[str, Any]:
    """What its script tells."""
    paths = os.pathsep.join([str(source), str(source / "adapters")])
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_the_version_before_works_on_this_schema_and_each_goes_on_with_what_the_other_left(
    previous: Path, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/shared.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    database = SqlDatabase(url)
    await database.migrate()
    store, kept = MemoryObjectStore(), Kept()
    async with UploadCore(store=store, database=database, publishers={"kept": kept}) as core:
        ours, left = [
            await core.uploads.initiate(owner="u_1", filename=name, size=3, idempotency_key=f"new-{name}")
            for name in ("ours", "left")
        ]
        [part] = await core.uploads.sign_parts(ours.id, owner="u_1", part_numbers=[1])
        await store.put(part.request, b"abc")
        completion = await core.uploads.complete(ours.id, owner="u_1")
        assert completion.file is not None
        file_id = completion.file.id
        await core.files.update(file_id, owner="u_1", title="by the new")

        theirs = run_previous(previous, url, file_id, left.id)

        assert theirs["newest"] < (await database.schema()).newest
        assert theirs["failed"] == 0
        assert theirs["states"] == {
            ours.id: "completed",
            left.id: "aborted",
            theirs["done"]: "completed",
            theirs["dropped"]: "aborted",
            theirs["open"]: "uploading",
        }
        for upload_id, state in theirs["states"].items():
            assert (await core.uploads.get(upload_id, owner="u_1")).state == state
        read = await core.files.get(file_id, owner="u_1")
        assert (read.title, read.description) == ("by the new", "by the old")
        done = await core.files.get(theirs["file"], owner="u_1")
        assert (done.title, done.status) == ("by the old", "available")

        again = await core.uploads.initiate(
            owner="u_1", filename="open", size=25, part_size=10, idempotency_key="old-open"
        )
        assert again.id == theirs["open"]
        assert len(await core.uploads.sign_parts(theirs["open"], owner="u_1", part_numbers=[1, 2, 3])) == 3
        assert (await core.uploads.abort(theirs["open"], owner="u_1")).state is UploadState.ABORTED
        with pytest.raises(UploadClosedError):
            await core.uploads.sign_parts(left.id, owner="u_1", part_numbers=[1])
        assert (await core.sweep()).failed == 0
        while (await core.relay()).more:
            pass

    told = theirs["events"] + kept.events
    for upload_id, state in {**theirs["states"], theirs["open"]: "aborted"}.items():
        assert told.count([f"upload.{state}", upload_id]) == 1, "told of once, by whichever relay"
