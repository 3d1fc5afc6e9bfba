"""`fas executions`: the records of runs, builds and spot tasks."""

from __future__ import annotations

from typing import Any

import click

from fas import output, progress
from fas.command import FAILED, Group, State, pass_state

COLUMNS = ("uuid", "name", "kind", "status", "reason", "created", "output")
TRIES = ("at", "status", "error", "ms")
BAR = 40
"""Characters of the longest bar of a waterfall."""
STATUSES = ("Pending", "Started", "Success", "Failure", "Cancelled")


@click.group(cls=Group)
def executions() -> None:
    """The record of every run and build: read, wait, cancel, run again, logs."""


@executions.command("list")
@click.option("-i", "--include-completed", is_flag=True, help="Also those that have ended.")
@click.option("-d", "--deployment", metavar="NAME", help="Only those of this deployment.")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only those in this status.")
@click.option("--reason", metavar="WORD", help="Only those that ended for this reason.")
@click.option("--since", metavar="TIME", help="Only those created at or after this time.")
@click.option("--until", metavar="TIME", help="Only those created before this time.")
@click.option("--rerun/--not-rerun", default=None, help="Only those that were run again, or were not.")
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
    rerun: bool | None,
    limit: int,
) -> None:
    """List executions, the newest first.

    Those that have ended are left out, unless --include-completed, --status or --reason asks for them.
    """
    found = state.client.executions.list(
        include_completed,
        deployment,
        status=status,
        reason=reason,
        since=since,
        until=until,
        rerun=rerun,
        limit=limit + 1,
    )
    more, found = len(found) > limit, found[:limit]
    _list(state, found)
    if more:
        output.note(f"There are more: --limit shows more than {limit}, --until '{found[-1].created}' the older ones.")
    if not found and not state.as_json and not (include_completed or status or reason):
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


@executions.command("output")
@click.argument("uuid")
@pass_state
def output_(state: State, /, uuid: str) -> None:
    """Print what an execution returned, as JSON, also where that is too long for its record."""
    output.value(state.client.executions.output(uuid), True)


@executions.command("args")
@click.argument("uuid")
@pass_state
def args_(state: State, /, uuid: str) -> None:
    """Print what an execution was given, as JSON, also where that is too long for its record."""
    output.value(state.client.executions.args(uuid), True)


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
@pass_state
def callback(state: State, /, uuid: str) -> None:
    """Show who is told of an execution's end, and what came of each try."""
    found = state.client.executions.callback(uuid)
    if state.as_json:
        return output.value(found)
    output.pairs({key: found[key] for key in ("origin", "status", "next")})
    return output.table(TRIES, ([each.get(key) for key in TRIES] for each in found.tries))


@executions.command()
@click.argument("uuids", nargs=-1, metavar="[UUID]...")
@click.option("-d", "--deployment", metavar="NAME", help="Those of this deployment.")
@click.option(
    "--status", type=click.Choice(("Failure", "Cancelled"), case_sensitive=False), help="Those in this status."
)
@click.option("--reason", metavar="WORD", help="Those that ended for this reason.")
@click.option("--since", metavar="TIME", help="Those created at or after this time.")
@click.option("--until", metavar="TIME", help="Those created before this time.")
@pass_state
def rerun(state: State, /, uuids: tuple[str, ...], **wanted: str | None) -> None:
    """Run executions that have ended again, by their deployments as they stand now; their own records stay.

    By id, each with its new id on a line of its own; or by options, all failures that match and were not run again
    before: the old id and the new one, or why there is none, and then the exit code is 1.
    """
    if bool(uuids) == any(wanted.values()):
        raise click.UsageError("Say which: ids, or at least one option that chooses, not both.")
    if uuids:
        return _rerun_each(state, uuids)
    done = state.client.executions.rerun_all(**wanted)
    if state.as_json:
        output.value(done)
    else:
        output.table(("of", "uuid", "message"), ((each.of, each.uuid, each.message) for each in done))
        output.note(f"{sum(each.uuid is not None for each in done)} run again.")
    if any(each.uuid is None for each in done):
        raise click.exceptions.Exit(FAILED)
    return None


def _rerun_each(state: State, uuids: tuple[str, ...]) -> None:
    again = [state.client.executions.rerun(each) for each in uuids]
    if state.as_json:
        return output.value(again)
    for each in again:
        output.line(each)
    return None


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
