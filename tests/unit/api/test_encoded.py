"""W11: what the published clients' encoder could have made is decoded once, anything else stands as it is."""

from __future__ import annotations

import pytest

from faaspot_api.domain import encoded


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("", ""),
        ("def%20main%28args%2C%20context%29%3A%0A%20%20%20%20return%201", "def main(args, context):\n    return 1"),
        ('x = "100%41"', 'x = "100%41"'),
        ("%2541", "%41"),
        ("%41", "A"),
        ("requests", "requests"),
        ("requests%3D%3D2.0", "requests==2.0"),
        ("Gr%C3%BC%C3%9Fe", "Grüße"),
        ("Grüße %41", "Grüße %41"),
        ("100%", "100%"),
        ("a/b~c_d-e.f", "a/b~c_d-e.f"),
        ("%20\n", "%20\n"),
    ],
)
def test_the_rule(sent: str, meant: str) -> None:
    assert encoded.decode(sent) == meant


def test_encoded_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(ValueError, match="not of UTF-8"):
        encoded.decode("%FF")
