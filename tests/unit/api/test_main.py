"""The command line of the control plane's processes: what is wrong is one clear line and status 2."""

from __future__ import annotations

import pytest

from faaspot_api.__main__ import main


@pytest.mark.parametrize("command", ["up", "recorder", "migrate"])
def test_a_bad_setting_is_one_clear_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--port", "http"]) == 2
    assert capsys.readouterr().err == "faaspot: --port: 'http' is not a whole number\n"


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://x", "redis://, rediss://, unix:// or redis+sentinel://"), ("redis+sentinel://x", "HOST[:PORT]")],
)
def test_an_unusable_redis_url_is_refused_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory, url: str, said: str
) -> None:
    data = tmp_path_factory.mktemp("home") / "data"
    assert main(["up", "--data-dir", str(data), "--port", "0", "--redis-url", url]) == 2
    assert said in capsys.readouterr().err
    assert not data.exists()


def test_an_unknown_argument_ends_with_status_2() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["up", "--no-such-thing"])
    assert ended.value.code == 2
