"""P5 (a first run with nothing warm), P6 (from create to Success), P7 (a thousand deployments)."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from uv import find_uv_bin

from bench.measure import http_caller
from bench.scene import HELLO, Findings, Row, Scene

COLD = 20
AT_ONCE = 8
PAUSE = 1.0
"""Seconds between two first runs where they come one by one, as they do to deployments that are seldom used."""
HEAVY = "numpy\npandas"
FRAMES = """\
import numpy, pandas

def main(args, context):
    assert pandas.DataFrame({"a": [1, 2]})["a"].sum() == 3
    return "Hello " + args["name"]
"""
KINDS = (("plain", 9.0, HELLO, {}, "pass"), ("numpy and pandas", 20.0, FRAMES, {"requirements": HEAVY}, FRAMES))


def p5(scene: Scene, found: Findings) -> None:
    """The first run of deployments whose environment is there: one by one, close on each other, at once."""
    for what, most, code, settings, program in KINDS:
        names = [f"cold-{what.split()[0]}-{number}" for number in range(2 * COLD + AT_ONCE)]
        for name in names:
            scene.deploy(name, code, **settings)
        seldom, often, together = names[:COLD], names[COLD : 2 * COLD], names[2 * COLD :]
        row = found.row("P5", f"first run, {what}, one each second", "ms", _firsts(scene, seldom, PAUSE))
        close = found.row("P5", f"first run, {what}, one after the other", "ms", _firsts(scene, often, 0.01))
        found.row("P5", f"first run, {what}, {AT_ONCE} at once", "ms", _at_once(scene, together))
        peer = found.row("P5", f"an interpreter that starts for it, {what}", "ms", _started_anew(scene, program))
        found.notes.append(
            f"P5, {what}: {_share(row, peer)} of starting an interpreter, {_share(close, peer)} in a row."
        )
        found.notes.append(f"P5, {what}, steps of the last one's record: {_steps(scene, often[-1])}")
        found.at_most("P5", f"first run, {what}, p50 in ms", row.median, most)
        found.at_most("P5", f"first run, {what}, slowest over p50", max(row.values) / row.median, 2.5)


def _share(ours: Row, theirs: Row) -> str:
    return f"{ours.median / theirs.median:.2f}"


def _firsts(scene: Scene, names: Sequence[str], pause: float) -> list[float]:
    """Milliseconds of the first run of each, on a connection that is there."""
    took = []
    for name in names:
        call, close = http_caller(scene.target(name))
        time.sleep(pause)
        begin = time.perf_counter()
        call(1)
        took.append((time.perf_counter() - begin) * 1000)
        close()
    return took


def _at_once(scene: Scene, names: Sequence[str]) -> list[float]:
    with ThreadPoolExecutor(len(names)) as pool:
        return [took for each in pool.map(lambda name: _firsts(scene, [name], 0.0), names) for took in each]


def _started_anew(scene: Scene, program: str) -> list[float]:
    """Milliseconds of a Python that starts, imports the same and ends: what a cold start is without a platform."""
    places = [str(path.parent) for path in environments(scene).glob("*/lib/*/site-packages/pandas")][:1]
    python = next(Path("/usr/bin").glob("python3.1[0-9]"), Path(scene.platform.python))
    took = []
    for _ in range(COLD):
        begin = time.perf_counter()
        subprocess.run([python, "-I", "-c", f"import sys\nsys.path += {places}\n{program}"], check=True)
        took.append((time.perf_counter() - begin) * 1000)
    return took


def environments(scene: Scene) -> Path:
    return scene.platform.data / "environments"


def _steps(scene: Scene, name: str) -> str:
    """What the record of a deployment's only run says of its time."""
    listed = scene.platform.call("GET", f"executions/?include_completed=true&deployment={name}&limit=2").json
    runs = [each for each in listed if each["kind"] == "run"]
    timings = scene.platform.record(runs[0]["uuid"])["timings"]
    return ", ".join(f"{name} {value}" for name, value in timings.items() if value is not None)


