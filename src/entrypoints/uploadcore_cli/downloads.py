"""`get`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from uploadcore_cli.display import duration, plain, rate, size
from uploadcore_cli.failures import CommandError, ExitStatus
from uploadcore_cli.meters import Meters
from uploadcore_cli.options import client_options, to_go_on
from uploadcore_client import Client

__all__ = ["get"]


@click.command()
@click.argument("file_id", metavar="FILE")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where to, or into which folder; by default its own name, here.",
)
@click.option("-f", "--force", is_flag=True, help="Replace a file that is there already.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, and no progress.")
@client_options
def get(client: Client, file_id: str, output: Path | None, *, force: bool, as_json: bool) -> None:
    """Download a file, compare it with its checksum if it has one, and only then let it take its name.

    Goes on where an earlier call to the same place has ended.
    """
    began_at = time.monotonic()
    with Meters(quiet=as_json) as meters:
        meters.begin(str(output or file_id))
        try:
            path = client.download(file_id, output, replace=force, progress=meters.update)
        except KeyboardInterrupt:
            meters.__exit__(None, None, None)
            raise _stopped(client, file_id) from None
    seconds, last = time.monotonic() - began_at, meters.last
    if as_json:
        document = {
            "path": str(path),
            "file_id": file_id,
            "bytes": last.total,
            "bytes_resumed": last.resumed,
            "seconds": round(seconds, 3),
            "verified": last.is_verified,
        }
        click.echo(json.dumps(document))
    else:
        compared = "checksum verified" if last.is_verified else "no checksum to compare"
        click.echo(
            f"{plain(str(path))}: {size(last.total)} in {duration(seconds)} ({rate(last.sent, seconds)}), {compared}"
        )


def _stopped(client: Client, file_id: str) -> CommandError:
    return CommandError(
        "stopped. What has arrived is kept; to go on:",
        ExitStatus.INTERRUPTED,
        advice=[f"  {to_go_on(client, get, [file_id])}"],
    )
