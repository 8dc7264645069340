"""Which parts a completed upload was made of, where the store lets URLs change them later.

Revision 0003's code runs on this schema (rule 12), so `oldest_code` stays. The digest carries the version of the row that it was saved with: what
0003's code saves leaves the column as it was, and the digest counts no more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Compared byte by byte, as SQLite does.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade(op: Operations) -> None:
    """Add what revision 0003's code does not miss."""
    op.add_column("uploadcore_uploads", sa.Column("expected_parts_digest", TEXT))
