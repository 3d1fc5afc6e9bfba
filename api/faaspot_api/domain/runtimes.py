"""Runtimes: which definitions can be, and what the states on many spots are together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from faaspot_api.domain import names
from faaspot_api.errors import FieldError
from faaspot_runner.contract.runtimes import (
    BUILT_IN,
    RUNTIME_TYPES,
    RuntimeDefinition,
    RuntimeState,
    RuntimeStatus,
    RuntimeType,
    RuntimeWanted,
    Wanted,
)

NOWHERE = "no online spot offers it"
"""Why a runtime that stands nowhere does so."""

_TELLING: tuple[RuntimeStatus, ...] = ("failed", "deploying", "undeploying", "deployed", "undeployed")
"""Of the states on several spots the one that is first here is told."""


def problems(definition: RuntimeDefinition, defined: Mapping[str, RuntimeDefinition]) -> tuple[FieldError, ...]:
    """All that keeps a definition from ever coming up, () if it can be. `defined`: those that people made before."""
    found = [names.name_error(definition.name)]
    kind = RUNTIME_TYPES.get(definition.type)
    if kind is None:
        found.append(FieldError(field="type", message=f"must be one of {', '.join(RUNTIME_TYPES)}"))
    else:
        found += _config_problems(definition, kind)
        found.append(_wraps_problem(definition, kind, {**BUILT_IN, **defined}))
    return tuple(problem for problem in found if problem is not None)


def _config_problems(definition: RuntimeDefinition, kind: RuntimeType) -> Iterator[FieldError]:
    for key, value in definition.config.items():
        field = f"config.{key[:60]}"
        if message := kind.config_problem(key, value):
            yield FieldError(field=field, message=message)
        elif not definition.external and key in (kind.external or ()):
            yield FieldError(field=field, message="is only for an external runtime")
        elif definition.external and not kind.config[key].external:
            text = "has no effect on an external runtime: its container already has its own"
            yield FieldError(field=field, message=text)
    if not definition.external:
        return
    if kind.external is None:
        yield FieldError(field="external", message=f"a runtime of type {definition.type} cannot be external")
    for key in kind.external or ():
        if key not in definition.config:
            yield FieldError(field=f"config.{key}", message="is required: an external runtime is connected to by it")


def _wraps_problem(
    definition: RuntimeDefinition, kind: RuntimeType, known: Mapping[str, RuntimeDefinition]
) -> FieldError | None:
    wraps = definition.wraps
    if wraps is None:
        return None
    if not kind.can_wrap:
        able = ", ".join(name for name, each in RUNTIME_TYPES.items() if each.can_wrap) or "none"
        text = f"a runtime of type {definition.type} cannot wrap another; types that can: {able}"
    elif definition.name in (each.name for each in stack(wraps, {**known, definition.name: definition})):
        text = "leads back to this runtime itself"
    elif wraps not in known:
        text = f"there is no runtime {wraps[:100]}; there is {', '.join(known)}"
    elif known[wraps].type not in kind.stands_on:
        text = f"a runtime of type {definition.type} stands only on one of type {', '.join(kind.stands_on)}"
    else:
        return None
    return FieldError(field="wraps", message=text)


def stack(name: str, known: Mapping[str, RuntimeDefinition]) -> tuple[RuntimeDefinition, ...]:
    """A runtime and those that it stands on, outermost first; what is unknown, or comes again, ends it."""
    found: dict[str, RuntimeDefinition] = {}
    following = known.get(name)
    while following is not None and following.name not in found:
        found[following.name] = following
        following = known.get(following.wraps or "")
    return tuple(found.values())


def types_of(name: str, defined: Mapping[str, RuntimeDefinition]) -> frozenset[str]:
    """The types that a spot must offer to offer this runtime."""
    return frozenset(each.type for each in stack(name, {**BUILT_IN, **defined}))


def first_wish(definition: RuntimeDefinition) -> Wanted:
    """What becomes of a runtime that was just defined: a lazy one is in service, another waits for its `deploy`."""
    return "known" if definition.lazy else "down"


def together(wish: RuntimeWanted | None, seen: Sequence[tuple[str, RuntimeState | None]]) -> RuntimeState:
    """How a runtime stands, from what each online spot that offers its types says (address, state).

    `wish`: what is wanted of it, None for a built-in one. A spot that has not followed it yet is on its way.
    """
    if not seen:
        return RuntimeState(status="undeployed", error=NOWHERE)
    states = [(ip, _now(wish, state)) for ip, state in seen]
    status = next(word for word in _TELLING if any(state.status == word for _, state in states))
    return RuntimeState(status=status, error=_errors(states) if status == "failed" else None)


def _now(wish: RuntimeWanted | None, state: RuntimeState | None) -> RuntimeState:
    if state is not None and (wish is None or state.asked == wish.asked):
        return state
    if wish is not None and wish.wanted == "up":
        return RuntimeState(status="deploying")
    stands = state is not None and state.status != "undeployed"
    return RuntimeState(status="undeploying" if stands else "undeployed")


def _errors(states: Iterable[tuple[str, RuntimeState]]) -> str:
    failed = [(ip, state.error or "it failed") for ip, state in states if state.status == "failed"]
    return "; ".join(f"{ip}: {error}" for ip, error in failed)
