"""A package index of our own on loopback, with wheels and source distributions made on the spot."""

from __future__ import annotations

import base64
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Mapping, Sequence
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BUILD_BACKEND = """
import os, tarfile, zipfile

def get_requires_for_build_wheel(config_settings=None):
    return []

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    name = "{name}-{version}.dist-info"
    os.makedirs(os.path.join(directory, name))
    with open(os.path.join(directory, name, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return name

def build_wheel(directory, config_settings=None, metadata_directory=None):
    scope = {{"value": "built"}}
    exec({hook!r}, scope)
    name = "{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("{name}.py", "VALUE = %r\\n" % (scope["value"],))
        info = "{name}-{version}.dist-info"
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return name
"""


SILENT = "silent"
"""A project whose page is never sent, as long as the index is there."""


class PackageIndex:
    """Serves PEP 503 pages at `url`. `asked`: the paths of all requests, in order. `host`: the address to listen on."""

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        self.asked: list[str] = []
        self._files: dict[str, dict[str, bytes]] = {}
        self._yanked: dict[str, str] = {}
        self._closed = threading.Event()
        self._server = ThreadingHTTPServer((host, port), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://{host}:{self._server.server_address[1]}/simple"

    def __enter__(self) -> PackageIndex:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wheel(
        self,
        name: str,
        version: str,
        files: Mapping[str, str] | None = None,
        *,
        requires: Sequence[str] = (),
        tag: str = "py3-none-any",
        yanked: str = "",
    ) -> None:
        """Offer a wheel with these files, `name.py` if none are said. `yanked`: why it was taken back."""
        info = f"{name}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
        contents = {
            **(files or {f"{name}.py": f"VERSION = {version!r}\n"}),
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
        }
        record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in contents.items())
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as wheel:
            for path, text in {**contents, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
                wheel.writestr(path, text)
        file = f"{name}-{version}-{tag}.whl"
        if yanked:
            self._yanked[file] = yanked
        self.offer(name, file, data.getvalue())

    def sdist(self, name: str, version: str, hook: str = "pass") -> None:
        """Offer a source distribution whose build runs `hook`; the module's VALUE is what that leaves as `value`."""
        backend = BUILD_BACKEND.format(name=name, version=version, hook=hook)
        project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        top = f"{name}-{version}"
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            for path, text in (
                ("pyproject.toml", project),
                ("backend.py", backend),
                ("PKG-INFO", f"Metadata-Version: 1.0\nName: {name}\nVersion: {version}\n"),
            ):
                member = tarfile.TarInfo(f"{top}/{path}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        self.offer(name, f"{top}.tar.gz", data.getvalue())

    def offer(self, project: str, name: str, data: bytes) -> None:
        """Offer a file as it is."""
        self._files.setdefault(project, {})[name] = data

    def _answer(self, path: str) -> tuple[str, bytes] | None:
        parts = path.strip("/").split("/")
        if parts[0] == "simple" and len(parts) == 2 and parts[1] in self._files:
            return "text/html", self._page(parts[1])
        if parts[0] == "files" and len(parts) == 3 and parts[2] in self._files.get(parts[1], {}):
            return "application/octet-stream", self._files[parts[1]][parts[2]]
        return None

    def _page(self, project: str) -> bytes:
        anchors = (
            f'<a href="../../files/{project}/{name}#sha256={hashlib.sha256(data).hexdigest()}"{self._mark(name)}>'
            f"{escape(name)}</a>\n"
            for name, data in self._files[project].items()
        )
        return f"<!DOCTYPE html><html><body>{''.join(anchors)}</body></html>".encode()

    def _mark(self, file: str) -> str:
        return f' data-yanked="{escape(self._yanked[file])}"' if file in self._yanked else ""

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                index.asked.append(self.path)
                if self.path == f"/simple/{SILENT}/":
                    index._closed.wait()
                self._send(body=True)

            def do_HEAD(self) -> None:
                self._send(body=False)

            def _send(self, *, body: bool) -> None:
                kind, data = index._answer(self.path) or ("", b"")
                self.send_response(200 if kind else 404)
                self.send_header("Content-Type", kind or "text/plain")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if body:
                    self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        return Handler


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
