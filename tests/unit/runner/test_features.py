"""What the kernel lets us do, tried for real; and what we say to the person whose kernel does not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from faaspot_runner.sandbox import container, features, probes
from tests.platforms import mount_table


def test_every_probe_is_explained_and_every_explanation_probed() -> None:
    assert list(features.NEEDED_FOR) == list(probes.PROBES)
    assert set(features.KERNELS) | features.OPTIONAL | features.OF_THE_RLIMIT_GRADE <= set(probes.PROBES)


def test_trying_is_quick_and_leaves_the_mounts_of_the_host_alone() -> None:
    before = mount_table()
    began = time.perf_counter()
    found = features.probe()
    spent = time.perf_counter() - began
    assert mount_table() == before
    assert spent < 2, "a busy machine is slow, but 200 ms are meant"
    assert [feature.name for feature in found] == list(probes.PROBES)


def test_what_is_present_asks_for_nothing() -> None:
    for feature in features.probe():
        assert feature.present == (feature.detail == "")
        assert feature.present == (feature.what_to_do == "")


def test_a_kernel_without_user_namespaces_is_found_out_and_named() -> None:
    """F21. The limit on user namespaces is the kernel's own switch; a nested namespace has one of its own."""
    program = (
        "import json\n"
        "from pathlib import Path\n"
        "from faaspot_runner.agent.syscalls import CLONE_NEWUSER, unshare\n"
        "from faaspot_runner.sandbox import features\n"
        "user = __import__('os').geteuid()\n"
        "unshare(CLONE_NEWUSER)\n"
        "Path('/proc/self/setgroups').write_text('deny')\n"
        "Path('/proc/self/uid_map').write_text(f'0 {user} 1')\n"
        "Path('/proc/sys/user/max_user_namespaces').write_text('0')\n"
        "print(json.dumps([[each.name, each.what_to_do] for each in features.missing_for_sandbox()]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=_environ())
    if "PermissionError" in done.stderr or "unshare" in done.stderr:
        pytest.skip(f"this kernel gives us no user namespace to try it in: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert "user namespaces" in done.stdout
    assert "sysctl -w user.max_user_namespaces" in done.stdout


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_a_missing_feature_says_what_the_kernel_said() -> None:
    def lacking() -> None:
        raise OSError(errno.ENOSYS, "no such call")

    failure = probes.attempt(lacking)
    assert "no such call" in failure
    feature = features._feature("mount_setattr", failure)
    assert not feature.present
    assert feature.required
    assert "Linux 5.12" in feature.what_to_do


def test_a_probe_that_kills_its_child_counts_as_missing() -> None:
    assert "status" in probes.attempt(lambda: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "profile faaspot"),
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        ("nothing", "", "CONFIG_USER_NS"),
    ],
)
def test_the_switch_that_is_off_is_named(setting: str, value: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(features, "_sysctl", lambda name: value if name == setting else None)
    assert says in features._what_to_do("user namespaces", "[Errno 1] unshare: Operation not permitted")


def test_a_container_is_told_of_its_engine_and_of_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = container.Container(filtered=True, covered=("/proc/sys",), label="", capabilities=container.OF_ROOT)
    monkeypatch.setattr(container, "found", lambda: inside)
    monkeypatch.setattr(features, "_sysctl", lambda name: "0" if name == "kernel/unprivileged_userns_clone" else None)
    advice = features._what_to_do("pid namespaces", "[Errno 1] unshare: Operation not permitted")
    assert container.SECCOMP in advice
    assert "; on the host: sysctl -w kernel.unprivileged_userns_clone=1" in advice
    assert "Linux 5.12" in features._what_to_do("mount_setattr", "[Errno 22] open_tree: Invalid argument")


def test_a_refusal_names_together_what_one_step_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "found", lambda: None)
    monkeypatch.setattr(features, "_sysctl", lambda name: "0" if name == "user/max_user_namespaces" else None)
    said = "[Errno 28] unshare: No space left on device"
    names = ("user namespaces", "pid namespaces", "seccomp filters")
    missing = [features._feature(name, said if "names" in name else "[Errno 22]") for name in names]
    what, step = features.refusal(missing)
    assert what == "user namespaces, pid namespaces"
    assert step.startswith("sysctl -w user.max_user_namespaces=15000")
    assert step.endswith("; seccomp filters: it needs a kernel with CONFIG_SECCOMP_FILTER")


def test_a_refusal_in_a_container_is_one_line_of_options(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = container.Container(filtered=True, covered=("/proc/sys",), label="docker-default", capabilities=())
    monkeypatch.setattr(container, "found", lambda: inside)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = "[Errno 1] unshare: Operation not permitted"
    missing = [features._feature(name, said) for name in ("user namespaces", "proc with subset=pid")]
    what, step = features.refusal(missing)
    assert what == "user namespaces, proc with subset=pid"
    assert f"{container.SECCOMP} {container.SYSTEM_PATHS} {container.APPARMOR} (" in step


def test_the_library_and_its_binding_are_told_apart() -> None:
    assert "faaspot[server]" in features._what_to_do("libseccomp", "No module named 'pyseccomp'")
    assert "libseccomp2" in features._what_to_do("libseccomp", "Unable to find libseccomp")


def test_counting_shared_memory_is_only_needed_without_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "why_no_cgroups", lambda: "")
    assert not features._feature("smaps_rollup", "").required
    monkeypatch.setattr(features, "why_no_cgroups", lambda: "not root")
    assert features._feature("smaps_rollup", "").required


def test_probing_that_fails_itself_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="could not be tried"):
        features.probe()
