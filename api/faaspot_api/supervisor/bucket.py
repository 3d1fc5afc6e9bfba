"""The bucket of the blobs, if they are in one: looked at before anything starts."""

from __future__ import annotations

import hashlib
import subprocess
import sys

from faaspot_api.keys import public_key
from faaspot_api.settings import Settings, inherited
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.errors import CannotStartError
from faaspot_runner.contract.bucket import BucketError, opened


def claim(settings: Settings, directory: DataDirectory) -> None:
    """Make it ours, whose keys are there already. Raises CannotStartError if it cannot be, or our blobs are elsewhere.

    Whose it is, is said by the spots' public key: hosts that share a database share that, and a restored platform has
    it again.
    """
    if settings.bucket is None:
        return
    blobs = directory.path / "blobs"
    if any(blobs.glob("??/*")):
        raise CannotStartError(
            f"--blobs: this platform has its blobs in {blobs}. Copy what is in it to {settings.blobs}, under the same "
            f"names (aws s3 sync, rclone), then move {blobs} away"
        )
    # In a process of its own: the client starts threads, and we fork.
    command = [sys.executable, "-P", "-m", __name__]
    environ = {**inherited(), **settings.environment()}
    done = subprocess.run(command, env=environ, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise CannotStartError(f"--blobs: {(done.stderr.strip().splitlines() or ['it cannot be used'])[-1]}")


def main() -> int:
    """Claim the bucket of the settings in the environment; the exit status."""
    settings = Settings.load()
    assert settings.bucket is not None, "it is asked for only where there is one"
    try:
        opened(settings.bucket).claim(hashlib.sha256(public_key(settings)).hexdigest())
    except BucketError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
