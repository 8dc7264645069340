"""What can be set, under which name, and what it defaults to. `docs/configuration.md` says the same for readers."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from limits import parse_many
from pydantic import BeforeValidator, ByteSize, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from uploadcore_app.errors import ConfigurationError

__all__ = ["NO_CACHE", "Settings", "checked_origins", "is_loopback", "load_settings", "misspelled"]

PREFIX = "UPLOADCORE_"
CLIENT_VARIABLES = frozenset({"UPLOADCORE_URL", "UPLOADCORE_TOKEN", "UPLOADCORE_STATE_DIR"})
"""What the client's commands read: no settings of the service, and no misspelled ones either."""
NO_CACHE = "none"
MIN_HS256_KEY = 32
"""Bytes. Source: RFC 7518, section 3.2: a key of at least the hash's size."""
ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
"""What a JWKS may verify. No HMAC: a public key must never do as a shared secret."""

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(\.[0-9]+)?)(?P<unit>[smhd]?)")
_NAME = r"[A-Za-z0-9!#$&^_.+-]{1,127}"
"""Source: RFC 6838, section 4.2."""
_MEDIA_TYPE = re.compile(rf"{_NAME}/({_NAME}|\*)")
_ORIGIN = re.compile(r"(http(?!.*:80$)|https(?!.*:443$))://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:(?P<port>[1-9][0-9]{0,4}))?")
"""As browsers write it, whose word is compared with ours: no port that is the scheme's own. Source: RFC 6454, section 6.2."""
_PORT_MAX = 65_535
_STORABLE = 2**63 - 1
"""Largest integer of a database: with more as a limit, it would refuse every upload."""
_DESTINATION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _split(value: Any) -> Any:
    """A list in one variable: words between commas or blanks."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _seconds(value: Any) -> Any:
    """A duration in one word: seconds, or a number with its unit. Anything else is left to pydantic (ISO 8601)."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return timedelta(seconds=float(found["number"]) * _UNITS[found["unit"]]) if found else value


def checked_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """The same, if each is an origin as browsers send it: any other would never match.

    Raises:
        ValueError: One is none.

    >>> checked_origins(["https://app.example.com", "http://localhost:5173"])
    ('https://app.example.com', 'http://localhost:5173')
    """
    checked = tuple(origins)
    for origin in checked:
        found = _ORIGIN.fullmatch(origin)
        if not found or int(found["port"] or 0) > _PORT_MAX:
            raise ValueError(
                f"{origin!r} is not an origin as browsers send it, such as https://app.example.com: "
                "lower-case, without the scheme's own port, without path and wildcard"
            )
    return checked


