"""The seccomp profile of our containers, in the engine's form.

The engine's own default refuses what a launcher needs (namespaces without a capability) and our sandboxes have no use
for much that it allows. So a container gets the sandbox's list of system calls, and on top of it what the launcher
needs to make sandboxes as an ordinary user. Every sandbox in it puts the stricter programs of `sandbox.seccomp` on
itself before anything of a user runs.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

from faaspot_runner.sandbox.seccomp import ALLOWED, MEMORY_IN_A_CGROUP, REFUSED

EPERM, ENOSYS = 1, 38
OF_THE_LAUNCHER = frozenset(
    (
        *("clone", "ioctl", "getsockopt", "setsockopt", "socket", "socketpair"),
        *("mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr"),
        *("unshare", "setns", "sethostname"),
    )
)
"""What the launcher needs and a run does not get, or gets with conditions on its arguments."""


@functools.cache
def profile() -> str:
    """JSON text for `--security-opt seccomp=`."""
    allowed = {*ALLOWED, *MEMORY_IN_A_CGROUP, *OF_THE_LAUNCHER}
    rules: list[dict[str, Any]] = [
        {"names": sorted(allowed), "action": "SCMP_ACT_ALLOW"},
        {"names": sorted(set(REFUSED) - allowed), "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
    ]
    architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"]
    return json.dumps(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": ENOSYS,
            "architectures": architectures,
            "syscalls": rules,
        }
    )


if __name__ == "__main__":
    sys.stdout.write(profile() + "\n")
