"""`fas tokens`."""

from __future__ import annotations

from fas.command import FAILED, USAGE
from tests.unit.cli.conftest import Fas


def test_a_token_is_made_listed_and_revoked(fas: Fas) -> None:
    made = fas("tokens", "create", "ci", "--role", "invoker", "--spot", "127.0.0.1")

    assert made.stdout.startswith("fas_")
    assert "only time" in made.stderr
    table = fas("tokens", "list").stdout
    assert "ci     invoker  127.0.0.1" in table
    assert made.stdout.strip() not in table
    assert [each["name"] for each in fas.json("tokens", "list")] == ["admin", "ci"]
    fas("tokens", "revoke", "ci")
    assert fas.json("tokens", "create", "ci")["role"] == "deployer"
    assert fas.json("tokens", "revoke", "ci") is not None
    fas("tokens", "revoke", "ci", code=FAILED)
    fas("tokens", "create", "ci", "--role", "king", code=USAGE)
