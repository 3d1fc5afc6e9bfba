"""The rules of callbacks: which addresses, how signed, when again."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from faaspot_api.domain import callbacks

LOOPBACK = (ip_network("127.0.0.0/8"),)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/hook?x=1", "http://example.com:8080", "http://8.8.8.8/", "https://[2606:4700::1111]/"],
)
def test_public_addresses_and_any_name_can_be_tried(url: str) -> None:
    assert callbacks.problem(url, ()) is None


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "ftp://example.com/", "https:///path", "https://user:secret@example.com/", "https://e.com/#a",
        "https://e.com:22/", "https://e.com:0/", "https://e.com:99999/", "https://e.com/a b", "https://e.com/\r\nX: y",
        "https://e.com/" + "x" * 2000, "https://\u0435.com/", "http://127.0.0.1/", "http://10.1.2.3/", "http://[::1]/",
        "http://169.254.169.254/latest/meta-data/", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://0.0.0.0/",
        "http://[::ffff:10.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://[::]/",
        "http://168.63.129.16/", "http://100.100.100.200/", "http://224.0.0.1/", "http://192.168.1.1:8080/",
        "http://a..b/", "http://.../", "http://" + "a" * 64 + ".com/", "http://" + "a." * 200 + "com/",
    ],
)  # fmt: skip
def test_what_is_no_address_for_a_callback_is_refused_at_once(url: str) -> None:
    assert callbacks.problem(url, ())


def test_an_operator_may_open_an_inner_network() -> None:
    assert callbacks.problem("http://127.0.0.1:8080/", LOOPBACK) is None
    assert callbacks.problem("http://10.0.0.1:8080/", LOOPBACK)


def test_a_log_shows_no_path() -> None:
    assert callbacks.origin("https://hooks.example.com:8443/T123/secret?token=x") == "https://hooks.example.com:8443"


def test_the_signature_is_that_of_the_standards_own_example() -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert callbacks.signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected


def test_each_token_has_a_secret_of_its_own() -> None:
    assert callbacks.secret(b"m" * 32, "ann") == callbacks.secret(b"m" * 32, "ann")
    assert callbacks.secret(b"m" * 32, "ann") != callbacks.secret(b"m" * 32, "bob")
    assert callbacks.secret(b"m" * 32, "ann") != callbacks.secret(b"n" * 32, "ann")


def test_the_pauses_grow_and_come_to_an_end() -> None:
    pauses = [callbacks.pause(tries) for tries in range(1, callbacks.TRIES + 1)]
    assert pauses[:3] == [2.0, 8.0, 32.0]
    assert pauses[-1] is None
    assert 3600 < sum(pause or 0.0 for pause in pauses) < 4 * 3600