def p6(scene: Scene, found: Findings) -> None:
    """From the request that creates until the build's Success is on record; beside uv and pip."""
    scene.deploy("heavy-first", FRAMES, requirements=HEAVY)
    measures = {
        "no requirements": lambda: _created(scene, {}),
        "the environment is there": lambda: _created(scene, {"requirements": HEAVY}),
        "packages cached, no environment": lambda: _created(scene, {"requirements": HEAVY}, anew=True),
        "uv venv, uv pip install --offline": lambda: _by_uv("--offline"),
        "the same with byte-code": lambda: _by_uv("--offline", "--compile-bytecode"),
    }
    _by_uv()
    taken = scene.interleaved(measures)
    rows = {name: found.row("P6", name, "ms", values) for name, values in taken.items()}
    pip = found.row("P6", "venv, pip install", "ms", [_by_pip()])
    for what, most in zip(list(measures)[:3], (100.0, 60.0, 250.0), strict=True):
        found.at_most("P6", f"create until Success, {what}, ms", rows[what].median, most)
    ours = rows["packages cached, no environment"].median
    found.notes.append(
        f"P6: {ours / rows['the same with byte-code'].median:.2f} of uv, {ours / pip.median:.4f} of pip."
    )


def _created(scene: Scene, settings: dict[str, object], *, anew: bool = False) -> float:
    """Milliseconds of one more deployment; `anew`: its environment has to be put together again."""
    if anew:
        for path in environments(scene).glob("[0-9a-f]*"):
            shutil.rmtree(path)
    begin = time.perf_counter()
    build = scene.platform.call("PUT", "deployments/", {"name": f"built-{time.time_ns()}", "code": HELLO, **settings})
    while (record := scene.platform.record(build.json))["status"] not in ("Success", "Failure"):
        time.sleep(0.005)
    took = (time.perf_counter() - begin) * 1000
    assert record["status"] == "Success", scene.platform.logs(build.json)
    return took


def _by_uv(*options: str) -> float:
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        uv = [find_uv_bin(), "--quiet"]
        subprocess.run([*uv, "venv", f"{place}/env"], check=True)
        python = ["--python", f"{place}/env/bin/python"]
        subprocess.run([*uv, "pip", "install", *python, *options, *HEAVY.split()], check=True)
        return (time.perf_counter() - begin) * 1000


def _by_pip() -> float:
    with tempfile.TemporaryDirectory() as place:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", f"{place}/env"], check=True)
        subprocess.run([f"{place}/env/bin/python", "-m", "pip", "install", "--quiet", *HEAVY.split()], check=True)
        return (time.perf_counter() - begin) * 1000


def p7(scene: Scene, found: Findings) -> None:
    """Memory of many deployments, counted up to a thousand."""
    scene.deploy("hello")
    before = scene.memory_mb()
    names = [f"many-{number}" for number in range(scene.deployments)]
    builds = [scene.platform.call("PUT", "deployments/", {"name": name, "code": HELLO}).json for name in names]
    for build in builds:
        assert scene.platform.ended(build, 300)["status"] == "Success"
    idle = scene.memory_mb()
    firsts = []
    for name in names:
        begin = time.perf_counter()
        assert scene.platform.run(name, {"name": "x"}).status == 200
        firsts.append((time.perf_counter() - begin) * 1000)
    again = statistics.median(_firsts(scene, names[-20:], 0.0))
    warm = scene.memory_mb()
    per = 1000 / scene.deployments
    found.row("P7", f"idle: beyond the empty platform, {scene.deployments} deployments", "MB", [idle - before])
    found.row("P7", f"all warm, {scene.deployments} deployments", "MB", [warm - before])
    found.row("P7", "first run of each, a new connection", "ms", firsts)
    found.row("P7", "second run of the last 20", "ms", [again])
    found.at_most("P7", "1,000 deployments idle, MB (counted up)", (idle - before) * per, 100)
    found.at_most("P7", "1,000 deployments warm, MB (counted up)", (warm - before) * per, 1500)
