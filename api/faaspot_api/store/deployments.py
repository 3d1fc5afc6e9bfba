"""The deployments: one row each, its versions beside it, and who still refers to which blob."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Row, Select, and_, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from faaspot_api.domain.model import BuildStatus, Deployment, Settings, Version
from faaspot_api.errors import Conflict
from faaspot_api.store.engine import Transaction, hold
from faaspot_api.store.listed import is_one_of
from faaspot_api.store.moments import from_micros, to_micros
from faaspot_api.store.prepared import Prepared
from faaspot_api.store.tables import deployments, versions

D = deployments.c
V = versions.c
BLOBS = 0x6661_6173
"""The number under which whoever adds or drops references to blobs is alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRow:
    """A deployment as it is kept.

    `current_id`: the version that runs, None until one could be built; `newest_id`: the one that an update builds on;
    `versions`: how many numbers were given; `floor`: a version becomes current by itself only if its number is above.
    """

    id: str
    name: str
    owner: str
    current_id: str | None
    newest_id: str
    versions: int
    floor: int
    created: int
    updated: int
    deleted: int | None = None
    cleared: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeUse:
    """A living deployment that needs a runtime, by name; `owner` is the deployment's."""

    runtime: str
    deployment: str
    owner: str


_DEPLOYMENT = select(*(D[name] for name in DeploymentRow.__slots__))
_LIVING = D.deleted.is_(None)
_BY_NAME = _DEPLOYMENT.where(_LIVING, D.name == bindparam("wanted"))
_BY_NAME_SHARED = Prepared(_BY_NAME.with_for_update(read=True))
_VERSION = select(versions)
_BY_ID = _VERSION.where(V.id == bindparam("wanted"))


def exists(name: str) -> Conflict:
    """The refusal of a name that is taken."""
    return Conflict(f"A deployment named {name} exists; update it instead.", code="exists")


# ---------------------------------------------------------------- deployments


def add(transaction: Transaction, row: DeploymentRow) -> None:
    """Insert a deployment. Raises Conflict (`exists`) if a living one has the name."""
    try:
        transaction.execute(insert(deployments), asdict(row))
    except IntegrityError as error:
        raise exists(row.name) from error


def save(transaction: Transaction, row: DeploymentRow) -> None:
    """Write a changed row. Raises Conflict (`exists`) if its new name is taken."""
    values = {name: value for name, value in asdict(row).items() if name != "id"}
    try:
        transaction.execute(update(deployments).where(D.id == row.id).values(values))
    except IntegrityError as error:
        raise exists(row.name) from error


def by_name(transaction: Transaction, name: str) -> DeploymentRow | None:
    """The living deployment of that name."""
    return _row(transaction.execute(_BY_NAME, {"wanted": name}).one_or_none())


def living_name(transaction: Transaction, deployment_id: str) -> str | None:
    """The present name of a deployment, None if it was deleted."""
    name: str | None = transaction.execute(select(D.name).where(D.id == deployment_id, _LIVING)).scalar_one_or_none()
    return name


def by_name_shared(transaction: Transaction, name: str) -> DeploymentRow | None:
    """The same, and nobody deletes it or makes another version current before this transaction ends."""
    row = _BY_NAME_SHARED.one(transaction, {"wanted": name})
    return None if row is None else DeploymentRow(**dict(zip(DeploymentRow.__slots__, row, strict=True)))


def by_name_alone(transaction: Transaction, name: str) -> DeploymentRow | None:
    """The same, held for writing."""
    return _row(transaction.execute(_BY_NAME.with_for_update(), {"wanted": name}).one_or_none())


def alone(transaction: Transaction, deployment_id: str) -> DeploymentRow | None:
    """The deployment, deleted or not, held for writing."""
    return _row(transaction.execute(_DEPLOYMENT.where(D.id == deployment_id).with_for_update()).one_or_none())


def uncleared(transaction: Transaction) -> tuple[DeploymentRow, ...]:
    """Deleted deployments whose blobs are still there, oldest first."""
    statement = _DEPLOYMENT.where(D.deleted.is_not(None), D.cleared.is_(None)).order_by(D.deleted)
    return tuple(DeploymentRow(**row._mapping) for row in transaction.execute(statement))


def _row(row: Row[*tuple[Any, ...]] | None) -> DeploymentRow | None:
    return None if row is None else DeploymentRow(**row._mapping)


