"""`events`: what waits to be delivered, and what is not tried any more. Needs the database only, and works beside running services."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from uploadcore.event_service import EventService
from uploadcore.ports import Backlog, Database, DeadLetter
from uploadcore_app import ConfigurationError, Container, Settings
from uploadcore_cli.display import duration, plain
from uploadcore_cli.failures import CommandError, ExitStatus
from uploadcore_cli.settings import settings_from

__all__ = ["events"]

T = TypeVar("T")

WIDE = 240
"""Columns of a table that no terminal shows: nothing in it is to be broken into lines."""


@click.group()
def events() -> None:
    """See what waits to be delivered, and have dead letters delivered after all.

    A dead letter is an event that a destination refused for good, or too often. Configured as the service is, by UPLOADCORE_... variables.
    """


@events.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def backlog(*, as_json: bool) -> None:
    """Show what each destination still has to get."""
    found = _with_events(lambda service: service.backlog())
    if as_json:
        click.echo(json.dumps({"destinations": [_backlog(one) for one in found]}))
        return
    if not found:
        click.echo("no destination is configured (UPLOADCORE_EVENTS), and nothing waits for one that was")
        return
    table = _table("destination", "pending", "oldest", "dead")
    for one in found:
        oldest = "" if one.oldest is None else duration(one.oldest.total_seconds())
        table.add_row(one.destination, str(one.pending), oldest, str(one.dead))
    _print(table)


@events.command()
@click.option("--destination", metavar="NAME", help="Only those of this one.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="How many at most.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def dead(*, destination: str | None, limit: int, as_json: bool) -> None:
    """List dead letters, oldest first, with what went wrong last."""
    found = _with_events(lambda service: service.dead_letters(destination=destination, limit=limit))
    if as_json:
        click.echo(json.dumps({"dead_letters": [_dead_letter(letter) for letter in found]}))
        return
    if not found:
        click.echo("no dead letters")
        return
    table = _table("event", "type", "destination", "attempts", "dead since", "error")
    for letter in found:
        since = duration(max(0.0, (datetime.now(UTC) - letter.dead_at).total_seconds()))
        event = letter.event
        cells = (event.id, event.type, letter.destination, str(letter.attempts), since, letter.error)
        table.add_row(*(escape(plain(cell)) for cell in cells))
    _print(table)
    if len(found) == limit:
        click.echo(f"\nthe first {limit}; --limit shows more")


_ALL = click.option("--all", "is_all", is_flag=True, help="All of them.")


@events.command()
@click.argument("destination")
@click.argument("event_id", required=False)
@_ALL
def replay(*, destination: str, event_id: str | None, is_all: bool) -> None:
    """Have dead letters of DESTINATION delivered after all: one, or --all.

    They come with the ids they had, and later than what has happened since.
    """
    chosen = _chosen(event_id, is_all=is_all)
    count = _with_events(lambda service: service.replay(destination=destination, event_id=chosen))
    _say(count, destination, chosen, "to be delivered again")


@events.command()
@click.argument("destination")
@click.argument("event_id", required=False)
@_ALL
def discard(*, destination: str, event_id: str | None, is_all: bool) -> None:
    """Drop what DESTINATION still has to get, pending or dead: one event, or --all.

    For a destination that is no more. It can't be undone.
    """
    chosen = _chosen(event_id, is_all=is_all)
    count = _with_events(lambda service: service.discard(destination=destination, event_id=chosen))
    _say(count, destination, chosen, "dropped")


def _chosen(event_id: str | None, *, is_all: bool) -> str | None:
    if (event_id is None) is not is_all:
        raise CommandError("name one event, or say --all", ExitStatus.USAGE)
    return event_id


def _say(count: int, destination: str, event_id: str | None, what: str) -> None:
    if event_id is not None and not count:
        raise CommandError(
            f"there is no such event for {plain(destination)!r}: 'uploadcore events dead' lists dead letters",
            ExitStatus.NOT_FOUND,
        )
    click.echo(f"{count} {'event' if count == 1 else 'events'} {what}")


def _with_events(ask: Callable[[EventService], Awaitable[T]]) -> T:
    async def asked(settings: Settings) -> T:
        async with _opened(settings) as service:
            return await ask(service)

    try:
        return asyncio.run(asked(settings_from({})))
    except ConfigurationError as exc:
        raise CommandError(str(exc), ExitStatus.USAGE) from exc


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[EventService]:
    """The events of the configured database, without store, cache and publishers: those may be away, or somebody else's alone."""
    container = Container()
    container.settings.override(settings)
    database: Database = container.database()
    try:
        await database.open()
        yield EventService(database=database, destinations=tuple(settings.destinations))
    finally:
        await database.close()


def _backlog(one: Backlog) -> dict[str, object]:
    return {
        "destination": one.destination,
        "pending": one.pending,
        "oldest_seconds": None if one.oldest is None else one.oldest.total_seconds(),
        "dead": one.dead,
    }


def _dead_letter(letter: DeadLetter) -> dict[str, object]:
    event = letter.event
    return {
        "event_id": event.id,
        "type": event.type,
        "position": event.position,
        "upload_id": event.upload_id,
        "file_id": event.file_id,
        "owner": event.owner,
        "occurred_at": None if event.occurred_at is None else event.occurred_at.isoformat(),
        "destination": letter.destination,
        "attempts": letter.attempts,
        "dead_at": letter.dead_at.isoformat(),
        "error": letter.error,
    }


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column != "error", overflow="fold")
    return table


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
