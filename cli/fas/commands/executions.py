"""`fas executions`: the records of runs, builds and spot tasks."""

from __future__ import annotations

from typing import Any

import click

from fas import output, progress
from fas.command import FAILED, Group, State, pass_state

COLUMNS = ("uuid", "name", "kind", "status", "reason", "created", "output")
BAR = 40
"""Characters of the longest bar of a waterfall."""
STATUSES = ("Pending", "Started", "Success", "Failure", "Cancelled")


@click.group(cls=Group)
def executions() -> None:
    """The record of every run and build: read, wait, cancel, logs."""


@executions.command("list")
@click.option("-i", "--include-completed", is_flag=True, help="Also those that have ended.")
@click.option("-d", "--deployment", metavar="NAME", help="Only those of this deployment.")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only those in this status.")
@click.option("--reason", metavar="WORD", help="Only those that ended for this reason.")
@click.option("--since", metavar="TIME", help="Only those created at or after this time.")
@click.option("--until", metavar="TIME", help="Only those created before this time.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@pass_state
def list_(
    state: State,
    /,
    include_completed: bool,
    deployment: str | None,
    status: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    limit: int,
) -> None:
    """List executions, the newest first.

    Those that have ended are left out, unless --include-completed, --status or --reason asks for them.
    """
    found = state.client.executions.list(
        include_completed, deployment, status=status, reason=reason, since=since, until=until, limit=limit + 1
    )
    more, found = len(found) > limit, found[:limit]
    _list(state, found)
    if more:
        output.note(f"There are more: --limit shows more than {limit}, --until '{found[-1].created}' the older ones.")
    if not found and not state.as_json and not include_completed:
        output.note("None is under way. --include-completed shows those that have ended.")


@executions.command()
@click.argument("uuid")
@click.option("-w", "--wait", is_flag=True, help="Wait until it has ended; exit code 1 if it did not succeed.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Wait no longer than this.")
@click.option("--timings", is_flag=True, help="Show when each step was, and how long it took.")
@pass_state
def get(state: State, /, uuid: str, wait: bool, timeout: float | None, timings: bool) -> None:
    """Show the record of an execution."""
    show = _waterfall if timings else _show
    if not (wait or timeout is not None):
        return show(state, state.client.executions.get(uuid))
    with progress.naming(lambda: uuid), progress.shown(f"Waiting for {uuid}"):
        record = state.client.executions.wait(uuid, timeout)
    show(state, record)
    if record.status != "Success":
        raise click.exceptions.Exit(FAILED)
    return None


@executions.command()
@click.option("-u", "--uuid", "uuids", multiple=True, required=True, metavar="UUID", help="Say it once for each.")
@pass_state
def get_bulk(state: State, /, uuids: tuple[str, ...]) -> None:
    """List the records of several executions, in the order asked for."""
    _list(state, state.client.executions.get_bulk(uuids))


@executions.command()
@click.argument("uuid")
@pass_state
def cancel(state: State, /, uuid: str) -> None:
    """Cancel an execution, queued or running."""
    answer = state.client.executions.cancel(uuid)
    if state.as_json:
        return output.value(answer)
    return output.line(f"{uuid} {answer.get('status', 'Cancelled') if isinstance(answer, dict) else answer}")


@executions.command()
@click.argument("uuid")
@click.option("-f", "--follow", is_flag=True, help="Show what it writes as it writes it, until it ends.")
@pass_state
def logs(state: State, /, uuid: str, follow: bool) -> None:
    """Show what an execution wrote to stdout and stderr, in order."""
    if follow and state.as_json:
        raise click.UsageError("--follow prints a growing text, which --json cannot.")
    if follow:
        for piece in state.client.executions.follow(uuid):
            output.piece(piece)
        return None
    text = state.client.executions.logs(uuid)
    return output.value({"uuid": uuid, "log": text}) if state.as_json else output.piece(text)


def _waterfall(state: State, record: dict[str, Any]) -> None:
    """The steps of an execution in the order in which they were, each with the time since the one before."""
    timings = record.get("timings") or {}
    if state.as_json:
        return output.value(timings)
    marks = sorted((at, step) for step, at in (timings.get("marks") or {}).items() if at is not None)
    if not marks:
        return output.note("Nothing was measured: it has not ended, or no worker had anything to do.")
    whole, before, rows = marks[-1][0] or 1.0, 0.0, []
    for at, step in [(0.0, "accepted"), *marks]:
        bar = " " * round(before / whole * BAR) + "#" * max(1, round((at - before) / whole * BAR))
        rows.append((step, f"{at:.3f}", f"+{at - before:.3f}", bar if at else ""))
        before = at
    output.table(("step", "at ms", "took ms", ""), rows)
    if timings.get("cold"):
        output.line(f"Cold: the sandbox was started for it, the import took {timings.get('import_ms') or 0.0:.3f} ms.")
        for name, took in (timings.get("imports") or {}).items():
            output.line(f"  {took:10.3f} ms  {output.printable(name)}")
    return None


def _list(state: State, found: list[Any]) -> None:
    if state.as_json:
        return output.value(found)
    rows = ([*(each.get(key) for key in COLUMNS[:-1]), output.shortened(each.get("output"))] for each in found)
    return output.table(COLUMNS, rows)


def _show(state: State, record: dict[str, Any]) -> None:
    if state.as_json:
        return output.value(record)
    error = record.get("error") or {}
    shown = {key: each for key, each in record.items() if key != "error"}
    if error.get("type"):
        shown["error"] = error["type"]
    if error.get("traceback"):
        shown["traceback"] = error["traceback"]
    return output.pairs(shown, last=("output", "traceback"))