# ---------------------------------------------------------------- versions


def add_version(transaction: Transaction, deployment_id: str, version: Version) -> None:
    """Insert a version."""
    values = {
        **{name: getattr(version, name) for name in _PLAIN},
        "deployment_id": deployment_id,
        "context_keys": json.dumps(version.context_keys),
        "settings": json.dumps(asdict(version.settings)),
        "created": to_micros(version.created),
    }
    transaction.execute(insert(versions), values)


_PLAIN = tuple(name for name in Version.__slots__ if name not in ("context_keys", "settings", "created"))


def version(transaction: Transaction, version_id: str) -> Version | None:
    """A version by its id."""
    return _maybe_version(transaction.execute(_BY_ID, {"wanted": version_id}).one_or_none())


def version_numbered(transaction: Transaction, deployment_id: str, number: int) -> Version | None:
    """A version of a deployment by its number."""
    statement = _VERSION.where(V.deployment_id == deployment_id, V.number == number)
    return _maybe_version(transaction.execute(statement).one_or_none())


def versions_of(transaction: Transaction, deployment_id: str) -> tuple[Version, ...]:
    """Every version of a deployment, newest first."""
    rows = transaction.execute(_VERSION.where(V.deployment_id == deployment_id).order_by(V.number.desc()))
    return tuple(_version(row) for row in rows)


def deployment_of(transaction: Transaction, version_ids: Sequence[str]) -> dict[str, tuple[str, Version]]:
    """The version and the name of its living deployment, by version id; those of deleted ones are left out."""
    joined = select(versions, D.name.label("deployment_name")).join(deployments, D.id == V.deployment_id)
    found: dict[str, tuple[str, Version]] = {}
    for chunk in _chunks(sorted(set(version_ids))):
        for row in transaction.execute(joined.where(V.id.in_(chunk), _LIVING)):
            found[row.id] = (row.deployment_name, _version(row))
    return found


def kept_warm(transaction: Transaction) -> tuple[tuple[str, Version], ...]:
    """The current versions that ask for spots on which they stand ready, each after its deployment's name.

    The first of each owner by name, then the second of each: a spot has room for the first so many.
    """
    joined = select(versions, D.name.label("deployment_name")).join(deployments, D.current_id == V.id)
    turn = func.row_number().over(partition_by=D.owner, order_by=D.name)
    rows = transaction.execute(
        joined.where(_LIVING, V.status == "success", _counts("min_warm")).order_by(turn, D.owner)
    )
    found = ((row.deployment_name, _version(row)) for row in rows)
    return tuple((name, version) for name, version in found if version.settings.min_warm)


def concurrency(transaction: Transaction, names: Collection[str] | None = None) -> dict[str, int]:
    """How many runs at once each living deployment (of `names`) may have, by name; those without a limit are left out.

    It is what the version says that runs, or the newest while none could be built.
    """
    newest = func.coalesce(D.current_id, D.newest_id)
    statement = select(D.name, V.settings).join(versions, V.id == newest).where(_LIVING, _counts("concurrency"))
    if names is not None:
        statement = statement.where(is_one_of(transaction, D.name, names))
    found = ((row.name, json.loads(row.settings).get("concurrency")) for row in transaction.execute(statement))
    return {name: most for name, most in found if most}


def _counts(setting: str) -> ColumnElement[bool]:
    """That a version's settings may have a number above 0; by their text, so that the many are left to the database."""
    none = (V.settings.not_like(f'%"{setting}": {no}%') for no in ("0", "null"))
    return and_(V.settings.like(f'%"{setting}": _%'), *none)


def set_status(transaction: Transaction, version_id: str, status: BuildStatus, reason: str | None = None) -> None:
    """Where the build of a version stands."""
    transaction.execute(update(versions).where(V.id == version_id).values(status=status, reason=reason))


def set_built(
    transaction: Transaction, version_id: str, lock: str | None, environment: str | None, archive: str | None = None
) -> None:
    """A version is ready, with this environment, which `archive` has packed."""
    values = {"status": "success", "reason": None, "lock": lock, "environment": environment, "archive": archive}
    transaction.execute(update(versions).where(V.id == version_id).values(values))


def _maybe_version(row: Row[*tuple[Any, ...]] | None) -> Version | None:
    return None if row is None else _version(row)


