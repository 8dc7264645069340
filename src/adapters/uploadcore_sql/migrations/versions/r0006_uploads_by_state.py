"""An index of an owner's uploads by their state: one that holds a few of many is read without the others.

Revision 0005's code runs on this schema (rule 12), so `oldest_code` stays: it knows no index by its name.

On PostgreSQL it is built concurrently, as in revision 0002.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

NAME = "ix_uploadcore_uploads_state"
BUILD_LOCK_TIMEOUT = "10min"
"""How long a concurrent index waits for each of the transactions that may still see the table without it. Nobody waits behind it."""


def upgrade(op: Operations) -> None:
    """Add what revision 0005's code does not miss."""
    if op.get_context().dialect.name == "postgresql":
        with op.get_context().autocommit_block():
            _build_concurrently(op)
    else:
        _create_index(op)


def _create_index(op: Operations, **options: Any) -> None:
    op.create_index(NAME, "uploadcore_uploads", ["owner", "state", "created_at", "id"], **options)


def _build_concurrently(op: Operations) -> None:
    connection = op.get_bind()
    lock_timeout = connection.scalar(sa.text("SHOW lock_timeout"))
    set_timeout = sa.text("SELECT set_config('lock_timeout', :value, false)")
    connection.execute(set_timeout, {"value": BUILD_LOCK_TIMEOUT})
    broken = sa.text("SELECT 1 FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid")
    if connection.scalar(broken, {"name": NAME}):
        op.drop_index(NAME, "uploadcore_uploads", postgresql_concurrently=True)
    _create_index(op, postgresql_concurrently=True, if_not_exists=True)
    connection.execute(set_timeout, {"value": lock_timeout})
