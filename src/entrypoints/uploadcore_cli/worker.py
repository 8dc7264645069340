"""`worker`: the sweeper and the relay without the service, configured as the service is."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click
import uvloop

from uploadcore.relay import RelayReport
from uploadcore.views import SweepReport
from uploadcore_app import ConfigurationError, Settings, misspelled, open_app
from uploadcore_cli.failures import CommandError, ExitStatus
from uploadcore_cli.service import DATA_DIR, SWEPT
from uploadcore_cli.settings import settings_from
from uploadcore_http.background import in_background
from uploadcore_http.lifecycle import say
from uploadcore_http.logs import configure_logging
from uploadcore_http.scraping import metrics_served

__all__ = ["worker"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = logging.getLogger("uploadcore.worker")


@click.command()
@click.option("--once", is_flag=True, help="One pass of each, for cron. Status 1 if anything in it failed.")
@DATA_DIR
def worker(*, once: bool, **given: Any) -> None:
    """Expire, recover, clean up and deliver events, until SIGTERM or Ctrl-C.

    Any number of workers and services may do so at once. Not beside a service on the embedded folder, which does it by itself: that folder
    is one process's at a time.
    """
    settings = settings_from(given, warn=False)
    configure_logging(settings.log_format, settings.log_level)
    for line in misspelled(os.environ):
        log.warning(line)
    try:
        sys.exit(uvloop.run(_worked(settings, once=once)))
    except ConfigurationError as exc:
        raise CommandError(str(exc), ExitStatus.USAGE) from exc


async def _worked(settings: Settings, *, once: bool) -> int:
    """Work until a signal says otherwise, or for one pass; the exit status. What is held under a lease is given up at the end."""
    told = _first_signal()
    work = asyncio.create_task(_pass(settings) if once else _work(settings))
    await asyncio.wait((work, told), return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        return await work
    number = told.result()
    log.info("stopping after %s", number.name)
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        return 128 + number if once else ExitStatus.OK
    return ExitStatus.OK  # it had ended just then


def _first_signal() -> asyncio.Future[signal.Signals]:
    """The first signal to stop. A second one ends the process at once, as if nobody listened."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[signal.Signals] = loop.create_future()

    def tell(number: signal.Signals) -> None:
        for one in _SIGNALS:
            loop.remove_signal_handler(one)
            signal.signal(one, signal.SIG_DFL)
        told.set_result(number)

    for one in _SIGNALS:
        loop.add_signal_handler(one, tell, one)
    return told


async def _work(settings: Settings) -> int:
    """Sweep and relay until cancelled."""
    async with open_app(settings, waits=True) as app, metrics_served(app), in_background(app.core):
        say("uploadcore is working")
        await asyncio.get_running_loop().create_future()
    return ExitStatus.OK


async def _pass(settings: Settings) -> int:
    """One pass of each; what it came to, on stdout.

    Raises:
        UploadCoreError: Database or store did not answer. What could be done without it is done.
    """
    async with open_app(settings) as app:
        swept, relayed = await asyncio.gather(app.core.sweep(), app.core.relay(), return_exceptions=True)
    failed = False
    if isinstance(swept, SweepReport):
        click.echo(f"swept: {_told(swept, SWEPT)}")
        failed |= bool(swept.failed)
    if isinstance(relayed, RelayReport):
        click.echo(f"relayed: {_told(relayed, ('numbered', 'delivered', 'failed', 'dead'))}")
        failed |= bool(relayed.failed or relayed.dead)
    for outcome in (swept, relayed):
        if isinstance(outcome, BaseException):
            raise outcome
    return ExitStatus.FAILED if failed else ExitStatus.OK


def _told(report: SweepReport | RelayReport, names: Sequence[str]) -> str:
    told = [f"{name.replace('_', ' ')} {getattr(report, name)}" for name in names if getattr(report, name)]
    return f"{', '.join(told) or 'nothing to do'}{'; there is more' if report.more else ''}"
