"""Resolves or installs with uv inside a build sandbox, where the code of source distributions runs.

Runs in a sandbox without a network, whose loopback has a relay of the package
index. What comes of it goes to descriptor 3: the resolver's answer as text, or the installed tree as a parcel. The
host trusts none of it.
"""

from __future__ import annotations

import json
import os
import subprocess

from . import bytecode, parcel

RESULT = 3


def main(text: str) -> int:
    """Carry out the plan, the JSON of {action, requirements, uv, index, python, work}; uv's exit status.

    `work`: a directory for everything that comes up; the others are paths, and the index's address.
    """
    plan = json.loads(text)
    # Not for uv or what it starts. They could find other ways: the host reads it as theirs anyway.
    os.set_inheritable(RESULT, False)
    if plan["action"] == "resolve":
        return _resolve(plan)
    return _install(plan)


def _resolve(plan: dict[str, str]) -> int:
    answer = os.path.join(plan["work"], "answer.txt")
    arguments = ["compile", "--generate-hashes", "--no-header", "--no-annotate", "-o", answer]
    status = _uv(plan, [*arguments, plan["requirements"]])
    if status == 0:
        with open(answer, "rb") as file, open(RESULT, "wb") as out:
            out.write(file.read())
    return status


def _install(plan: dict[str, str]) -> int:
    made = os.path.join(plan["work"], "made")
    prefix = os.path.join(made, "env")
    arguments = ["install", "--require-hashes", "--no-deps", "--link-mode", "hardlink", "--prefix", prefix]
    status = _uv(plan, [*arguments, "-r", plan["requirements"]])
    if status == 0:
        bytecode.main(made)
        with open(RESULT, "wb") as out:
            parcel.send(prefix, out)
    return status


def _uv(plan: dict[str, str], arguments: list[str]) -> int:
    common = ["--default-index", plan["index"], "--python", plan["python"], "--no-python-downloads", "--no-config"]
    common += ["--cache-dir", os.path.join(plan["work"], "uv"), "--color", "never", "--no-progress"]
    command = [plan["uv"], "pip", *arguments, *common]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode
