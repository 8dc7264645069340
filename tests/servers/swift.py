"""An S3-compatible store without containers or root: OpenStack Swift with `s3api`, one replica on one device, on loopback (Linux).

It verifies signatures, expiry, lengths and checksums. Its environment is made once from requirements/swift.txt, in .venv/swift: by the first
test run that needs it, or by `python -m tests.servers.swift`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.servers.process import ServerError, ServerProcess, new_folder
from tests.servers.s3 import DEFAULT_REGION, Keys, S3Server

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".venv" / "swift"
LOCK = ROOT / "requirements" / "swift.txt"
NODE = Path(__file__).parent / "swift_environment" / "swift_node.py"
INSTALL_TIMEOUT = 600.0
"""Seconds to make the environment: sixteen wheels to fetch."""
TIMEOUT = 30.0
"""Seconds for a call of ours."""
ACCOUNT = "lab"

CONTROL = Keys(f"{ACCOUNT}:control", "control-secret-of-the-tests")
"""May do everything: the account is its own."""
WRITER = Keys(f"{ACCOUNT}:writer", "writer-secret-of-the-tests")
"""May read and write objects in the same buckets."""
READER = Keys(f"{ACCOUNT}:reader", "reader-secret-of-the-tests")
"""May read and list the same buckets, and nothing else."""
STRANGER = Keys(f"{ACCOUNT}:stranger", "stranger-secret-of-the-tests")
"""Signs correctly, and may do nothing."""

SWIFT_CONF = """
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
[storage-policy:0]
name = one
default = yes
"""

# bind_port: checked, then unused; the node listens already. Updates of a listing are waited for: nothing here would make up for a late one.
COMMON = """
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = 1
user = {user}
workers = 0
swift_dir = {folder}
devices = {folder}
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
log_level = WARNING
node_timeout = 60
conn_timeout = 10
client_timeout = 120
"""

STORAGE = """
[pipeline:main]
pipeline = {name}-server
[app:{name}-server]
use = egg:swift#{name}
container_update_timeout = 60
"""

PROXY = """
strict_cors_mode = false
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats bulk s3api tempauth copy slo dlo versioned_writes symlink proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
paste.filter_factory = swift_node:cache_factory
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = {region}
s3_acl = false
max_upload_part_num = 10000
min_segment_size = {min_part_size}
cors_preflight_allow_origin = *
[filter:tempauth]
use = egg:swift#tempauth
{users}
[filter:copy]
use = egg:swift#copy
[filter:slo]
use = egg:swift#slo
max_manifest_segments = 10000
max_manifest_size = 33554432
rate_limit_after_segment = 10000
[filter:dlo]
use = egg:swift#dlo
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
[filter:symlink]
use = egg:swift#symlink
"""


class SwiftServer(S3Server):
    """A Swift of our own."""

    def __init__(self, folder: Path | None = None, *, min_part_size: int = 1) -> None:
        """`folder`: below which its files go; by default in memory where that keeps extended attributes. `min_part_size` in bytes."""
        self._parent = folder
        self._min_part_size = min_part_size
        self._process: ServerProcess | None = None
        super().__init__("", CONTROL, region=DEFAULT_REGION, writer=WRITER, reader=READER, stranger=STRANGER)

    @property
    def name(self) -> str:
        """Swift and its version."""
        [installed] = (ENVIRONMENT / "lib").glob("python3*/site-packages/swift-*.dist-info")
        return f"Swift {installed.name.removeprefix('swift-').removesuffix('.dist-info')}"

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            ServerError: It can't be installed or started here; the message says why.
        """
        python = install()
        folder = _folder(self._parent)
        (folder / "d1").mkdir()
        common = COMMON.format(user=_user(), folder=folder)
        users = "\n".join(
            f"user_{keys.access_key.replace(':', '_')} = {keys.secret_key}{' .admin' if keys is CONTROL else ''}"
            for keys in (CONTROL, WRITER, READER, STRANGER)
        )
        (folder / "swift.conf").write_text(SWIFT_CONF)
        for name in ("account", "container", "object"):
            (folder / f"{name}-server.conf").write_text(common + STORAGE.format(name=name))
        proxy = PROXY.format(region=DEFAULT_REGION, min_part_size=self._min_part_size, users=users)
        (folder / "proxy-server.conf").write_text(common + proxy)
        self._process = ServerProcess([python, NODE, folder], folder=folder)
        self._process.start(self._is_ready)
        self._grant({"read-write": [WRITER.access_key], "read-only": [READER.access_key]})

    @property
    def process(self) -> ServerProcess:
        """Its processes' parent."""
        assert self._process is not None, "not started"
        return self._process

    def stop(self) -> None:
        """End it; what it keeps goes with it."""
        self.process.stop()

    def _is_ready(self) -> bool:
        told = self.process.folder / "port"
        if not told.exists():
            return False
        self.endpoint = f"http://127.0.0.1:{told.read_text()}"
        try:
            with urllib.request.urlopen(f"{self.endpoint}/healthcheck", timeout=TIMEOUT) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _grant(self, rights: Mapping[str, list[str]]) -> None:
        """Swift's own API: S3 has no word for who may use an account."""
        login = {"X-Auth-User": CONTROL.access_key, "X-Auth-Key": CONTROL.secret_key}
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.endpoint}/auth/v1.0", headers=login), timeout=TIMEOUT
        ) as answer:
            url, token = answer.headers["X-Storage-Url"], answer.headers["X-Auth-Token"]
        change = {"X-Auth-Token": token, "X-Account-Access-Control": json.dumps(rights)}
        with urllib.request.urlopen(urllib.request.Request(url, headers=change, method="POST"), timeout=TIMEOUT):
            pass


def install() -> Path:
    """Make Swift's environment where it is missing or of another lock file; its interpreter. Of several processes one makes it.

    Raises:
        ServerError: Not on Linux, or the packages can't be had.
    """
    if sys.platform != "linux":
        raise ServerError("Swift runs on Linux only")
    python, done = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".done"
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with (ENVIRONMENT.parent / ".swift.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if done.exists() and done.read_text() == wanted:
            return python
        try:
            subprocess.run(
                [ROOT / "scripts" / "venv", ".venv/swift", "--require-hashes -r requirements/swift.txt"],
                check=True,
                capture_output=True,
                text=True,
                cwd=ROOT,
                timeout=INSTALL_TIMEOUT,
            )
        except subprocess.SubprocessError as error:
            raise ServerError(f"Swift can't be installed: {getattr(error, 'stderr', '') or error}") from error
        done.write_text(wanted)
    return python


def _user() -> str:
    return subprocess.run(["id", "-un"], check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout.strip()


def _folder(parent: Path | None) -> Path:
    """A new folder whose filesystem keeps extended attributes, as Swift needs them: tmpfs does on Linux ≥ 6.6."""
    folder = new_folder("swift") if parent is None else Path(tempfile.mkdtemp(prefix="swift-", dir=parent))
    if parent is None and not _keeps_attributes(folder):
        shutil.rmtree(folder)
        folder = Path(tempfile.mkdtemp(prefix="uploadcore-swift-"))
    if not _keeps_attributes(folder):
        shutil.rmtree(folder)
        raise ServerError(
            f"{folder.parent} is on a filesystem without extended attributes, which Swift needs: set TMPDIR"
        )
    return folder


def _keeps_attributes(folder: Path) -> bool:
    probe = folder / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.swift.metadata", b"x" * 4096)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSPC, errno.E2BIG, errno.EPERM):
            raise
        return False
    finally:
        probe.unlink()
    return True


if __name__ == "__main__":
    install()
