"""The source of truth in SQL: SQLite now, for one machine.

`SqlDatabase` is durable (what it acknowledges survives `kill -9` and a power cut), and several processes may share its file. How it is
written, what it promises and what it needs is told in `docs/database.md`.

>>> SqlDatabase("sqlite:////var/lib/uploadcore/uploads.db")
SqlDatabase('/var/lib/uploadcore/uploads.db')
"""

try:
    import alembic  # noqa: F401 - asked for here, so that its absence is told once and helpfully
    import sqlalchemy  # noqa: F401
except ImportError as exc:
    raise ImportError("uploadcore_sql needs packages that are not installed: pip install 'uploadcore[server]'") from exc

from uploadcore_sql.database import SqlDatabase, from_url

__all__ = ["SqlDatabase", "from_url"]
