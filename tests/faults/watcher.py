"""Sees from the host which attempts of which runs live, and whether two of one run ever do so at once.

Each run names its process after the end of its id and its attempt (`CODE`); that name is visible outside of the
sandbox, whoever is frozen or dead meanwhile.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

from tests.faults.history import History

EVERY = 0.05
NAME = re.compile(r"([0-9a-f]{12})-(\d{1,2})")
CODE = """
import ctypes, os, time

def main(args, context):
    name = os.environ["FAASPOT_EXECUTION_ID"][-12:] + "-" + os.environ["FAASPOT_ATTEMPT"]
    assert ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0) == 0
    time.sleep(args["s"])
    return args["n"]
"""


class Watcher:
    """Looks `EVERY` seconds until it is stopped; `overlaps` is what it saw."""

    def __init__(self, history: History) -> None:
        self.overlaps: list[str] = []
        self.history = history
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher")

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(EVERY):
            self.history.samples += 1
            seen: dict[str, tuple[int, str]] = {}
            for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
                found = NAME.fullmatch(_living(pid))
                if found is None:
                    continue
                execution, attempt = found.groups()
                other = seen.setdefault(execution, (pid, attempt))
                if other[0] != pid and _living(other[0]) == f"{execution}-{other[1]}" and _living(pid):
                    self.overlaps.append(f"overlap: attempts {other[1]} and {attempt} of ...{execution} at once")


def _living(pid: int) -> str:
    """The name of a process that is not dead, "" of any other."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    name, _, rest = text.partition("(")[2].rpartition(")")
    return "" if rest.split()[0] in "ZXx" else name
