"""An object store for tests: moto's server, which speaks S3 over HTTP from its memory.

It is an emulation: it checks no signature, and what it lost at its end is gone. Nothing here looks into it.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from faaspot_runner.contract.bucket import BucketAddress
from tests.platforms import eventually

BUCKET = "faaspot-tests"


@dataclass(frozen=True)
class ObjectStore:
    """A running store with one bucket. `endpoint`: its URL."""

    endpoint: str

    def address(self, prefix: str) -> BucketAddress:
        """A part of its bucket."""
        return BucketAddress(url=f"s3://{BUCKET}/{prefix}", endpoint=self.endpoint, key_id="id", secret="text")

    def environ(self, prefix: str) -> dict[str, str]:
        """The settings of a platform that keeps its blobs there."""
        address = self.address(prefix)
        return {
            "FAASPOT_BLOBS": address.url,
            "FAASPOT_BUCKET_ENDPOINT": address.endpoint,
            "FAASPOT_BUCKET_KEY_ID": address.key_id,
            "FAASPOT_BUCKET_SECRET": address.secret,
        }


@contextlib.contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A store that is gone afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    store = ObjectStore(f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: _makes_bucket(store), 30, "the object store answers")
        yield store
    finally:
        process.terminate()
        process.wait()


def _makes_bucket(store: ObjectStore) -> bool:
    request = urllib.request.Request(f"{store.endpoint}/{BUCKET}", method="PUT")
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5):
        return True
    return False
