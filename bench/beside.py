"""Whole platforms side by side: on SQLite, on PostgreSQL, and of another checkout, at the lines P1, P2 and P4.

    python -m bench.beside [--other DIRECTORY] [--rounds 4] [--seconds 3] [--runs 10000]

As root or not, with PostgreSQL's binaries installed. `--other` is a checkout of an earlier commit whose `make up` has
been run once, so that its `.venv` is there. All platforms run all the time and are measured in turns, so that each
meets the same neighbours; the ratios are medians over the rounds. A wrong or missing answer ends the bench.

PostgreSQL stands on the same machine with `synchronous_commit=off`: a power cut may cost it the last commits, as it may
cost SQLite under the default FAASPOT_DATABASE_SYNC=NORMAL. Otherwise the two would not promise the same.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.platforms import SETUPS, Platform
from tests.postgres_servers import running_postgres

from bench.bulk import bulk
from bench.measure import Target, many_clients, one_client
from bench.scene import HELLO

CLIENTS = 16
LINES = ("P1, one client, p50 in ms", f"P2, {CLIENTS} clients, runs/s", "P4, bulk, runs/s")


@dataclass
class Elsewhere(Platform):
    """The platform of another checkout."""

    checkout: Path = Path()

    @property
    def command(self) -> str:
        return str(self.checkout / ".venv/bin/fas")


def measured(platform: Platform, seconds: float, runs: int) -> tuple[float, float, float]:
    """A value for each of LINES."""
    target = Target(
        host=platform.host,
        port=platform.port,
        path="/v1/sync/deployments/hello/rpc/",
        headers={"Authorization": f"Token {platform.token}"},
    )
    p50 = one_client(target, seconds=seconds).p50
    rate = many_clients(target, CLIENTS, seconds=seconds).rate
    return p50, rate, bulk(platform, runs)


@contextlib.contextmanager
def platforms(other: Path | None) -> Iterator[dict[str, Platform]]:
    """All of them, started, each with the deployment `hello`."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(running_postgres("-c fsync=on -c synchronous_commit=off"))

        def home() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="faaspot-e2e-", dir="/tmp")))

        found = {
            "SQLite": Platform(SETUPS[0], home()),
            "PostgreSQL": Platform(SETUPS[0], home(), environ={"FAASPOT_DATABASE_URL": postgres.create("platform")}),
        }
        if other is not None:
            found[f"SQLite, {other.name}"] = Elsewhere(SETUPS[0], home(), checkout=other.resolve())
        for platform in found.values():
            stack.enter_context(platform)
            platform.deploy("hello", HELLO)
        yield found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3.0, help="of one measurement")
    parser.add_argument("--runs", type=int, default=10_000, help="of one bulk request")
    said = parser.parse_args()
    values: dict[str, list[tuple[float, float, float]]] = {}
    with platforms(said.other) as running:
        for _ in range(said.rounds):
            for name, platform in running.items():
                values.setdefault(name, []).append(measured(platform, said.seconds, said.runs))
    print(
        "| | "
        + " | ".join(values)
        + " | "
        + " | ".join(f"{name} / SQLite" for name in values if name != "SQLite")
        + " |"
    )
    print("|---" * (2 * len(values)) + "|")
    for number, line in enumerate(LINES):
        columns = {name: [round_[number] for round_ in rounds] for name, rounds in values.items()}
        medians = [
            f"{statistics.median(each):,.2f} ({min(each):,.2f} to {max(each):,.2f})" for each in columns.values()
        ]
        ratios = [
            f"{statistics.median(one / ours for one, ours in zip(each, columns['SQLite'], strict=True)):.2f}"
            for name, each in columns.items()
            if name != "SQLite"
        ]
        print(f"| {line} | " + " | ".join([*medians, *ratios]) + " |")


if __name__ == "__main__":
    main()
