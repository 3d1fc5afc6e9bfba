"""Makes this host a spot of a platform elsewhere: asks the API to let it in, keeps what it is given, runs the spot.

What it keeps lies in a data directory of its own (`keys/`, readable for its owner alone), so that it can be started
again without a join token, also while the API is away.
"""

from __future__ import annotations

import argparse
import base64
import fcntl
import ipaddress
import json
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from faaspot_runner.contract.spots import SEALED_FOR, Credentials
from faaspot_runner.remote import Api, RemoteError, write_private
from faaspot_runner.seal import open_sealed
from faaspot_runner.spot import process

DATA_DIR = "~/.local/share/faaspot-spot"
REFUSED = 2
AWAY = (0, 429, 502, 503, 504)
"""What an API answers, 0 for none, that can let nobody in for now."""
HOST_OF_API = "api"
"""Stands in the URL of Redis for the host of the API."""


class CannotJoinError(Exception):
    """This host cannot be a spot; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """What is kept of an admission, beside the secrets."""

    api: str
    ip: str
    redis: str


def main(argv: Sequence[str]) -> int:
    """Join and run the spot until SIGTERM or SIGINT; the exit status."""
    said, rest = _parser().parse_known_args(argv)
    directory = Path(said.data_dir).expanduser().absolute()
    token = os.read(said.token_fd, 4096).decode().strip() if said.token_fd is not None else ""
    try:
        lock = _claimed(directory)
        try:
            return _spot(said, rest, directory, token)
        finally:
            os.close(lock)
    except (CannotJoinError, OSError) as error:
        sys.stderr.write(f"faaspot: {error}\n")
        return REFUSED


def _spot(said: argparse.Namespace, rest: Sequence[str], directory: Path, token: str) -> int:
    """Join and run; when Redis knows us no more, by the token that we were given then. Raises CannotJoinError."""
    while True:
        membership = joined(directory, said.url.rstrip("/"), token, said.ip, said.api_ca)
        sys.stderr.write(f"faaspot: this host is spot {membership.ip} of {membership.api}\n")
        code = process.main([*_arguments(membership, directory, said.api_ca), *rest])
        if code != process.SHUT_OUT:
            return code
        token = ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faaspot_runner join", allow_abbrev=False)
    parser.add_argument("url", help="the API's address, as https://HOST:PORT")
    parser.add_argument(
        "--token-fd", type=int, metavar="N", help="a descriptor that holds a token of role admin or join"
    )
    parser.add_argument("--ip", help="address of this spot, its name; default: the one from which the API is reached")
    parser.add_argument("--data-dir", default=DATA_DIR, help="where this spot keeps everything")
    parser.add_argument("--api-ca", default="", help="PEM file of who vouches for the API's certificate")
    return parser


def joined(directory: Path, url: str, token: str, ip: str | None, authority: str) -> Membership:
    """Be let in, with `token` or what an earlier admission has left; without an API, go on with that.

    Raises CannotJoinError, OSError.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise CannotJoinError(f"{url} is not an address: say https://HOST:PORT")
    _check_authority(authority)
    known = _known(directory, url, ip)
    kept = directory / "keys" / "spot-token"
    token = token or (kept.read_text().strip() if known and kept.exists() else "")
    if not token:
        raise CannotJoinError("say --token with a token of role admin or join: fas tokens create NAME --role join")
    address = ip or (known.ip if known else _own_address(url))
    try:
        return _admitted(directory, url, token, address, authority)
    except RemoteError as error:
        if known is not None and error.status in AWAY:
            sys.stderr.write(f"faaspot: {error}; going on as before\n")
            return known
        raise CannotJoinError(str(error)) from error


def _check_authority(path: str) -> None:
    """Raises CannotJoinError if the file, where one is said, holds no certificate."""
    try:
        if path:
            ssl.create_default_context(cafile=path)
    except OSError as error:
        raise CannotJoinError(f"--certificate {path} cannot be used: {error.strerror or error}") from error


def _admitted(directory: Path, url: str, token: str, ip: str, authority: str) -> Membership:
    """Ask, open the credentials, keep them. Raises RemoteError, CannotJoinError, OSError."""
    key = X25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    answer = Api(url, token, authority).join(ip, public)
    try:
        sealed = base64.b64decode(answer.credentials)
        given = Credentials.of(open_sealed(key.private_bytes_raw(), sealed, SEALED_FOR))
        spot_key = base64.b64decode(given.spot_key)
    except ValueError as error:
        raise CannotJoinError(f"{url} sent credentials that cannot be opened: {error}") from error
    keys = directory / "keys"
    write_private(keys / "spot.key", spot_key)
    write_private(keys / "redis-password", given.password.encode())
    write_private(keys / "spot-token", answer.token.encode())
    write_private(keys / "redis.pem", given.authority.encode())
    membership = Membership(api=url, ip=answer.ip, redis=_redis_url(given, url, keys / "redis.pem"))
    text = json.dumps({"api": membership.api, "ip": membership.ip, "redis": membership.redis})
    write_private(directory / "spot.json", text.encode())
    return membership


def _redis_url(given: Credentials, api: str, authority: Path) -> str:
    """The address of Redis as this host takes it."""
    parts = urlsplit(given.redis)
    if parts.hostname == HOST_OF_API:
        host = urlsplit(api).hostname or ""
        shown = f"[{host}]" if ":" in host else host
        parts = parts._replace(netloc=f"{parts.username}@{shown}:{parts.port}")
    if given.authority:
        options = [parts.query, f"ssl_ca_certs={quote(str(authority))}"]
        options += ["ssl_check_hostname=false"] if given.pinned else []
        parts = parts._replace(query="&".join(filter(None, options)))
    return urlunsplit(parts)


def _known(directory: Path, url: str, ip: str | None) -> Membership | None:
    """What an earlier admission by the same API to the same address has left."""
    path = directory / "spot.json"
    if not path.exists():
        return None
    try:
        known = Membership(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise CannotJoinError(f"{path} cannot be read ({error}): remove it, and join with a token") from error
    return known if known.api == url and ip in (None, known.ip) else None


def _own_address(url: str) -> str:
    """The address of this host from which the API is reached."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=10) as sock:
            address = str(sock.getsockname()[0])
    except (OSError, ValueError) as error:
        raise CannotJoinError(f"{url} cannot be reached: {error}") from error
    if ipaddress.ip_address(address).is_loopback:
        raise CannotJoinError("the API is on this host: fas spots add starts a spot here; or say --ip")
    return address


def _claimed(directory: Path) -> int:
    """Make the directory and hold it; the lock's descriptor. Raises CannotJoinError if it is another's."""
    if (directory / "faaspot.json").exists():
        raise CannotJoinError(f"{directory} is a platform's data directory: choose another --data-dir")
    for path in (directory, directory / "blobs", directory / "keys"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The launcher in a container, an ordinary uid, passes through.
    directory.chmod(0o711)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CannotJoinError(f"another spot runs on {directory}: stop it, or use another --data-dir") from None
    return descriptor


def _arguments(membership: Membership, directory: Path, authority: str) -> list[str]:
    """The settings of the spot that follow from its admission."""
    return [
        *("--ip", membership.ip, "--data-dir", str(directory)),
        *("--api", membership.api, "--api-ca", str(Path(authority).absolute()) if authority else ""),
        *("--redis-url", membership.redis),
    ]
