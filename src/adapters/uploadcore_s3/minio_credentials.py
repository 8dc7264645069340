"""Where minio-py finds credentials, and when they are renewed.

Its providers renew what they hold ten seconds before its end: a minute too late for URLs, which die a minute before what signed them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import urllib3
from minio.credentials.credentials import Credentials as Held
from minio.credentials.providers import (
    AssumeRoleProvider,
    AWSConfigProvider,
    ChainedProvider,
    EnvAWSProvider,
    EnvMinioProvider,
    IamAwsProvider,
    MinioClientConfigProvider,
    Provider,
)
from minio.error import MinioException

from uploadcore_s3.configuration import S3Configuration
from uploadcore_s3.credentials import MARGIN
from uploadcore_s3.errors import S3CallError, TransportError
from uploadcore_s3.signing import Credentials

__all__ = ["REFUSALS", "RenewingProvider", "control_provider", "write_provider"]

REFUSALS = (ValueError, MinioException, OSError, S3CallError, TransportError)
"""What providers raise where there is nothing to be had."""
_RENEWED_BEFORE = timedelta(minutes=15)
"""How long before their end credentials are renewed: as botocore does (`RefreshableCredentials`, advisory timeout)."""
_ASKED_AGAIN_AFTER = 30.0
"""Seconds. Whoever gives no longer ones yet is not asked with every call."""
_SESSION_NAME = "uploadcore-write"


class RenewingProvider(Provider):
    """Credentials of providers made anew each time, for those of minio-py hold what they gave until its last ten seconds.

    Args:
        make: A provider that holds nothing yet.
    """

    def __init__(self, make: Callable[[], Provider]) -> None:
        self._make = make
        self._held: Held | None = None
        self._in_vain_at: float | None = None
        self._renewing = threading.Lock()

    def retrieve(self) -> Held:
        """What is held, renewed first where it is time; what is held still serves where that fails."""
        held = self._held
        if held is not None and not self._is_due(held):
            return held
        # While another one renews, what is held serves; who waits for it is only who could do nothing without.
        must_wait = held is None or datetime.now(UTC) + MARGIN >= _end(held)
        if not self._renewing.acquire(blocking=must_wait):
            assert held is not None, "else it waits"
            return held
        try:
            return self._due_renewed()
        finally:
            self._renewing.release()

    def _due_renewed(self) -> Held:
        held = self._held
        if held is not None and not self._is_due(held):
            return held
        renewed = self._renewed(held)
        last_longer = held is None or renewed.expiration is None or _end(renewed) > _end(held)
        self._in_vain_at = None if last_longer else time.monotonic()
        self._held = renewed
        return renewed

    def _renewed(self, held: Held | None) -> Held:
        try:
            return self._make().retrieve()
        except REFUSALS:
            if held is None or held.is_expired():
                raise
            return held

    def _is_due(self, held: Held) -> bool:
        if held.expiration is None or datetime.now(UTC) + _RENEWED_BEFORE < _end(held):
            return False
        in_vain_at = self._in_vain_at
        return held.is_expired() or in_vain_at is None or time.monotonic() - in_vain_at >= _ASKED_AGAIN_AFTER


def _end(held: Held) -> datetime:
    """When they end; minio-py says it in UTC, without saying so."""
    return datetime.max.replace(tzinfo=UTC) if held.expiration is None else held.expiration.replace(tzinfo=UTC)


def control_provider(configuration: S3Configuration, pool: urllib3.PoolManager) -> Provider:
    """As configured, or the first of minio-py's that has any."""
    if configuration.credentials is not None:
        return _Given(configuration.credentials)
    if configuration.profile is not None:
        return AWSConfigProvider(profile=configuration.profile)
    return RenewingProvider(
        lambda: ChainedProvider(
            [
                EnvAWSProvider(),
                EnvMinioProvider(),
                AWSConfigProvider(),
                MinioClientConfigProvider(),
                IamAwsProvider(http_client=pool),
            ]
        )
    )


def write_provider(
    configuration: S3Configuration, control: Provider, pool: urllib3.PoolManager, region: str
) -> Provider:
    """As configured; `control` where nothing is said."""
    if configuration.write_credentials is not None:
        return _Given(configuration.write_credentials)
    if configuration.write_profile is not None:
        return AWSConfigProvider(profile=configuration.write_profile)
    role = configuration.write_role
    if role is None:
        return control

    def assume() -> Provider:
        source = control.retrieve()  # each time: they may have been renewed
        return AssumeRoleProvider(
            sts_endpoint=configuration.sts_endpoint or configuration.endpoint or "",
            access_key=source.access_key,
            secret_key=source.secret_key,
            region=region,
            role_arn=role,
            role_session_name=_SESSION_NAME,
            external_id=configuration.write_role_external_id,
            http_client=pool,
        )

    return RenewingProvider(assume)


class _Given(Provider):
    """Credentials as they were given, with their end: minio-py's `StaticProvider` has no room for one."""

    def __init__(self, credentials: Credentials) -> None:
        self._held = Held(
            credentials.access_key, credentials.secret_key, credentials.session_token, credentials.expires_at
        )

    def retrieve(self) -> Held:
        """What was given."""
        return self._held
