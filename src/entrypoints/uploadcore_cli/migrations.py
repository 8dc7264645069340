"""`migrate`: brings the database's schema up to date, before the service that needs it is started."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, Protocol, runtime_checkable

import click

from uploadcore.ports import AdapterContext
from uploadcore_app import ConfigurationError
from uploadcore_app.plugins import DATABASES, load_adapter
from uploadcore_cli.failures import CommandError, ExitStatus
from uploadcore_cli.settings import settings_from

__all__ = ["migrate"]


class _SchemaState(Protocol):
    """How far a schema is."""

    @property
    def current(self) -> str | None: ...
    @property
    def newest(self) -> str: ...
    @property
    def missing(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def is_newer(self) -> bool: ...


@runtime_checkable
class _Migrating(Protocol):
    """A database that has a schema."""

    async def schema(self) -> _SchemaState:
        """How far it is."""

    async def migrate(self) -> _SchemaState:
        """Bring it up to date; how far it was before."""


class _Answer(NamedTuple):
    line: str
    status: ExitStatus = ExitStatus.OK


@click.command()
@click.option("--database", metavar="URL", help="The database (UPLOADCORE_DATABASE, where a password is better off).")
@click.option(
    "--check",
    "--dry-run",
    "is_check",
    is_flag=True,
    help="Change nothing; say what is missing. Status 1 if anything is.",
)
def migrate(*, database: str | None, is_check: bool) -> None:
    """Bring the database's schema up to date.

    Before a new version of the service is started on PostgreSQL; SQLite does so by itself. Any number of these may run at once, beside
    running services: the version before works on the new schema.
    """
    try:
        answer = asyncio.run(_migrated(_database(database), is_check=is_check))
    except ConfigurationError as exc:
        raise CommandError(str(exc), ExitStatus.USAGE) from exc
    click.echo(answer.line)
    if answer.status is not ExitStatus.OK:
        raise SystemExit(int(answer.status))


def _database(url: str | None) -> Any:
    settings = settings_from({"database": url})
    context = AdapterContext(data_dir=settings.data_dir.absolute(), public_url=settings.base_url)
    return load_adapter(DATABASES, settings.database_url, context, "UPLOADCORE_DATABASE")


async def _migrated(database: Any, *, is_check: bool) -> _Answer:
    if not isinstance(database, _Migrating):
        return _Answer("this database has no schema: nothing to do")
    state = await (database.schema() if is_check else database.migrate())
    if state.is_newer:
        return _Answer(f"nothing to do: a later version made the schema ({state.current}), and this one can work on it")
    if not state.missing:
        return _Answer(f"nothing to do: the schema is at {state.newest}")
    before = "an empty database" if state.current is None else state.current
    if not is_check:
        return _Answer(f"migrated from {before} to {state.newest}")
    missing = "".join(f"\n  {revision}  {what}" for revision, what in state.missing)
    return _Answer(
        f"to be migrated from {before} to {state.newest}: run 'uploadcore migrate'{missing}", ExitStatus.FAILED
    )
