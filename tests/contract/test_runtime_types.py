"""The control plane's table of runtime types and the connectors behind them say the same."""

from __future__ import annotations

import pytest

from faaspot_runner.connectors import CONNECTORS
from faaspot_runner.contract.runtimes import BUILT_IN, RUNTIME_TYPES


@pytest.mark.parametrize("kind", CONNECTORS)
def test_every_connector_has_its_type_in_the_table(kind: str) -> None:
    assert RUNTIME_TYPES[kind].can_wrap == CONNECTORS[kind].can_wrap


def test_every_type_has_one_built_in_runtime_of_its_name() -> None:
    assert {name: each.type for name, each in BUILT_IN.items()} == {name: name for name in RUNTIME_TYPES}
    assert all(not each.config and each.wraps is None and not each.external for each in BUILT_IN.values())
