"""Settings: names, defaults, and one clear line for what can't be used."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from uploadcore_app import ConfigurationError, Settings, is_loopback, load_settings, misspelled, open_app

KEY = "a secret of 32 bytes or more, please"
DOC = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("UPLOADCORE_"):
            monkeypatch.delenv(name)


def test_the_defaults_need_nothing_but_a_folder(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)

    assert settings.storage_url == f"file://{tmp_path}/files"
    assert settings.database_url == f"sqlite:///{tmp_path}/uploadcore.db"
    assert (settings.cache, settings.base_url) == ("memory://", "http://127.0.0.1:8484")
    assert (settings.url_lifetime, settings.upload_lifetime) == (timedelta(minutes=15), timedelta(days=1))
    assert settings.file_cache_ttl == timedelta(minutes=1)


def test_a_folder_whose_name_is_not_plain_is_quoted_in_the_url(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "a b#c")

    assert settings.storage_url.endswith("/a%20b%23c/files")


@pytest.mark.parametrize("name", ["feature%2Fuploads", "really?", "a b#c"])
def test_the_embedded_defaults_are_all_in_the_folder_whatever_its_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name

    async def opened() -> None:
        async with open_app(load_settings(data_dir=folder)):
            pass

    asyncio.run(opened())

    assert {"files", "uploadcore.db"} <= {path.name for path in folder.iterdir()}
    assert list(tmp_path.iterdir()) == [folder]


def test_variables_are_read_and_arguments_come_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLOADCORE_PORT", "9000")
    monkeypatch.setenv("UPLOADCORE_HOST", "127.0.0.2")
    monkeypatch.setenv("UPLOADCORE_MAX_SIZE", "5GiB")
    monkeypatch.setenv("UPLOADCORE_URL_LIFETIME", "30m")
    monkeypatch.setenv("UPLOADCORE_DRAIN_DELAY", "0")
    monkeypatch.setenv("UPLOADCORE_CORS_ORIGINS", "https://a.example, https://b.example:8080")
    monkeypatch.setenv("UPLOADCORE_CACHE", "")  # as if it were not set

    settings = load_settings(port=9001)

    assert settings.cache == "memory://"
    assert (settings.port, settings.host, settings.max_size) == (9001, "127.0.0.2", 5 * 1024**3)
    assert (settings.url_lifetime, settings.drain_delay) == (timedelta(minutes=30), timedelta(0))
    assert settings.cors_origins == ("https://a.example", "https://b.example:8080")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"port": "http"}, "UPLOADCORE_PORT: "),
        ({"port": 70_000}, "UPLOADCORE_PORT: "),
        ({"drain_delay": "soon"}, "UPLOADCORE_DRAIN_DELAY: "),
        ({"lease": "0.9"}, "UPLOADCORE_LEASE: "),
        ({"sweep_interval": "0"}, "UPLOADCORE_SWEEP_INTERVAL: "),
        ({"relay_interval": "0"}, "UPLOADCORE_RELAY_INTERVAL: "),
        ({"url_lifetime": "8d"}, "UPLOADCORE_URL_LIFETIME: "),
        ({"url_lifetime": "0.5"}, "UPLOADCORE_URL_LIFETIME: "),
        ({"max_size": "big"}, "UPLOADCORE_MAX_SIZE: "),
        ({"max_size": "8EiB"}, "UPLOADCORE_MAX_SIZE: "),
        ({"max_unknown_size": "8EiB"}, "UPLOADCORE_MAX_UNKNOWN_SIZE: "),
        ({"max_bytes_in_flight": "8EiB"}, "UPLOADCORE_MAX_BYTES_IN_FLIGHT: "),
        ({"max_open_uploads": str(2**63)}, "UPLOADCORE_MAX_OPEN_UPLOADS: "),
        ({"public_url": "uploads.example.com"}, "UPLOADCORE_PUBLIC_URL: is a web address"),
        ({"public_url": "https://a.example/?x=1"}, "UPLOADCORE_PUBLIC_URL: is a web address"),
        ({"public_url": "https://a.example:84844"}, "UPLOADCORE_PUBLIC_URL: names no port"),
        ({"public_url": "https://a.example:port"}, "UPLOADCORE_PUBLIC_URL: names no port"),
        ({"cors_origins": "*"}, "UPLOADCORE_CORS_ORIGINS: '*' is not an origin"),
        ({"cors_origins": "https://a.example/app"}, "is not an origin"),
        ({"cors_origins": "https://a.example/"}, "'https://a.example/' is not an origin as browsers send it"),
        (
            {"cors_origins": "https://App.example"},
            "lower-case, without the scheme's own port, without path and wildcard",
        ),
        ({"cors_origins": "https://a.example https://b.example:443"}, "'https://b.example:443' is not an origin"),
        ({"cors_origins": "http://a.example:80"}, "is not an origin"),
        ({"cors_origins": "http://[::1]:80"}, "is not an origin"),
        ({"cors_origins": "https://a.example:65536"}, "'https://a.example:65536' is not an origin"),
        ({"cors_origins": "https://*.example"}, "is not an origin"),
        ({"cors_origins": "https://user@a.example"}, "is not an origin"),
        ({"cors_origins": "https://a.example:"}, "is not an origin"),
        ({"cors_origins": "https://"}, "is not an origin"),
        (
            {"content_types": "video"},
            "UPLOADCORE_CONTENT_TYPES: 'video' is not a media type such as video/mp4 or video/*",
        ),
        (
            {"content_types": "image/png */*"},
            "'*/*' is not a media type such as video/mp4 or video/*; leave it out to accept any",
        ),
        ({"content_types": "*"}, "'*' is not a media type"),
        ({"content_types": "video/"}, "'video/' is not a media type"),
        ({"content_types": "video/mp*"}, "'video/mp*' is not a media type"),
        ({"content_types": "text/plain;charset=utf-8"}, "is not a media type"),
        ({"auth_jwt_key": "short"}, "UPLOADCORE_AUTH_JWT_KEY: has at least 32 bytes"),
        ({"auth_jwt_key": "-----BEGIN PUBLIC KEY-----\nMIIB"}, "UPLOADCORE_AUTH_JWT_KEY: is a shared secret"),
        ({"auth_jwt_key": KEY, "auth_jwks_url": "https://a.example/jwks"}, "exclude each other"),
        ({"auth_jwks_url": "https://a.example/jwks"}, "also needs UPLOADCORE_AUTH_JWT_ISSUER"),
        (
            {"auth_jwks_url": "http://a.example/jwks", "auth_jwt_issuer": "i", "auth_jwt_audience": "a"},
            "UPLOADCORE_AUTH_JWKS_URL is https",
        ),
        ({"auth_jwks_url": "file:///etc/keys"}, "UPLOADCORE_AUTH_JWKS_URL: is a web address"),
        ({"auth_jwks_url": "https://a.example:99999/jwks"}, "UPLOADCORE_AUTH_JWKS_URL: names no port"),
        ({"auth_jwt_algorithms": "HS256 RS256"}, "UPLOADCORE_AUTH_JWT_ALGORITHMS: is a choice of"),
        ({"auth_jwt_algorithms": "none"}, "UPLOADCORE_AUTH_JWT_ALGORITHMS: is a choice of"),
        ({"rate_limit": "often"}, "UPLOADCORE_RATE_LIMIT: is a number and a time"),
        ({"rate_limit": "10/fortnight"}, "UPLOADCORE_RATE_LIMIT: is a number and a time"),
        ({"rate_limit": "0/second"}, "UPLOADCORE_RATE_LIMIT: is a number and a time"),
        ({"metrics_token": "short"}, "UPLOADCORE_METRICS_TOKEN: "),
        ({"log_format": "xml"}, "UPLOADCORE_LOG_FORMAT: "),
        ({"key_prefix": "/x/"}, "UPLOADCORE_KEY_PREFIX: "),
        ({"key_prefix": "a/../b"}, "UPLOADCORE_KEY_PREFIX: has a segment '.' or '..'"),
        ({"part_size_min": "0"}, "UPLOADCORE_PART_SIZE_MIN: "),
        ({"events": "https://a.example/#secret=hunter2"}, "UPLOADCORE_EVENTS: is name=URL for each destination"),
        ({"events": "a=https://a.example/ B=redis://b"}, "word 2 is not: a name is"),
        ({"events": f"{'a' * 64}=redis://b"}, "UPLOADCORE_EVENTS: is name=URL"),
        ({"events": "a=redis"}, "UPLOADCORE_EVENTS: is name=URL"),
        ({"events": "a=redis://a a=redis://b"}, "UPLOADCORE_EVENTS: has two destinations of one name"),
        ({"background": "perhaps"}, "UPLOADCORE_BACKGROUND: "),
        ({"unheard_of": "1"}, "UPLOADCORE_UNHEARD_OF: "),
    ],
)
def test_what_can_not_be_used_is_one_line_that_names_the_variable(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(**given)

    assert complaint in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_status == 2


def test_origins_and_media_types_that_can_be_met_are_taken_as_they_are() -> None:
    origins = (
        "https://a.example",
        "http://localhost:3000",
        "http://127.0.0.1:443",
        "https://b.example:80",
        "http://a.example:8080",
        "https://xn--bcher-kva.example:8443",
        "http://[::1]:5173",
        "https://a.example:65535",
    )
    types = ("video/*", "image/svg+xml", "Application/vnd.oasis.opendocument.text")

    settings = load_settings(cors_origins=" ".join(origins), content_types=",".join(types))

    assert (settings.cors_origins, settings.content_types) == (origins, types)


def test_destinations_are_words_and_all_but_the_first_equals_sign_is_the_urls() -> None:
    settings = load_settings(events=" crm=https://a.example/?x=1#secret=whsec_Zm9v==\n  sync=redis://b/0#stream=s ")

    assert settings.destinations == {
        "crm": "https://a.example/?x=1#secret=whsec_Zm9v==",
        "sync": "redis://b/0#stream=s",
    }
    assert load_settings().destinations == {}


def test_a_complaint_never_shows_a_secret() -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(
            auth_jwt_key="hunter2", metrics_token="hunter3", port="x", events="hunter4=https://a#secret=x hunter5"
        )

    assert "hunter" not in str(refused.value)
    assert "UPLOADCORE_PORT" in str(refused.value)


def test_settings_never_show_a_secret() -> None:
    assert KEY not in repr(load_settings(auth_jwt_key=KEY))
    assert "hunter2" not in repr(load_settings(events="a=https://a.example/#secret=hunter2"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "uploads.example.com"])
def test_without_authentication_only_loopback_is_listened_on(host: str) -> None:
    with pytest.raises(ConfigurationError, match="no authentication is configured"):
        load_settings(host=host).check_exposure()

    load_settings(host=host, auth_jwt_key=KEY).check_exposure()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "LOCALHOST"])
def test_loopback_needs_no_authentication(host: str) -> None:
    load_settings(host=host).check_exposure()

    assert is_loopback(host)


@pytest.mark.parametrize(
    ("host", "port", "url"), [("::1", 1, "http://[::1]:1"), ("localhost", 80, "http://localhost:80")]
)
def test_the_service_is_reached_where_it_listens_unless_said_otherwise(host: str, port: int, url: str) -> None:
    assert load_settings(host=host, port=port).base_url == url
    assert load_settings(host=host, public_url="https://a.example/up/").base_url == "https://a.example/up"


def test_a_misspelled_variable_is_noticed_and_others_are_left_alone() -> None:
    found = misspelled(
        {"UPLOADCORE_STORGE": "", "UPLOADCORE_URL": "", "UPLOADCORE_TOKEN": "", "UPLOADCORE_PORT": "", "PATH": ""}
    )

    assert found == ["UPLOADCORE_STORGE is no setting and does nothing; UPLOADCORE_STORAGE is one"]


def test_the_documentation_names_every_setting() -> None:
    text = DOC.read_text()

    for name in Settings.model_fields:
        assert f"`UPLOADCORE_{name.upper()}`" in text, name
