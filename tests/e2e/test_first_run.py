"""The main job as a stranger does it: create, run, wait, read the record, by CLI, SDK and curl's kind of HTTP."""

from __future__ import annotations

import json
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.platforms import Platform, eventually

HELLO = "def main(args, context):\n    return 'Hello ' + args['name']\n"


@pytest.fixture
def folder(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the person's own with hello.py in it."""
    path = platform.home / "functions"
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    (path / "hello.py").write_text(HELLO)
    (path / "hello.py").chmod(0o644)
    return path


def removed(platform: Platform, *names: str) -> None:
    for name in names:
        platform.call("DELETE", f"deployments/{name}")


def test_the_seeds_commands_work_literally(platform: Platform, folder: Path) -> None:
    removed(platform, "hello")
    made = platform.fas("deployments", "create", "hello", "--file", "hello.py", "--wait", cwd=folder)
    assert made.returncode == 0
    waited = platform.fas("deployments", "run", "hello", "--parameters", "name=user1", "--wait")
    assert waited.stdout == "Hello user1\n"
    execution = platform.fas("deployments", "run", "hello", "--parameters", "name=user1").stdout.strip()
    assert len(execution) == 36
    assert platform.ended(execution)["output"] == "Hello user1"
    shown = platform.fas("executions", "get", execution).stdout
    assert "Success" in shown
    assert "Hello user1" in shown
    record = json.loads(platform.fas("executions", "get", execution, "--json").stdout)
    assert (record["uuid"], record["status"], record["output"]) == (execution, "Success", "Hello user1")


def test_parameters_in_every_documented_form(platform: Platform) -> None:
    removed(platform, "echo")
    platform.deploy("echo", "def main(args, context):\n    return args\n")

    def run(*arguments: str) -> object:
        return json.loads(platform.fas("deployments", "run", "echo", *arguments, "--wait").stdout)

    assert run("-p", "a=1, b=2") == {"a": "1", "b": "2"}
    assert run("-p", "a=1", "-p", "b=2") == {"a": "1", "b": "2"}
    assert run("-p", "b=x=y") == {"b": "x=y"}
    assert run("--args", '{"a": 1, "b": [1, 2]}') == {"a": 1, "b": [1, 2]}


def test_the_sdk_in_the_seeds_forms(platform: Platform, folder: Path) -> None:
    removed(platform, "sdk")
    program = folder / "program.py"
    program.write_text(
        textwrap.dedent(
            """
            import json, sys
            from faaspot import Faaspot
            faaspot = Faaspot()
            faaspot.deployments.create("sdk", file=sys.argv[1], wait=True)
            out = {"waited": faaspot.deployments.run("sdk", {"name": "w"}, wait=True)}
            id = faaspot.deployments.run("sdk", {"name": "b"})
            out["id"] = id
            faaspot.executions.wait(id)
            out["status"] = faaspot.executions().get(id)["status"]
            out["output"] = faaspot.executions.get(id)["output"]
            ids = faaspot.deployments.run_bulk("sdk", [{"name": str(n)} for n in range(5)])
            for id in ids:
                faaspot.executions.wait(id)
            out["bulk"] = [record["output"] for record in faaspot.executions.get_bulk(ids)]
            out["mapped"] = list(faaspot.deployments.map("sdk", [{"name": str(n)} for n in range(3)]))
            print(json.dumps(out))
            """
        )
    )
    done = subprocess.run(
        [platform.python, str(program), str(folder / "hello.py")],
        capture_output=True, text=True, check=False, env=platform._environ(), cwd=folder, timeout=120, **platform._who(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["waited"] == "Hello w"
    assert (out["status"], out["output"]) == ("Success", "Hello b")
    assert out["bulk"] == [f"Hello {n}" for n in range(5)]
    assert out["mapped"] == [f"Hello {n}" for n in range(3)]


def test_curl_users_forms_are_taken(platform: Platform) -> None:
    removed(platform, "curl")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = json.dumps({"name": "curl", "code": HELLO}).encode()
    created = platform.call("PUT", platform.url + "/api/deployments/", raw=body, headers=form)
    assert platform.ended(created.json)["status"] == "Success"
    assert platform.call("GET", platform.url + "/api/sync/functions/curl/rpc/?name=x").json == "Hello x"
    assert platform.call("GET", "deployments/curl/rpc?name=x").status == 200
    assert platform.call("POST", "functions/curl/rpc/", raw=b'{"name": "y"}', headers=form).status == 200


def test_requirements_and_secrets_reach_the_function_and_nobody_else(platform: Platform) -> None:
    removed(platform, "dice")
    code = textwrap.dedent(
        """
        import importlib.metadata, sys
        import idna
        def main(args, context):
            print("encoding", args["host"])
            print("to stderr", file=sys.stderr)
            return {"name": idna.encode(args["host"]).decode(), "key": context["API_KEY"][:2],
                    "version": importlib.metadata.version("idna")}
        """
    )
    build = platform.deploy("dice", code, requirements="idna==3.10  # pinned\n", context='API_KEY = "s3cret-value"\n')
    log = platform.logs(build)
    assert "idna" in log
    answer = platform.run("dice", {"host": "ü.example"})
    assert answer.json == {"name": "xn--tda.example", "key": "s3", "version": "3.10"}
    execution = answer.headers["Execution-Id"]
    assert platform.logs(execution) == "encoding ü.example\nto stderr\n"
    shown = platform.call("GET", "deployments/dice")
    assert "s3cret-value" not in shown.text
    assert "API_KEY" in shown.text
    assert "sha256:" in shown.json["lock"]


def test_an_update_of_code_or_context_does_not_rebuild(platform: Platform) -> None:
    removed(platform, "again")
    platform.deploy("again", "def main(args, context): return 1\n", requirements="idna==3.10\n")
    changed = platform.call("PATCH", "deployments/again", {"code": "def main(args, context): return 2\n"})
    record = platform.ended(changed.json["uuid"])
    assert record["status"] == "Success"
    assert record["timings"]["queue_ms"] is None  # no worker had anything to do
    assert platform.run("again").json == 2
    versions = platform.call("GET", "deployments/again/versions").json
    assert [version["version"] for version in versions] in ([2, 1], [1, 2])
    assert len({version["environment"] for version in versions}) == 1
    platform.call("POST", "deployments/again/rollback", {"version": 1})
    assert platform.run("again").json == 1


def test_a_requirement_that_cannot_be_met_says_why_and_the_old_version_keeps_running(platform: Platform) -> None:
    removed(platform, "broken")
    platform.deploy("broken", "def main(args, context): return 1\n")
    update = {"requirements": "idna==3.10\nidna==3.9\n"}
    record = platform.ended(platform.call("PATCH", "deployments/broken", update).json["uuid"], 120)
    assert (record["status"], record["reason"]) == ("Failure", "build_failed")
    assert "idna" in record["output"]
    assert platform.run("broken").json == 1
    missing = {"name": "missing", "code": HELLO, "requirements": "faaspot-there-is-no-such-package==1\n"}
    removed(platform, "missing")
    build = platform.call("PUT", "deployments/", missing).json
    waiting = platform.start_run("missing", {"name": "x"})
    record = platform.ended(build, 120)
    assert record["reason"] == "build_failed"
    assert "faaspot-there-is-no-such-package" in record["output"]
    assert platform.ended(waiting)["reason"] == "build_failed"
    refused = platform.run("missing", {"name": "x"})
    assert (refused.status, refused.json["error_code"]) == (409, "deployment_not_ready")


def test_a_package_without_a_wheel_is_named_with_the_hint_and_builds_with_sdist(platform: Platform) -> None:
    removed(platform, "jinja")
    code = "import jinja2\ndef main(args, context):\n    return jinja2.__version__\n"
    body = {"name": "jinja", "code": code, "requirements": "Jinja2==2.7.2\n", "python": None}
    del body["python"]
    record = platform.ended(platform.call("PUT", "deployments/", body).json, 120)
    assert (record["status"], record["reason"]) == ("Failure", "build_failed"), record
    assert "jinja2" in record["output"].lower()
    assert "sdist" in record["output"]
    record = platform.ended(platform.call("PATCH", "deployments/jinja", {"sdist": True}).json["uuid"], 300)
    assert record["status"] == "Success", (record, platform.logs(record["uuid"]))
    environment = platform.call("GET", "deployments/jinja/versions").json
    assert any(version["environment"] for version in environment)


def test_a_cancelled_execution_dies_within_a_second_queued_or_running(platform: Platform) -> None:
    removed(platform, "sleeper")
    platform.deploy(
        "sleeper", "import time\ndef main(args, context):\n    print('begun', flush=True)\n    time.sleep(60)\n"
    )
    execution = platform.start_run("sleeper")
    eventually(lambda: platform.record(execution)["status"] == "Started", 10, "the run starts")
    done = platform.fas("executions", "cancel", execution)
    assert done.returncode == 0
    record = platform.ended(execution, 2)
    assert (record["status"], record["reason"]) == ("Cancelled", "cancelled")
    again = platform.call("DELETE", f"executions/{execution}")
    assert (again.status, again.json["error_code"]) == (409, "already_ended")


def test_the_log_can_be_followed_while_it_runs(platform: Platform) -> None:
    removed(platform, "talker")
    code = "import time\ndef main(args, context):\n    for n in range(4):\n        print('line', n, flush=True)\n        time.sleep(0.3)\n"
    platform.deploy("talker", code)
    execution = platform.start_run("talker")
    followed = platform.fas("executions", "logs", execution, "-f", timeout=30)
    assert followed.stdout == "".join(f"line {n}\n" for n in range(4))


def test_prefer_gives_one_url_for_both_ways(platform: Platform) -> None:
    removed(platform, "slow")
    platform.deploy(
        "slow", "import time\ndef main(args, context):\n    time.sleep(float(args['s']))\n    return 'slept'\n"
    )
    quick = platform.call("POST", "deployments/slow/rpc/", {"s": 0}, headers={"Prefer": "wait=20"})
    assert (quick.status, quick.json) == (200, "slept")
    assert "wait" in quick.headers["Preference-Applied"]
    late = platform.call("POST", "deployments/slow/rpc/", {"s": 3}, headers={"Prefer": "wait=1"})
    assert late.status == 202
    assert late.headers["Location"].endswith(late.json["uuid"])
    assert platform.ended(late.json["uuid"])["output"] == "slept"
    respond = platform.call("POST", "deployments/slow/rpc/", {"s": 0}, headers={"Prefer": "respond-async"})
    assert respond.status == 202


def test_an_exception_gives_type_message_and_a_traceback_of_the_users_file(platform: Platform) -> None:
    removed(platform, "raises")
    platform.deploy(
        "raises", "def helper():\n    return {}['missing']\n\ndef main(args, context):\n    return helper()\n"
    )
    answer = platform.run("raises")
    assert (answer.status, answer.json["error_code"]) == (500, "error")
    record = platform.record(answer.headers["Execution-Id"])
    assert record["error"]["type"] == "KeyError"
    trace = record["error"]["traceback"]
    assert trace.splitlines()[0].startswith("Traceback")
    assert "in main" in trace.splitlines()[1]
    assert "faaspot" not in trace
    waited = platform.fas("deployments", "run", "raises", "--wait", check=False)
    assert waited.returncode != 0
    assert "KeyError" in waited.stderr


def test_records_are_complete(platform: Platform) -> None:
    removed(platform, "record")
    platform.deploy("record", "def main(args, context):\n    x = bytearray(30 << 20)\n    return len(x)\n")
    record = platform.record(platform.run("record").headers["Execution-Id"])
    assert set(record) >= {
        "uuid", "name", "deployment", "version", "kind", "status", "reason", "output", "error", "args", "created", "started",
        "ended", "spot", "attempt", "timings", "usage", "logs_truncated",
    }  # fmt: skip
    assert (record["name"], record["version"], record["kind"], record["attempt"]) == ("record", 1, "run", 1)
    assert record["created"].endswith("+00:00")
    assert record["timings"]["total_ms"] > 0
    assert record["timings"]["cold"] is True
    assert record["usage"]["max_memory_mb"] >= 25


STEPS = ("committed", "queued", "taken", "forked", "started", "finished", "reported", "recorded", "answered")


def answered(platform: Platform, uuid: str) -> dict[str, float] | None:
    """The marks of a run once its answer is among them."""
    marks: dict[str, float] = platform.record(uuid)["timings"]["marks"]
    return marks if marks.get("answered") else None


def test_why_a_run_was_slow_is_on_record(platform: Platform) -> None:
    removed(platform, "steps")
    platform.deploy("steps", "import time\n\ndef main(args, context):\n    time.sleep(0.2)\n")
    uuid = platform.run("steps").headers["Execution-Id"]
    marks = eventually(lambda: answered(platform, uuid), 5, "the answer is noted")
    assert sorted(STEPS, key=lambda step: marks[step]) == list(STEPS)
    assert marks["finished"] - marks["started"] >= 200
    lines = platform.fas("executions", "get", uuid, "--timings").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:11]] == ["accepted", *STEPS]


def test_ten_thousand_records_page_in_order(platform: Platform) -> None:
    # All of them once, where no cgroup counts and more can go wrong.
    count = 10_000 if platform.setup == "user" else 2_000
    removed(platform, "many")
    platform.deploy("many", "def main(args, context):\n    return args['n']\n")
    answer = platform.call("POST", "deployments/many/bulk_rpc/", [{"n": n} for n in range(count)], timeout=120)
    ids = answer.json
    assert len(set(ids)) == count
    eventually(lambda: platform.call("GET", "executions/?deployment=many").json == [], 240, "all runs of the bulk end")
    seen: list[str] = []
    url: str | None = "executions/?deployment=many&include_completed=True&limit=1000"
    while url:
        page = platform.call("GET", url)
        seen += [record["uuid"] for record in page.json if record["kind"] == "run"]
        link = page.headers.get("Link")
        url = platform.url + link.split("<")[1].split(">")[0].removeprefix(platform.url) if link else None
    assert seen == ids[::-1]
    bulk = platform.call("POST", "executions/bulk", ids).json
    assert [record["output"] for record in bulk] == list(range(count))


def test_a_second_local_spot_can_be_added_and_removed(platform: Platform) -> None:
    added = platform.fas("spots", "add", "--wait")
    assert "127.0.0.2" in added.stdout
    assert {spot["ip"] for spot in platform.call("GET", "spots/").json} == {"127.0.0.1", "127.0.0.2"}
    removed_one = platform.fas("spots", "remove", "-i", "127.0.0.2", "--wait")
    assert removed_one.returncode == 0
    online = [spot["ip"] for spot in platform.call("GET", "spots/").json if spot["status"] == "online"]
    assert online == ["127.0.0.1"]


def test_every_interpreter_of_the_spot_runs_functions(platform: Platform) -> None:
    spot = platform.call("GET", "spots/127.0.0.1").json
    code = "import sys\ndef main(args, context):\n    return '%d.%d' % sys.version_info[:2]\n"
    for python in spot["pythons"]:
        name = f"python-{python}"
        removed(platform, name)
        platform.deploy(name, code, python=python)
        assert platform.run(name).json == python
