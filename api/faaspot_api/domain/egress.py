"""The allow-list of a deployment's settings: which lists can be, and what is meant by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from faaspot_api.errors import FieldError
from faaspot_runner.contract.egress import ANYWHERE, MOST, egress_rule

MAX_ITEM = 300


def problems(items: Sequence[str]) -> Iterator[FieldError]:
    """Each item that cannot be taken, and what is wrong with the list as a whole."""
    if not items:
        text = f'must name at least one place; `network` none reaches nothing, ["{ANYWHERE}"] everything public'
        yield FieldError(field="egress", message=text)
    if len(items) > MOST:
        yield FieldError(field="egress", message=f"must have at most {MOST} items")
        return
    for at, item in enumerate(items):
        if (problem := _problem(item, alone=len(items) == 1)) is not None:
            yield FieldError(field=f"egress[{at}]", message=f"{item[:100]!r} {problem}")


def _problem(item: str, *, alone: bool) -> str | None:
    if item == ANYWHERE:
        return None if alone else "stands for every place, so it can only stand alone"
    if len(item) > MAX_ITEM:
        return f"is longer than {MAX_ITEM} characters"
    try:
        egress_rule(item)
    except ValueError as error:
        return str(error)
    return None


def listed(items: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """The places that may be reached; None for a list that was never given, or was lifted."""
    return None if items is None or items == (ANYWHERE,) else items
