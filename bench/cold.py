"""P5 (a first run with nothing warm), P6 (from create to Success), P7 (a thousand deployments)."""

from __future__ import annotations

import statistics
import time

from bench.scene import HELLO, Findings, Scene

COLD = 20
HEAVY = "numpy\npandas"
FRAMES = """\
import numpy, pandas

def main(args, context):
    return int(pandas.DataFrame({"a": [1, 2]})["a"].sum())
"""


def p5(scene: Scene, found: Findings) -> None:
    """The first run of deployments whose environment is there."""
    for what, most, code, more, wanted in (
        ("plain", 9.0, HELLO, {}, "Hello cold"),
        ("numpy and pandas", 20.0, FRAMES, {"requirements": HEAVY}, 3),
    ):
        took: list[float] = []
        prefix = f"cold-{what.split()[0]}"
        for number in range(COLD):
            scene.deploy(f"{prefix}-{number}", code, **more)
        for number in range(COLD):
            begin = time.perf_counter()
            answer = scene.platform.run(f"{prefix}-{number}", {"name": "cold"})
            took.append((time.perf_counter() - begin) * 1000)
            assert answer.status == 200, answer
            assert answer.json == wanted, answer
        row = found.row("P5", f"first run, {what}", "ms", took)
        found.at_most("P5", f"first run, {what}, p50 in ms", row.median, most)
        found.at_most("P5", f"first run, {what}, slowest over p50", max(took) / row.median, 2.5)


def p6(scene: Scene, found: Findings) -> None:
    """From the request that creates until the build's Success is on record."""
    scene.deploy("heavy-first", FRAMES, requirements=HEAVY)
    for what, most, more in (
        ("no requirements", 100.0, {}),
        ("the environment is there", 60.0, {"requirements": HEAVY}),
    ):
        took = []
        for number in range(scene.repeats * 3):
            begin = time.perf_counter()
            scene.platform.deploy(f"built-{len(more)}-{number}", HELLO, **more)
            took.append((time.perf_counter() - begin) * 1000)
        row = found.row("P6", f"create, {what}", "ms", took)
        found.at_most("P6", f"create until Success, {what}, ms", row.median, most)
    found.notes.append("P6 with the wheels and their byte-code cached but no environment: not measured by this line.")


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
    warm = scene.memory_mb()
    per = 1000 / scene.deployments
    found.row("P7", f"idle: beyond the empty platform, {scene.deployments} deployments", "MB", [idle - before])
    found.row("P7", f"all warm, {scene.deployments} deployments", "MB", [warm - before])
    found.row("P7", "first run of each", "ms", [statistics.median(firsts)])
    found.at_most("P7", "1,000 deployments idle, MB (counted up)", (idle - before) * per, 100)
    found.at_most("P7", "1,000 deployments warm, MB (counted up)", (warm - before) * per, 1500)
