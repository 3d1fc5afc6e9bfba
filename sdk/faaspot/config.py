"""Where the platform is and who asks: profiles in a file, the environment, and what the caller says.

The first that says something wins: arguments, then the environment (``FAASPOT_URL``, ``FAASPOT_TOKEN``,
``FAASPOT_PROFILE``), then the current profile of the file.

The file is ``$FAASPOT_DIR/$FAASPOT_CONFIG``, by default ``~/.faaspot/fasconf.yaml``, in the form that all FaaSpot
clients share::

    faaspot:
      profile: local                 # the current one
      profiles:
        local: {host: 127.0.0.1, protocol: http, port: 8000, token: ...}

It holds tokens, so it is only ever written with mode 0600, and by rename, so that no reader sees half a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from faaspot.errors import BadProfile, ConfigError, NoProfile, ProfileExists

URL, TOKEN = "FAASPOT_URL", "FAASPOT_TOKEN"
DEFAULT_HOST = "127.0.0.1"
_HOST_AND_PORT = re.compile(r"([^:\[\]]+|\[[^\]]+\]):([^:]*)")
"""`host:port`; an IPv6 address only in brackets."""
DEFAULT_PORTS = {"https": 443, "http": 80}
LOCAL_PORT = 8000
"""Where `fas up` listens unless told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One platform and one identity on it. What is None is not said, and `url` has the defaults.

    `ssl_certificate`: path of a CA or self-signed certificate to trust. `ssl_trust_all`: check no certificate at all.
    """

    host: str | None = None
    protocol: str | None = None
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    ssl_certificate: str | None = None
    ssl_trust_all: bool = False

    @property
    def url(self) -> str:
        """The platform's address without a trailing slash.

        Without a host it is the one that `fas up` starts on this machine; a host elsewhere is taken to speak HTTPS.
        """
        host = self.host or DEFAULT_HOST
        if "://" in host:
            return host.rstrip("/")
        local = is_local(host)
        protocol = self.protocol or ("http" if local and self.port != DEFAULT_PORTS["https"] else "https")
        port = self.port or (LOCAL_PORT if local and protocol == "http" else None)
        bare = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
        return f"{protocol}://{bare}" + (f":{port}" if port and port != DEFAULT_PORTS.get(protocol) else "")

    @property
    def identified(self) -> bool:
        """Whether it says who asks: a token, or a user and a password."""
        return bool(self.token or (self.username and self.password))

    def masked(self) -> dict[str, Any]:
        """All that is said, for people to read: secrets only as `***`."""
        secret = {"token", "password"}
        return {name: "***" if name in secret else value for name, value in self.said().items()}

    def said(self) -> dict[str, Any]:
        """The fields that are set, as they stand in the file."""
        pairs = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: value for name, value in pairs if value not in (None, "", False)}


def is_local(host: str) -> bool:
    """Whether a host name means this machine."""
    return host == "localhost" or host.startswith("127.") or host in ("::1", "[::1]")


class Profiles:
    """The profile file. Each call reads it anew; nothing is kept between calls."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """Where the file is, whether it exists or not."""
        if self._path is not None:
            return self._path
        folder = os.environ.get("FAASPOT_DIR") or "~/.faaspot"
        return Path(folder).expanduser() / (os.environ.get("FAASPOT_CONFIG") or "fasconf.yaml")

    def list(self) -> dict[str, Profile]:
        """All profiles by name."""
        return {str(name): _profile(str(name), values) for name, values in self._section()["profiles"].items()}

    def current(self) -> str | None:
        """The name of the current profile, None if there is none."""
        name = self._section().get("profile")
        return str(name) if name else None

    def get(self, name: str) -> Profile:
        """One profile. `ConfigError` if there is none of that name."""
        found = self.list()
        if name not in found:
            raise ConfigError(f"There is no profile {name!r} in {self.path}", hint=_known(found))
        return found[name]

    def create(self, name: str, *, update_if_exist: bool = False, use: bool = False, **values: Any) -> Profile:
        """Add a profile; the first becomes the current one, `use` makes any so. `values`: the fields of `Profile`."""
        if name in self.list():
            if not update_if_exist:
                raise ProfileExists(
                    f"Profile {name!r} exists already", hint=f"Change it with `fas profiles update {name}`."
                )
            profile = self.update(name, **values)
        else:
            profile = _checked(name, Profile(), values)
            self._write(name, profile)
        if use or self.current() is None:
            self._choose(name)
        return profile

    def update(self, name: str, **values: Any) -> Profile:
        """Change the fields that are given (not None) of a profile."""
        profile = _checked(name, self.get(name), values)
        self._write(name, profile)
        return profile

    def use(self, name: str) -> None:
        """Make a profile the current one. `ConfigError` if it has no token and no user with password."""
        if not self.get(name).identified:
            raise ConfigError(
                f"Profile {name!r} has no token and no user with password",
                hint=f"Set one with `fas profiles update {name} --token TOKEN`.",
            )
        self._choose(name)

    def delete(self, name: str) -> None:
        """Remove a profile; if it was the current one there is none afterwards."""
        self.get(name)
        content, section = self._parts()
        del section["profiles"][name]
        if section.get("profile") == name:
            section["profile"] = None
        self._save(content)

    def _choose(self, name: str) -> None:
        content, section = self._parts()
        section["profile"] = name
        self._save(content)

    def _write(self, name: str, profile: Profile) -> None:
        content, section = self._parts()
        section["profiles"][name] = profile.said()
        self._save(content)

    def _section(self) -> dict[str, Any]:
        return self._parts()[1]

    def _parts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The whole file, and in it the part that is ours, made if it is not there."""
        content = self._load()
        section = content.setdefault("faaspot", {}) or {}
        if not isinstance(section, dict) or not isinstance(section.get("profiles") or {}, dict):
            raise ConfigError(f"{self.path} is not a FaaSpot profile file: `faaspot: profiles:` must be a mapping")
        section["profiles"] = section.get("profiles") or {}
        content["faaspot"] = section
        return content, section

    def _load(self) -> dict[str, Any]:
        import yaml

        try:
            content = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"Cannot read {self.path}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.path} is not YAML: {error}", hint="Mend the file, or remove it.") from error
        if not isinstance(content or {}, dict):
            raise ConfigError(f"{self.path} is not a FaaSpot profile file: it must be a mapping")
        return content or {}

    def _save(self, content: Mapping[str, Any]) -> None:
        import yaml

        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(self.path.resolve(), text)
        except OSError as error:
            raise ConfigError(f"Cannot write {self.path}: {error.strerror}") from error


