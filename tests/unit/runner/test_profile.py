"""The seccomp profile of containers in which sandboxes are made: as checked in, and no wider than meant."""

from __future__ import annotations

import json
import os
from pathlib import Path

from faaspot_runner.sandbox.profile import profile

FILE = Path(__file__).parents[3] / "deploy" / "seccomp.json"
NEVER = {"bpf", "init_module", "finit_module", "kexec_load", "keyctl", "perf_event_open", "ptrace", "userfaultfd"}
NEVER |= {"open_by_handle_at", "process_vm_readv", "io_uring_setup", "reboot", "swapon", "syslog", "mknod", "chroot"}


def test_the_file_is_what_the_program_prints() -> None:
    text = json.dumps(profile(), indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        FILE.write_text(text)
    assert FILE.read_text() == text


def test_what_no_maker_of_sandboxes_has_no_use_for_stays_refused() -> None:
    allowed, refused, missing, *conditional = profile()["syscalls"]
    assert allowed["action"] == "SCMP_ACT_ALLOW"
    assert NEVER.isdisjoint(allowed["names"])
    assert set(refused["names"]) >= NEVER
    assert set(allowed["names"]).isdisjoint(refused["names"])
    for rule in conditional:
        assert rule["args"]
        assert set(allowed["names"]).isdisjoint(rule["names"]), "allowed without the condition"
    assert missing["names"] == ["clone3"], "glibc falls back to clone only where it seems not to be there"


def test_sandboxes_can_be_made_under_it() -> None:
    allowed = set(profile()["syscalls"][0]["names"])
    assert {"clone", "unshare", "mount", "pivot_root", "open_tree", "move_mount", "mount_setattr", "seccomp"} <= allowed
