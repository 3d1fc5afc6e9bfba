"""Network namespaces without a name: held by a descriptor, gone with the last one."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from faaspot_runner.agent.syscalls import CLONE_NEWNET, setns, unshare
from faaspot_runner.sandbox.rtnetlink import Netlink

T = TypeVar("T")

SYSCTL = Path("/proc/sys/net/ipv4")
SYSCTL6 = Path("/proc/sys/net/ipv6/conf")
"""Settings of the network namespace of the thread that opens them."""


def new_namespace(*, router: bool) -> tuple[int, Netlink]:
    """A network namespace whose links get no IPv6 (but lo keeps ::1), and a connection to its routing side.

    `router`: it forwards packets, if they come from where answers would go. Raises OSError.
    """

    def make() -> tuple[int, Netlink]:
        unshare(CLONE_NEWNET)
        without_ipv6("default")
        if router:
            (SYSCTL / "ip_forward").write_text("1")
            for link in ("all", "default"):
                (SYSCTL / "conf" / link / "rp_filter").write_text("1")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), Netlink()

    return _in_thread(make)


def enter_namespace(fd: int) -> tuple[int, Netlink]:
    """The same of a namespace that is there already, a container's: a descriptor of our own. Raises OSError."""

    def enter() -> tuple[int, Netlink]:
        setns(fd, CLONE_NEWNET)
        without_ipv6("default")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), Netlink()

    return _in_thread(enter)


def in_namespace(fd: int, work: Callable[[], T]) -> T:
    """Do it in that network namespace."""

    def enter() -> T:
        setns(fd, CLONE_NEWNET)
        return work()

    return _in_thread(enter)


def without_ipv6(link: str) -> None:
    """Switch IPv6 off for a link of the thread's namespace."""
    path = SYSCTL6 / link / "disable_ipv6"
    if path.exists():  # a kernel without IPv6 has none to switch off
        path.write_text("1")


def _in_thread(work: Callable[[], T]) -> T:
    """Do it in a thread of its own: a network namespace is a thread's, and this one's must stay as it is."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work).result()