def replace_file(path: Path, text: str) -> None:
    """Put `text` where `path` is, whole or not at all, readable by its owner only."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def resolve(
    profile: str | None = None, host: str | None = None, token: str | None = None, *, profiles: Profiles | None = None
) -> Profile:
    """Where to go and who asks. `NoProfile` if nothing says so.

    A host that the caller or ``FAASPOT_URL`` names gets no token of a profile that was not named with it: a token must
    not travel to a place that it was not made for.
    """
    store = profiles or Profiles()
    named = profile or (None if host else os.environ.get("FAASPOT_PROFILE")) or None
    address = host or (None if profile else os.environ.get(URL)) or None
    found = _starting_point(store, named, address)
    secret = token or (None if profile else os.environ.get(TOKEN)) or None
    if address:
        found = replace(found, host=_url(address, found), protocol=None, port=None)
    return replace(found, token=secret) if secret else found


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where `resolve` has its answers from without arguments: variables that are set, and the profile for the rest."""

    address: str | None
    token: str | None
    profile: str | None


def origin(profile: str | None = None, *, profiles: Profiles | None = None) -> Origin:
    """What says where to go and who asks, by the names of the variables and of the profile; None for what does not."""
    said = {name: name if profile is None and os.environ.get(name) else None for name in (URL, TOKEN)}
    named = profile or os.environ.get("FAASPOT_PROFILE") or None
    if named is None and said[URL] is None:
        named = (profiles or Profiles()).current()
    return Origin(address=said[URL], token=said[TOKEN], profile=named)


def _starting_point(store: Profiles, named: str | None, address: str | None) -> Profile:
    if named:
        return store.get(named)
    if address:
        return Profile()
    current = store.current()
    if current is None:
        raise NoProfile
    return store.get(current)


def _url(address: str, found: Profile) -> str:
    """A full URL of `https://host`, `host:port` or `host`."""
    if "://" in address:
        _parts_of(address)
        return address.rstrip("/")
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadProfile(f"{address!r} is not a host: {error}", hint="Say it as HOST or HOST:PORT.") from None
    return replace(found, host=host, port=port or found.port).url


def _profile(name: str, values: Any) -> Profile:
    """A profile as it stands in the file, where people also write by hand: unknown fields are left alone."""
    if not isinstance(values or {}, dict):
        raise ConfigError(f"Profile {name!r} must be a mapping of host, protocol, port, token, ...")
    known = {each.name for each in fields(Profile)}
    try:
        return _checked(name, Profile(), {key: value for key, value in (values or {}).items() if key in known})
    except BadProfile as error:  # nobody gave it now
        raise ConfigError(error.message, hint=error.hint) from None


def _checked(name: str, profile: Profile, values: Mapping[str, Any]) -> Profile:
    """`profile` with the values that are given; `BadProfile` names what cannot be taken."""
    given = {key: value for key, value in values.items() if value is not None}
    host = str(given.get("host", ""))
    if "://" in host:
        given = {**_parts_of(host), **{key: value for key, value in given.items() if key != "host"}}
    elif (parts := _HOST_AND_PORT.fullmatch(host.strip())) is not None:
        if str(given.get("port", parts[2])) != parts[2]:
            raise BadProfile(f"Profile {name!r}: the host says port {parts[2]}, and the port is {given['port']}")
        given |= {"host": parts[1], "port": parts[2]}
    if "port" in given:
        given["port"] = _port(name, given["port"])
    for key in ("host", "protocol", "username", "password", "token", "ssl_certificate"):
        if key in given:
            given[key] = str(given[key]).strip()
    if given.get("protocol") not in (None, "", *DEFAULT_PORTS):
        raise BadProfile(f"Profile {name!r}: protocol is http or https, not {given['protocol']!r}")
    try:
        return replace(profile, **given)
    except TypeError:
        raise BadProfile(f"A profile has only these fields: {', '.join(f.name for f in fields(Profile))}") from None


def _parts_of(url: str) -> dict[str, Any]:
    """Host, protocol and port of a URL, as other FaaSpot clients read them; one with a path is kept whole."""
    wrong = BadProfile(f"{url!r} is not the address of a platform", hint="Say it as https://HOST:PORT.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise wrong
    if parts.path.strip("/"):
        return {"host": url}
    return {"host": parts.hostname, "protocol": parts.scheme, "port": port or DEFAULT_PORTS[parts.scheme]}


def _port(name: str, value: Any) -> int | None:
    if value in ("", 0):
        return None
    try:
        port = int(value)
    except (TypeError, ValueError):
        port = -1
    if not 0 < port < 65536:
        raise BadProfile(f"Profile {name!r}: port is a number from 1 to 65535, not {value!r}")
    return port


def _known(found: Mapping[str, Profile]) -> str:
    if not found:
        return NoProfile.hint or ""
    return f"Known profiles: {', '.join(sorted(found))}."
