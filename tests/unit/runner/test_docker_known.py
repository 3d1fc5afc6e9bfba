"""Which versions of what runs containers have known holes."""

from __future__ import annotations

import pytest

from faaspot_runner.docker.known import holes

RUNC_2025 = {"CVE-2025-31133", "CVE-2025-52565", "CVE-2025-52881"}


@pytest.mark.parametrize(
    ("program", "version", "names"),
    [
        ("runc", "1.1.5+ds1", {"CVE-2024-21626", *RUNC_2025}),
        ("runc", "1.1.12", RUNC_2025),
        ("runc", "1.2.7", RUNC_2025),
        ("runc", "1.2.8", set()),
        ("runc", "1.3.2", RUNC_2025),
        ("runc", "1.3.3", set()),
        ("runc", "1.5.0", set()),
        ("Engine", "20.10.24+dfsg1", {"CVE-2024-23651", "CVE-2024-41110"}),
        ("Engine", "24.0.9", {"CVE-2024-41110"}),
        ("Engine", "28.2.2", set()),
        ("containerd", "1.6.20~ds1", {"CVE-2024-25621"}),
        ("containerd", "v2.2.1", set()),
        ("runc", "unknown", set()),
        ("docker-init", "0.19.0", set()),
    ],
)
def test_holes_are_known_by_the_version_of_each_line(program: str, version: str, names: set[str]) -> None:
    assert {hole.name for hole in holes(program, version)} == names
