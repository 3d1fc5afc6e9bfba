"""Locks: read strictly, written one way, and the names that come of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faaspot_runner.environments import lock
from faaspot_runner.environments.errors import LockError

A, B = "a" * 64, "b" * 64
ENTRY = f"jinja2==3.1.6 \\\n    --hash=sha256:{A}\n"


def test_what_uv_writes_is_read_and_rendered_canonically() -> None:
    text = f"Zope.Interface==5.0 \\\n    --hash=sha256:{B} \\\n    --hash=sha256:{A}\njinja2==3.1.6 --hash=sha256:{A}\n"
    packages = lock.parse_entries(text)
    assert [str(package) for package in packages] == ["jinja2==3.1.6", "zope-interface==5.0"]
    assert packages[1].hashes == (A, B)
    rendered = lock.Lock(packages=packages).render()
    assert rendered.startswith("# faaspot lock 1\njinja2==3.1.6 \\\n    --hash=sha256:")
    assert lock.parse(rendered).render() == rendered


def test_a_marker_is_kept() -> None:
    (package,) = lock.parse_entries(f"a==1; python_version<'3.12' --hash=sha256:{A}")
    assert package.marker == 'python_version < "3.12"'
    assert lock.parse_entries(package.render()) == (package,)


@pytest.mark.parametrize(
    "text",
    [
        "a==1\n",
        f"a>=1 --hash=sha256:{A}", f"a==1.* --hash=sha256:{A}", f"a==1,<2 --hash=sha256:{A}", f"a --hash=sha256:{A}",
        f"a===1 --hash=sha256:{A}", f"a[x]==1 --hash=sha256:{A}",
        f"a @ https://example.org/a.whl --hash=sha256:{A}", f"./a --hash=sha256:{A}", f"-e . --hash=sha256:{A}",
        "a==1 --hash=md5:00", f"a==1 --hash=sha256:{A.upper()}", f"a==1 --hash=sha256:{A}0", "a==1 --hash=sha256:",
        f"a==1 --hash=sha256:{A} --index-url=https://example.org", f"--index-url https://example.org\n{ENTRY}",
        f"{ENTRY}{ENTRY}", f"a==1 --hash=sha256:{A}\nA==2 --hash=sha256:{B}",
        f"a==1\x00 --hash=sha256:{A}", f"ä==1 --hash=sha256:{A}", f"a==1\r --hash=sha256:{A}",
        f"a==1\t--hash=sha256:{A}",
        f"a==1; {'(' * 100} --hash=sha256:{A}", f"a=={'1' * 2000} --hash=sha256:{A}",
        f"a==1; os_name == 'x#y' --hash=sha256:{A}", "--hash=sha256:" + A, "# a comment",
    ],
)  # fmt: skip
def test_anything_but_pinned_names_with_hashes_is_refused(text: str) -> None:
    with pytest.raises(LockError):
        lock.parse_entries(text)


@pytest.mark.parametrize(
    "text", ["", ENTRY, "# faaspot lock 2\n" + ENTRY, "# faaspot lock 1 \n", "\n# faaspot lock 1\n"]
)
def test_a_text_without_our_header_is_no_lock(text: str) -> None:
    with pytest.raises(LockError):
        lock.parse(text)


def test_too_many_packages_and_too_large_a_text_are_refused() -> None:
    many = "".join(f"p{number}==1 --hash=sha256:{A}\n" for number in range(lock.MAX_PACKAGES + 1))
    with pytest.raises(LockError, match="2001 packages"):
        lock.parse_entries(many)
    with pytest.raises(LockError, match="larger"):
        lock.parse_entries(" " * (lock.MAX_BYTES + 1))


def test_equal_locks_have_one_name_whatever_their_spelling() -> None:
    one = lock.Lock(packages=lock.parse_entries(f"a==1 --hash=sha256:{A}\nb==1 --hash=sha256:{B} --hash=sha256:{A}"))
    other = lock.Lock(packages=lock.parse_entries(f"B==1 --hash=sha256:{A} --hash=sha256:{B}\nA==1 --hash=sha256:{A}"))
    assert one.environment_name("CPython 3.11.2 x") == other.environment_name("CPython 3.11.2 x")


def test_a_lock_with_source_distributions_never_names_an_environment_of_wheels() -> None:
    packages = lock.parse_entries(ENTRY)
    wheels, sdist = lock.Lock(packages=packages), lock.Lock(packages=packages, sdist=True)
    assert wheels.environment_name("i") != sdist.environment_name("i")
    assert lock.parse(sdist.render()) == sdist
    assert wheels.environment_name("i") != wheels.environment_name("j")


def test_a_digest_depends_on_where_its_parts_end() -> None:
    assert lock.digest("ab", "c") != lock.digest("a", "bc")


@given(st.text(st.sampled_from(f"ab1=.<>;'\"\\ \n-#[]@{A[:2]}:hs256"), max_size=120))
def test_whatever_is_taken_reads_back_as_itself(text: str) -> None:
    try:
        packages = lock.parse_entries(text + f" --hash=sha256:{A}")
    except LockError:
        return
    assert lock.parse_entries("".join(package.render() for package in packages)) == packages
