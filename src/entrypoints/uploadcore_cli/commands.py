"""The command and its list of subcommands, each loaded when it is used: help must not cost the import of a web framework."""

from __future__ import annotations

import errno
from importlib import import_module
from typing import Any

import click

from uploadcore.errors import UploadCoreError
from uploadcore_cli.failures import CommandError, ExitStatus, of_error

__all__ = ["uploadcore"]

_COMMANDS = {
    "serve": ("uploadcore_cli.service", "server", "Run the service."),
    "upload": ("uploadcore_cli.uploads", "client", "Upload files, or go on where an earlier call ended."),
    "ls": ("uploadcore_cli.uploads", "client", "List your uploads."),
    "resume": ("uploadcore_cli.uploads", "client", "Go on with unfinished uploads."),
    "abort": ("uploadcore_cli.uploads", "client", "Give uploads up; what has arrived is dropped."),
    "get": ("uploadcore_cli.downloads", "client", "Download a file, or go on where an earlier call ended."),
    "token": ("uploadcore_cli.service", "server", "Print a token for a service that signs with a shared secret."),
    "sweep": ("uploadcore_cli.service", "server", "Expire, recover and clean up, once."),
    "worker": ("uploadcore_cli.worker", "server", "Sweep and deliver events, without serving."),
    "events": ("uploadcore_cli.events", "server", "See what waits to be delivered; replay dead letters."),
    "migrate": ("uploadcore_cli.migrations", "server", "Bring the database's schema up to date."),
    "doctor": ("uploadcore_cli.doctor", "server", "Examine store, database and cache, and say what to do."),
    "demo": ("uploadcore_cli.demo", "server", "Upload a file, kill -9 both sides half way, resume, compare."),
}
"""By name: the module, the extra it needs, and what help says of it."""

_EPILOG = """\b
Exit status:
  0  done                       6  no such upload or file, or it has ended
  1  anything else              7  refused: quota, size or type
  2  arguments or settings      8  no room left, at the store or here
  3  a local file: unreadable,  9  bytes differ from their checksum
     changed, or there already  10  server or store away: try again
  4  no server answers          130  Ctrl-C: what has arrived stays
  5  token missing or no good
"""


class _Commands(click.Group):
    """Loads a subcommand when it is asked for, and makes one line of every error."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of use."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, extra, _ = _COMMANDS[cmd_name]
        try:
            command = getattr(import_module(module), cmd_name)
        except ImportError as exc:
            if not isinstance(exc, ModuleNotFoundError) and "pip install" not in str(exc):
                raise
            missing = exc.name or "a package"
            raise CommandError(
                f"'{cmd_name}' needs {missing}, which is not installed: pip install 'uploadcore[{extra}]'",
                ExitStatus.USAGE,
            ) from exc
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List them without loading any."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run one. No error that was raised on purpose reaches the user as a traceback."""
        try:
            return super().invoke(ctx)
        except UploadCoreError as exc:
            raise of_error(exc) from exc
        except OSError as exc:
            if exc.errno != errno.ENOSPC:
                raise
            raise CommandError(f"no room left to write {exc.filename or 'the output'}", ExitStatus.FULL) from exc
        except KeyboardInterrupt:
            raise CommandError("stopped", ExitStatus.INTERRUPTED) from None


@click.group(
    cls=_Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="uploadcore", message="%(version)s")
def uploadcore() -> None:
    """Large uploads, straight from the client to the object store.

    Client commands talk to the service at --url (UPLOADCORE_URL), as whoever --token (UPLOADCORE_TOKEN) says.
    """
