"""`upload`, `resume`, `ls`, `abort`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from uploadcore.errors import UploadCoreError
from uploadcore.file import ChecksumAlgorithm
from uploadcore.states import UploadState
from uploadcore_cli.display import duration, plain, rate, size
from uploadcore_cli.failures import CommandError, ExitStatus, of_error
from uploadcore_cli.meters import Meters
from uploadcore_cli.options import DEFAULT_PARALLEL, ByteCount, client_options, to_go_on
from uploadcore_client import Client, File, FileUnreadableError, Progress, Upload

__all__ = ["abort", "file_document", "ls", "resume", "upload"]

STOPS_ALL = frozenset({ExitStatus.UNREACHABLE, ExitStatus.UNAUTHORISED, ExitStatus.FULL})
"""After these, the next file would fail in the same way."""

WIDE = 100
"""Columns of a terminal that has room for the time an upload was begun, beside an id of 36."""

PARALLEL = click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=DEFAULT_PARALLEL,
    show_default=True,
    metavar="N",
    help="Parts in flight at a time.",
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object per line on stdout, and no progress.")


@dataclass(frozen=True, slots=True)
class _Job:
    """One file to bring there: its name for people, and how to do it."""

    name: str
    run: Callable[[Callable[[Progress], None]], File]


Advice = Callable[[Sequence[_Job], Progress], Sequence[str]]
"""Which commands go on, when the first of these jobs was stopped there and the others were not tried."""


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--title", default="", help="Title of the new file.")
@click.option("--content-type", metavar="TYPE", help="What it is served as; by default guessed from its name.")
@click.option(
    "--part-size",
    type=ByteCount(),
    metavar="SIZE",
    help="Bytes per part, such as 16MiB; by default the service's choice.",
)
@click.option(
    "--sha256", is_flag=True, help="Declare the file's SHA-256 instead of its CRC64NVME; the file is read twice."
)
@PARALLEL
@AS_JSON
@client_options
def upload(
    client: Client,
    *,
    files: tuple[Path, ...],
    title: str,
    content_type: str | None,
    part_size: int | None,
    sha256: bool,
    as_json: bool,
) -> None:
    """Upload files in parallel parts; each goes on where an earlier call has ended.

    Ctrl-C, a crash or a dead battery leaves an upload resumable: run the same command again.
    """

    def job(path: Path) -> _Job:
        def run(progress: Callable[[Progress], None]) -> File:
            if str(path) == "-":
                raise FileUnreadableError(
                    path, "(standard input) can't be uploaded: a part must be readable again. Save it to a file first"
                )
            return client.upload(
                path,
                title=title,
                content_type=content_type,
                part_size=part_size,
                checksum=ChecksumAlgorithm.SHA256 if sha256 else ChecksumAlgorithm.CRC64NVME,
                progress=progress,
            )

        return _Job(str(path), run)

    def advice(left: Sequence[_Job], last: Progress) -> Sequence[str]:
        names = [each.name for each in left]
        if not last.upload_id or sha256:  # which `resume` would not declare
            return [to_go_on(client, upload, names)]
        others = [to_go_on(client, upload, names[1:])] if names[1:] else []
        return [to_go_on(client, resume, [last.upload_id]), *others]

    _run([job(path) for path in files], advice, as_json=as_json)


@click.command()
@click.argument("upload_id", required=False)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@PARALLEL
@AS_JSON
@client_options
def resume(client: Client, upload_id: str | None, file: Path | None, *, as_json: bool) -> None:
    """Go on with one upload, or with all that this machine has left unfinished.

    FILE is needed only where this machine does not know which file it is, because it was begun on another.
    """

    def job(identifier: str, path: Path | None) -> _Job:
        return _Job(
            str(path or client.path_of(identifier) or identifier),
            lambda progress: client.resume(identifier, path, progress=progress),
        )

    def advice(_: Sequence[_Job], __: Progress) -> Sequence[str]:
        return [to_go_on(client, resume, [each for each in (upload_id, file and str(file)) if each])]

    if upload_id is not None:
        jobs = [job(upload_id, file)]
    else:
        jobs = [job(identifier, path) for identifier, path in client.unfinished()]
    if not jobs and not as_json:
        click.echo(f"nothing is unfinished here for {client.url}", err=True)
    _run(jobs, advice, as_json=as_json)


@click.command()
@click.argument("upload_ids", nargs=-1, required=True, metavar="UPLOAD...")
@client_options
def abort(client: Client, upload_ids: tuple[str, ...]) -> None:
    """Give uploads up; what has arrived is dropped."""
    for upload_id in upload_ids:
        client.abort(upload_id)
        click.echo(f"{upload_id} aborted")


@click.command()
@click.option("--state", type=click.Choice([state.value for state in UploadState]), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, metavar="N", help="At most so many.")
@AS_JSON
@client_options
def ls(client: Client, state: str | None, limit: int, *, as_json: bool) -> None:
    """List your uploads, newest first."""
    found = client.uploads(state=state, limit=limit)
    if as_json:
        for each in found:
            click.echo(json.dumps(_upload_document(each)))
    elif sys.stdout.isatty():
        console = Console()
        console.print(_table(found, is_wide=console.width >= WIDE) if found else "no uploads")
    else:
        for each in found:
            columns = (
                each.id,
                each.file_id,
                each.state,
                "" if each.size is None else str(each.size),
                plain(each.filename),
            )
            click.echo("\t".join(columns))


# --- running ------------------------------------------------------------------------------------------------------


def _run(jobs: Sequence[_Job], advice: Advice, *, as_json: bool) -> None:
    """One file after the other, each in parallel parts; tells of each. The first failure's status is the command's."""
    failed: ExitStatus | None = None
    with Meters(quiet=as_json) as meters:
        for index, job in enumerate(jobs):
            meters.begin(Path(job.name).name)
            began_at = time.monotonic()
            try:
                file = job.run(meters.update)
            except KeyboardInterrupt:
                meters.__exit__(None, None, None)
                raise _stopped(meters.last, advice(jobs[index:], meters.last)) from None
            except UploadCoreError as exc:
                failure = of_error(exc)
                status = failure.status
                failed = failed or status
                _tell_failure(job, exc, failure, as_json=as_json)
                if status in STOPS_ALL:
                    _tell_untried(jobs[index + 1 :])
                    break
            else:
                _tell(job, file, meters.last, time.monotonic() - began_at, as_json=as_json)
    if failed is not None:
        sys.exit(failed)


def _tell(job: _Job, file: File, last: Progress, seconds: float, *, as_json: bool) -> None:
    if as_json:
        document = {
            "path": job.name,
            "upload_id": last.upload_id,
            "file": file_document(file),
            "bytes": last.total,
            "bytes_sent": last.sent,
            "bytes_resent": last.resent,
            "bytes_resumed": last.resumed,
            "parts": last.parts_total,
            "parts_resent": last.parts_resent,
            "seconds": round(seconds, 3),
        }
        click.echo(json.dumps(document))
        return
    again = f", {size(last.resumed)} of it there before" if last.resumed else ""
    click.echo(f"{plain(job.name)}: {size(last.total)} in {duration(seconds)} ({rate(last.sent, seconds)}{again})")
    click.echo(f"  uploadcore get {file.id}")


def _tell_failure(job: _Job, error: UploadCoreError, failure: CommandError, *, as_json: bool) -> None:
    if as_json:
        document = {
            "path": job.name,
            "upload_id": error.upload_id,
            "error": {"code": error.code, "message": failure.message},
        }
        click.echo(json.dumps(document))
    name, message = plain(job.name), plain(failure.message)
    concerns_all = failure.status in STOPS_ALL or name in message
    click.echo(f"uploadcore: {message if concerns_all else f'{name}: {message}'}", err=True)


def _tell_untried(jobs: Sequence[_Job]) -> None:
    if jobs:
        click.echo(f"uploadcore: not tried: {', '.join(plain(job.name) for job in jobs)}", err=True)


def _stopped(last: Progress, commands: Sequence[str]) -> CommandError:
    """What to say after Ctrl-C: what is there, and the exact commands that go on."""
    stays = f"{size(last.done)} of {size(last.total)} have arrived and stay there; " if last.upload_id else ""
    return CommandError(
        f"stopped. {stays}to go on:", ExitStatus.INTERRUPTED, advice=[f"  {command}" for command in commands]
    )


# --- showing ------------------------------------------------------------------------------------------------------


def file_document(file: File) -> dict[str, Any]:
    """A file as the API shows it."""
    checksum = file.checksum
    return {
        "id": file.id,
        "name": file.name,
        "status": file.status,
        "size": file.size,
        "content_type": file.content_type,
        "title": file.title,
        "checksum": None
        if checksum is None
        else {"algorithm": str(checksum.algorithm), "value": checksum.value, "verified_by": file.verified_by},
        "version": file.version,
    }


def _upload_document(each: Upload) -> dict[str, Any]:
    return {
        "id": each.id,
        "file_id": each.file_id,
        "state": each.state,
        "strategy": each.strategy,
        "filename": each.filename,
        "size": each.size,
        "part_size": each.part_size,
        "part_count": each.part_count,
        "reason": each.reason,
        "created_at": None if each.created_at is None else each.created_at.isoformat(),
        "expires_at": None if each.expires_at is None else each.expires_at.isoformat(),
    }


def _table(found: Sequence[Upload], *, is_wide: bool) -> Table:
    """One id per line, the one that the next command takes: of the file once there is one, of the upload until then."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("state")
    table.add_column("size", justify="right", no_wrap=True)
    if is_wide:
        table.add_column("begun", no_wrap=True)
    table.add_column("file (get) or upload (resume, abort)", no_wrap=True)
    table.add_column("name", overflow="fold")
    for each in found:
        is_file = each.state == UploadState.COMPLETED
        table.add_row(
            Text(each.state, style="green" if is_file else "yellow" if each.state == UploadState.UPLOADING else "dim"),
            "" if each.size is None else size(each.size),
            *([_when(each.created_at)] if is_wide else []),
            f"{each.file_id if is_file else each.id}",
            Text(plain(each.filename)),
        )
    return table


def _when(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().strftime("%d %b %H:%M")
