"""docs/runtimes.md tells of everything that a definition can say."""

from __future__ import annotations

from pathlib import Path

from faaspot_runner.contract.runtimes import RUNTIME_TYPES

PAGE = (Path(__file__).parents[2] / "docs" / "runtimes.md").read_text()


def test_every_type_and_every_config_key_stands_there() -> None:
    for name, kind in RUNTIME_TYPES.items():
        assert f"| `{name}` |" in PAGE
        assert [key for key in kind.config if f"`{key}`" not in PAGE] == []
