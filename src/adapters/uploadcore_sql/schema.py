"""Bringing the schema up to date, and refusing one this code does not know.

Alembic's revisions are run from here, not from its command line: their `upgrade` takes the operations as an argument, so that several
databases can be opened in one process, and all of it happens in one transaction of the caller's connection.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select

from uploadcore.errors import DatabaseUnavailableError
from uploadcore_sql.errors import once_free
from uploadcore_sql.tables import installation

__all__ = ["VERSION_TABLE", "bring_up_to_date", "current_revision", "migrate", "scripts"]

VERSION_TABLE = "uploadcore_schema"
"""Where Alembic keeps the revision. Not its default: a host's own migrations may live in the same database."""


def scripts() -> ScriptDirectory:
    """The revisions this code knows."""
    folder = Path(__file__).parent / "migrations"
    return ScriptDirectory(str(folder), version_locations=[str(folder / "versions")])


def current_revision(connection: Connection) -> str | None:
    """The revision the schema is at; `None` for an empty database."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def migrate(connection: Connection, to: str = "head") -> None:
    """Run what is missing up to a revision, in the connection's transaction."""
    known = scripts()

    def missing(revision: Any, context: MigrationContext) -> list[RevisionStep]:
        del context
        return known._upgrade_revs(to, revision)  # what Alembic's own commands and its cookbook call

    context = MigrationContext.configure(
        connection, opts={"version_table": VERSION_TABLE, "fn": missing, "transactional_ddl": True}
    )
    context.run_migrations(op=Operations(context))


def bring_up_to_date(connection: Connection, *, patience: float) -> str:
    """Migrate if need be, under the database's write lock; return the installation id.

    Any number of processes may do this at once: the first to get the lock migrates, the others find it done.

    Args:
        connection: To SQLite, in no transaction; left in none.
        patience: Seconds to wait for the lock.

    Raises:
        DatabaseUnavailableError: The schema is newer than this code, and does not say that this code can work on it.
    """
    head = scripts().get_current_head()
    if current_revision(connection) != head:
        connection.rollback()
        once_free(lambda: _begin(connection), patience=patience)
        if not _is_newer(connection):
            migrate(connection)
        connection.commit()
    installation_id: str = connection.execute(select(installation.c.id)).scalar_one()
    connection.rollback()
    return installation_id


def _begin(connection: Connection) -> None:
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except BaseException:
        connection.rollback()  # of what SQLAlchemy takes to have begun
        raise


def _is_newer(connection: Connection) -> bool:
    """Whether a later version of the code has made this schema, for this one to go on working with."""
    current = current_revision(connection)
    known = {script.revision for script in scripts().walk_revisions()}
    if current is None or current in known:
        return False
    if connection.execute(select(installation.c.oldest_code)).scalar_one() in known:
        return True
    raise DatabaseUnavailableError(
        f"the database's schema is at revision {current!r}, which this version of uploadcore does not know: "
        "install the version that made it (or a newer one), or go back to a backup from before"
    )
