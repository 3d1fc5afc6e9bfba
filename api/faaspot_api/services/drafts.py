"""From what a create or an update brings to a version that can be kept: every check, and nothing kept yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from faaspot_api.domain import callbacks, limits, requirements, source
from faaspot_api.domain import context as contexts
from faaspot_api.domain.model import DeploymentChange, Settings, Version
from faaspot_api.errors import FieldError, Invalid
from faaspot_api.services.offers import RUNTIME, Offers
from faaspot_api.services.policy import Policy

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The parts of a version to be. `code` and `context` None: those of the version before."""

    code: str | None
    context: dict[str, Any] | None
    requirements: str
    packages: str
    settings: Settings

    @property
    def build_key(self) -> tuple[str, str | None, str | None, bool]:
        """What decides on the environment: equal keys need no build."""
        return build_key(self.packages, self.settings)


def build_key(packages: str, settings: Settings) -> tuple[str, str | None, str | None, bool]:
    """The same of a version that is kept. Without packages nothing is installed, whatever else it says."""
    made_for = (settings.python, settings.runtime, bool(settings.sdist))
    return (packages, *made_for) if packages else ("", None, None, False)


def is_nothing(change: DeploymentChange) -> bool:
    """Whether an update says nothing about a version's parts."""
    return change.code is None and change.requirements is None and change.context is None and not _says(change.settings)


def needs_offers(change: DeploymentChange) -> bool:
    """Whether what an update says depends on what the spots offer."""
    said = change.settings
    return any(each is not None for each in (said.network, said.python, said.runtime, said.egress))


def first(change: DeploymentChange, offers: Offers, policy: Policy) -> Draft:
    """The parts of a new deployment. Raises Invalid that lists every bad field, TooLarge."""
    missing = () if change.code is not None else (FieldError(field="code", message="is required"),)
    change = replace(change, settings=limits.implied(change.settings))
    settings = limits.filled(
        change.settings,
        network=offers.network,
        python=offers.python,
        runtime=RUNTIME,
    )
    draft = _checked(change, settings, "", "", policy, missing)
    offers.check(change.settings, settings)
    return draft


def next_after(base: Version, change: DeploymentChange, offers: Offers | None, policy: Policy) -> Draft:
    """The parts of the version after `base`; what is not said stays. `offers`: if `needs_offers`. Raises as `first`."""
    settings = limits.merged(change.settings, base.settings)
    draft = _checked(change, settings, base.requirements, base.packages, policy, ())
    if offers is not None:
        offers.check(change.settings, settings)
    return draft


def _checked(
    change: DeploymentChange,
    settings: Settings,
    text: str,
    packages: str,
    policy: Policy,
    missing: tuple[FieldError, ...],
) -> Draft:
    errors = [*missing, *limits.check(change.settings, policy.max_timeout), *_callback(change.settings, policy)]
    if not errors:
        errors += limits.check_filled(settings)
    code = None if change.code is None else source.normal(change.code)
    if code is not None:
        errors += source.check(code, settings.python)
    if change.requirements is not None:
        text = change.requirements
        packages = "\n".join(_collected(errors, lambda: requirements.parse(text)) or ())
    given = change.context
    context = None if given is None else _collected(errors, lambda: contexts.parse(given))
    if errors:
        raise Invalid.fields(*errors)
    return Draft(code=code, context=context, requirements=text, packages=packages, settings=settings)


def _callback(settings: Settings, policy: Policy) -> Iterator[FieldError]:
    url = settings.callback_url
    if url and (problem := callbacks.problem(url, policy.callback_networks)):
        yield FieldError(field="callback_url", message=problem)


def _collected(errors: list[FieldError], parse: Callable[[], Value]) -> Value | None:
    """What `parse` gives; what it refuses goes to the other errors."""
    try:
        return parse()
    except Invalid as error:
        errors += error.errors
        return None


def _says(settings: Settings) -> bool:
    return settings != Settings()
