"""Runs one command for a process that may be killed: `guard.py SIGNAL USER FOLDER COMMAND…`, USER a number or `-`.

Prints the command's process id, and ends with the command, and with whatever that has started. When its own standard input ends, which it
does however its parent ended, the command gets the signal, a little later its process group is killed, and the folder is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading

GRACE = 5.0
"""Seconds between asking and killing."""


def main(number: int, user: int | None, folder: str, command: list[str]) -> None:
    last_end, held = os.pipe()  # by the command, and by all that it starts
    child = subprocess.Popen(
        command,
        pass_fds=[held],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        user=user,
        extra_groups=None if user is None else [],
    )
    os.close(held)
    ended = threading.Event()
    nobody_waits = threading.Lock()

    def wait() -> None:
        child.wait()
        with contextlib.suppress(ProcessLookupError):  # what it started ends with it
            os.killpg(child.pid, signal.SIGKILL)
        ended.set()
        # PostgreSQL's sessions are groups of their own: it does not start again as long as one of them is there.
        os.read(last_end, 1)
        with nobody_waits:
            os._exit(0)

    print(child.pid, flush=True)
    threading.Thread(target=wait, daemon=True).start()
    with contextlib.suppress(OSError):
        os.read(0, 1)
    with nobody_waits:
        for signal_number, seconds in ((signal.SIGCONT, 0.0), (number, GRACE), (signal.SIGKILL, GRACE)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal_number)
            if ended.wait(seconds):
                break
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), None if sys.argv[2] == "-" else int(sys.argv[2]), sys.argv[3], sys.argv[4:])
