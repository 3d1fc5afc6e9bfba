"""Spots on other hosts: let in, and given what they run with; blobs to and fro.

The API itself has no secret to give. It lets the supervisor seal the spots' private key and a Redis user's password to
the key that the spot asks with, and hands that on unread.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from faaspot_api.domain.model import Principal, Token
from faaspot_api.errors import Conflict, FieldError, Forbidden, Invalid, NotFound, TooLarge, Unavailable
from faaspot_api.queue.base import Queue
from faaspot_api.services.policy import Policy
from faaspot_api.services.spots import SpotService
from faaspot_api.services.tokens import hashed, new_text
from faaspot_api.services.wakeups import Bell
from faaspot_api.store import archives, deployments, spots, tokens
from faaspot_api.store.blobs import Blobs, BrokenBlobError
from faaspot_api.store.engine import Store
from faaspot_api.store.moments import from_micros, now
from faaspot_api.store.spots import SpotRow
from faaspot_api.store.tokens import HashedToken
from faaspot_runner.contract import SPOT_OFFLINE_SECONDS
from faaspot_runner.contract.spots import spot_user

ADMIT_SECONDS = 15.0
"""How long the supervisor may take to let a spot in."""
KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What a spot is given: its token for the API, and the sealed `contract.spots.Credentials`."""

    ip: str
    token: str
    credentials: str


class JoinService:
    """What spots on other hosts ask for."""

    def __init__(self, store: Store, blobs: Blobs, queue: Queue, asking: SpotService, policy: Policy) -> None:
        self._store = store
        self._blobs = blobs
        self._queue = queue
        self._bell = Bell(queue)
        self._asking = asking
        self._policy = policy

    def join(self, who: Principal, ip: str, key: str) -> Admission:
        """Let the spot at `ip` in, or in again with new credentials; the old ones end.

        `key`: its X25519 public key, base64. Raises Invalid, Forbidden, Unavailable, and Conflict if the address is
        another's.
        """
        ip = _address(ip)
        _may_join(who, ip)
        _check_key(key)
        self._check_address(who, ip)
        execution = self._asking.admit(who, ip, key, ADMIT_SECONDS)
        ended = self._queue.wait_reply(execution, ADMIT_SECONDS)
        if ended is None:
            text = (
                "Nobody let the spot in in time. The supervisor (fas up) is busy with another spot: join again in a "
                "minute; or it is down, or this platform runs in parts (compose.yaml) and has no door: "
                "docker compose --profile hosts up -d."
            )
            raise Unavailable(text, execution_id=execution, retry_after=5)
        if ended.status != "Success" or ended.output is None:
            raise Conflict(ended.error.message if ended.error else "It was refused.", execution_id=execution)
        credentials = json.loads(ended.output)
        if credentials == ip:
            raise Unavailable("The supervisor was restarted meanwhile: join again.", execution_id=execution)
        token = self._keep(ip)
        self._bell.wish(self._store)
        return Admission(ip=ip, token=token, credentials=credentials)

    def blob(self, who: Principal, digest: str) -> tuple[int, Iterator[bytes]]:
        """The size of a blob and its bytes. Raises NotFound."""
        _require_spot(who)
        try:
            return self._blobs.open(digest)
        except BrokenBlobError:
            raise NotFound(f"There is no blob {digest}.") from None

    def keep_blob(self, who: Principal, digest: str, size: int, pieces: Iterable[bytes]) -> None:
        """Keep what a spot has packed, `size` bytes.

        Raises Invalid if it is not what its digest says, TooLarge if the spot has brought as much as it may.
        """
        _require_spot(who)
        self._make_room(who.name, digest, size)
        try:
            self._blobs.put_all(digest, pieces)
        except BrokenBlobError as error:
            raise Invalid.fields(FieldError(field="body", message=str(error))) from None
        finally:
            self._take_back(digest)

    def _make_room(self, spot: str, digest: str, size: int) -> None:
        """Count it before its first byte, so that what comes at the same time counts, too. Raises TooLarge."""
        most = self._policy.max_archives
        with self._store.write() as transaction:
            deployments.alone_with_blobs(transaction)
            if archives.has(transaction, digest):
                return archives.touch(transaction, digest, now())
            if archives.total(transaction, spot) + size > most:
                raise TooLarge(_full(spot, most), code="spot_storage_full")
            return archives.add(transaction, digest, spot, size, now())

    def _take_back(self, digest: str) -> None:
        """Count it no more if it did not come."""
        with self._store.write() as transaction:
            deployments.alone_with_blobs(transaction)
            if not self._blobs.has(digest):
                archives.forget(transaction, (digest,))

    def _check_address(self, who: Principal, ip: str) -> None:
        """A spot that lives, be it that it drains, may only be replaced by itself: two at one address would take each
        other's work.
        """
        standing = next((seen for seen in self._queue.spots() if seen.info.ip == ip), None)
        if standing is None or who.role == "spot":
            return
        if not standing.info.remote or standing.age <= SPOT_OFFLINE_SECONDS:
            raise Conflict(
                f"There is a spot at {ip} already. Join with another address (--ip), or remove it first.", code="exists"
            )

    def _keep(self, ip: str) -> str:
        """Write down that the spot is one of ours; the text of its new token."""
        text, name = new_text(), spot_user(ip)
        token = Token(name=name, role="spot", spots=(), created=from_micros(now()))
        with self._store.write() as transaction:
            spots.alone(transaction)
            row = spots.by_ip(transaction, ip) or SpotRow(ip=ip)
            spots.save(transaction, replace(row, joined=True, leaving=False, draining=row.draining and not row.leaving))
            tokens.remove(transaction, name)
            tokens.add(transaction, HashedToken(token=token, hash=hashed(text)))
        return text


def _may_join(who: Principal, ip: str) -> None:
    if who.role not in ("admin", "join") and not (who.role == "spot" and who.name == spot_user(ip)):
        raise Forbidden(f"Only a token of role admin or join lets a spot in; this one is of role {who.role}.")


def _full(spot: str, most: int) -> str:
    return (
        f"The platform keeps at most {most // (1024 * 1024)} MB of packed environments for {spot}, and this one would "
        "be more: it is not kept. Set FAASPOT_MAX_ARCHIVES higher, or delete deployments that are not needed."
    )


def _require_spot(who: Principal) -> None:
    if who.role != "spot":
        raise Forbidden(f"Only a spot of this platform may do this; this token is of role {who.role}.")


def _address(text: str) -> str:
    """As everybody writes it: the name of a spot must not have two spellings. Raises Invalid."""
    try:
        found = ip_address(text)
        if (
            getattr(found, "scope_id", None) is None
        ):  # after a % anything may stand, and the name is part of Redis' keys
            return str(found)
    except ValueError:
        pass
    raise Invalid.fields(FieldError(field="ip", message="must be an IP address"))


def _check_key(key: str) -> None:
    try:
        fits = len(base64.b64decode(key, validate=True)) == KEY_BYTES
    except ValueError:
        fits = False
    if not fits:
        raise Invalid.fields(FieldError(field="key", message=f"must be {KEY_BYTES} bytes in base64"))
