"""How far the schema is, bringing it up to date, and refusing one this code does not know.

Alembic's revisions are run from here, not from its command line: their `upgrade` takes the operations as an argument, so that several
databases can be opened in one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, select

from uploadcore.errors import DatabaseUnavailableError
from uploadcore_sql.tables import installation

__all__ = [
    "VERSION_TABLE",
    "SchemaState",
    "current_revision",
    "installation_of",
    "migrate",
    "schema_state",
    "scripts",
]

VERSION_TABLE = "uploadcore_schema"
"""Where Alembic keeps the revision. Not its default: a host's own migrations may live in the same database."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """How far a schema is.

    Attributes:
        current: The revision it is at; `None`: there is none yet.
        newest: The revision this code was written for.
        missing: What is to be done to get there, oldest first: each revision and what it is for.
        is_newer: A later version of the code has made it, and says that this code can work on it.
    """

    current: str | None
    newest: str
    missing: tuple[tuple[str, str], ...] = ()
    is_newer: bool = False


def scripts() -> ScriptDirectory:
    """The revisions this code knows."""
    folder = Path(__file__).parent / "migrations"
    return ScriptDirectory(str(folder), version_locations=[str(folder / "versions")])


def current_revision(connection: Connection) -> str | None:
    """The revision the schema is at; `None` for an empty database."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def schema_state(connection: Connection) -> SchemaState:
    """How far the schema is.

    Raises:
        DatabaseUnavailableError: It is newer than this code, and does not say that this code can work on it.
    """
    current, known = current_revision(connection), scripts()
    newest = known.get_current_head() or ""
    if current == newest:
        return SchemaState(current, newest)
    revisions = {script.revision: script for script in known.walk_revisions()}
    if current is not None and current not in revisions:
        if connection.execute(select(installation.c.oldest_code)).scalar_one() in revisions:
            return SchemaState(current, newest, is_newer=True)
        raise DatabaseUnavailableError(
            f"the database's schema is at revision {current!r}, which this version of uploadcore does not know: "
            "install the version that made it (or a newer one), or go back to a backup from before"
        )
    missing = [
        (script.revision, script.doc.rstrip(".")) for script in known.iterate_revisions(newest, current or "base")
    ]
    return SchemaState(current, newest, tuple(reversed(missing)))


def migrate(connection: Connection, to: str = "head") -> None:
    """Run what is missing up to a revision: in the connection's transaction if it is in one, else in one for each revision."""
    known = scripts()

    def missing(revision: Any, context: MigrationContext) -> list[RevisionStep]:
        del context
        return known._upgrade_revs(to, revision)  # what Alembic's own commands and its cookbook call

    options = {
        "version_table": VERSION_TABLE,
        "fn": missing,
        "transactional_ddl": True,
        "transaction_per_migration": True,
    }
    context = MigrationContext.configure(connection, opts=options)
    context.run_migrations(op=Operations(context))


def installation_of(connection: Connection) -> str:
    """The id that the first migration made."""
    made: str = connection.execute(select(installation.c.id)).scalar_one()
    return made
