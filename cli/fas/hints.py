"""What to do next after an error: by the error, and by the command that met it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faaspot import Faaspot, FaaspotError
    from faaspot.errors import ApiError

ALIASES = {"functions": "deployments", "nodes": "spots"}
"""The later clients' words for our groups."""
NAME_FORM = (
    "A name begins with a letter or digit and holds only letters, digits, '.', '_' and '-', at most 63 characters."
)
CONTEXT_FORM = 'A context is lines of key = "value", or one JSON object.'


def hint(error: FaaspotError, client: Faaspot, path: str, params: Mapping[str, Any], profile: str | None) -> str | None:
    """What to do next; None where the error says all. `path`: the command, as "fas spots get"; `params`: its own."""
    from faaspot import errors

    words = path.split()[1:3]
    group, verb = ALIASES.get(words[0], words[0]), words[-1]
    if isinstance(error, errors.NotFound):
        return _not_found(group, verb, params)
    if isinstance(error, errors.Exists):
        return _exists(group, verb, params)
    if isinstance(error, errors.Unauthorized):
        return _unauthorized(client, profile)
    if isinstance(error, errors.WaitTimeout):
        return _still_going(error, client)
    if isinstance(error, errors.ConnectionFailed) and not isinstance(error, errors.AnswerTimedOut):
        return _unreached(error, client, profile)
    if isinstance(error, errors.Invalid) and error.hint is None:
        return _invalid(error)
    execution = getattr(error, "execution_id", None)
    return error.hint or (f"`fas executions logs {execution}` shows what it wrote." if execution else None)


def _not_found(group: str, verb: str, params: Mapping[str, Any]) -> str:
    if group == "deployments" and (verb == "rollback" or params.get("number") is not None):
        return (
            f"`fas deployments versions {params['name']}` shows its versions, `fas deployments list` the deployments."
        )
    every = " --include-completed" if group == "executions" else ""
    return f"`fas {group} list{every}` shows what there is."


def _exists(group: str, verb: str, params: Mapping[str, Any]) -> str:
    name = params.get("name")
    if group == "tokens":
        return f"Take another name, or first `fas tokens revoke {name}`."
    if verb == "update":
        return f"Take another name, or first `fas deployments delete {params.get('new_name')}`."
    return f"Change it with `fas deployments update {name}`, or first `fas deployments delete {name}`."


def _unauthorized(client: Faaspot, profile: str | None) -> str:
    """Where the token that was refused comes from."""
    from faaspot.config import origin

    said = origin(profile, profiles=client.profiles)
    if said.token:
        return f"The token is that of the variable {said.token}: set it anew, or unset it to use a profile's."
    if said.profile is None:
        return f"{said.address} is set, and no profile's token goes there: set FAASPOT_TOKEN too, or unset it."
    return f"Set a token with `fas profiles update {said.profile} --token TOKEN`."


def _unreached(error: FaaspotError, client: Faaspot, profile: str | None) -> str | None:
    from faaspot.config import origin

    address = origin(profile, profiles=client.profiles).address
    return (
        f"{address} says where this command looks: is it right, and does the platform run?" if address else error.hint
    )


def _still_going(error: ApiError, client: Faaspot) -> str | None:
    more = f"`fas executions get {error.execution_id} --wait` waits on." if error.execution_id else None
    return f"No spot is online, so nothing runs: `fas spots add`. {more or ''}".rstrip() if _no_spot(client) else more


def _no_spot(client: Faaspot) -> bool:
    """Whether nothing can run; False, too, where that cannot be seen."""
    from faaspot import FaaspotError

    try:
        return not any(each.get("status") == "online" for each in client.spots.list())
    except FaaspotError:
        return False


def _invalid(error: ApiError) -> str | None:
    forms = {"name": NAME_FORM, "context": CONTEXT_FORM}
    return next((forms[each.field] for each in error.errors if each.field in forms), None)
