"""Files with visibility, labels that can be searched, and an address of their own.

Revision 0001's code runs on this schema (rule 12), so `oldest_code` stays. It does not name the new columns: a file it makes is private,
as all its files are, and has no address of its own; one whose content it replaces keeps an address whose `address_upload_id` is not its
`upload_id`. This code then takes the upload's address, and writes it down with the file's next change. For the same reason nothing is
copied here: no table is rewritten, and nobody waits. Labels could not be set before: there are none to index.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Compared byte by byte, as SQLite does.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    """Add what revision 0001's code does not miss."""
    for column in (
        sa.Column("visibility", TEXT, server_default=sa.text("'private'"), nullable=False),
        sa.Column("bucket", TEXT),
        sa.Column("key", TEXT),
        sa.Column("address_upload_id", TEXT),
        sa.Column("indexed_labels", TEXT, server_default=sa.text("'[]'"), nullable=False),
    ):
        op.add_column("uploadcore_files", column)
    not_deleted = sa.text("status <> 'deleted'")
    op.create_index(
        "ix_uploadcore_files_owner",
        "uploadcore_files",
        ["owner", "created_at", "id"],
        sqlite_where=not_deleted,
        postgresql_where=not_deleted,
    )
    op.create_index("ix_uploadcore_files_status", "uploadcore_files", ["owner", "status", "created_at", "id"])
    op.create_table(
        "uploadcore_file_labels",
        sa.Column("owner", TEXT, nullable=False),
        sa.Column("label", TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("file_id", TEXT, nullable=False),
        sa.PrimaryKeyConstraint("owner", "label", "created_at", "file_id", name="pk_uploadcore_file_labels"),
    )
