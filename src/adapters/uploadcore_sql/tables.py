"""The tables as this version of the code sees them. How they come to be is in `migrations`; a test compares the two.

Times are microseconds (see `clock`), mappings and lists are JSON in text columns. There are no foreign keys: an upload and its file name
each other, and events and idempotency keys are dropped on their own schedule. Every name begins with `uploadcore_`: a host's own
tables may live in the same database.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, Computed, Identity, Index, Integer, MetaData, Table, text
from sqlalchemy import Text as AnyText

__all__ = [
    "METADATA",
    "deliveries",
    "events",
    "file_labels",
    "files",
    "idempotency_keys",
    "installation",
    "quotas",
    "uploads",
]

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

Text = AnyText().with_variant(AnyText(collation="C"), "postgresql")
"""Text that is compared byte by byte: as SQLite does, and without the system's rules, a new version of which would break every index."""

DUE_AT = (
    "CASE WHEN state IN ('completing', 'aborting') THEN lease_until "
    "WHEN state = 'uploading' OR (state = 'pending' AND (lease_until IS NULL OR lease_until > expires_at)) THEN expires_at "
    "WHEN state = 'pending' THEN lease_until ELSE recheck_at END"
)
"""The first moment at which somebody should see to an upload: the timers its state watches, in one column under one index."""

installation = Table(
    "uploadcore_installation",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    # The revision of the oldest code that can work on this schema: each migration says so, for the older code to read.
    Column("oldest_code", Text, nullable=False),
    # The highest position given to an event. Who numbers holds the row.
    Column("last_sequence", BigInteger, server_default=text("0"), nullable=False),
)

