"""Views carry what an owner may see, and nothing of where the bytes lie."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tests.unit.core.rig import Rig
from uploadcore import FileView, SweepReport, UploadView


async def test_an_upload_that_was_never_saved_has_no_view(rig: Rig) -> None:
    await rig.begin()

    with pytest.raises(ValueError, match="has not been saved"):
        UploadView.of(replace(rig.only(), created_at=None))


@pytest.mark.parametrize("view", [UploadView, FileView])
def test_no_view_has_an_address(view: type) -> None:
    assert {"address", "bucket", "key", "storage_upload_id"}.isdisjoint(field.name for field in fields(view))


def test_two_passes_add_up_to_one() -> None:
    first, second = (
        SweepReport(expired=2, bytes=10, oldest_age=5.0, more=True),
        SweepReport(expired=1, failed=1, bytes=5),
    )

    assert first.plus(second) == SweepReport(expired=3, failed=1, bytes=15, oldest_age=5.0, more=False)
    assert second.plus(first) == SweepReport(expired=3, failed=1, bytes=15, oldest_age=5.0, more=True)
