"""The TLS certificate: what cannot be used is refused before anything starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from faaspot_api.settings import Settings
from faaspot_api.supervisor import tls
from faaspot_api.supervisor.directory import DataDirectory
from faaspot_api.supervisor.errors import CannotStartError
from tests.certificates import write_pair


def test_without_a_certificate_it_is_plain_http() -> None:
    assert tls.certificate(Settings()) is None


def test_a_good_pair_is_taken(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    pair = tls.certificate(Settings(certfile=cert, keyfile=key))
    assert pair == tls.Certificate(certfile=Path(cert), keyfile=Path(key))


def test_one_file_may_hold_both(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    (tmp_path / "both.pem").write_text(Path(cert).read_text() + Path(key).read_text())
    assert tls.certificate(Settings(certfile=str(tmp_path / "both.pem"))) is not None


def test_what_cannot_be_used_is_refused_with_its_name(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    with pytest.raises(CannotStartError, match=f"{tmp_path}/none.pem does not exist"):
        tls.certificate(Settings(certfile=str(tmp_path / "none.pem"), keyfile=key))
    with pytest.raises(CannotStartError, match="needs --certfile"):
        tls.certificate(Settings(keyfile=key))
    with pytest.raises(CannotStartError, match="cannot be used"):
        tls.certificate(Settings(certfile=cert, keyfile=cert))


def test_a_key_with_a_password_is_refused_without_asking(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path, b"secret")
    with pytest.raises(CannotStartError, match="cannot be used"):
        tls.certificate(Settings(certfile=cert, keyfile=key))


def test_the_service_uid_gets_a_copy_that_it_can_read(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    pair = tls.Certificate(certfile=Path(cert), keyfile=Path(key))
    assert tls.handed_over(pair, DataDirectory(path=tmp_path, uid=None)) is pair
    (tmp_path / "run").mkdir()
    copy = tls.handed_over(pair, DataDirectory(path=tmp_path, uid=os.geteuid()))
    assert copy.keyfile.read_bytes() == Path(key).read_bytes()
    assert copy.keyfile.stat().st_mode & 0o777 == 0o400
