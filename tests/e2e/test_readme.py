"""The README's program and commands, run as they stand there, give the output that stands there."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from tests.platforms import ROOT, Platform

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readme_shows_the_way_within_thirty_lines() -> None:
    top = "\n".join(README.splitlines()[:30])
    for word in ("make up", "def main(args, context)", "--wait", "xn--bcher-kva.example"):
        assert word in top


def test_the_readmes_program_works_as_printed(platform: Platform) -> None:
    platform.call("DELETE", "deployments/hello")
    program = next(block for block in blocks("python") if block.startswith("# hello.py"))
    with tempfile.TemporaryDirectory(prefix="faaspot-e2e-", dir=platform.home) as folder:
        Path(folder).chmod(0o777)
        (Path(folder) / "hello.py").write_text(program)
        variables = f"export PATH={Path(platform.command).parent}:$PATH\n"
        for block in blocks("console"):
            shell_and_output(platform, folder, variables, block)


def shell_and_output(platform: Platform, folder: str, variables: str, block: str) -> None:
    """Each `$` line in one shell; where output is shown below a line, it must be that."""
    script = variables
    expected: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            expected.append((line[2:], ""))
        else:
            command, output = expected[-1]
            expected[-1] = (command, output + line + "\n")
    for number, (command, _) in enumerate(expected):
        script += f"{{ {command}\n}} >out{number}\n"  # a redirection of its own stays the command's
    environ = platform._environ()
    done = subprocess.run(
        ["/bin/bash", "-ec", script],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environ,
        timeout=120,
        **platform._who(),
    )
    assert done.returncode == 0, (block, done.stdout, done.stderr)
    for number, (command, output) in enumerate(expected):
        if output:
            assert (Path(folder) / f"out{number}").read_text() == output, command
