"""OpenStack Swift in one process tree: `swift_node.py FOLDER`. Runs in Swift's own environment, which has nothing of ours.

FOLDER holds `swift.conf`, one `{account,container,object,proxy}-server.conf` each, and `d1`, the only device. The rings are made here.
Ports are free ones, bound before anything starts, so that nobody can take them in between. `port` in FOLDER tells the proxy's.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

BACKLOG = 4096
ONE_DAY = 86_400.0
STORAGE = ("account", "container", "object")


class ProcessCache:
    """What Swift asks a memcached for, in the proxy's own process: the existence of accounts and containers, and tokens."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, Any]] = {}

    def get(self, key: str, **_: Any) -> Any:
        expires, value = self._kept.get(key, (0.0, None))
        return value if expires > time.monotonic() else None

    def set(self, key: str, value: Any, **options: Any) -> None:
        self._kept[key] = (time.monotonic() + (options.get("time") or ONE_DAY), value)

    def delete(self, key: str, **_: Any) -> None:
        self._kept.pop(key, None)


def cache_factory(global_conf: dict[str, str], **_: str) -> Any:
    """A filter for the pipeline."""
    cache = ProcessCache()

    def wrap(app: Any) -> Any:
        def serve(environ: dict[str, Any], start_response: Any) -> Any:
            environ["swift.cache"] = cache
            return app(environ, start_response)

        return serve

    return wrap


def make_rings(folder: Path, ports: dict[str, int]) -> None:
    from swift.common.ring import RingBuilder  # type: ignore[import-not-found]

    for name, port in ports.items():
        builder = RingBuilder(4, 1, 0)  # 16 partitions, one replica, moved at once
        builder.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "d1", "weight": 1.0})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{name}.ring.gz"))


def serve(folder: Path, name: str, listener: socket.socket) -> None:
    from eventlet.greenio import GreenSocket  # type: ignore[import-not-found]
    from swift.common import wsgi  # type: ignore[import-not-found]

    conf_file = str(folder / f"{name}-server.conf")
    options: dict[str, Any] = {"verbose": True}  # logs to standard error, not to syslog
    if name == "object":
        from swift.obj import server  # type: ignore[import-not-found]

        options["global_conf_callback"] = server.global_conf_callback
    conf, logger, global_conf, _ = wsgi.check_config(conf_file, f"{name}-server", **options)
    # `run_wsgi` would bind a port of its own, and leave the process group that we are ended by.
    wsgi.run_server(conf, logger, GreenSocket(listener), global_conf=global_conf)


def main(folder: Path) -> None:
    listeners = {name: socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) for name in (*STORAGE, "proxy")}
    ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}

    from swift.common import utils

    utils.SWIFT_CONF_FILE = str(folder / "swift.conf")
    from swift.common import constraints, storage_policy

    constraints.reload_constraints()
    storage_policy.reload_storage_policies()
    make_rings(folder, {name: ports[name] for name in STORAGE})
    children = set()
    for name, listener in listeners.items():
        child = os.fork()
        if child == 0:
            serve(folder, name, listener)
            os._exit(0)
        children.add(child)
    told = folder / "port"
    told.with_suffix(".new").write_text(str(ports["proxy"]))
    told.with_suffix(".new").rename(told)
    ended, status = os.wait()
    sys.exit(f"one of four ended: {ended in children}, {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
