"""Sandboxes that stand ready, as root and as an ordinary user: quick, whole, and nobody's before."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from faaspot_runner.connectors.blanks import Blanks, Stock, Waiting
from faaspot_runner.connectors.zygote import ZygoteSandbox
from faaspot_runner.contract import Limits, SandboxSpec
from faaspot_runner.errors import SandboxError
from faaspot_runner.sandbox import features
from faaspot_runner.sandbox.spec import Material
from tests.unit.runner.sandbox_driver import interpreter
from tests.unit.runner.sandboxes import GRADES, Stage

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(bool(features.missing_for_sandbox()), reason="this kernel has no sandboxes"),
]

PACKAGE = """
import os, time
time.sleep(0.3)
BORN = os.urandom(8).hex()
SET = os.environ.get("SET_BY_CODE")
CODE = os.path.exists("/code/main.py")
"""
FIRST = "import slow\ndef main(args, context):\n    return [slow.BORN, slow.SET, slow.CODE, __file__]  # {}\n"
LATER = (
    "import os\nos.environ['SET_BY_CODE'] = 'yes'\nimport slow\n"
    "def main(args, context):\n    return [slow.BORN, slow.SET]  # {}\n"
)


@pytest.fixture(params=GRADES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(request.param, blanks=4)
    yield stage
    stage.close()


@pytest.fixture
def environment() -> Iterator[Path]:
    """One with the package `slow`, which tells when and by whom it was imported."""
    with tempfile.TemporaryDirectory(prefix="faaspot-env-") as place:
        made = Path(place)
        made.chmod(0o755)
        program = "import sys; print('%d.%d' % sys.version_info[:2], end='')"
        version = subprocess.check_output(["/usr/bin/python3", "-c", program], text=True)
        packages = made / f"lib/python{version}/site-packages"
        packages.mkdir(parents=True)
        (packages / "slow.py").write_text(PACKAGE)
        yield made


def package(environment: Path) -> Path:
    return next(environment.glob("lib/*/site-packages")) / "slow.py"


def first_run(stage: Stage, code: str, environment: Path | None, **more: Any) -> tuple[Any, float]:
    """What the first run of a new deployment returns, and the milliseconds of its import."""
    answer = stage.runs(code, environment=str(environment) if environment else None, **more)
    assert "outcomes" in answer, answer
    return json.loads(answer["outcomes"][0]["output"]), answer["import_ms"]


def test_the_second_deployment_with_an_environment_finds_its_packages_imported(stage: Stage, environment: Path) -> None:
    (one, *_), cold = first_run(stage, FIRST.format(1), environment)
    stage.ask(op="blanks", wanted=2)
    (other, unset, before, file), warm = first_run(stage, FIRST.format(2), environment)
    assert cold > 300 > warm
    assert one != other, "each deployment has a process of its own, from the first line of its packages on"
    assert (unset, before, file) == (None, False, "/code/main.py")
    stage.ask(op="blanks", wanted=2)
    (third, *_), warm = first_run(stage, FIRST.format(3), environment)
    assert warm < 300
    assert third not in (one, other)


def test_a_deployment_without_packages_finds_one_too_and_its_error_is_its_own(stage: Stage) -> None:
    first_run(stage, "def main(args, context):\n    return 1\n", None)
    stage.ask(op="blanks", wanted=2)
    answer = stage.runs("def broken():\n    raise ValueError('mine')\nbroken()\n")
    assert answer["failed"]["message"] == "mine"
    assert 'File "/code/main.py", line 2, in broken\n    raise ValueError' in answer["failed"]["traceback"]
    stage.ask(op="blanks", wanted=2)


def test_what_the_code_does_before_an_import_is_done_before_it(stage: Stage, environment: Path) -> None:
    for number in range(3):
        (_, found), took = first_run(stage, LATER.format(number), environment)
        assert found == "yes"
        assert took > 300
        stage.ask(op="blanks", wanted=2)


def test_other_limits_are_another_kind(stage: Stage, environment: Path) -> None:
    first_run(stage, FIRST.format(1), environment)
    stage.ask(op="blanks", wanted=2)
    _, took = first_run(stage, FIRST.format(2), environment, limits={"memory": 300})
    assert took > 300
    stage.ask(op="blanks", wanted=4)


def test_a_package_that_dies_without_code_only_costs_the_haste(stage: Stage, environment: Path) -> None:
    with package(environment).open("a") as file:
        file.write("if not CODE:\n    os._exit(3)\n")
    for number in range(3):
        (_, _, code, _), _ = first_run(stage, FIRST.format(number), environment)
        assert code is True
        stage.ask(op="blanks", wanted=0)


def test_a_package_that_forges_its_zygotes_words_only_costs_the_haste(stage: Stage, environment: Path) -> None:
    with package(environment).open("a") as file:
        file.write('if not CODE:\n    os.write(3, b\'{"op": "ready", "import_ms": 1, "imports": {}}\')\n')
    for number in range(2):
        (_, _, code, _), _ = first_run(stage, FIRST.format(number), environment)
        assert code is True
        stage.ask(op="blanks", wanted=0)


def test_a_package_that_says_it_waits_for_code_when_it_has_it_has_failed(stage: Stage, environment: Path) -> None:
    """By its own fault, not the platform's, which would be tried again."""
    with package(environment).open("a") as file:
        file.write('os.write(3, b\'{"op": "blank"}\')\n')
    answer = stage.runs(FIRST.format(1), environment=str(environment))
    assert (answer["failed"]["reason"], answer["failed"]["type"]) == ("error", "SandboxBroken")


