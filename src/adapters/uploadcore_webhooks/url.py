"""What a webhook's URL says. Nothing of it is ever shown but scheme, host and port: path and query may hold tokens, the rest holds secrets."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from uploadcore.errors import InvalidRequestError
from uploadcore_webhooks.addresses import Network

__all__ = ["WebhookUrl", "parse_url"]

SECRET_PREFIX = "whsec_"  # noqa: S105 - what a secret begins with
MIN_SECRET, MAX_SECRET = 24, 64
"""Bytes. Source: Standard Webhooks specification, "Symmetric signatures"."""
MAX_TIMEOUT = 9.0
"""Seconds. The relay gives a delivery up after 10: whoever has less says what it waited for."""
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252})|[0-9a-f:.]{2,45}")
_TARGET = re.compile(r"/[!-~]*")
"""A path and a query: printable ASCII, as it is sent."""


@dataclass(frozen=True, slots=True)
class WebhookUrl:
    """A webhook's URL, understood.

    Attributes:
        scheme: `http` or `https`.
        host: Name or address, without brackets.
        port: Where it listens.
        target: Path and query, as they are sent.
        secrets: What signs, each `whsec_` and base64; all sign.
        options: The rest of what stands after the `#`.
    """

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def authority(self) -> str:
        """Host and port as the `Host` header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Without path, query and options, for logs and `repr`."""
        return f"{self.scheme}://{self.authority}"


def parse_url(url: str) -> WebhookUrl:
    """Understand a URL: `https://host/path?query#secret=whsec_…&option=value`. What stands after the `#` is for us and never sent.

    Raises:
        InvalidRequestError: It can't be used. The message shows no part of it that may be secret.
    """
    address, _, fragment = url.partition("#")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        # The cause would show the URL.
        raise InvalidRequestError(_UNREADABLE) from None
    if port == 0:
        raise InvalidRequestError(_UNREADABLE)
    if parts.scheme not in _PORTS:
        raise InvalidRequestError("a webhook is https://host/path, or http:// where that is allowed")
    secrets, options = _options(fragment)
    found = WebhookUrl(
        scheme=parts.scheme,
        host=_host(parts),
        port=_PORTS[parts.scheme] if port is None else port,
        target=_target(parts),
        secrets=secrets,
        options=options,
    )
    if found.scheme == "http" and not (_is_loopback(found.host) or options.get("allow_http", False)):
        raise InvalidRequestError(
            f"{found}: events go by https://, or by http:// to this machine; allow_http=true after the '#' lets them go in the clear"
        )
    if "ca_file" in options and found.scheme == "http":
        raise InvalidRequestError(f"{found}: ca_file goes with https://")
    return found


def _host(parts: SplitResult) -> str:
    if parts.username is not None or parts.password is not None:
        raise InvalidRequestError("a webhook's URL has no user and password: what it is from is known by its signature")
    host = (parts.hostname or "").lower()
    if not host:
        raise InvalidRequestError("a webhook's URL names no host: write https://host/path")
    if not _HOST.fullmatch(host):
        raise InvalidRequestError("a webhook's host is letters, digits, dots and hyphens; write others as xn--…")
    return host


def _target(parts: SplitResult) -> str:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _TARGET.fullmatch(target):
        raise InvalidRequestError("a webhook's path and query are printable ASCII: write other characters as %20")
    return target


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _options(fragment: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    secrets: list[str] = []
    networks: list[Network] = []
    options: dict[str, Any] = {}
    # Not as forms are decoded: there a '+' is a blank, and in a secret it is a '+'.
    for pair in filter(None, fragment.split("&")):
        name, _, text = pair.partition("=")
        try:
            match name:
                case "secret":
                    secrets.append(_secret(unquote(text)))
                case "allow":
                    networks += _networks(unquote(text).split(","))
                case _ if name in options:
                    raise InvalidRequestError(f"a webhook's {name} is there twice")
                case _ if name in _OPTIONS:
                    options[name] = _OPTIONS[name](unquote(text))
                case _:
                    # Its name is not shown: it may be a piece of a secret with an '&' in it.
                    known = ", ".join(sorted({"secret", "allow", *_OPTIONS}))
                    raise InvalidRequestError(f"a webhook takes after the '#': {known}, as in name=value&name=value")
        except ValueError:
            raise InvalidRequestError(f"a webhook's {name} {_EXPECTED[name]}") from None
    if not secrets:
        raise InvalidRequestError("a webhook needs a secret to sign with: write #secret=whsec_… after its address")
    if networks:
        options["allow"] = tuple(networks)
    return tuple(secrets), options


def _secret(text: str) -> str:
    encoded = text.removeprefix(SECRET_PREFIX)
    key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)  # its error is a ValueError
    if not text.startswith(SECRET_PREFIX) or not MIN_SECRET <= len(key) <= MAX_SECRET:
        raise ValueError
    return text


def _networks(texts: Iterable[str]) -> Sequence[Network]:
    return [ip_network(text.strip()) for text in texts]


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ValueError
    return seconds


def _truth(text: str) -> bool:
    if text not in {"true", "false"}:
        raise ValueError
    return text == "true"


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise ValueError
    return path


_UNREADABLE = "a webhook's host or port can't be read: write https://host:port/path"
_PORTS = {"http": 80, "https": 443}
_OPTIONS: dict[str, Callable[[str], Any]] = {
    "allow_http": _truth,
    "ca_file": _file,
    "timeout": _seconds,
}
_EXPECTED = {
    "secret": f"is whsec_ and the base64 of {MIN_SECRET} to {MAX_SECRET} random bytes",
    "allow": "is addresses or networks, such as 10.1.0.0/16, with commas between them",
    "allow_http": "is true or false",
    "ca_file": "is no file that is there",
    "timeout": f"is no number of seconds up to {MAX_TIMEOUT:g}",
}
