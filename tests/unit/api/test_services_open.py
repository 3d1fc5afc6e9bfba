"""Services of a server as its processes open them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OPEN = """
import sys
from pathlib import Path
from faaspot_api.keys import new_pair
from faaspot_api.queue.inline import InlineQueue
from faaspot_api.domain.model import Principal
from faaspot_api.services import Services
from faaspot_api.settings import Settings
from faaspot_api.store.migrate import migrate
settings = Settings(data_dir=Path(sys.argv[1]))
migrate(settings.database)
services = Services.open(settings, InlineQueue())
sys.stdout.write(services.figures.text(Principal(name="admin", role="admin")).decode())
"""


def test_where_the_counts_cannot_be_shared_a_process_answers_all_the_same(tmp_path: Path) -> None:
    """A full disk refuses the files of the counts; a process that starts then must still say that it is full."""
    for name in ("db", "run", "keys"):
        (tmp_path / name).mkdir()
    (tmp_path / "keys" / "spot.pub").write_bytes(b"0" * 32)
    (tmp_path / "run" / "metrics").write_text("stands in for a disk that takes no directory")
    done = subprocess.run([sys.executable, "-c", OPEN, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "faaspot_ready" in done.stdout
    assert "counts for itself alone" in done.stdout + done.stderr