def _version(row: Row[*tuple[Any, ...]]) -> Version:
    return Version(
        **{name: getattr(row, name) for name in _PLAIN},
        context_keys=tuple(json.loads(row.context_keys)),
        settings=_settings(json.loads(row.settings)),
        created=from_micros(row.created),
    )


def _settings(kept: dict[str, Any]) -> Settings:
    lists = {name: tuple(said) for name in ("egress", "retry_on") if (said := kept.get(name)) is not None}
    return Settings(**{**kept, **lists})


# ---------------------------------------------------------------- as people see them


def view(transaction: Transaction, row: DeploymentRow) -> Deployment:
    """A deployment with its current version, the newest while none could be built."""
    return _views(transaction, [row])[0]


def listed(transaction: Transaction, owner: str | None) -> tuple[Deployment, ...]:
    """The living deployments (of `owner`, None: of all), by name."""
    statement: Select[*tuple[Any, ...]] = _DEPLOYMENT.where(_LIVING)
    if owner is not None:
        statement = statement.where(D.owner == owner)
    rows = transaction.execute(statement.order_by(D.name))
    return tuple(_views(transaction, [DeploymentRow(**row._mapping) for row in rows]))


def _views(transaction: Transaction, rows: Sequence[DeploymentRow]) -> list[Deployment]:
    wanted = {version_id for row in rows for version_id in (row.current_id, row.newest_id) if version_id}
    found: dict[str, Version] = {}
    for chunk in _chunks(sorted(wanted)):
        found |= {row.id: _version(row) for row in transaction.execute(_VERSION.where(V.id.in_(chunk)))}
    return [_view(row, found[row.current_id or row.newest_id], found[row.newest_id]) for row in rows]


def _chunks(ids: Sequence[str], size: int = 500) -> Iterable[Sequence[str]]:
    return (ids[start : start + size] for start in range(0, len(ids), size))


def _view(row: DeploymentRow, shown: Version, newest: Version) -> Deployment:
    return Deployment(
        id=row.id,
        name=row.name,
        owner=row.owner,
        version=shown,
        status=newest.status,
        reason=newest.reason,
        build=newest.build,
        created=from_micros(row.created),
        updated=from_micros(row.updated),
    )


# ---------------------------------------------------------------- what is still needed


def runtimes_in_use(transaction: Transaction) -> tuple[RuntimeUse, ...]:
    """Which runtimes the living deployments need, by their current and newest versions and those still to be built."""
    alive = (V.id == D.current_id) | (V.id == D.newest_id) | V.status.in_(("pending", "in-progress"))
    joined = select(D.name, D.owner, V.settings).join(versions, V.deployment_id == D.id).where(_LIVING, alive)
    found = {
        RuntimeUse(runtime=runtime, deployment=row.name, owner=row.owner)
        for row in transaction.execute(joined)
        if (runtime := json.loads(row.settings)["runtime"])
    }
    return tuple(sorted(found, key=lambda use: (use.runtime, use.deployment)))


def alone_with_blobs(transaction: Transaction) -> None:
    """Nobody else adds or drops references to blobs until this transaction ends."""
    hold(transaction, BLOBS)


def unneeded_blobs(transaction: Transaction, digests: Iterable[str]) -> frozenset[str]:
    """Those of `digests` that no version of a living deployment refers to."""
    return frozenset(
        digest for digest in digests if not _needed(transaction, digest, V.code, V.context, V.lock, V.archive)
    )


def unneeded_environments(transaction: Transaction, names: Iterable[str]) -> frozenset[str]:
    """Those environments that no version of a living deployment refers to."""
    return frozenset(name for name in names if not _needed(transaction, name, V.environment))


def environments(transaction: Transaction) -> tuple[str, ...]:
    """Those that a version refers to whose runs may not all have ended, by name."""
    joined = select(V.environment).join(deployments, D.id == V.deployment_id).distinct()
    rows = transaction.execute(joined.where(V.environment.is_not(None), D.cleared.is_(None)).order_by(V.environment))
    return tuple(row.environment for row in rows)


def _needed(transaction: Transaction, value: str, *columns: Column[Any]) -> bool:
    joined = select(func.count()).select_from(versions.join(deployments, D.id == V.deployment_id)).where(_LIVING)
    return any(transaction.execute(joined.where(column == value)).scalar_one() for column in columns)
