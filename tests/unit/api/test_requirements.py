"""Requirements text: what is taken, what is refused, and that each refusal names its line."""

from __future__ import annotations

import pytest

from faaspot_api.domain import requirements
from faaspot_api.errors import Invalid, TooLarge


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ()),
        ("\n  \n# only a comment\n", ()),
        ("Jinja2==2.7.2", ("Jinja2==2.7.2",)),
        ("requests  # why\nflask>=2 ,<4\n", ("requests", "flask<4,>=2")),
        ("requests[socks,security]>=2", ("requests[security,socks]>=2",)),
        ("a; python_version<'3.12'", ('a; python_version < "3.12"',)),
        ("a; (os_name=='nt' or os_name=='posix') and extra=='x'",
         ('a; (os_name == "nt" or os_name == "posix") and extra == "x"',)),
        ("a\r\nb\r\n", ("a", "b")),
        ("\ufeffa", ("a",)),
        ("a\na\nb", ("a", "b")),
        ("name (>=1.0)", ("name>=1.0",)),
        ("a.b-c_d~=1.4.2,!=1.4.3", ("a.b-c_d!=1.4.3,~=1.4.2",)),
    ],
)  # fmt: skip
def test_plain_requirements_are_rendered_again_from_their_parse(text: str, expected: tuple[str, ...]) -> None:
    assert requirements.parse(text) == expected


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://evil.example/simple", "--extra-index-url=https://evil.example", "-i https://evil.example",
        "-e git+https://example.org/x.git#egg=x", "-e .", "-r /etc/passwd", "--requirement other.txt",
        "-c constraints.txt",
        "--trusted-host evil.example", "--find-links /tmp", "--no-binary :all:", "--pre",
        "--config-settings=--global-option=x", "a --config-settings=x=y", "a --hash=sha256:00",
        "file:///etc/passwd", "file:x", "./x", "../x", "/x/y.whl", "~/x", "x/y", "x.whl/", "https://example.org/x.whl",
        "git+ssh://example.org/x", "name @ https://example.org/x.whl", "name@https://example.org/x", "name @ file:x",
        "name @ x", "a\\", "a \\", "${HOME}", "a==${X}", "a==$(id)", "a; os.system('id')", "a; __import__('os')",
        "a; python_version > 3", "a b", "a,b", "a=1", "a===", "a==", "[x]", "a[", "a]", "a\x00", "a\x1bb",
        "a\rb",
        "a\x0bb", "a\x85b", "a\u2028b", "näme", "а", "a; os_name == 'x#y'",
        "(" * 60, "a; " + "(" * 900, "a==" + "1" * 2000, ";", "@", "*", "a==1.*.*", "a;", "\u202ea", "\ud800",
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(Invalid) as caught:
        requirements.parse(f"good\n\n{line}\nalso-good")
    (error,) = caught.value.errors
    assert (error.field, error.line) == ("requirements", 3)
    assert error.message.startswith("line 3: ")
    assert "\n" not in error.message
    assert len(error.message) < 400


def test_every_bad_line_is_listed() -> None:
    with pytest.raises(Invalid) as caught:
        requirements.parse("-r x\nfine\n./y\n# c\nz @ https://example.org")
    assert [error.line for error in caught.value.errors] == [1, 3, 5]
    assert "line 1" in caught.value.message
    assert "line 5" in caught.value.message


def test_two_thousand_lines_are_taken_and_one_more_is_too_many() -> None:
    lines = [f"package-{number}" for number in range(requirements.MAX_LINES)]
    assert requirements.parse("\n".join(lines) + "\n") == tuple(lines)
    with pytest.raises(TooLarge, match="2000 lines"):
        requirements.parse("\n".join([*lines, "more"]))


def test_sixty_four_kilobytes_are_the_limit_in_bytes() -> None:
    comment = "# " + "é" * (32 * 1024 - 1)
    assert requirements.parse(comment) == ()
    with pytest.raises(TooLarge, match="65536 bytes"):
        requirements.parse(comment + "x")
