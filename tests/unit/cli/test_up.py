"""`fas up` and `fas doctor` with a stand-in for the platform's own programs: real processes, real signals.

The stand-in is a package of the same name, found first by the interpreter; what the true one does is for the tests of
the platform.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fas import server
from fas.command import USAGE
from tests.platforms import eventually
from tests.unit.cli.conftest import Fas

STAND_IN = """
import json, os, signal, sys
told = os.environ["TOLD"]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
with open(told + ".new", "w") as file:
    json.dump({"argv": sys.argv[1:], "environ": dict(os.environ)}, file)
os.rename(told + ".new", told)
if os.environ.get("WARN"):
    print("faaspot: warning", file=sys.stderr, flush=True)
if os.environ.get("REFUSE"):
    sys.exit("faaspot: port 8000 is in use")
line = {"url": os.environ["SAID"], "token": "T", "first_token": bool(os.environ.get("FIRST")), "data_dir": "/data"}
with open(int(sys.argv[sys.argv.index("--ready-fd") + 1]), "w") as ready:
    ready.write(json.dumps(line) + "\\n")
print("to stdout", flush=True)
signal.sigwait({signal.SIGTERM})
os.kill(os.getpid(), signal.SIGKILL) if os.environ.get("DIE") else sys.exit(0)
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which `faaspot_api` is the stand-in and `faaspot_runner` says what it was asked."""
    for name, program in (
        ("faaspot_api", STAND_IN),
        ("faaspot_runner", "import sys; print(sys.argv[1:]); sys.exit(7)"),
    ):
        package = tmp_path / "stand-in" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "__main__.py").write_text(program)
    return {
        **os.environ,
        "PYTHONPATH": str(tmp_path / "stand-in"),
        "TOLD": str(tmp_path / "told"),
        "SAID": "http://127.0.0.1:18801",
    }


class Up:
    """A running `fas up`."""

    def __init__(self, environ: dict[str, str], *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fas", "up", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
            start_new_session=True,
        )

    def first_line(self) -> str:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], 20)[0], "fas up says nothing"
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        return line

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(number)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        # Not communicate(): it would lose what readline() has read ahead.
        out, err = self.process.stdout.read(), self.process.stderr.read()
        return self.process.wait(20), out, err


@pytest.fixture
def started(environ: dict[str, str]) -> Iterator[Any]:
    # As from a terminal: what runs under nohup or in a shell's background passes its ignored signals on.
    ignored = [each for each in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    running: list[Up] = []

    def start(*words: str, **more: str) -> Up:
        running.append(Up({**environ, **more}, *words))
        return running[-1]

    yield start
    for each in running:
        # Its group: a stand-in that outlives it would keep the pipes open.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.communicate()
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def test_it_says_the_address_and_the_first_token_and_writes_the_profile(started: Any, bare: Fas) -> None:
    up = started(FIRST="1")

    assert up.first_line() == "faaspot is ready at http://127.0.0.1:18801\n"
    code, out, err = up.stop()
    assert code == 0
    assert "Admin token, shown this once and kept in /data/admin-token: T\n" in out
    assert "Profile 'local' is current" in out
    assert err == "to stdout\n"
    assert bare.json("profiles", "get", "local", "--show-secrets") == {
        "name": "local", "url": "http://127.0.0.1:18801", "host": "127.0.0.1", "protocol": "http", "port": 18801,
        "token": "T",
    }  # fmt: skip


def test_later_starts_keep_the_token_to_themselves_and_the_current_profile(started: Any, bare: Fas) -> None:
    bare("profiles", "create", "mine", "-t", "x", "--host", "faas.example.org")
    up = started(SAID="http://0.0.0.0:18802")

    up.first_line()
    _, out, _ = up.stop(signal.SIGINT)

    assert "token" not in out
    assert "'mine' stays current" in out
    assert bare.json("profiles", "get", "local")["host"] == "127.0.0.1"


def test_json_is_one_line(started: Any) -> None:
    up = started("--json", FIRST="1")

    assert json.loads(up.first_line()) == {"url": "http://127.0.0.1:18801", "data_dir": "/data", "token": "T"}
    assert up.stop()[:2] == (0, "")


def test_options_are_handed_on_and_the_platform_knows_its_parent(
    started: Any, environ: dict[str, str], tmp_path: Path, bare: Fas
) -> None:
    certificate = tmp_path / "cert.pem"
    up = started("--data-dir", "d", "--port", "0", "--allow-process-runtime", "--certfile", str(certificate))

    up.first_line()
    told = json.loads(Path(environ["TOLD"]).read_text())["argv"]
    up.stop()

    assert told[0] == "up"
    assert sorted(told[1:-4]) == sorted(
        ["--data-dir", "d", "--port", "0", "--certfile", str(certificate), "--allow-process-runtime"]
    )
    assert told[-4] == "--ready-fd"
    assert told[-2:] == ["--parent-pid", str(up.process.pid)]
    assert bare.json("profiles", "get", "local")["ssl_certificate"] == str(certificate)


def test_secrets_are_handed_on_where_other_users_cannot_read_them(started: Any, environ: dict[str, str]) -> None:
    urls = {
        "--redis-url": "rediss://:s3cret@h",
        "--database-url": "postgresql://u:s3cret@h/d",
        "--token": "s3cret-of-16-letters",
    }
    up = started(*(word for pair in urls.items() for word in pair))

    up.first_line()
    told = json.loads(Path(environ["TOLD"]).read_text())
    up.stop()

    assert "s3cret" not in " ".join(told["argv"])
    handed = [told["environ"][name] for name in ("FAASPOT_REDIS_URL", "FAASPOT_DATABASE_URL", "FAASPOT_TOKEN")]
    assert handed == list(urls.values())


def test_a_platform_that_cannot_start_has_said_why_and_its_exit_code_is_ours(started: Any) -> None:
    up = started(REFUSE="1")

    out, err = up.process.communicate(timeout=20)

    assert (up.process.returncode, out, err) == (1, "", "faaspot: port 8000 is in use\n")


def test_a_platform_that_is_killed_shows_in_the_exit_code(started: Any) -> None:
    up = started(DIE="1")

    up.first_line()

    assert up.stop()[0] == 128 + signal.SIGKILL


def test_a_hangup_stops_it_unless_it_was_told_to_ignore_them(started: Any, environ: dict[str, str]) -> None:
    up = started()
    up.first_line()
    assert up.stop(signal.SIGHUP)[0] == 0
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        up = started()
    finally:
        signal.signal(signal.SIGHUP, previous)
    up.first_line()
    up.process.send_signal(signal.SIGHUP)
    assert up.process.poll() is None
    assert up.stop()[0] == 0


def test_a_stop_before_it_is_ready_is_handed_on_too(started: Any, environ: dict[str, str]) -> None:
    up = started(SAID="http://127.0.0.1:18801")
    eventually(lambda: Path(environ["TOLD"]).exists(), 20, "the platform starts")

    code, _, _ = up.stop()

    assert code == 0


def test_a_file_in_the_current_folder_is_not_taken_for_the_platforms_own(
    environ: dict[str, str], own_folder: Path
) -> None:
    (own_folder / "runpy.py").write_text("raise SystemExit('the wrong one')\n")
    command = [str(Path(sys.executable).with_name("fas")), "doctor"]
    if not Path(command[0]).exists():
        pytest.skip("the fas script is not installed beside this interpreter")

    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)

    assert (done.returncode, done.stdout) == (7, "['doctor']\n")


def test_doctor_passes_on_what_the_platform_says(environ: dict[str, str]) -> None:
    for words, said in (([], ["doctor"]), (["--json"], ["doctor", "--json"])):
        command = [sys.executable, "-m", "fas", "doctor", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
        assert (done.returncode, done.stdout) == (7, f"{said}\n")


def test_without_the_platform_it_says_what_to_install(bare: Fas, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "NEEDED", ("faaspot_api", "no_such_package_here"))

    for word in ("up", "doctor"):
        result = bare(word, code=1)
        assert "pip install '.[server]'" in result.stderr
        assert "not installed" in json.loads(bare(word, "--json", code=1).stderr)["message"]


def test_a_port_that_is_none_is_a_usage_error(bare: Fas) -> None:
    bare("up", "--port", "70000", code=USAGE)


@pytest.mark.parametrize("token", ["", "short", "fifteen-letters"])
def test_a_token_that_can_be_guessed_is_a_usage_error_that_does_not_show_it(bare: Fas, token: str) -> None:
    result = bare("up", "--token", token, code=USAGE)

    assert "at least 16" in result.stderr
    assert not token or token not in result.stderr


def test_with_json_what_keeps_the_platform_from_starting_is_one_line_of_json(started: Any) -> None:
    up = started("--json", REFUSE="1")

    out, err = up.process.communicate(timeout=20)

    assert (up.process.returncode, out) == (1, "")
    assert json.loads(err) == {"message": "port 8000 is in use"}


def test_with_json_what_it_says_for_people_comes_once_it_is_ready(started: Any) -> None:
    up = started("--json", WARN="1")

    up.first_line()

    assert sorted(up.stop()[2].splitlines()) == ["faaspot: warning", "to stdout"]


def test_a_profile_of_another_platform_is_not_overwritten_in_silence(started: Any, bare: Fas) -> None:
    bare("profiles", "create", "local", "-t", "of another", "--host", "http://127.0.0.1:18800")
    up = started()

    up.first_line()
    assert "'local' pointed to the platform at http://127.0.0.1:18800: now to http://127.0.0.1:18801." in up.stop()[2]
    again = started(SAID="http://127.0.0.1:18803")  # the same platform, as its token says
    again.first_line()
    assert "pointed" not in again.stop()[2]
