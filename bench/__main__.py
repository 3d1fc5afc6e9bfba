"""Measures the platform beside its peers on this machine, in one run, against the aims P1 to P9 and some of its own.

    make bench                    all lines
    make bench ARGS="P1"          one of them
    make bench ARGS="P1 P2 --repeats 5 --save"

Starts a platform of its own (`fas up`) and each peer when its line comes. Every answer is checked: a wrong or missing
one ends the bench with an error. The repeats of a line go round all its contenders, so that a neighbour who disturbs
disturbs all; trust the ratios of one run rather than figures of two.
"""

from __future__ import annotations

import argparse
import shlex
import sys

from bench import bulk, cold, crowd, growth, table, warm
from bench.scene import Findings, Scene

LINES = {
    "P1": warm.p1,
    "P2": warm.p2,
    "P3": warm.p3,
    "P4": bulk.p4,
    "P5": cold.p5,
    "P6": cold.p6,
    "P7": cold.p7,
    "P9": warm.p9,
    "FAIR": crowd.fair,
    "LOAD": crowd.load,
    "P8": growth.p8,
}
"""In the order in which they run: P8 leaves a million records behind."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("lines", nargs="*", metavar="LINE", help=f"of {', '.join(sorted(LINES))}; all if none is said")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--deployments", type=int, default=100, help="of P7")
    parser.add_argument("--save", action="store_true", help="keep the result under bench/results/")
    said = parser.parse_args()
    if unknown := set(said.lines) - set(LINES):
        parser.error(f"there is no line {', '.join(sorted(unknown))}")
    found = Findings()
    with Scene(repeats=said.repeats, seconds=said.seconds, deployments=said.deployments) as scene:
        for name, line in LINES.items():
            if not said.lines or name in said.lines:
                print(f"{name}: {line.__doc__}", file=sys.stderr)
                line(scene, found)
    result = table.text(found, shlex.join(["python", "-m", "bench", *sys.argv[1:]]))
    print(result)
    if said.save:
        print(f"kept as {table.save(result)}", file=sys.stderr)


if __name__ == "__main__":
    main()
