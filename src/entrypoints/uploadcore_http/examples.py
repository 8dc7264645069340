"""What answers look like, for the OpenAPI document. A test holds each against its schema."""

from __future__ import annotations

from typing import Any

__all__ = ["FILE", "SIGNED_PART", "UPLOAD"]

UPLOAD_ID = "0197f3a2-6c1e-4d3b-9a55-0c9d3c1f2b11"
SIGNED_PART: dict[str, Any] = {
    "part_number": 1,
    "offset": 0,
    "length": 16_777_216,
    "method": "PUT",
    "url": "https://store.example/…?…&signature=…",
    "headers": {},
    "expires_at": "2026-03-01T12:15:00Z",
}
UPLOAD: dict[str, Any] = {
    "id": UPLOAD_ID,
    "file_id": "0197f3a2-6c1e-4d3b-9a55-0c9d3c1f2b12",
    "state": "uploading",
    "strategy": "multipart",
    "filename": "trip.mp4",
    "size": 9_663_676_416,
    "content_type": "video/mp4",
    "metadata": {"camera": "x100"},
    "fingerprint": None,
    "checksum": None,
    "part_size": 16_777_216,
    "part_count": 576,
    "reason": None,
    "created_at": "2026-03-01T12:00:00Z",
    "expires_at": "2026-03-02T12:00:00Z",
    "parts": [SIGNED_PART],
}
FILE: dict[str, Any] = {
    "id": "0197f3a2-6c1e-4d3b-9a55-0c9d3c1f2b12",
    "name": "trip.mp4",
    "status": "available",
    "content_type": "video/mp4",
    "size": 9_663_676_416,
    "checksum": {"algorithm": "crc64nvme", "value": "AAAAAAAAAAA=", "verified_by": "store"},
    "title": "Trip",
    "description": "",
    "labels": [],
    "visibility": "private",
    "metadata": {"camera": "x100"},
    "manifest_url": None,
    "version": 1,
    "created_at": "2026-03-01T12:00:00Z",
    "updated_at": "2026-03-01T12:30:00Z",
}
