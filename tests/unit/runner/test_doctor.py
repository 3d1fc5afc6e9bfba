"""`fas doctor`, on this machine and on machines that lack something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from faaspot_runner import __main__ as program
from faaspot_runner import doctor, settings
from faaspot_runner.sandbox import container, features, limits, uplink

NOBODY = 65534


@pytest.fixture(autouse=True)
def _interpreters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Starting every interpreter of a machine takes seconds where it has many."""
    monkeypatch.setattr(settings, "environment", lambda: {"PATH": "/nowhere", "HOME": str(tmp_path)})


def test_it_prints_a_table_that_a_person_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    status = doctor.main([])
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if len(line) > doctor.WIDTH] == []
    sections = [line for line in out.splitlines() if line and not line.startswith(" ")][:-1]
    assert sections == ["runtimes", "kernel", "limits", "network", "docker", "interpreters", "host"]
    assert out.splitlines()[-1].startswith("This machine keeps" if status == 0 else "This machine cannot keep")


def test_json_is_one_object_with_the_same_checks(capsys: pytest.CaptureFixture[str]) -> None:
    status = doctor.main(["--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] == (status == 0)
    assert said["limits"] in ("cgroup", "rlimit")
    assert [check["name"] for check in said["checks"]] == [check.name for check in doctor.examine()]


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "faaspot_runner", "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as doctors:
        assert doctors.stdout is not None
        assert doctors.stderr is not None
        doctors.stdout.close()
        assert doctors.stderr.read() == b""
        assert doctors.wait(60) in (0, 1)


def test_every_answer_that_is_not_ok_says_what_to_do() -> None:
    for check in doctor.examine():
        assert check.answer == "ok" or check.what_to_do, check


def test_a_missing_feature_is_an_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """F21."""
    found = list(features.probe())
    found[0] = replace(found[0], present=False, detail="[Errno 1] unshare", what_to_do="sysctl -w user.max=1")
    monkeypatch.setattr(features, "probe", lambda: tuple(found))
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert "refused, without user namespaces" in out
    assert "-> sysctl -w user.max=1" in out
    assert out.splitlines()[-1].startswith("This machine cannot keep the platform's promises: runtimes sandbox")


def test_a_machine_without_an_interpreter_cannot_keep_the_promises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "discover", lambda environ: {})
    assert doctor.main([]) == 1
    assert "install CPython" in capsys.readouterr().out


def test_an_ordinary_user_is_told_of_the_grade_and_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "why_no_cgroups", lambda: "the cgroup /x is not writable: run as root")
    monkeypatch.setattr(uplink, "examine", _refuse)
    checks = {check.name: check for check in doctor.examine()}
    assert checks["grade rlimit"].answer == "weaker"
    assert "run as root" in checks["grade rlimit"].what_to_do
    assert checks["internet"].answer == "absent"
    assert checks["internet"].what_to_do == "start the platform as root"


@pytest.mark.parametrize(("reason", "says"), [("", "cgroup"), ("the cgroup /x is not writable", "RLIMIT_DATA")])
def test_every_limit_has_its_mechanism_by_grade(monkeypatch: pytest.MonkeyPatch, reason: str, says: str) -> None:
    monkeypatch.setattr(limits, "why_no_cgroups", lambda: reason)
    monkeypatch.setattr(doctor, "_grade", lambda reason: iter(()))
    checks = {check.name: check.text for check in doctor._limits()}
    assert set(checks) == {"memory", "processes", "time", "disk"}
    assert says in checks["memory"]


def _inside(monkeypatch: pytest.MonkeyPatch, *capabilities: str) -> None:
    inside = container.Container(filtered=True, covered=("/proc/sys",), label="", capabilities=capabilities)
    monkeypatch.setattr(container, "found", lambda: inside)


def test_in_a_container_the_engines_part_has_a_section(monkeypatch: pytest.MonkeyPatch) -> None:
    _inside(monkeypatch)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = list(features.probe())
    lacking = [replace(found[0], present=False, detail="[Errno 1] unshare: Operation not permitted"), *found[1:]]
    for answer, given in (("ok", found), ("missing", lacking)):
        engine, user = doctor._container(given)
        assert (engine.section, engine.name, engine.answer) == ("container", "engine", answer)
        assert (container.SECCOMP in engine.what_to_do) == (answer == "missing")
        assert user.text == "uid 1000, capabilities: none"


def test_root_without_its_capabilities_cannot_keep_the_promises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _inside(monkeypatch, *(name for name in container.OF_ROOT if name != "KILL"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert doctor.main([]) == 1
    assert "-> start the container with --cap-add KILL, or without --user" in capsys.readouterr().out


def _refuse() -> uplink.Uplink:
    raise uplink.EgressUnavailable("start the platform as root")


def test_a_crash_handler_swap_and_unprotected_links_are_pointed_out() -> None:
    handler = doctor._core_pattern("|/usr/share/apport/apport -p%p")
    assert handler.answer == "weaker"
    assert "/usr/share/apport/apport," in handler.text
    assert doctor._core_pattern("core").answer == "ok"
    assert doctor._swap("Filename Type\n/dev/sda2 partition").answer == "weaker"
    assert doctor._swap("Filename Type").answer == "ok"
    assert doctor._protected("protected_hardlinks", "0").answer == "weaker"
    assert doctor._protected("protected_hardlinks", "1").answer == "ok"


def test_it_is_a_command_of_the_runner(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["doctor", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)["checks"]


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        program.main(["nothing"])
    assert left.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_it_works_for_an_ordinary_user_too() -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run as an ordinary user here")
    if not Path("/usr/bin/python3.11").exists():
        pytest.skip("no python3.11 that is open to all")
    packages = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        ["/usr/bin/python3.11", "-m", "faaspot_runner", "doctor", "--json"],
        capture_output=True,
        text=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": packages, "HOME": "/"},
    )
    assert "Traceback" not in done.stderr, done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["user namespaces"]["answer"] == "ok"
    assert checks["internet"]["answer"] == "absent"
    assert "grade rlimit" in checks