uploads = Table(
    "uploadcore_uploads",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("file_id", Text, nullable=False),
    Column("filename", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("fingerprint", Text),
    Column("strategy", Text, nullable=False),
    Column("part_size", BigInteger, nullable=False),
    Column("size", BigInteger),
    Column("max_parts", Integer, nullable=False),
    Column("bucket", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("storage_upload_id", Text),
    Column("checksum_algorithm", Text),
    Column("checksum", Text),
    Column("expected_part_count", Integer),
    Column("expected_size", BigInteger),
    Column("expected_checksum_algorithm", Text),
    Column("expected_checksum", Text),
    Column("reason", Text),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("lease_until", BigInteger),
    Column("fenced_at", BigInteger),
    Column("lost_at", BigInteger),
    Column("recheck_at", BigInteger),
    Column("due_at", BigInteger, Computed(DUE_AT, persisted=True)),
    Column("lease_owner", Text),
    Column("expected_parts_digest", Text),
    Column("called_at", BigInteger),
    Index("ix_uploadcore_uploads_key", "key", unique=True),
    Index("ix_uploadcore_uploads_owner", "owner", "created_at", "id"),
    # Of every state, not the open ones alone: an owner may have many of any, and few of another. It costs little: a change of state
    # changes `due_at` as well, and so a row's entry in each index is made anew.
    Index("ix_uploadcore_uploads_state", "owner", "state", "created_at", "id"),
    Index(
        "ix_uploadcore_uploads_fingerprint",
        "owner",
        "fingerprint",
        "created_at",
        "id",
        sqlite_where=text("fingerprint IS NOT NULL"),
        postgresql_where=text("fingerprint IS NOT NULL"),
    ),
    Index(
        "ix_uploadcore_uploads_due",
        "due_at",
        sqlite_where=text("due_at IS NOT NULL"),
        postgresql_where=text("due_at IS NOT NULL"),
    ),
)

files = Table(
    "uploadcore_files",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("upload_id", Text, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("size", BigInteger),
    Column("checksum_algorithm", Text),
    Column("checksum", Text),
    Column("verified_by", Text),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("manifest_url", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("lease_until", BigInteger),
    Column("visibility", Text, server_default=text("'private'"), nullable=False),
    # Where the content lies, and of which upload that is: revision 0001 knows neither. Where it has changed upload_id since, or has made
    # the row, the upload tells.
    Column("bucket", Text),
    Column("key", Text),
    Column("address_upload_id", Text),
    # The labels that file_labels has rows for: a save that changes them sees by this which ones to add and drop.
    Column("indexed_labels", Text, server_default=text("'[]'"), nullable=False),
    Index(
        "ix_uploadcore_files_lease",
        "lease_until",
        sqlite_where=text("lease_until IS NOT NULL"),
        postgresql_where=text("lease_until IS NOT NULL"),
    ),
    Index(
        "ix_uploadcore_files_owner",
        "owner",
        "created_at",
        "id",
        sqlite_where=text("status <> 'deleted'"),
        postgresql_where=text("status <> 'deleted'"),
    ),
    Index("ix_uploadcore_files_status", "owner", "status", "created_at", "id"),
)

file_labels = Table(
    "uploadcore_file_labels",
    METADATA,
    # The key is the index that a page of files with a label is read from.
    Column("owner", Text, primary_key=True),
    Column("label", Text, primary_key=True),
    Column("created_at", BigInteger, primary_key=True, autoincrement=False),
    Column("file_id", Text, primary_key=True),
)

events = Table(
    "uploadcore_events",
    METADATA,
    # The order of one upload's events: its row is locked by the change they tell of, so they are numbered one after the other.
    # Across uploads it is not the order of commit. SQLite numbers rows by itself only in a column declared INTEGER.
    Column("position", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True),
    Column("id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("upload_id", Text, nullable=False),
    Column("file_id", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    # For code of revision 0002, which keeps here what `deliveries` is for now. It leaves alone what is not due, or was delivered.
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    # Everywhere it was to go.
    Column("delivered_at", BigInteger),
    # Its public position, in the order of commits: given afterwards, by one at a time. NULL is the mark of what nobody has taken up yet.
    Column("sequence", BigInteger),
    Index("ix_uploadcore_events_id", "id", unique=True),
    Index(
        "ix_uploadcore_events_sequence",
        "sequence",
        unique=True,
        sqlite_where=text("sequence IS NOT NULL"),
        postgresql_where=text("sequence IS NOT NULL"),
    ),
    Index(
        "ix_uploadcore_events_unnumbered",
        "position",
        sqlite_where=text("sequence IS NULL"),
        postgresql_where=text("sequence IS NULL"),
    ),
    Index(
        "ix_uploadcore_events_due",
        "due_at",
        "position",
        sqlite_where=text("delivered_at IS NULL"),
        postgresql_where=text("delivered_at IS NULL"),
    ),
    Index(
        "ix_uploadcore_events_undelivered",
        "upload_id",
        "position",
        sqlite_where=text("delivered_at IS NULL"),
        postgresql_where=text("delivered_at IS NULL"),
    ),
    Index(
        "ix_uploadcore_events_delivered",
        "delivered_at",
        sqlite_where=text("delivered_at IS NOT NULL"),
        postgresql_where=text("delivered_at IS NOT NULL"),
    ),
)

deliveries = Table(
    "uploadcore_deliveries",
    METADATA,
    # What a destination still has to get: a row goes when the event has arrived.
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("destination", Text, primary_key=True),
    Column("upload_id", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("dead_at", BigInteger),
    Column("error", Text),
    Index(
        "ix_uploadcore_deliveries_due",
        "destination",
        "due_at",
        "sequence",
        sqlite_where=text("dead_at IS NULL"),
        postgresql_where=text("dead_at IS NULL"),
    ),
    Index(
        "ix_uploadcore_deliveries_upload",
        "destination",
        "upload_id",
        "sequence",
        sqlite_where=text("dead_at IS NULL"),
        postgresql_where=text("dead_at IS NULL"),
    ),
    Index(
        "ix_uploadcore_deliveries_dead",
        "destination",
        "sequence",
        sqlite_where=text("dead_at IS NOT NULL"),
        postgresql_where=text("dead_at IS NOT NULL"),
    ),
    Index(
        "ix_uploadcore_deliveries_dead_at",
        "dead_at",
        sqlite_where=text("dead_at IS NOT NULL"),
        postgresql_where=text("dead_at IS NOT NULL"),
    ),
)

idempotency_keys = Table(
    "uploadcore_idempotency_keys",
    METADATA,
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("upload_id", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_uploadcore_idempotency_keys_created", "created_at"),
)

quotas = Table(
    "uploadcore_quotas",
    METADATA,
    Column("owner", Text, primary_key=True),
    Column("open_uploads", BigInteger, nullable=False),
    Column("bytes_in_flight", BigInteger, nullable=False),
    CheckConstraint("open_uploads >= 0 AND bytes_in_flight >= 0", name="not_negative"),
)