Duration = Annotated[timedelta, BeforeValidator(_seconds)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """The whole configuration, from `UPLOADCORE_…` variables or keyword arguments.

    Durations are seconds, or a number and s, m, h or d (`900`, `15m`), sizes bytes or with a unit (`10GiB`), lists words between commas.

    Attributes:
        host: Address to listen on. Anything but a loopback address needs authentication configured.
        port: Port to listen on; 0 takes a free one.
        data_dir: Folder of the embedded defaults and their signing secret.
        storage: Store URL; default `file:` in `data_dir`.
        database: Database URL; default `sqlite:` in `data_dir`.
        cache: Cache URL; `none` for none.
        public_url: Where clients reach this service; default the address it listens on.
        key_prefix: First component of every storage key.
        part_size_min: Smallest part, in bytes, where the store takes smaller ones than S3's 5 MiB.
        url_lifetime: How long a signed URL is asked to live.
        upload_lifetime: From initiate to the deadline.
        file_cache_ttl: How old a file may be that a read answers with, where a change did not reach the cache.
        max_size: Largest blob, in bytes; none by default.
        max_unknown_size: What an upload of unknown size may grow to, in bytes.
        max_open_uploads: Uploads an owner may have open; none by default.
        max_bytes_in_flight: Sum of their sizes; none by default.
        content_types: Accepted media types, such as `video/*`; all by default.
        auth_jwt_key: Secret that signs the tokens (HS256), at least 32 bytes.
        auth_jwks_url: Where the issuer's public keys are; instead of `auth_jwt_key`.
        auth_jwt_algorithms: Accepted with `auth_jwks_url`.
        auth_jwt_audience: What `aud` must name.
        auth_jwt_issuer: What `iss` must be.
        metrics_token: Bearer token for `/metrics` from elsewhere than loopback.
        metrics_port: Where a worker answers `/metrics`; by default nowhere.
        cors_origins: Origins of browser applications.
        max_in_flight: Requests served at a time, beyond which the answer is 503.
        rate_limit: How often one owner may ask the API, such as `100/second`; any number of times by default.
        drain_delay: How long serving goes on after SIGTERM while load balancers notice.
        lease: How long an instance's claim on an upload stands unless renewed; a dead one's work is taken over after it.
        sweep_interval: Pause between passes of the sweeper.
        relay_interval: Longest pause between passes of the relay.
        events: Where events go: `name=URL` for each destination, with blanks between them.
        background: Whether the service sweeps and relays beside its requests; `uploadcore worker` does so by itself.
        log_format: `json`, `console`, or `auto`: console on a terminal.
        log_level: Least level logged; `warning` leaves the line per request out.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=8484, ge=0, le=65535)
    data_dir: Path = Path("uploadcore-data")
    storage: str | None = None
    database: str | None = None
    cache: str = "memory://"
    public_url: str | None = None
    key_prefix: str = Field(default="uploads", pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", max_length=128)
    part_size_min: ByteSize | None = Field(default=None, ge=1)
    url_lifetime: Duration = Field(default=timedelta(minutes=15), ge=timedelta(seconds=1), le=timedelta(days=7))
    upload_lifetime: Duration = Field(default=timedelta(days=1), gt=timedelta(0), le=timedelta(days=365))
    file_cache_ttl: Duration = Field(default=timedelta(minutes=1), gt=timedelta(0), le=timedelta(hours=1))
    max_size: ByteSize | None = Field(default=None, le=_STORABLE)
    max_unknown_size: ByteSize = Field(default=ByteSize(10 * 1024**3), le=_STORABLE)
    max_open_uploads: int | None = Field(default=None, ge=1, le=_STORABLE)
    max_bytes_in_flight: ByteSize | None = Field(default=None, le=_STORABLE)
    content_types: Words = ()
    auth_jwt_key: SecretStr | None = None
    auth_jwks_url: str | None = None
    auth_jwt_algorithms: Words = ("RS256", "ES256", "EdDSA")
    auth_jwt_audience: str = Field(default="uploadcore", min_length=1)
    auth_jwt_issuer: str = Field(default="uploadcore", min_length=1)
    metrics_token: SecretStr | None = Field(default=None, min_length=16)
    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    cors_origins: Words = ()
    max_in_flight: int = Field(default=1_000, ge=1)
    rate_limit: str | None = None
    drain_delay: Duration = Field(default=timedelta(seconds=5), ge=timedelta(0), le=timedelta(minutes=10))
    lease: Duration = Field(default=timedelta(seconds=30), ge=timedelta(seconds=1), le=timedelta(hours=1))
    sweep_interval: Duration = Field(
        default=timedelta(seconds=60), ge=timedelta(milliseconds=100), le=timedelta(hours=1)
    )
    relay_interval: Duration = Field(default=timedelta(seconds=1), ge=timedelta(milliseconds=10), le=timedelta(hours=1))
    events: SecretStr | None = None
    background: bool = True
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("public_url", "auth_jwks_url")
    @classmethod
    def _is_web_address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("is a web address such as https://uploads.example.com, without query or fragment")
        try:
            parts.port  # noqa: B018 - raises where it is none
        except ValueError as exc:
            raise ValueError("names no port") from exc
        return value.rstrip("/")

    @field_validator("key_prefix")
    @classmethod
    def _stays_in_urls(cls, value: str) -> str:
        if {".", ".."} & set(value.split("/")):
            raise ValueError("has a segment '.' or '..', which clients take out of a URL")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return checked_origins(value)

    @field_validator("content_types")
    @classmethod
    def _are_media_types(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for word in value:
            if not _MEDIA_TYPE.fullmatch(word):
                raise ValueError(
                    f"{word!r} is not a media type such as video/mp4 or video/*; leave it out to accept any"
                )
        return value

    @field_validator("rate_limit")
    @classmethod
    def _is_rate_limit(cls, value: str | None) -> str | None:
        try:
            is_usable = value is None or all(item.amount > 0 for item in parse_many(value))
        except ValueError:
            is_usable = False
        if not is_usable:
            raise ValueError("is a number and a time such as 100/second or 5000/hour, several with ; between")
        return value

    @field_validator("auth_jwt_key")
    @classmethod
    def _is_a_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value()
        if "-----BEGIN" in key:
            raise ValueError("is a shared secret for HS256, not a key file: publish public keys as a JWKS instead")
        if len(key.encode()) < MIN_HS256_KEY:
            raise ValueError(f"has at least {MIN_HS256_KEY} bytes (RFC 7518, section 3.2)")
        return value

    @field_validator("events")
    @classmethod
    def _are_destinations(cls, value: SecretStr | None) -> SecretStr | None:
        words = [] if value is None else value.get_secret_value().split()
        names = [name for name, _, _ in (word.partition("=") for word in words)]
        for number, (word, name) in enumerate(zip(words, names, strict=True), 1):
            # No word is shown: a secret may stand anywhere in one that is wrong.
            if not _DESTINATION.fullmatch(name) or "://" not in word:
                raise ValueError(
                    f"is name=URL for each destination, with blanks between them, and word {number} is not: "
                    "a name is up to 63 lower-case letters, digits and hyphens"
                )
        if len(set(names)) < len(names):
            raise ValueError("has two destinations of one name")
        return value

    @field_validator("auth_jwt_algorithms")
    @classmethod
    def _are_asymmetric(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not set(value) <= ASYMMETRIC:
            raise ValueError(f"is a choice of {', '.join(sorted(ASYMMETRIC))}")
        return value

    @model_validator(mode="after")
    def _has_one_way_in(self) -> Self:
        if self.auth_jwt_key is not None and self.auth_jwks_url is not None:
            raise ValueError("UPLOADCORE_AUTH_JWT_KEY and UPLOADCORE_AUTH_JWKS_URL exclude each other: set one of them")
        if self.auth_jwks_url is not None:
            if not {"auth_jwt_issuer", "auth_jwt_audience"} <= self.model_fields_set:
                raise ValueError(
                    "UPLOADCORE_AUTH_JWKS_URL also needs UPLOADCORE_AUTH_JWT_ISSUER and UPLOADCORE_AUTH_JWT_AUDIENCE"
                )
            parts = urlsplit(self.auth_jwks_url)
            if parts.scheme != "https" and not is_loopback(parts.hostname or ""):
                raise ValueError("UPLOADCORE_AUTH_JWKS_URL is https: keys fetched in the clear prove nothing")
        return self

    @property
    def has_authentication(self) -> bool:
        """Whether tokens are verified. Otherwise everybody on this machine is the same developer."""
        return self.auth_jwt_key is not None or self.auth_jwks_url is not None

    @property
    def destinations(self) -> Mapping[str, str]:
        """Where events go: URLs by name. They hold secrets."""
        words = "" if self.events is None else self.events.get_secret_value()
        return {name: url for name, _, url in (word.partition("=") for word in words.split())}

    @property
    def base_url(self) -> str:
        """Where clients reach this service, without a trailing slash."""
        if self.public_url is not None:
            return self.public_url
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def storage_url(self) -> str:
        """The store to use."""
        return self.storage or f"file://{quote(str(self.data_dir.absolute() / 'files'))}"

    @property
    def database_url(self) -> str:
        """The database to use. Four slashes: the path is absolute."""
        return self.database or f"sqlite:///{quote(str(self.data_dir.absolute() / 'uploadcore.db'))}"

    def check_exposure(self) -> None:
        """Refuse to serve everybody as the developer.

        Raises:
            ConfigurationError: It would listen on more than loopback, and nothing is set that tells who somebody is.
        """
        if not self.has_authentication and not is_loopback(self.host):
            raise ConfigurationError(
                f"UPLOADCORE_HOST={self.host} can be reached from other machines and no authentication is configured: "
                "set UPLOADCORE_AUTH_JWT_KEY or UPLOADCORE_AUTH_JWKS_URL, or listen on 127.0.0.1"
            )


def load_settings(**values: Any) -> Settings:
    """The settings from the environment, with `values` before them.

    Raises:
        ConfigurationError: One line that names every setting that can't be used. Never shows a value.

    >>> load_settings(port=8000).base_url
    'http://127.0.0.1:8000'
    """
    try:
        return Settings(**values)
    except ValidationError as exc:
        raise ConfigurationError("; ".join(_complaints(exc))) from None


def _complaints(error: ValidationError) -> Iterable[str]:
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        message = detail["msg"].removeprefix("Value error, ")
        place = "_".join(str(step) for step in detail["loc"][:1]).upper()
        yield f"{PREFIX}{place}: {message}" if place else message


def misspelled(environ: Mapping[str, str]) -> list[str]:
    """A line for each variable that is no setting but looks like one. They are ignored otherwise.

    >>> misspelled({"UPLOADCORE_STORGE": "…", "UPLOADCORE_STATE_DIR": "…", "HOME": "/"})
    ['UPLOADCORE_STORGE is no setting and does nothing; UPLOADCORE_STORAGE is one']
    """
    known = [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
    lines = []
    for name in environ:
        if name.upper().startswith(PREFIX) and name.upper() not in known and name not in CLIENT_VARIABLES:
            close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.85)
            if close:
                lines.append(f"{name} is no setting and does nothing; {close[0]} is one")
    return lines


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "example.com")]
    [True, True, True, False, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
