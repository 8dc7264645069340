"""Contract suites for the ports of uploadcore: an adapter's author subclasses them, gives fixtures, and pytest runs what the ports promise.

Needs pytest and pytest-asyncio with `asyncio_mode = "auto"`. In a test module of your own:

    class TestMyDatabase(DatabaseContract):
        @pytest.fixture
        async def database(self, tmp_path):
            database = MyDatabase(tmp_path / "db")
            await database.open()
            yield database
            await database.close()

Each suite says at its top which fixtures and methods it wants. Nothing in them sleeps for a time to pass, except where a suite has an
`advance` to wait with; a real clock is waited on in short steps, until the condition holds.
"""

from __future__ import annotations

import pytest

# Before the modules are imported, so that a failing assert in them shows its values.
pytest.register_assert_rewrite(
    *(
        f"uploadcore.testing.{module}"
        for module in (
            "cache",
            "database",
            "files",
            "idempotency",
            "multipart",
            "objects",
            "outbox",
            "process",
            "quotas",
            "signed_urls",
            "store_steps",
            "uploads",
        )
    )
)

from uploadcore.testing.builders import make_event, make_file, make_upload  # noqa: E402 - see above
from uploadcore.testing.cache import CacheContract  # noqa: E402
from uploadcore.testing.database import DatabaseContract  # noqa: E402
from uploadcore.testing.objects import HttpAnswer, ObjectStoreContract, SignedHttp  # noqa: E402
from uploadcore.testing.process import ClockContract, EventPublisherContract, IdFactoryContract  # noqa: E402

__all__ = [
    "CacheContract",
    "ClockContract",
    "DatabaseContract",
    "EventPublisherContract",
    "HttpAnswer",
    "IdFactoryContract",
    "ObjectStoreContract",
    "SignedHttp",
    "make_event",
    "make_file",
    "make_upload",
]
