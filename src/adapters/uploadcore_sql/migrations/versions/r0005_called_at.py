"""When the store was last told to assemble an upload.

Revision 0004's code runs on this schema (rule 12), so `oldest_code` stays. It leaves the column as it was; what is older than the fence means nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade(op: Operations) -> None:
    """Add what revision 0004's code does not miss."""
    op.add_column("uploadcore_uploads", sa.Column("called_at", sa.BigInteger))
