"""Durations that can't work are refused when the core is made, not when the first upload fails."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from uploadcore import UploadConfig


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"url_lifetime": timedelta(0)}, "url_lifetime"),
        ({"url_lifetime": timedelta(days=7, seconds=1)}, "url_lifetime"),
        ({"lease": timedelta(seconds=10)}, "lease_renewal"),
        ({"lease_renewal": timedelta(0)}, "lease_renewal"),
        ({"key_prefix": "a/../b"}, "no segment"),
        ({"upload_lifetime": timedelta(0)}, "upload_lifetime"),
        ({"cache_ttl": timedelta(0)}, "cache_ttl"),
        ({"file_cache_ttl": timedelta(0)}, "file_cache_ttl"),
        ({"delivery_attempts": 0}, "delivery_attempts"),
        ({"key_prefix": ""}, "key_prefix"),
        ({"key_prefix": "/uploads"}, "key_prefix"),
        ({"key_prefix": "uploads/"}, "key_prefix"),
    ],
)
def test_what_can_not_work_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        UploadConfig(**wrong)


def test_the_recheck_comes_an_hour_after_the_last_url_of_the_oldest_copy_and_orphans_are_older_than_any_upload_and_its_urls() -> (
    None
):
    config = UploadConfig(url_lifetime=timedelta(days=7), upload_lifetime=timedelta(days=2))

    assert config.recheck_after == timedelta(days=14, hours=1)
    assert config.orphan_age == timedelta(days=9)
