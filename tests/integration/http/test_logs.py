"""Rule 14: signed URLs, tokens and credentials are in no log. A line per request says what is needed, and no more."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from tests.integration.http.process import service_process
from tests.integration.http.service import KEY, bearer

METRICS_TOKEN = "a token for the scraper"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_is_in_the_log_even_at_its_most_talkative(tmp_path: Path, log_format: str) -> None:
    secrets = {KEY, METRICS_TOKEN}
    with (
        service_process(
            tmp_path, log_level="debug", log_format=log_format, auth_jwt_key=KEY, metrics_token=METRICS_TOKEN
        ) as served,
        httpx.Client(base_url=served.url, headers=bearer("owner-of-this")) as api,
    ):
        secrets.add(api.headers["authorization"].removeprefix("Bearer "))
        upload = api.post("/v1/uploads", json={"filename": "private.txt", "size": 3, "sign": 1}).json()
        [part] = upload["parts"]
        secrets.add(part["url"])
        secrets.update(value for name, value in parse_qsl(urlsplit(part["url"]).query) if name == "signature")
        altered = part["url"].replace("&signature=", "&signature=A")
        httpx.put(altered, content=b"abc")
        httpx.put(part["url"], headers=part["headers"], content=b"abc").raise_for_status()
        file = api.post(f"/v1/uploads/{upload['id']}/complete").json()["file"]
        content = api.get(f"/v1/files/{file['id']}/content").headers["location"]
        secrets.update(value for name, value in parse_qsl(urlsplit(content).query) if name == "signature")
        httpx.get(content).raise_for_status()
        api.get("/v1/uploads?fingerprint=a-secret-in-a-query")
        api.get("/v1/uploads/a-secret-in-a-path")
        api.post("/v1/uploads", content=b'{"a-secret-in-a-body')
        api.get("/metrics", headers={"authorization": f"Bearer {METRICS_TOKEN}"})
        api.get("/v1/uploads", headers={"authorization": "Bearer a-secret-that-is-no-token"})
        served.stop()

    log = served.log.read_text()

    assert "owner-of-this" in log
    for secret in secrets:
        assert secret not in log
    assert "a-secret-in" not in log
    assert "a-secret-that" not in log
    assert "private.txt" not in log
    assert not re.search(r"signature|[?&]expires=", log)


def test_a_line_per_request_names_route_status_duration_and_owner(tmp_path: Path) -> None:
    with service_process(tmp_path, auth_jwt_key=KEY) as served:
        answer = httpx.get(
            f"{served.url}/v1/uploads/x?no=1", headers={**bearer("somebody"), "x-request-id": "from-the-client"}
        )
        served.stop()

    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    [line] = [line for line in lines if line.get("request_id") == "from-the-client"]

    assert answer.status_code == 400
    assert (line["method"], line["route"], line["status"]) == ("GET", "/v1/uploads/{upload_id}", 400)
    assert (line["owner"], line["level"], line["event"]) == ("somebody", "info", "request")
    assert line["ms"] >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", line["timestamp"])


def test_every_line_is_json_and_nothing_else_is_logged(tmp_path: Path) -> None:
    with service_process(tmp_path, log_level="debug") as served:
        httpx.get(f"{served.url}/v1/uploads")
        served.stop()

    for line in served.log.read_text().splitlines():
        assert {"event", "level", "logger", "timestamp"} <= set(json.loads(line))


def test_from_warning_on_there_is_no_line_per_request(tmp_path: Path) -> None:
    with service_process(tmp_path, log_level="warning") as served:
        httpx.get(f"{served.url}/v1/uploads")
        served.stop()

    assert served.log.read_text() == ""
