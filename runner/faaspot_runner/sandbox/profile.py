"""The seccomp profile of containers in which sandboxes are made, in the form that container engines read.

    python -m faaspot_runner.sandbox.profile > deploy/seccomp.json

It is put on the containers of the runtime `docker`, and is the one that the platform's own container wants. An engine's
default refuses whoever has no CAP_SYS_ADMIN what sandboxes are made of: namespaces and mounts. This one allows them,
which an unprivileged program on a plain host may do as well, and beside them little more than sandboxes get. Every
sandbox puts the stricter programs of `seccomp.py` on itself before anything of a user runs.
"""

from __future__ import annotations

import errno
import json
import sys
from typing import Any

from faaspot_runner.sandbox.seccomp import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    AF_UNIX,
    ALLOWED,
    IPPROTO_IPV6,
    MEMORY_IN_A_CGROUP,
    REFUSED,
    SO_PASSPIDFD,
)

OF_THE_MAKER = frozenset(
    (
        *("clone", "unshare", "setns", "mount", "umount2", "pivot_root", "sethostname"),
        *("open_tree", "move_mount", "mount_setattr"),
        "ioctl",
        *("inotify_init1", "inotify_add_watch"),  # of `init`, not of its runs
        *("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
    )
)
"""What making sandboxes takes, and what a run gets with conditions on its arguments or not at all."""

FAMILIES = (AF_UNIX, AF_INET, AF_INET6, AF_NETLINK)
"""Of sockets. Most of the others are old code in the kernel, loaded for whoever names them."""


def profile() -> dict[str, Any]:
    """The profile: what is not allowed is EPERM, what the kernel may lack ENOSYS, so that libraries fall back."""
    allowed = OF_THE_MAKER.union(ALLOWED, MEMORY_IN_A_CGROUP)
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "archMap": [{"architecture": f"SCMP_ARCH_{name}", "subArchitectures": []} for name in ("X86_64", "AARCH64")],
        "syscalls": [
            {"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"},
            {"names": sorted(set(REFUSED) - allowed), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
            # Its flags lie in memory, where no filter sees them; glibc falls back to clone.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
            *(_allowed(["socket", "socketpair"], _equal(0, family)) for family in FAMILIES),
            *_socket_options(),
        ],
    }


def _socket_options() -> list[dict[str, Any]]:
    """Not SO_PASSPIDFD and SO_PEERPIDFD: with a pidfd of the spot, at the other end, the spot can be made kill itself.

    Each rule that holds allows the call. IPv6 alone has options of its own with such numbers.
    """
    names = ["getsockopt", "setsockopt"]
    return [
        _allowed(names, {"index": 2, "value": SO_PASSPIDFD, "op": "SCMP_CMP_LT"}),
        _allowed(names, _equal(1, IPPROTO_IPV6)),
    ]


def _allowed(names: list[str], condition: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": "SCMP_ACT_ALLOW", "args": [condition]}


def _equal(argument: int, value: int) -> dict[str, Any]:
    """Compare only the bits that the kernel looks at: a register's upper half is the caller's to fill."""
    return {"index": argument, "value": 0xFFFFFFFF, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


if __name__ == "__main__":
    json.dump(profile(), sys.stdout, indent=1)
    sys.stdout.write("\n")