def test_a_package_with_a_module_of_the_codes_name_does_not_take_its_place(stage: Stage, environment: Path) -> None:
    (package(environment).parent / "main.py").write_text("def main(args, context):\n    return 'not the code'\n")
    with package(environment).open("a") as file:
        file.write("import main\n")
    for number in range(2):
        (*_, file_of_main), _ = first_run(stage, FIRST.format(number), environment)
        assert file_of_main == "/code/main.py"
        stage.ask(op="blanks", wanted=0)


def test_a_blank_has_no_code_before_it_is_given_away(stage: Stage, environment: Path) -> None:
    """A package may look for the code of whoever gets the blank, but finds it only when that one has it."""
    with package(environment).open("a") as file:
        file.write("SEEN = sorted(os.listdir('/code'))\n")
    code = "import slow, os\ndef main(args, context):\n    return [slow.SEEN, sorted(os.listdir('/code'))]  # {}\n"
    first_run(stage, code.format(1), environment)
    stage.ask(op="blanks", wanted=2)
    (seen, now), _ = first_run(stage, code.format(2), environment)
    assert seen == []
    assert now[0] == "main.py"


def test_the_code_is_where_it_always_is_and_tells_no_path_of_the_host(stage: Stage) -> None:
    code = """
    import os
    def main(args, context):
        with open(__file__) as file, open("/proc/self/mountinfo") as mounts:
            refused = [attempt(open, "/code/" + name, "w") for name in ("main.py", "x")]
            return [file.read().strip()[-8:], oct(os.stat(__file__).st_mode), mounts.read().count("code"), refused]
    # the end"""
    stage.hostile(code)
    stage.ask(op="blanks", wanted=2)
    text, mode, told, refused = stage.hostile(code + " it is")
    assert (text.endswith("it is"), mode, told) == (True, "0o100444", 0)
    assert set(refused) <= {"EROFS", "EACCES"}


def test_what_only_versions_have_asked_for_that_are_gone_goes_with_them(stage: Stage, environment: Path) -> None:
    for version in ("a", "b"):
        first_run(stage, FIRST.format(version), environment, version=version)
        stage.ask(op="blanks", least=2)
    for gone in (["a", "x"], []):
        stage.ask(op="release", versions=gone)
        stage.ask(op="blanks", least=2)
    stage.ask(op="release", versions=["b"])
    stage.ask(op="blanks", wanted=0)


def test_where_starts_come_close_on_each_other_more_of_them_stand_ready(stage: Stage, environment: Path) -> None:
    first_run(stage, FIRST.format(0), environment)
    _, took = first_run(stage, FIRST.format(1), environment)
    assert took > 300, "none was ready yet"
    stage.ask(op="blanks", wanted=3)


class Imported:
    """A sandbox that has imported its module."""

    async def ready(self, deadline: float, started: float) -> None:
        return


def test_blanks_that_nobody_wants_any_more_keep_no_others_waiting() -> None:
    """Packages that hang: whoever starts many kinds of them holds up the blanks of others for as few as there are."""
    begun: list[int] = []
    may_end = asyncio.Event()

    async def opened(spec: SandboxSpec, _: Material, waiting: Waiting | None) -> ZygoteSandbox:
        if waiting is not None:
            begun.append(spec.limits.memory)
            await may_end.wait()
            raise SandboxError("its packages hang")
        return cast(ZygoteSandbox, Imported())

    async def story() -> None:
        material = Material(code=b"", python=interpreter("/usr/bin/python3"))
        blanks = Blanks(opened, kinds=2, stock=Stock(first=2, most=2, at_once=1))
        for memory in (101, 102, 103, 104):
            limits = Limits(memory=memory)
            spec = SandboxSpec(
                version_id="v", deployment="d", version=1, runtime="sandbox", python="3", code="0", limits=limits
            )
            await blanks.open(spec, material, time.monotonic() + 9)
        may_end.set()
        while blanks.standing != (0, 0):
            await asyncio.sleep(0.01)
        await blanks.close()

    asyncio.run(story())
    assert begun == [103, 104], "one of each kind that is left: the second of it would hang as well"
