"""Options that several commands share."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from uploadcore_client import DEFAULT_URL, Client

__all__ = ["DEFAULT_PARALLEL", "ByteCount", "client_options", "to_go_on"]

T = TypeVar("T")

DEFAULT_PARALLEL = 4

_SIZE = re.compile(r"(?P<number>[0-9]{1,15}(\.[0-9]{1,3})?)\s*(?P<unit>[KMGT]i?)?B?", re.IGNORECASE)


class ByteCount(click.ParamType[int]):
    """A size: bytes, or a number with KiB, MiB, GiB, TiB (powers of 1,024) or KB, MB, GB, TB (of 1,000)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it.

        >>> ByteCount().convert("16MiB", None, None)
        16777216
        """
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r} is no size: write bytes, or 16MiB, 1.5GiB, 200MB", param, ctx)
        number, unit = found["number"], (found["unit"] or "").lower()
        base = 1024 if unit.endswith("i") else 1000
        count = Decimal(number) * base ** (" kmgt".index(unit[0]) if unit else 0)
        return int(count)


def client_options(command: Callable[..., T]) -> Callable[..., T]:
    """Give a command `--url` and `--token`, and a client made of them (and of `parallel`, if it has that) as its first argument."""

    @click.option(
        "--url", envvar="UPLOADCORE_URL", default=DEFAULT_URL, show_default=True, show_envvar=True, help="The service."
    )
    @click.option(
        "--token",
        envvar="UPLOADCORE_TOKEN",
        show_envvar=True,
        help="Bearer token. Better in the variable than in the shell's history.",
    )
    @functools.wraps(command)
    def with_client(*, url: str, token: str | None, parallel: int = DEFAULT_PARALLEL, **given: Any) -> T:
        with Client(url, token=token, parallel=parallel) as client:
            return command(client, **given)

    return with_client


def to_go_on(client: Client, command: click.Command, arguments: Iterable[str]) -> str:
    """What to type to run `command` with these arguments and those options of the running command that it has too.

    The address is among them wherever it came from. The token is not: it is a secret, and what is shown is copied and kept.
    """
    context = click.get_current_context()
    words = ["uploadcore", command.name or "", *arguments]
    for option in command.params:
        name = option.name or ""
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if isinstance(option, click.Option) and is_given and name not in {"url", "token"}:
            words.append(max(option.opts, key=len))
            words += [] if option.is_flag else [str(context.params[name])]
    words += [] if client.url == DEFAULT_URL else ["--url", client.url]
    return shlex.join(words)
