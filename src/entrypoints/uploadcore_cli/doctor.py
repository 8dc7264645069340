"""`doctor`: is what the service stands on as it should be?"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from uploadcore.diagnosis import Finding, Verdict
from uploadcore_app import Settings, examine, misspelled
from uploadcore_cli.failures import ExitStatus
from uploadcore_cli.settings import settings_from

__all__ = ["doctor"]

_STYLES = {Verdict.OK: "green", Verdict.NOTE: "cyan", Verdict.WARNING: "yellow", Verdict.FAILED: "bold red"}


@click.command()
@click.option("--apply", is_flag=True, help="Set the bucket's CORS and lifecycle rules where they are missing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(*, apply: bool, as_json: bool) -> None:
    """Try everything the service needs of its store, database and cache, and say what to do about what is wrong.

    Configured as the service is, by UPLOADCORE_... variables. Works under keys of its own and leaves nothing behind.
    Exit status: 0 if nothing failed, 1 if something did.
    """
    findings = [*_names(), *asyncio.run(_examined(settings_from({}, warn=False), apply=apply))]
    failed = sum(finding.verdict is Verdict.FAILED for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "findings": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        _show(findings)
    sys.exit(ExitStatus.FAILED if failed else ExitStatus.OK)


def _names() -> list[Finding]:
    """One for each variable that is ignored."""
    fix = "rename the variable, or unset it"
    return [Finding("settings.names", Verdict.WARNING, line, fix) for line in misspelled(os.environ)]


async def _examined(settings: Settings, *, apply: bool) -> list[Finding]:
    return [finding async for finding in examine(settings, apply=apply)]


def _show(findings: Sequence[Finding]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        style = _STYLES[finding.verdict]
        table.add_row(finding.check, f"[{style}]{finding.verdict}[/{style}]", escape(finding.message))
    console = Console()
    console.print(table)
    fixes = [finding for finding in findings if finding.fix]
    if fixes:
        console.print("\n[bold]what to do[/bold]")
    for finding in fixes:  # not in the table: what is to be copied must not be broken into lines
        console.print(f"[{_STYLES[finding.verdict]}]{finding.check}[/]: {escape(finding.fix)}", soft_wrap=True)
    console.print()
    counted = {verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict}
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counted.items() if count))
