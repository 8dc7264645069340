"""`serve`, `token`, `sweep`: what runs on the service's own side, configured as the service is."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import jwt

from uploadcore.views import SweepReport
from uploadcore_app import ConfigurationError, Settings, open_app
from uploadcore_cli.display import duration, size
from uploadcore_cli.failures import CommandError, ExitStatus
from uploadcore_cli.settings import settings_from
from uploadcore_http.server import serve as serve_until_signalled

__all__ = ["DATA_DIR", "SWEPT", "serve", "sweep", "token"]

DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the embedded defaults (UPLOADCORE_DATA_DIR).",
)


@click.command()
@click.option("--host", metavar="ADDRESS", help="Address to listen on (UPLOADCORE_HOST). [default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Port; 0 takes a free one (UPLOADCORE_PORT). [default: 8484]",
)
@click.option("--public-url", metavar="URL", help="Where clients reach it, if not there (UPLOADCORE_PUBLIC_URL).")
@DATA_DIR
def serve(**given: Any) -> None:
    """Run the service until SIGTERM or Ctrl-C.

    Everything else is set by UPLOADCORE_... variables; see the documentation of the configuration.
    """
    try:
        sys.exit(serve_until_signalled(settings_from(given, warn=False)))
    except ConfigurationError as exc:
        raise CommandError(str(exc), ExitStatus.USAGE) from exc


@click.command()
@click.option("--owner", default="dev", show_default=True, metavar="NAME", help="Who the token is for: its subject.")
@click.option(
    "--lifetime",
    default="12h",
    show_default=True,
    metavar="TIME",
    help="How long it is good: a number and s, m, h or d.",
)
def token(owner: str, lifetime: str) -> None:
    """Print a token for a service that verifies with the shared secret UPLOADCORE_AUTH_JWT_KEY.

    For development and for the first steps with a new service; whoever has that secret can be anybody.
    """
    settings = settings_from({})
    if settings.auth_jwt_key is None:
        raise CommandError(
            "no shared secret is set (UPLOADCORE_AUTH_JWT_KEY): a service without one takes no tokens of ours, "
            "and one without any authentication needs none on this machine",
            ExitStatus.USAGE,
        )
    now = int(time.time())
    claims = {
        "sub": owner,
        "aud": settings.auth_jwt_audience,
        "iss": settings.auth_jwt_issuer,
        "iat": now,
        "exp": now + _seconds(lifetime),
    }
    click.echo(jwt.encode(claims, settings.auth_jwt_key.get_secret_value(), algorithm="HS256"))


@click.command()
@click.option("--dry-run", is_flag=True, help="Change nothing at all; look, and say what would be done and freed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
@DATA_DIR
def sweep(*, dry_run: bool, as_json: bool, **given: Any) -> None:
    """Expire, recover and clean up all that is due. A running service does so by itself; this is for cron, and for looking.

    Safe beside running services, where the store is one that several processes may use; the embedded folder is not.
    """

    async def swept(settings: Settings) -> SweepReport:
        async with open_app(settings) as app:
            report = await app.core.sweep(dry_run=dry_run)
            while report.more and not dry_run:
                report = report.plus(await app.core.sweep())
            return report

    try:
        with redirect_stdout(sys.stderr):  # where libraries may say what they try again; stdout is for the answer
            report = asyncio.run(swept(settings_from(given)))
    except ConfigurationError as exc:
        raise CommandError(str(exc), ExitStatus.USAGE) from exc
    account = dataclasses.asdict(report)
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, **account}))
        return
    lines = [(what.replace("_", " "), str(account[what])) for what in SWEPT if account[what]]
    if not lines:
        click.echo("nothing to do")
        return
    lines += [(f"freed: {what}", str(account[what])) for what in ("multiparts", "parts", "objects")]
    lines += [("freed: bytes", size(report.bytes)), ("oldest", duration(report.oldest_age))]
    width = max(len(what) for what, _ in lines)
    click.echo("would be done" if dry_run else "done")
    for what, count in lines:
        click.echo(f"  {what:<{width}}  {count:>10}")
    if report.more:
        click.echo("there is more than was counted")


SWEPT = (
    "expired",
    "opened",
    "settled",
    "cleaned",
    "rechecked",
    "damaged",
    "files_deleted",
    "orphans",
    "records_purged",
    "unsettled",
    "failed",
)
"""What is said of a sweep, in this order, where there is any."""


def _seconds(text: str) -> int:
    unit = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}.get(text[-1:], 0)
    number = text[:-1]
    if not unit or not number.isascii() or not number.isdigit() or not 0 < int(number) <= 366 * 86_400:
        raise CommandError(f"{text!r} is no lifetime: write a number and s, m, h or d, such as 12h", ExitStatus.USAGE)
    return int(number) * unit
