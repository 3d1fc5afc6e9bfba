"""The zygote: holds the user's imported module, keeps a child ready, hands it the next run, tells of its end.

One thread, one poll loop. A client is a channel of a worker (or of the spot); when it closes, its runs are killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import sys
import time

from . import child, imports, syscalls, wire

TYPE_CHECKING = False  # `typing` itself takes longer to import than all of ours
if TYPE_CHECKING:
    from typing import Any, Callable, Sequence

    from .loader import Main

MOST_SPARES = 4
IDLE_MS = 5_000
"""After this long without anything to do, spares beyond the first are given up."""


class Child:
    """A forked process: a spare until it has an `id` and a `client`."""

    def __init__(self, pid: int, pidfd: int, control: socket.socket) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.control: socket.socket | None = control
        self.id: str | None = None
        self.client: socket.socket | None = None
        self.broken: dict[str, Any] | None = None


class Zygote:
    """The loop. `control`: the spot's channel; the sandbox ends with it."""

    def __init__(self, config: child.Config, main: Main, control: socket.socket) -> None:
        self._config = config
        self._main = main
        self._control = control
        self._clients: set[socket.socket] = set()
        self._children: dict[int, Child] = {}
        self._spares: list[Child] = []
        self._wanted = 1
        self._retired = False
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC) if config.isolated else -1
        self._add_client(control)

    def serve(self) -> None:
        """Until the spot goes away, or after `retire` the last run has ended."""
        while not (self._retired and not self._children):
            hungry = len(self._spares) < self._wanted and not self._retired
            events = self._poll.poll(0 if hungry else IDLE_MS)
            for fd, _ in events:
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler()
            if not events:
                self._idle(hungry)

    def _idle(self, hungry: bool) -> None:
        """Nobody waits: the time to fork ahead, or after a while to give up what is too much."""
        if hungry:
            try:
                self._spares.append(self._fork())
            except OSError:
                self._wanted = 0  # the next run tries again, and is told why if it fails, too
            return
        self._wanted = min(self._wanted, 1)
        self._give_up_spares(1)

    # ------------------------------------------------------------ clients

    def _watch(self, fd: int, handler: Callable[[], None]) -> None:
        self._handlers[fd] = handler
        self._poll.register(fd, select.POLLIN)

    def _forget(self, fd: int) -> None:
        del self._handlers[fd]
        self._poll.unregister(fd)

    def _add_client(self, client: socket.socket) -> None:
        client.setblocking(False)
        self._clients.add(client)
        self._watch(client.fileno(), lambda: self._hear(client))

    def _hear(self, client: socket.socket) -> None:
        try:
            got = wire.receive(client, 64)
        except BlockingIOError:
            return
        except (OSError, wire.WireError):
            got = None
        if got is None:
            self._drop_client(client)
            return
        message, fds = got
        if message["op"] == "run" and len(fds) >= 2:
            self._start_run(client, str(message.get("id")), fds)
        elif message["op"] == "connect" and len(fds) == 1:
            self._add_client(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fds[0]))
        elif message["op"] == "retire":
            self._retire()
            wire.close(fds)
        else:
            wire.close(fds)

    def _drop_client(self, client: socket.socket) -> None:
        if client is self._control:
            os._exit(0)
        self._forget(client.fileno())
        self._clients.discard(client)
        for one in self._children.values():
            if one.client is client:
                one.client = None
                syscalls.pidfd_kill(one.pidfd)
        client.close()

    def _retire(self) -> None:
        self._retired = True
        self._give_up_spares(0)

    def _give_up_spares(self, kept: int) -> None:
        for spare in self._spares[kept:]:
            syscalls.pidfd_kill(spare.pidfd)
        del self._spares[kept:]

    @staticmethod
    def _tell(client: socket.socket | None, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
        """A client that does not read, or is gone, misses it: we never wait for one."""
        if client is not None:
            with contextlib.suppress(OSError):
                wire.send(client, message, fds)

    # ------------------------------------------------------------ runs

    def _start_run(self, client: socket.socket, name: str, fds: list[int]) -> None:
        """Hand the run to a spare; without one, fork now and keep more of them from here on."""
        try:
            if self._retired:
                raise OSError(errno.ESHUTDOWN, "the sandbox takes no new runs")
            if not self._spares:
                self._wanted = min(self._wanted + 1, MOST_SPARES)
                self._spares.append(self._fork(fds))
            chosen = self._spares.pop(0)
            assert chosen.control is not None
            wire.send(chosen.control, {"op": "go"}, fds)
            chosen.id, chosen.client = name, client
            self._tell(client, {"op": "forked", "id": name}, (chosen.pidfd,))
        except OSError as error:
            self._tell(client, {"op": "refused", "id": name, "errno": error.errno or 0, "message": str(error)})
        finally:
            wire.close(fds)

    def _fork(self, held: Sequence[int] = ()) -> Child:
        """A new process in a pid namespace of its own. `held`: further descriptors that are not its. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                pid = self._fork_isolated() if self._config.isolated else _fork()
            except OSError:
                ours.close()
                raise
            if pid == 0:
                self._become_child(theirs, {*held, ours.fileno()}, ahead=not held)
        try:
            pidfd = syscalls.pidfd_open(pid)
        except OSError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            ours.close()
            raise
        ours.setblocking(False)
        one = Child(pid, pidfd, ours)
        self._children[one.pidfd] = one
        self._watch(one.pidfd, lambda: self._bury(one))
        self._watch(ours.fileno(), lambda: self._hear_child(one))
        return one

    def _fork_isolated(self) -> int:
        """Fork into a new pid namespace, by `os.fork`: the fork handlers of Python, libc and libraries all run."""
        syscalls.unshare(syscalls.CLONE_NEWPID)
        try:
            pid = _fork()
        finally:
            if os.getpid() != 1:  # the child is 1 of its own; this process never is, see sandbox.launcher
                syscalls.setns(self._own_pid_namespace, syscalls.CLONE_NEWPID)
        return pid

    def _become_child(self, control: socket.socket, held: set[int], *, ahead: bool) -> None:
        """In the child: close what is the zygote's, keep what the user's import has opened."""
        os.dup2(control.fileno(), child.CHANNEL, inheritable=False)
        for fd in {*held, *self._handlers, self._own_pid_namespace, control.detach()} - {child.CHANNEL, -1}:
            os.close(fd)
        try:
            channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, child.CHANNEL)
            child.live(self._config, self._main, channel, len(self._children) + 1, ahead=ahead)
        finally:
            os._exit(1)

    def _hear_child(self, one: Child) -> None:
        assert one.control is not None
        try:
            got = wire.receive(one.control)
        except BlockingIOError:
            return
        except (OSError, wire.WireError) as error:
            # Reset: it died with its work still unread in the socket, before anything of the user ran.
            got = None
            if one.id is not None and one.broken is None:
                one.broken = {"errno": errno.ECHILD, "message": "the forked process died before its run: %s" % error}
        if got is not None:
            message, _ = got
            if message["op"] == "broken":
                one.broken = message
                self._wanted = 0
            return
        self._forget(one.control.fileno())
        one.control.close()
        one.control = None

    def _bury(self, one: Child) -> None:
        """It is dead, and with it everything in its pid namespace."""
        try:
            pid, status, usage = os.wait4(one.pid, os.WNOHANG)
        except ChildProcessError:  # something of the user's import has reaped it
            pid, status, usage = one.pid, 0, None
        if pid == 0:  # the event was of an older descriptor with this number
            return
        while one.control is not None:
            self._hear_child(one)
        self._forget(one.pidfd)
        os.close(one.pidfd)
        del self._children[one.pidfd]
        if one in self._spares:
            self._spares.remove(one)
        if not self._config.isolated:
            self._kill_group(one.pid)
        if one.broken is not None:
            self._tell(one.client, dict(one.broken, op="refused", id=one.id))
            return
        message: dict[str, Any] = {"op": "exited", "id": one.id, "status": status}
        if usage is not None:
            message["cpu_ms"] = (usage.ru_utime + usage.ru_stime) * 1000
            message["max_memory_mb"] = usage.ru_maxrss / 1024
        self._tell(one.client, message)

    @staticmethod
    def _kill_group(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _fork() -> int:
    """`os.fork`, from 3.12 on without the warning that it gives where the import has started threads."""
    if sys.version_info < (3, 12):
        return os.fork()
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def add_packages(directory: str) -> None:
    """What the start of an interpreter does about its site-packages, for one that has started without them."""
    import site

    site.addsitedir(directory)
    if "sitecustomize" not in sys.modules:
        site.execsitecustomize()


def _warn_of_threads() -> None:
    """A fork takes only the thread that forks along: who waits in a run for another one of the import waits in vain."""
    threading = sys.modules.get("threading")
    if threading is None:
        return
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        sys.stderr.write(
            "faaspot: the import has left threads running (%s). The processes of runs do not have them: "
            "start them in main instead.\n" % ", ".join(others)[:200]
        )


def import_user(config: child.Config, load: Callable[[str], Main]) -> tuple[Main, float, dict[str, float]]:
    """The user's `main`, how many milliseconds its import took, and its slowest modules. Raises LoadError."""
    started = time.monotonic()
    with imports.Watch() as watch:
        main = load(config.code)
    _warn_of_threads()
    sys.stdout.flush()
    sys.stderr.flush()
    return main, (time.monotonic() - started) * 1000, watch.slowest()
