"""Several processes of one command on this machine, one a device: started together, watched, begun again together.

What ``torchrun --standalone --nproc-per-node=N`` does, but that the command's own exit code comes through.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from phewas.progress import say

RESTARTS = 3
MEANT = (0, 2, 3, 130)  # exit codes that a second try would only repeat
PATIENCE_S = 10.0  # for a process that is told to end
LOOK_EVERY_S = 0.2


def follows() -> bool:
    """Tell whether this process is one of several and not the first, by the variables that launchers set."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0"


def several() -> bool:
    """Tell whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(command: Sequence[str], *, processes: int, restarts: int = RESTARTS) -> int:
    """Run a command in several processes that know of each other, and return its exit code.

    Parameters
    ----------
    command
        Program and arguments; the same for all.
    processes
        How many.
    restarts
        How often all are begun again after one has died. What they do goes on from its last checkpoint.

    Returns
    -------
    int
        0 when all ended well; else the code of the first that did not.
    """
    code = 0
    for attempt in range(restarts + 1):
        code = _once(command, processes)
        if code in MEANT or attempt == restarts:
            break
        say(f"One of {processes} processes died ({_words(code)}): all begin again from the last checkpoint.")
    return code if code >= 0 else 128 - code


def _once(command: Sequence[str], size: int) -> int:
    port = str(_free_port())
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // size))
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": threads}
    running = [
        subprocess.Popen(
            list(command), env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=None if rank == 0 else subprocess.DEVNULL,
        )
        for rank in range(size)
    ]  # fmt: skip
    try:
        while True:
            codes = [process.poll() for process in running]
            wrong = [code for code in codes if code not in (None, 0)]
            if wrong:
                return int(wrong[0] or 0)
            if all(code == 0 for code in codes):
                return 0
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        return 130
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
        for process in running:
            try:
                process.wait(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def same_command() -> list[str]:
    """Return the command line of this process."""
    return [sys.executable, "-m", "phewas", *sys.argv[1:]]
