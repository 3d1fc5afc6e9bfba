"""The requirements of a build as this spot takes them: names, versions and markers, whoever has asked.

The API has read the people's text and renders it anew, but what comes over Redis may be from a spot on another host.
In a file for uv a line can be far more than a requirement: `-e DIRECTORY` runs code on this host.
"""

from __future__ import annotations

import re

from packaging.requirements import InvalidRequirement, Requirement

from faaspot_runner.contract import MAX_REQUIREMENTS_BYTES
from faaspot_runner.environments.errors import BuildError

_STRANGE = re.compile(r"[^\x20-\x7e]|[\\$#@]")
"""What no rendered requirement has: `@` begins a URL, `$` a variable, `#` a comment, `\\` joins lines."""
MAX_LINE = 1000


def plain(text: str) -> list[str]:
    """One requirement each, rendered from its parse. Raises BuildError if one is anything else."""
    if len(text) > MAX_REQUIREMENTS_BYTES:
        raise BuildError("The build asks for more requirements than any deployment can have.")
    return [_rendered(line.strip()) for line in text.split("\n") if line.strip()]


def _rendered(line: str) -> str:
    try:
        if len(line) > MAX_LINE or _STRANGE.search(line):
            raise InvalidRequirement("strange")
        return str(Requirement(line))
    except (InvalidRequirement, RecursionError):
        raise BuildError(f"The build asks for what is no requirement: {line[:100]!r}.") from None
