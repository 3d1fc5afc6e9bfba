"""What a run writes to stdout and stderr: one pipe, read to the end, kept up to a limit."""

from __future__ import annotations

import os
from collections.abc import Callable

from faaspot_runner.contract import LOG_CUT_MARK

_CHUNK = 65536


def open_pipe() -> tuple[int, int]:
    """Read end, non-blocking, and write end of a log."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read_end, False)
    # A pipe is its maker's: without this nobody inside could open /dev/stdout.
    os.fchmod(write_end, 0o622)
    return read_end, write_end


class RunLog:
    """What a run writes, its first bytes kept; the rest is read and dropped, so that its writer never waits."""

    def __init__(
        self, limit: int, on_log: Callable[[bytes], None] | None = None, *, read_end: int | None = None
    ) -> None:
        """`on_log`: gets each piece that is kept. `read_end`: of a pipe that is there already."""
        self.read_end, self.write_end = open_pipe() if read_end is None else (read_end, -1)
        self._kept = bytearray()
        self._limit = limit
        self._dropped = 0
        self._nowhere = -1
        self._on_log = on_log

    def drain(self, most: int = 16 * _CHUNK) -> bool:
        """Take what is there, at most that much. False at the end of the pipe."""
        while most > 0:
            try:
                got = self._keep() if len(self._kept) < self._limit else self._drop()
            except BlockingIOError:
                return True
            if not got:
                return False
            most -= got
        return True

    def _keep(self) -> int:
        data = os.read(self.read_end, _CHUNK)
        kept = data[: self._limit - len(self._kept)]
        self._dropped += len(data) - len(kept)
        self._kept += kept
        if kept and self._on_log is not None:
            self._on_log(kept)
        return len(data)

    def _drop(self) -> int:
        """Let the kernel throw it away: a flood costs us no copy."""
        if self._nowhere < 0:
            self._nowhere = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
        got = os.splice(self.read_end, self._nowhere, 16 * _CHUNK, flags=os.SPLICE_F_NONBLOCK)
        self._dropped += got
        return got

    def text(self) -> tuple[str, bool]:
        """The log and whether it was cut. NUL, which not every database can hold in a text, becomes U+FFFD."""
        text = self._kept.decode("utf-8", "replace").replace("\0", "\ufffd")
        if self._dropped:
            text += LOG_CUT_MARK.format(dropped=self._dropped)
        return text, bool(self._dropped)

    def close_write_end(self) -> None:
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def close(self) -> None:
        self.close_write_end()
        self.close_sink()
        os.close(self.read_end)

    def close_sink(self) -> None:
        """Close all but the read end, for one that is another's."""
        if self._nowhere >= 0:
            os.close(self._nowhere)
            self._nowhere = -1
