"""The program of a build sandbox: one command, as the same powerless user as a run, perhaps with a relay beside it.

Descriptors: 3 the spot's channel, 4 what becomes the command's 3 (its output), 5 the relay's channel.
"""

from __future__ import annotations

import os
import resource
import socket

from . import child, syscalls, wire

TYPE_CHECKING = False  # `typing` itself takes longer to import than all of ours
if TYPE_CHECKING:
    from typing import Any

CONTROL, OUTPUT, RELAY = 3, 4, 5
_LISTEN = 128


def main() -> None:
    """Become the command; on failure say so and leave."""
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, CONTROL)
    got = wire.receive(control)
    if got is None:
        return
    start = got[0]
    try:
        if start["relay"] is not None:
            _start_relay(start)
        _give_up(start)
        os.dup2(OUTPUT, CONTROL)
        syscalls.close_range(OUTPUT)
        os.execve(start["argv"][0], start["argv"], start["environ"])
    except OSError as error:
        os.write(2, ("%s: %s\n" % (start["argv"][0], error)).encode())
        os._exit(126)


def _give_up(start: dict[str, Any]) -> None:
    child.drop(start["uid"])
    for kind, soft, hard in start["rlimits"]:
        resource.setrlimit(kind, (soft, hard))
    syscalls.load_filter(bytes.fromhex(start["filter"]))


def _start_relay(start: dict[str, Any]) -> None:
    """A process that hands every connection to the port over to the host. It listens before the command begins."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", start["relay"]))
    listener.listen(_LISTEN)
    if os.fork() != 0:
        listener.close()
        return
    try:
        os.close(OUTPUT)
        _give_up(start)
        relay = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, RELAY)
        while True:
            connection, _ = listener.accept()
            with connection:
                wire.send(relay, {"op": "connection"}, [connection.fileno()])
    finally:
        os._exit(0)
