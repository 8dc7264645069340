"""The first schema, and the installation's id."""

from __future__ import annotations

import time
import uuid

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Compared byte by byte, as SQLite does.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    """Create every table of the first version."""
    made = op.create_table(
        "uploadcore_installation",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("oldest_code", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploadcore_installation"),
    )
    op.bulk_insert(made, [{"id": uuid.uuid4().hex, "created_at": time.time_ns() // 1_000, "oldest_code": revision}])
    _uploads(op)
    _files(op)
    _events(op)
    op.create_table(
        "uploadcore_idempotency_keys",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("fingerprint", TEXT, nullable=False),
        sa.Column("upload_id", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner", "key", name="pk_uploadcore_idempotency_keys"),
    )
    op.create_index("ix_uploadcore_idempotency_keys_created", "uploadcore_idempotency_keys", ["created_at"])
    op.create_table(
        "uploadcore_quotas",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("open_uploads", sa.BigInteger, nullable=False),
        sa.Column("bytes_in_flight", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("owner", name="pk_uploadcore_quotas"),
        sa.CheckConstraint("open_uploads >= 0 AND bytes_in_flight >= 0", name="ck_uploadcore_quotas_not_negative"),
    )


def _uploads(op: Operations) -> None:
    op.create_table(
        "uploadcore_uploads",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("file_id", TEXT, nullable=False),
        sa.Column("filename", TEXT, nullable=False),
        sa.Column("content_type", TEXT, nullable=False),
        sa.Column("metadata", TEXT, nullable=False),
        sa.Column("fingerprint", TEXT),
        sa.Column("strategy", TEXT, nullable=False),
        sa.Column("part_size", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("max_parts", sa.Integer, nullable=False),
        sa.Column("bucket", TEXT, nullable=False),
        sa.Column("key", TEXT, nullable=False),
        sa.Column("storage_upload_id", TEXT),
        sa.Column("checksum_algorithm", TEXT),
        sa.Column("checksum", TEXT),
        sa.Column("expected_part_count", sa.Integer),
        sa.Column("expected_size", sa.BigInteger),
        sa.Column("expected_checksum_algorithm", TEXT),
        sa.Column("expected_checksum", TEXT),
        sa.Column("reason", TEXT),
        sa.Column("reserved_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("fenced_at", sa.BigInteger),
        sa.Column("lost_at", sa.BigInteger),
        sa.Column("recheck_at", sa.BigInteger),
        sa.Column(
            "due_at",
            sa.BigInteger,
            sa.Computed(
                "CASE WHEN state IN ('completing', 'aborting') THEN lease_until "
                "WHEN state = 'uploading' OR (state = 'pending' AND (lease_until IS NULL OR lease_until > expires_at)) "
                "THEN expires_at WHEN state = 'pending' THEN lease_until ELSE recheck_at END",
                persisted=True,
            ),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_uploadcore_uploads"),
    )
    op.create_index("ix_uploadcore_uploads_key", "uploadcore_uploads", ["key"], unique=True)
    op.create_index("ix_uploadcore_uploads_owner", "uploadcore_uploads", ["owner", "created_at", "id"])
    _partial_index(
        op,
        "ix_uploadcore_uploads_fingerprint",
        "uploadcore_uploads",
        ["owner", "fingerprint", "created_at", "id"],
        where="fingerprint IS NOT NULL",
    )
    _partial_index(op, "ix_uploadcore_uploads_due", "uploadcore_uploads", ["due_at"], where="due_at IS NOT NULL")


def _files(op: Operations) -> None:
    op.create_table(
        "uploadcore_files",
        sa.Column("id", TEXT, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("status", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("name", TEXT, nullable=False),
        sa.Column("upload_id", TEXT, nullable=False),
        sa.Column("content_type", TEXT, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("checksum_algorithm", TEXT),
        sa.Column("checksum", TEXT),
        sa.Column("verified_by", TEXT),
        sa.Column("title", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=False),
        sa.Column("labels", TEXT, nullable=False),
        sa.Column("metadata", TEXT, nullable=False),
        sa.Column("manifest_url", TEXT),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("lease_until", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_uploadcore_files"),
    )
    _partial_index(
        op, "ix_uploadcore_files_lease", "uploadcore_files", ["lease_until"], where="lease_until IS NOT NULL"
    )


def _events(op: Operations) -> None:
    op.create_table(
        "uploadcore_events",
        sa.Column("position", sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.Identity(), nullable=False),
        sa.Column("id", TEXT, nullable=False),
        sa.Column("type", TEXT, nullable=False),
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("upload_id", TEXT, nullable=False),
        sa.Column("file_id", TEXT, nullable=False),
        sa.Column("data", TEXT, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("delivered_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("position", name="pk_uploadcore_events"),
    )
    op.create_index("ix_uploadcore_events_id", "uploadcore_events", ["id"], unique=True)
    undelivered = "delivered_at IS NULL"
    _partial_index(op, "ix_uploadcore_events_due", "uploadcore_events", ["due_at", "position"], where=undelivered)
    _partial_index(
        op, "ix_uploadcore_events_undelivered", "uploadcore_events", ["upload_id", "position"], where=undelivered
    )
    _partial_index(
        op,
        "ix_uploadcore_events_delivered",
        "uploadcore_events",
        ["delivered_at"],
        where="delivered_at IS NOT NULL",
    )


def _partial_index(op: Operations, name: str, table: str, columns: list[str], *, where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))
