"""Runtimes as both halves know them: the types that there are, definitions, what is wanted of a spot, what it reports.

The API keeps definitions and says which runtimes shall stand (`Runtimes`, whole, every time); each spot follows, and
tells with its heartbeat how far it is. So a spot that was away has missed nothing once it has read the newest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RuntimeStatus = Literal["undeployed", "deploying", "deployed", "undeploying", "failed"]
Wanted = Literal["down", "known", "up"]
"""down: out of service; known: comes up at its first use (a lazy one); up: stands, without being used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigKey:
    """What the text of a config key may be: of a `form` that `means` says in words, a number from `least` to `most`.

    `zero`: 0 is allowed beside the bounds, as what is said where nothing is. `external`: it counts for an external
    runtime, too, whose container has what the others would give it.
    """

    form: str
    means: str
    least: float = 0
    most: float = 0
    zero: bool = True
    external: bool = False

    def problem(self, value: object) -> str | None:
        """Why that cannot be its value, None if it can."""
        if not isinstance(value, str) or not re.fullmatch(self.form, value, re.ASCII):
            return f"must be {self.means}, as text"
        if self.most and not (self.least <= float(value) <= self.most or (self.zero and not float(value))):
            return f"must be from {self.least:.10g} to {self.most:.10g}{', or 0' if self.zero else ''}"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeType:
    """What a definition of this type may say.

    `stands_on`: the types that it may wrap, () if it cannot wrap. `config`: its keys. `external`: the config keys
    without which nobody could connect to one whose life is not ours, None if there is no such thing. `always`: its
    built-in runtime is listed even where no spot offers it. `egress`: its connector holds a deployment to its
    allow-list, where the spot can and the runtime is not external.
    """

    stands_on: tuple[str, ...] = ()
    config: Mapping[str, ConfigKey] = field(default_factory=dict)
    external: tuple[str, ...] | None = None
    always: bool = True
    egress: bool = False

    @property
    def can_wrap(self) -> bool:
        return bool(self.stands_on)

    def config_problem(self, key: str, value: object) -> str | None:
        """Why a definition of this type cannot say that, None if it can."""
        if key not in self.config:
            return f"unknown key; this type takes {', '.join(self.config) or 'none'}"
        return self.config[key].problem(value)


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
RUNTIME_TYPES: Mapping[str, RuntimeType] = {
    "sandbox": RuntimeType(stands_on=("docker",), egress=True),
    "docker": RuntimeType(
        config={
            "image": ConfigKey(
                form=r"[A-Za-z0-9]([A-Za-z0-9._/:@-]|\{python\}){0,254}",
                means="the name of an image, which may hold {python}",
            ),
            "pull": ConfigKey(form=r"missing|never", means="missing or never"),
            "oci_runtime": ConfigKey(form=_NAME, means="the name of an OCI runtime"),
            "cpus": ConfigKey(form=r"[0-9]{1,4}(\.[0-9]{1,3})?", means="a number of processors", most=4096),
            "memory": ConfigKey(form=r"[0-9]{1,8}", means="a whole number of MB", least=64, most=1 << 24),
            "pids": ConfigKey(form=r"[0-9]{1,7}", means="a whole number", least=16, most=1 << 22),
            "runs": ConfigKey(
                form=r"[0-9]{1,4}", means="a whole number", least=1, most=4096, zero=False, external=True
            ),
            "container": ConfigKey(form=_NAME, means="the name or id of a container", external=True),
        },
        external=("container",),
        egress=True,
    ),
    "process": RuntimeType(always=False),
}
"""Every type has one built-in runtime of its own name, without config, which nobody can redefine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeDefinition:
    """A runtime as people define it; nothing of it ever changes. `wraps`: the name of the one that it stands on."""

    name: str
    type: str
    config: Mapping[str, str] = field(default_factory=dict)
    wraps: str | None = None
    lazy: bool = True
    external: bool = False


BUILT_IN: Mapping[str, RuntimeDefinition] = {name: RuntimeDefinition(name=name, type=name) for name in RUNTIME_TYPES}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeWanted:
    """What shall become of one runtime. `asked`: when that was said; said anew, a spot tries again what failed."""

    definition: RuntimeDefinition
    wanted: Wanted
    asked: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtimes:
    """Every runtime that people have defined. `revision` grows with each change; an older one is never followed."""

    revision: int
    wanted: tuple[RuntimeWanted, ...] = ()
    kind: Literal["runtimes"] = "runtimes"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeState:
    """How one runtime stands on one spot. `asked`: that of the wish which it has followed, 0 for a built-in one."""

    status: RuntimeStatus
    error: str | None = None
    asked: int = 0


def runtimes_of(data: dict[str, Any]) -> Runtimes:
    """The message from its JSON object. Raises TypeError or KeyError for unknown or missing fields."""
    wanted = (
        RuntimeWanted(**{**each, "definition": RuntimeDefinition(**each["definition"])}) for each in data["wanted"]
    )
    return Runtimes(revision=data["revision"], wanted=tuple(wanted))
