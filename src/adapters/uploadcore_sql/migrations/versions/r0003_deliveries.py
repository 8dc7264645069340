"""Events with a position, deliveries to several destinations, and leases that name their owner.

Revision 0002's code runs on this schema (rule 12), so `oldest_code` stays. Its relay goes on by events' `due_at` and `delivered_at`, which this code
fills for it: a new event is due a minute after it was written, so that the old relay, which knows no destinations, leaves it to the new one as long
as there is one; and is marked delivered once it has arrived everywhere. What the old relay has delivered is given a position, and goes nowhere else.
Should both run, and a destination be away for more than that minute, the old one's publisher may get an event of the new one's too; and what it has
got is dropped a day later, after which a destination that is still away does not get it any more.

An event of a type that revision 0002's code does not know (`file.damaged`) is never due for it: reading one would end its relay. Should only the old
code remain, such an event, and what follows it of the same upload, is kept until there is newer code again. Otherwise neither loses an event, whichever
remains.

On PostgreSQL the indexes of events are built concurrently, as in revision 0002; their column comes first of all, in a moment.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BUILD_LOCK_TIMEOUT = "10min"
"""How long a concurrent index waits for each of the transactions that may still see the table without it. Nobody waits behind it."""

# Compared byte by byte, as SQLite does.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    """Add what revision 0002's code does not miss."""
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            op.execute("ALTER TABLE uploadcore_events ADD COLUMN IF NOT EXISTS sequence BIGINT")
            _build_concurrently(op)
    else:
        op.add_column("uploadcore_events", sa.Column("sequence", sa.BigInteger))
        _create_indexes(op)
    op.add_column(
        "uploadcore_installation",
        sa.Column("last_sequence", sa.BigInteger, server_default=sa.text("0"), nullable=False),
    )
    op.add_column("uploadcore_uploads", sa.Column("lease_owner", TEXT))
    _deliveries(op)


def _deliveries(op: Operations) -> None:
    op.create_table(
        "uploadcore_deliveries",
        sa.Column("sequence", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("destination", TEXT, nullable=False),
        sa.Column("upload_id", TEXT, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("dead_at", sa.BigInteger),
        sa.Column("error", TEXT),
        sa.PrimaryKeyConstraint("sequence", "destination", name="pk_uploadcore_deliveries"),
    )
    for name, columns, where in (
        ("due", ["destination", "due_at", "sequence"], "dead_at IS NULL"),
        ("upload", ["destination", "upload_id", "sequence"], "dead_at IS NULL"),
        ("dead", ["destination", "sequence"], "dead_at IS NOT NULL"),
        ("dead_at", ["dead_at"], "dead_at IS NOT NULL"),
    ):
        op.create_index(
            f"ix_uploadcore_deliveries_{name}",
            "uploadcore_deliveries",
            columns,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
        )


def _create_indexes(op: Operations, **options: Any) -> None:
    for name, column, where, is_unique in (
        ("ix_uploadcore_events_sequence", "sequence", "sequence IS NOT NULL", True),
        ("ix_uploadcore_events_unnumbered", "position", "sequence IS NULL", False),
    ):
        op.create_index(
            name,
            "uploadcore_events",
            [column],
            unique=is_unique,
            sqlite_where=sa.text(where),
            postgresql_where=sa.text(where),
            **options,
        )


def _build_concurrently(op: Operations) -> None:
    connection = op.get_bind()
    lock_timeout = connection.scalar(sa.text("SHOW lock_timeout"))
    set_timeout = sa.text("SELECT set_config('lock_timeout', :value, false)")
    connection.execute(set_timeout, {"value": BUILD_LOCK_TIMEOUT})
    for name in ("ix_uploadcore_events_sequence", "ix_uploadcore_events_unnumbered"):
        broken = sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
        if connection.scalar(broken, {"name": name}):
            op.drop_index(name, "uploadcore_events", postgresql_concurrently=True)
    _create_indexes(op, postgresql_concurrently=True, if_not_exists=True)
    connection.execute(set_timeout, {"value": lock_timeout})
