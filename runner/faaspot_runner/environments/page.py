"""Pages of a package index: read as HTML or JSON (PEP 503, 691, 714), written as JSON with links of our own. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

JSON = "application/vnd.pypi.simple.v1+json"
ACCEPT = f"{JSON}, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
MAX_FILES = 100_000

_PROJECT = re.compile(r"[a-z0-9]([a-z0-9-]{0,200}[a-z0-9])?")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]{0,250}")
_SHA256 = re.compile(r"sha256=([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One file of a project. `metadata`: its metadata may be fetched beside it, with this sha256 ("" unknown)."""

    name: str
    url: str
    sha256: str | None = None
    requires_python: str | None = None
    yanked: bool | str = False
    metadata: str | None = None


def is_project(name: str) -> bool:
    """Whether this is a project's normalised name, as a page of it is asked for."""
    return _PROJECT.fullmatch(name) is not None


def parse(body: bytes, content_type: str, url: str) -> tuple[File, ...]:
    """The files that a project's page at `url` names. Those with strange names or addresses are left out.

    Raises ValueError for what is no such page.
    """
    files = _from_json(body, url) if "json" in content_type else _from_html(body, url)
    return tuple(file for file in files[:MAX_FILES] if _FILE.fullmatch(file.name) and _fetchable(file.url))


def render(project: str, files: Sequence[File], link: Callable[[File], str]) -> bytes:
    """The page as JSON; `link` says where a file is to be had."""
    listed = [
        {
            "filename": file.name,
            "url": link(file),
            "hashes": _hashes(file.sha256),
            "requires-python": file.requires_python,
            "yanked": file.yanked,
            "core-metadata": False if file.metadata is None else _hashes(file.metadata) or True,
        }
        for file in files
    ]
    return json.dumps({"meta": {"api-version": "1.0"}, "name": project, "files": listed}).encode()


def _hashes(sha256: str | None) -> dict[str, str]:
    return {"sha256": sha256} if sha256 else {}


def _fetchable(url: str) -> bool:
    return urlsplit(url).scheme in ("http", "https")


def _from_json(body: bytes, url: str) -> list[File]:
    page = json.loads(body)
    if not isinstance(page, dict) or not isinstance(page.get("files"), list):
        raise ValueError("a project's page has a list of files")
    return [_file_of(entry, url) for entry in page["files"] if isinstance(entry, dict)]


def _file_of(entry: Mapping[str, Any], url: str) -> File:
    metadata = entry.get("core-metadata", entry.get("dist-info-metadata", False))
    yanked = entry.get("yanked", False)
    return File(
        name=str(entry.get("filename", "")),
        url=urldefrag(urljoin(url, str(entry.get("url", "")))).url,
        sha256=_sha256_of(entry.get("hashes")),
        requires_python=_text(entry.get("requires-python")),
        yanked=yanked if isinstance(yanked, bool | str) else True,
        metadata=(_sha256_of(metadata) or "") if metadata else None,
    )


def _sha256_of(hashes: object) -> str | None:
    value = hashes.get("sha256") if isinstance(hashes, dict) else None
    return value if isinstance(value, str) and _SHA256.fullmatch("sha256=" + value) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _from_html(body: bytes, url: str) -> list[File]:
    reader = _Anchors(url)
    reader.feed(body.decode("utf-8", "replace"))
    reader.close()
    return reader.files


class _Anchors(HTMLParser):
    """Collects the anchors of a page: the file's name is the last part of the address."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.files: list[File] = []
        self._base = url

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        href = said.get("href")
        if tag == "base" and href:
            self._base = urljoin(self._base, href)
        elif tag == "a" and href:
            self._add(href, said)

    def _add(self, href: str, said: Mapping[str, str | None]) -> None:
        address, fragment = urldefrag(urljoin(self._base, href))
        digest = _SHA256.search(fragment)
        metadata = said.get("data-core-metadata", said.get("data-dist-info-metadata"))
        file = File(
            name=unquote(urlsplit(address).path.rpartition("/")[2]),
            url=address,
            sha256=digest.group(1) if digest else None,
            requires_python=said.get("data-requires-python"),
            yanked=(said["data-yanked"] or True) if "data-yanked" in said else False,
            metadata=None if metadata in (None, "false") else _digest_in(metadata),
        )
        self.files.append(file)


def _digest_in(text: str | None) -> str:
    match = _SHA256.search(text or "")
    return match.group(1) if match else ""
