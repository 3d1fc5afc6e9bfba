"""Tokens: hashed, shown once, revoked at once."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path

import pytest

from faaspot_api.domain.model import Principal
from faaspot_api.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from tests.control_plane import ADMIN, ANN, EVE, Plane, control_plane


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Plane]:
    with control_plane(tmp_path) as plane:
        yield plane


def test_a_token_says_who_its_owner_is(plane: Plane) -> None:
    token, text = plane.services.tokens.create(ADMIN, "ann", "deployer")
    assert text.startswith("fas_")
    assert len(text) == 4 + 43
    assert plane.services.tokens.authenticate(text) == Principal(name="ann", role="deployer")
    assert plane.services.tokens.list(ADMIN) == (token,)


def test_a_limit_that_nobody_keeps_is_refused(plane: Plane) -> None:
    with pytest.raises(Invalid, match="cannot be limited to some spots yet") as caught:
        plane.services.tokens.create(ADMIN, "ann", "deployer", ("127.0.0.1",))
    assert caught.value.errors[0].field == "spots"
    assert plane.services.tokens.list(ADMIN) == ()


def test_the_text_is_kept_nowhere(plane: Plane) -> None:
    _, text = plane.services.tokens.create(ADMIN, "ann", "deployer")
    plane.store.close()
    for path in plane.home.rglob("*"):
        assert not path.is_file() or text.encode() not in path.read_bytes()


@pytest.mark.parametrize("text", ["", "x", "fas_", "fas_" + "A" * 43, "' OR 1=1 --", "\ud800", "\0", "x" * 100_000])
def test_whatever_is_wrong_the_refusal_is_the_same(plane: Plane, text: str) -> None:
    plane.services.tokens.create(ADMIN, "ann", "deployer")
    with pytest.raises(Unauthorized) as caught:
        plane.services.tokens.authenticate(text)
    assert caught.value.message == Unauthorized().message


def test_hashes_are_compared_in_constant_time(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    _, text = plane.services.tokens.create(ADMIN, "ann", "deployer")
    monkeypatch.setattr(hmac, "compare_digest", lambda *_: False)
    with pytest.raises(Unauthorized):
        plane.services.tokens.authenticate(text)


def test_a_revoked_token_is_refused_at_once(plane: Plane) -> None:
    _, text = plane.services.tokens.create(ADMIN, "ann", "deployer")
    plane.services.tokens.revoke(ADMIN, "ann")
    with pytest.raises(Unauthorized):
        plane.services.tokens.authenticate(text)
    with pytest.raises(NotFound):
        plane.services.tokens.revoke(ADMIN, "ann")


def test_a_name_is_taken_once_and_must_be_one(plane: Plane) -> None:
    plane.services.tokens.create(ADMIN, "ann", "deployer")
    with pytest.raises(Conflict):
        plane.services.tokens.create(ADMIN, "ann", "invoker")
    with pytest.raises(Invalid):
        plane.services.tokens.create(ADMIN, "../x", "invoker")
    with pytest.raises(Invalid):
        plane.services.tokens.create(ADMIN, "bob", "root")  # type: ignore[arg-type]


@pytest.mark.parametrize("who", [ANN, EVE])
def test_only_an_admin_has_to_do_with_tokens(plane: Plane, who: Principal) -> None:
    for call in (
        lambda: plane.services.tokens.list(who),
        lambda: plane.services.tokens.create(who, "x", "admin"),
        lambda: plane.services.tokens.revoke(who, "unknown"),
    ):
        with pytest.raises(Forbidden):
            call()


def test_the_first_token_is_made_once_and_has_the_text_it_is_given(plane: Plane) -> None:
    tokens = plane.services.tokens
    text = tokens.first_token()
    assert text is not None
    assert tokens.authenticate(text).role == "admin"
    assert tokens.first_token() is None, "its text is known to nobody any more"
    assert tokens.first_token(text) == text
    assert tokens.first_token("chosen-by-the-operator") == "chosen-by-the-operator"
    assert tokens.authenticate("chosen-by-the-operator").name == "admin"
    with pytest.raises(Unauthorized):
        tokens.authenticate(text)


def test_the_platforms_own_token_is_replaced_and_not_revoked(plane: Plane) -> None:
    plane.services.tokens.first_token("first")
    with pytest.raises(Conflict, match="--token"):
        plane.services.tokens.revoke(ADMIN, "admin")
    plane.services.tokens.first_token("second")
    with pytest.raises(Unauthorized):
        plane.services.tokens.authenticate("first")
    assert plane.services.tokens.authenticate("second").role == "admin"
