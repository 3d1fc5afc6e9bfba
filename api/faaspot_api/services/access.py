"""Who may do what: the one place that decides.

============  =======================================  =======================================================
role          deployments                              executions
============  =======================================  =======================================================
admin         all                                      all
deployer      makes; sees, changes and runs its own    those of its own deployments, whoever asked for them
invoker       runs every one by name, sees none        those that it asked for itself
monitor       none                                     none; reads the metrics and how the platform is
join          none                                     none; lets another host in as a spot
spot          none                                     none; a spot on another host: reads and adds blobs
============  =======================================  =======================================================

Tokens, and adding or removing spots, are the admin's. What exists but is not yours answers as if it did not exist; what
your role may never do answers `forbidden`, whatever the name.
"""

from __future__ import annotations

from typing import Literal

from faaspot_api.domain.model import Principal, Role
from faaspot_api.errors import Forbidden, NotFound
from faaspot_api.store.executions import EVERYTHING, Scope

Action = Literal["run", "manage"]
"""run: start executions of a deployment; manage: everything else with it, reading its code included."""

_ROLES: dict[Action, frozenset[Role]] = {
    "run": frozenset({"admin", "deployer", "invoker"}),
    "manage": frozenset({"admin", "deployer"}),
}
_CAN: dict[Role, str] = {
    "invoker": "run deployments, not see or change them",
    "monitor": "see how the platform is, no more",
    "join": "let spots in, no more",
    "spot": "do what its spot needs, no more",
}


def require(who: Principal, action: Action) -> None:
    """Raises Forbidden if the role may never do this, with no deployment at all."""
    if who.role not in _ROLES[action]:
        raise Forbidden(f"A token of role {who.role} may {_CAN[who.role]}.")


def require_admin(who: Principal) -> None:
    """Raises Forbidden for every role but admin."""
    if who.role != "admin":
        raise Forbidden(f"Only a token of role admin may do this; this one is of role {who.role}.")


def require_monitor(who: Principal) -> None:
    """Raises Forbidden for every role but admin and monitor."""
    if who.role not in ("admin", "monitor"):
        raise Forbidden(f"Only a token of role admin or monitor may do this; this one is of role {who.role}.")


def unknown_deployment(name: str) -> NotFound:
    """The answer for a deployment that is not there, or not yours."""
    return NotFound(f"There is no deployment named {name[:100]}.")


def unknown_execution(uuid: str) -> NotFound:
    """The answer for an execution that is not there, or not yours."""
    return NotFound(f"There is no execution {uuid[:100]}.")


def sees(who: Principal, owner: str, action: Action) -> bool:
    """Whether a deployment of `owner` is there for this token, to do `action` with it."""
    return who.role == "admin" or who.name == owner or (action == "run" and who.role == "invoker")


def executions(who: Principal) -> Scope:
    """The executions that this token may see, cancel and read the logs of."""
    match who.role:
        case "admin":
            return EVERYTHING
        case "deployer":
            return Scope(deployment_owner=who.name)
        case "invoker" | "monitor" | "join" | "spot":
            return Scope(owner=who.name)


def deployments_of(who: Principal) -> str | None:
    """Whose deployments this token lists; None: everyone's."""
    return None if who.role == "admin" else who.name
