"""The settings of commands that run on the service's own side: the service's, with a command's options before them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from uploadcore_app import ConfigurationError, Settings, load_settings, misspelled
from uploadcore_cli.failures import CommandError, ExitStatus

__all__ = ["settings_from"]


def settings_from(given: Mapping[str, Any], *, warn: bool = True) -> Settings:
    """The settings: options given go before the variables.

    Args:
        given: Options by the name of their setting; `None`: not given.
        warn: Name misspelled variables on stderr. Not where the command has a log or a table to name them in; where it fails here and comes
            to neither, they are named in any case.

    Raises:
        CommandError: One line that names every setting that can't be used.
    """
    if warn:
        _name_misspelled()
    try:
        return load_settings(**{name: value for name, value in given.items() if value is not None})
    except ConfigurationError as exc:
        if not warn:
            _name_misspelled()
        raise CommandError(str(exc), ExitStatus.USAGE) from exc


def _name_misspelled() -> None:
    """On stderr, before what is wrong: a variable that is missing may be the one that is misspelled."""
    for line in misspelled(os.environ):
        click.echo(f"uploadcore: {line}", err=True)
