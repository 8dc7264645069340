"""The durations and limits the use cases run with. The defaults fit S3 and clients on the open internet; an embedder passes another `UploadConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

__all__ = ["UploadConfig"]

MAX_URL_LIFETIME = timedelta(days=7)
"""Source: S3 User Guide, "Download and upload objects with presigned URLs": SigV4 URLs live 7 days at most."""


@dataclass(frozen=True, slots=True)
class UploadConfig:
    """How long things take and last.

    Attributes:
        key_prefix: First component of every storage key.
        url_lifetime: How long a signed URL is asked to live; at most 7 days.
        upload_lifetime: From initiate to the deadline.
        lease: How long one caller may act alone; it must outlast any single call to the store but completion.
        lease_renewal: How often the lease is renewed while the store completes.
        opening_wait: How long a repeated initiate waits for the first to finish opening.
        completion_wait: How long a caller of `complete` waits before it is told that the store still assembles.
        lost_confirmation: How far apart the two sightings must be before a completing upload counts as lost by the store.
        second_completion_after: When a store without `concurrent_complete` may be called again.
        give_up_after: When an upload that can't be settled is given up: once the store was told twice more, and did not do it.
        recheck_margin: After the last URL has run out, when the store is looked at once more.
        idempotency_kept: How long an idempotency key answers with its upload.
        events_kept: How long events stay in the outbox once they are delivered.
        delivery_attempts: How often an event is tried at a destination before it becomes a dead letter. With waits of up to an hour, 48 take
            about a day.
        dead_letters_kept: How long dead letters can be looked at and replayed.
        cache_ttl: How old the copy of an upload may be that signing reads.
        file_cache_ttl: How old the copy of a file may be that reading it answers with, where a change did not reach the cache.
        single_put_limit: Largest blob, in bytes, that goes up in one PUT.
        batch: Uploads, files and events one background pass takes on.
        sweep_interval: Pause between sweeps in `run_background`.
        relay_interval: Longest pause between relay passes in `run_background`.
    """

    key_prefix: str = "uploads"
    url_lifetime: timedelta = timedelta(minutes=15)
    upload_lifetime: timedelta = timedelta(days=1)
    lease: timedelta = timedelta(seconds=30)
    lease_renewal: timedelta = timedelta(seconds=10)
    opening_wait: timedelta = timedelta(seconds=5)
    completion_wait: timedelta = timedelta(seconds=20)
    lost_confirmation: timedelta = timedelta(seconds=10)
    second_completion_after: timedelta = timedelta(minutes=10)
    give_up_after: timedelta = timedelta(hours=24)
    recheck_margin: timedelta = timedelta(hours=1)
    idempotency_kept: timedelta = timedelta(hours=24)
    events_kept: timedelta = timedelta(hours=24)
    delivery_attempts: int = 48
    dead_letters_kept: timedelta = timedelta(days=30)
    cache_ttl: timedelta = timedelta(seconds=5)
    file_cache_ttl: timedelta = timedelta(seconds=60)
    single_put_limit: int = 16 * 1024 * 1024
    batch: int = 200
    sweep_interval: timedelta = timedelta(seconds=60)
    relay_interval: timedelta = timedelta(seconds=1)

    def __post_init__(self) -> None:
        """Refuse what can't work."""
        if not timedelta(0) < self.url_lifetime <= MAX_URL_LIFETIME:
            raise ValueError(f"url_lifetime is more than 0 and at most {MAX_URL_LIFETIME}, not {self.url_lifetime}")
        if not timedelta(0) < self.lease_renewal < self.lease:
            raise ValueError("lease_renewal is more than 0 and shorter than the lease")
        if self.upload_lifetime <= timedelta(0):
            raise ValueError("upload_lifetime is more than 0")
        if min(self.cache_ttl, self.file_cache_ttl) <= timedelta(0):
            raise ValueError("cache_ttl and file_cache_ttl are more than 0")
        if self.delivery_attempts < 1:
            raise ValueError("delivery_attempts is 1 or more")
        if not self.key_prefix or self.key_prefix.strip("/") != self.key_prefix:
            raise ValueError("key_prefix is not empty and neither begins nor ends with a slash")
        # Clients take these out of a URL before they send it (RFC 3986, section 5.2.4).
        if {".", ".."} & set(self.key_prefix.split("/")):
            raise ValueError("key_prefix has no segment '.' or '..'")

    @property
    def recheck_after(self) -> timedelta:
        """When nothing that was signed can still arrive: while the database is away, URLs are signed for uploads as they were a URL's life ago."""
        return 2 * self.url_lifetime + self.recheck_margin

    @property
    def orphan_interval(self) -> timedelta:
        """Pause between one process's looks for orphans: a bucket is listed for it, and they are old anyway."""
        return min(timedelta(hours=1), self.orphan_age / 24)

    @property
    def orphan_age(self) -> timedelta:
        """Older than any upload and any of its URLs: what no row knows by then is nobody's."""
        return self.upload_lifetime + self.url_lifetime
