"""Where boto3's credentials come from, for each identity, and what they are at a moment."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials
from botocore.credentials import Credentials as Given
from botocore.exceptions import BotoCoreError

from uploadcore_s3.client import Identity
from uploadcore_s3.configuration import S3Configuration
from uploadcore_s3.signing import Credentials

__all__ = ["DEFAULT_REGION", "EXPIRED", "frozen", "identities", "is_expired"]

DEFAULT_REGION = "us-east-1"
EXPIRED = "the credentials have expired, and those that were to replace them as well"
_SESSION_NAME = "uploadcore-write"


def identities(
    configuration: S3Configuration, session: boto3.Session, write_session: boto3.Session | None
) -> dict[Identity, Any]:
    """Where each identity's credentials come from: ours, or botocore's, which renew themselves."""
    control = configuration.credentials or session.get_credentials()
    write: Any = configuration.write_credentials
    if write is None and write_session is not None:
        write = write_session.get_credentials()
    if write is None and configuration.write_profile is not None:
        write = boto3.Session(profile_name=configuration.write_profile).get_credentials()
        if write is None:
            raise LookupError("the write_profile has no credentials")
    if write is None and configuration.write_role is not None:
        write = _assumed(configuration, session)
    if control is None:
        raise LookupError("no credentials were found (environment, profile, container or instance role)")
    return {Identity.CONTROL: control, Identity.WRITE: write or control}


def _assumed(configuration: S3Configuration, session: boto3.Session) -> DeferredRefreshableCredentials:
    """A role's credentials, assumed with the session's, and again before they expire."""
    core: botocore.session.Session = session._session  # botocore's fetcher wants its own client maker
    timeouts = Config(
        connect_timeout=configuration.timeouts.connect,
        read_timeout=configuration.timeouts.connect,
        retries={"total_max_attempts": 2, "mode": "standard"},
    )

    def client(name: str, **options: Any) -> Any:
        options.setdefault("region_name", configuration.region or session.region_name or DEFAULT_REGION)
        merged = timeouts.merge(options.pop("config", None) or Config())
        return core.create_client(name, endpoint_url=configuration.sts_endpoint, config=merged, **options)

    extra = {"RoleSessionName": _SESSION_NAME}
    if configuration.write_role_external_id is not None:
        extra["ExternalId"] = configuration.write_role_external_id
    given = configuration.credentials
    source = (
        session.get_credentials() if given is None else Given(given.access_key, given.secret_key, given.session_token)
    )
    if source is None:
        raise LookupError("no credentials were found to assume the write_role with")
    fetcher = AssumeRoleCredentialFetcher(client, source, configuration.write_role, extra_args=extra)
    return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")


def frozen(held: Any) -> Credentials:
    """What botocore holds, as it is now, renewed where it is time, with its end.

    The end is read before and after: between two renewals it would be another one's.
    """
    try:
        while True:
            before = getattr(held, "_expiry_time", None)
            now = held.get_frozen_credentials()
            expires_at: datetime | None = getattr(held, "_expiry_time", None)
            if before == expires_at:
                break
    except BotoCoreError as exc:
        raise LookupError(f"botocore could not renew them ({type(exc).__name__})") from exc
    except RuntimeError as exc:
        if not is_expired(exc):
            raise
        raise LookupError(EXPIRED) from exc
    except Exception as exc:  # botocore raises a ClientError of a class made at run time
        if type(exc).__module__.startswith("botocore"):
            raise LookupError(f"botocore could not renew them ({type(exc).__name__})") from exc
        raise
    return Credentials(now.access_key, now.secret_key, now.token, expires_at)


def is_expired(error: RuntimeError) -> bool:
    """Whether botocore says, by a bare `RuntimeError`, that what it renewed has expired as well (`RefreshableCredentials`)."""
    return "expired" in str(error)
