"""Where the agent begins: make itself invisible, import the user's module, serve runs until the spot goes away."""

from __future__ import annotations

import gc
import io
import os
import signal
import socket
import sys
import types

from . import child, syscalls, wire, zygote
from .loader import LoadError, load, load_packages

CONTROL = 3
"""Descriptor of the spot's channel."""
NAME = b"faaspot-zygote"
"""What the kernel calls a zygote and its runs."""


def main() -> None:
    """The whole life of a zygote."""
    _hide()
    _name()
    _streams()
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, CONTROL)
    os.set_inheritable(CONTROL, False)
    got = wire.receive(control)
    if got is None:
        return
    config = child.Config(got[0])
    if config.isolated:
        # No longer handed on by an exec: what the import starts has none of them.
        syscalls.capset(syscalls.ZYGOTE_CAPS)
        os.set_inheritable(child.MOUNTS, False)
    if config.packages is not None:
        zygote.add_packages(config.packages)
    try:
        if config.modules is not None:
            load_packages(config.code, config.modules)
            _await_code(control)
        user_main, import_ms, slowest = zygote.import_user(config, load)
    except LoadError as error:
        sys.stdout.flush()
        wire.send(control, {"op": "failed", "error": error.error})
        os._exit(1)
    # An import may have set it: the exit status of a child must stay to be had.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    gc.collect()
    gc.freeze()
    wire.send(control, {"op": "ready", "import_ms": import_ms, "imports": slowest})
    zygote.Zygote(config, user_main, control).serve()
    os._exit(0)


def _await_code(control: socket.socket) -> None:
    """A blank: say that the packages are there, and wait for the code to be."""
    gc.collect()
    gc.freeze()  # what is collected when the code is there is only what it has left
    wire.send(control, {"op": "blank"})
    if wire.receive(control) is None:
        os._exit(0)


def _hide() -> None:
    """Take the agent's modules out of the user's sight. Our functions keep each other by their globals."""
    package = __name__.partition(".")[0]
    del sys.path[0]
    for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
        _KEPT.append(sys.modules.pop(name))
    sys.modules["__main__"] = types.ModuleType("__main__")


_KEPT: list[types.ModuleType] = []


def _name() -> None:
    """For who looks at the machine's processes: forked as it may be, its command line can be another's."""
    with open("/proc/self/comm", "wb", buffering=0) as file:
        file.write(NAME)


def _streams() -> None:
    """stdout and stderr over one buffer, flushed at each line end: what is printed keeps its order."""
    buffer = io.BufferedWriter(io.FileIO(1, "w", closefd=False))
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(
            buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True, write_through=True
        )
        setattr(sys, name, stream)
        setattr(sys, "__%s__" % name, stream)
