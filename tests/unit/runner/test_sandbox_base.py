"""What a zygote that is forked from a running interpreter has of it: as little as one that was started."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import faaspot_runner
from faaspot_runner.sandbox import features
from faaspot_runner.sandbox.enclosure import base_of
from faaspot_runner.sandbox.launchers import LauncherProcess
from faaspot_runner.sandbox.spec import BASE_ENVIRON
from tests.unit.runner.sandbox_driver import Driver, interpreter
from tests.unit.runner.sandboxes import GRADES, PLANTED, Stage

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(bool(features.missing_for_sandbox()), reason="this kernel has no sandboxes"),
]


@pytest.fixture(params=GRADES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(request.param)
    yield stage
    stage.close()


def test_a_function_has_its_interpreter_on_a_read_only_mount(stage: Stage) -> None:
    """Also where the file is the platform's own user's: who opens his own program cannot write to it."""
    code = """
    import os
    def main(args, context):
        read_only = bool(os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY)
        descriptor = os.open("/proc/self/exe", os.O_RDONLY)
        again = attempt(os.open, "/proc/self/fd/%d" % descriptor, os.O_WRONLY)
        return [read_only, attempt(os.open, "/proc/self/exe", os.O_WRONLY), again, attempt(os.chmod, descriptor, 0o777)]
    """
    read_only, *refused = stage.hostile(code)
    assert read_only
    assert set(refused) <= {"EROFS", "EACCES", "EPERM", "ETXTBSY"}


def test_its_memory_holds_nothing_of_the_spot_or_of_other_deployments(stage: Stage) -> None:
    """Every byte that it can read of itself is looked at; each text is looked for in a form that it is not in."""
    texts = {"code": "code-of-another-0c8e", "argument": "argument-of-another-51f2", "planted": PLANTED}
    stage.run(f"TEXT = '{texts['code']}'\ndef main(args, context):\n    return args\n", args={"a": texts["argument"]})
    texts["own"] = "text-of-its-own-77aa"
    code = """
    OWN = "text-of-its-own-77aa"
    NEXT = bytes((byte + 1) % 256 for byte in range(256))
    def main(args, context):
        found = set()
        with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
            for line in maps:
                first, last = (int(end, 16) for end in line.split()[0].split("-"))
                if line.split()[1].startswith("r") and "[v" not in line:
                    memory.seek(first)
                    data = memory.read(last - first).translate(NEXT)
                    found |= {name for name, text in args.items() if bytes.fromhex(text) in data}
        return sorted(found)
    """
    shifted = {name: bytes((byte + 1) % 256 for byte in text.encode()).hex() for name, text in texts.items()}
    assert stage.output(code, args=shifted) == ["own"]


def test_it_is_told_no_path_of_the_host(stage: Stage) -> None:
    code = """
    import sys
    def main(args, context):
        texts = [open("/proc/self/" + name, "rb").read().decode() for name in ("cmdline", "maps", "environ", "comm")]
        files = [str(getattr(module, "__file__", "")) for module in list(sys.modules.values())]
        return " ".join(texts + files + sys.path + [sys.prefix, sys.base_prefix, sys.executable])
    """
    told = stage.output(code)
    place = Path(faaspot_runner.__file__).parent.parent
    assert not [each for each in (str(place), "/root", "/home", "faaspot-sandbox-tests") if each in told], told
    assert "faaspot_runner" not in told
    assert "faaspot-zygote" in told


def test_it_is_alone_and_has_the_rights_of_one_that_was_started(stage: Stage) -> None:
    code = """
    import os
    seen = [sorted(map(int, os.listdir("/proc/self/fd")))[:-1], os.getpid(), os.getsid(0) == os.getpid()]
    seen += [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapBnd", "CapAmb", "Seccomp:"))]
    def main(args, context):
        return seen
    """
    descriptors, pid, leads, bounding, ambient, seccomp = stage.output(code)
    assert set(descriptors) <= {0, 1, 2, 3, 4}
    assert (pid, leads, seccomp) == (2, True, "2")
    assert int(ambient, 16) == 0
    assert int(bounding, 16) & ~sum(1 << cap for cap in (5, 6, 7, 8, 21)) == 0


def test_nothing_is_compiled_when_it_starts_but_the_functions_own_file(stage: Stage) -> None:
    code = """
    import decimal, email.message, json, os, sys
    def main(args, context):
        sources = [(module.__file__, getattr(module, "__cached__", None)) for module in sys.modules.values()
                   if getattr(module, "__file__", None)]
        return [file for file, cached in sources if cached and not os.path.exists(cached)]
    """
    assert stage.output(code) == ["/code/main.py"]


@pytest.mark.parametrize("shared", [True, False])
def test_an_operator_may_have_each_interpreter_started_by_itself(shared: bool) -> None:
    """Then no two sandboxes have the seed of their hashes, or their addresses, in common."""
    code = "def main(args, context):\n    return [hash('x'), id(len)]  # {}\n"

    async def story() -> list[list[int]]:
        driver = Driver("sandbox", shared_start=shared)
        await driver.connector.deploy(False)
        answers = [await driver.run({"op": "run", "code": code.format(number)}) for number in range(2)]
        await driver.close()
        return [json.loads(answer["outcomes"][0]["output"]) for answer in answers]

    one, other = asyncio.run(story())
    assert [one[0] == other[0], one[1] == other[1]] == [shared, shared]


def test_its_threads_have_the_stacks_that_its_memory_is_made_for(stage: Stage) -> None:
    """Where no cgroup counts, every byte of a stack is counted; libc asks how large they are to be only once."""
    code = """
    import threading
    def main(args, context):
        done = threading.Event()
        for _ in range(50):
            threading.Thread(target=done.wait).start()
        done.set()
        return threading.active_count() > 0
    """
    assert stage.output(code, limits={"memory": 256, "pids": 64}) is True


@pytest.mark.parametrize(
    "start",
    [
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "import mmap, sys; sys.shared = mmap.mmap(-1, 4096)",
    ],
    ids=["threads", "shared memory"],
)
def test_an_interpreter_that_could_not_be_forked_apart_is_started_each_time(start: str) -> None:
    """What everything forked from one process shares, or has lost, would be between all functions."""
    python = interpreter("/usr/bin/python3")
    plain = base_of(python, BASE_ENVIRON, stack=2**23)
    customized = {f"/env/{python.site_packages}/sitecustomize.py": start}
    for files, based in ({}, True), (customized, False):
        launcher = LauncherProcess(base=replace(plain, files={**plain.files, **files}))
        try:
            launcher.begin()
            assert launcher.based is based
        finally:
            launcher.close()


HELD = """
import os, sys
from pathlib import Path
from faaspot_runner.sandbox.enclosure import base_of
from faaspot_runner.sandbox.launchers import LauncherProcess
from faaspot_runner.sandbox.spec import BASE_ENVIRON
from faaspot_runner.sandbox.syscalls import umount
from faaspot_runner.agent.syscalls import mount
from tests.unit.runner.sandbox_driver import interpreter

SHARED = 1 << 20
outer, inner = sys.argv[1], sys.argv[1] + "/inner"
mount("tmpfs", outer, "tmpfs", 0)
mount("none", outer, None, SHARED)
os.mkdir(inner)
mount("tmpfs", inner, "tmpfs", 0)
launcher = LauncherProcess(base=base_of(interpreter("/usr/bin/python3"), BASE_ENVIRON, stack=2**23))
launcher.begin()
assert launcher.based
there = Path(f"/proc/{launcher._process.pid}/mountinfo")
before = inner in there.read_text()
umount(inner, 0)
print(before, inner in there.read_text())
launcher.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_it_holds_nothing_that_the_host_has_unmounted(tmp_path: Path) -> None:
    """It lives as long as the spot. The mounts are made where the machine has none of them."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", HELD, str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert found.stdout.split() == ["True", "False"], found.stderr
