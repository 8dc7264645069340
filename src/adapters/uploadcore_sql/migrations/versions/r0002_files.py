"""Files with visibility, labels that can be searched, and an address of their own.

Revision 0001's code runs on this schema (rule 12), so `oldest_code` stays. It does not name the new columns: a file it makes is private,
as all its files are, and has no address of its own; one whose content it replaces keeps an address whose `address_upload_id` is not its
`upload_id`. This code then takes the upload's address, and writes it down with the file's next change. For the same reason nothing is
copied here, and no table is rewritten. Labels could not be set before: there are none to index.

On PostgreSQL the indexes are built concurrently, while files are read and written, and hence outside the transaction; first of all, so that
whatever interrupts them leaves no more than indexes, which the next attempt keeps if they are whole, or else makes anew. What remains takes
the table for a moment.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BUILD_LOCK_TIMEOUT = "10min"
"""How long a concurrent index waits for each of the transactions that may still see the table without it. Nobody waits behind it."""

# Compared byte by byte, as SQLite does.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    """Add what revision 0001's code does not miss."""
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            _build_concurrently(op)
    else:
        _create_indexes(op)
    for column in (
        sa.Column("visibility", TEXT, server_default=sa.text("'private'"), nullable=False),
        sa.Column("bucket", TEXT),
        sa.Column("key", TEXT),
        sa.Column("address_upload_id", TEXT),
        sa.Column("indexed_labels", TEXT, server_default=sa.text("'[]'"), nullable=False),
    ):
        op.add_column("uploadcore_files", column)
    op.create_table(
        "uploadcore_file_labels",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("label", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("file_id", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "label", "created_at", "file_id", name="pk_uploadcore_file_labels"),
    )


def _create_indexes(op: Operations, **options: Any) -> None:
    not_deleted = sa.text("status <> 'deleted'")
    op.create_index(
        "ix_uploadcore_files_owner",
        "uploadcore_files",
        ["owner", "created_at", "id"],
        sqlite_where=not_deleted,
        postgresql_where=not_deleted,
        **options,
    )
    op.create_index(
        "ix_uploadcore_files_status", "uploadcore_files", ["owner", "status", "created_at", "id"], **options
    )


def _build_concurrently(op: Operations) -> None:
    connection = op.get_bind()
    lock_timeout = connection.scalar(sa.text("SHOW lock_timeout"))
    set_timeout = sa.text("SELECT set_config('lock_timeout', :value, false)")
    connection.execute(set_timeout, {"value": BUILD_LOCK_TIMEOUT})
    for name in ("ix_uploadcore_files_owner", "ix_uploadcore_files_status"):
        broken = sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
        if connection.scalar(broken, {"name": name}):
            op.drop_index(name, "uploadcore_files", postgresql_concurrently=True)
    _create_indexes(op, postgresql_concurrently=True, if_not_exists=True)
    connection.execute(set_timeout, {"value": lock_timeout})
