"""`fas deployments`: create, update, run and all that is done with a named function."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fas import output, progress
from fas import parameters as params
from fas.command import Group, State, pass_state

if TYPE_CHECKING:
    from faaspot import Execution

F = TypeVar("F", bound=Callable[..., Any])

AT_ONCE = 100
"""How many runs of a bulk are waited for together: their results come in one answer."""
SAMPLES = ("hello", "fib", "ping", "hello_world", "get_content", "sleep")


@click.group(cls=Group)
def deployments() -> None:
    """Named function packages: create, run, update, roll back."""


# ---------------------------------------------------------------- options


def package_options(command: F) -> F:
    """The files of a deployment."""
    for option in reversed(
        (
            click.option("-r", "--requirements-file", metavar="FILE", help="pip requirements, one line each."),
            click.option("-c", "--context-file", metavar="FILE", help='Secrets: lines of key = "value", or JSON.'),
        )
    ):
        command = option(command)
    return command


def settings_options(command: F) -> F:
    """The settings of a deployment; what is left out has the platform's default, or stays."""
    for option in reversed(
        (
            click.option("--timeout", type=float, metavar="SECONDS", help="How long a run may take."),
            click.option("--memory", type=int, metavar="MB", help="How much memory a run may use."),
            click.option("--pids", type=int, metavar="N", help="How many processes and threads a run may have."),
            click.option("--tmp", type=int, metavar="MB", help="How much a run may write to /tmp."),
            click.option("--network", type=click.Choice(["none", "internet"]), help="What a run may reach."),
            click.option(
                "--egress",
                multiple=True,
                metavar="HOST:PORT",
                callback=lambda _context, _option, said: list(said) or None,
                help="The only places that a run may reach: a name or network, and a port or range; may be said again. "
                "'*' lifts an earlier list.",
            ),
            click.option("--python", metavar="VERSION", help="Which Python, for example 3.12."),
            click.option("--runtime", metavar="NAME", help="Where it runs: `fas runtimes list` shows them."),
            click.option(
                "--sdist/--no-sdist", default=None, help="Build packages that have no wheel, inside a sandbox."
            ),
            click.option(
                "--concurrency", type=int, metavar="N", help="How many runs at once, over all spots; 0 for any number."
            ),
            click.option("--retries", type=int, metavar="N", help="How often a run is started again at most."),
            click.option(
                "--retry-on",
                multiple=True,
                metavar="REASON",
                callback=lambda _context, _option, said: list(said) or None,
                help="Start it again after this failure of its own, too (error, timeout, oom ...); may be said again.",
            ),
            click.option(
                "--retry-backoff", type=float, metavar="SECONDS", help="Pause before that, doubled each time."
            ),
            click.option("--max-age", type=float, metavar="SECONDS", help="How long a run may wait for its start."),
            click.option("--keep-days", type=float, metavar="DAYS", help="How long records of ended runs are kept."),
            click.option("--keep-runs", type=int, metavar="N", help="How many records of ended runs are kept at most."),
            click.option("--callback-url", metavar="URL", help="Who is told of each run's end; '' for nobody."),
            click.option("--reuse/--no-reuse", default=None, help="Keep the process for the next run."),
            click.option("--min-warm", type=int, metavar="N", help="On how many spots it stands ready before any run."),
            click.option("--description", metavar="TEXT", help="A text for people."),
        )
    ):
        command = option(command)
    return command


def wait_option(what: str) -> Callable[[F], F]:
    """``--wait``."""
    return click.option("-w", "--wait", is_flag=True, help=f"Wait until {what}.")


def run_options(command: F) -> F:
    """What a run may be told beside its parameters; what is left out is not passed on."""
    for option in reversed(
        (
            click.option("--max-age", type=float, metavar="SECONDS", help="How long it may wait for its start."),
            click.option("--callback-url", metavar="URL", help="Who is told of its end, signed."),
            click.option(
                "--idempotency-key", metavar="KEY", help="The same run under the same key is the same execution."
            ),
        )
    ):
        command = option(command)
    return command


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def parameter_options(text: str) -> Callable[[F], F]:
    """``-p`` and ``--args``; `text`: what one ``-p`` is."""

    def add(command: F) -> F:
        command = click.option(
            "--args", "args_json", metavar="JSON|@FILE|-", help="Parameters as JSON, with types. - is stdin."
        )(command)
        return click.option("-p", "--parameters", multiple=True, metavar="KEY=VALUE", help=text)(command)

    return add


# ---------------------------------------------------------------- making and changing


@deployments.command()
@click.argument("name")
@click.option("-f", "--file", required=True, metavar="FILE", help="Python source with main(args, context).")
@package_options
@settings_options
@wait_option("its environment is built")
@pass_state
def create(
    state: State,
    /,
    name: str,
    file: str,
    requirements_file: str | None,
    context_file: str | None,
    wait: bool,
    **settings: Any,
) -> None:
    """Make a deployment of a file.

    Prints the id of the build's execution; with --wait its last line, once it succeeded.
    """
    execution = state.client.deployments.create(name, file, requirements_file, context_file, **settings)
    progress.told(state.client, execution, wait=wait, text=f"Building {name}", as_json=state.as_json)


@deployments.command()
@click.argument("name")
@click.option("-f", "--file", metavar="FILE", help="Python source with main(args, context).")
@package_options
@click.option("-n", "--new-name", metavar="NAME", help="Rename it.")
@settings_options
@wait_option("the new version is ready")
@pass_state
def update(
    state: State,
    /,
    name: str,
    file: str | None,
    requirements_file: str | None,
    context_file: str | None,
    new_name: str | None,
    wait: bool,
    **settings: Any,
) -> None:
    """Make a new version of a deployment from what is given; all else stays.

    Prints what create prints. The old version runs until the new one is ready.
    """
    if all(each is None for each in (file, requirements_file, context_file, new_name, *settings.values())):
        raise click.UsageError("Nothing to update: give a file, a new name or a setting.")
    execution = state.client.deployments.update(name, file, requirements_file, context_file, new_name, **settings)
    progress.told(state.client, execution, wait=wait, text=f"Updating {name}", as_json=state.as_json)


@deployments.command()
@click.argument("name")
@wait_option("it is gone")
@pass_state
def delete(state: State, /, name: str, wait: bool) -> None:
    """Delete a deployment; the records of its executions stay."""
    execution = state.client.deployments.delete(name)
    progress.told(state.client, execution, wait=wait, text=f"Deleting {name}", as_json=state.as_json)


@deployments.command()
@click.argument("name")
@click.argument("version", type=int)
@wait_option("it is current")
@pass_state
def rollback(state: State, /, name: str, version: int, wait: bool) -> None:
    """Make an earlier version current again, without a build."""
    execution = state.client.deployments.rollback(name, version)
    progress.told(state.client, execution, wait=wait, text=f"Rolling {name} back", as_json=state.as_json)


# ---------------------------------------------------------------- reading


@deployments.command("list")
@pass_state
def list_(state: State) -> None:
    """List the deployments."""
    found = state.client.deployments.list()
    if state.as_json:
        return output.value(found)
    output.table(
        ("name", "version", "status", "python", "requirements", "updated"),
        (
            (
                each["name"],
                each.get("version"),
                each.get("status"),
                each.settings.get("python"),
                output.shortened(each.get("requirements", "").replace("\n", " ")),
                each.get("updated"),
            )
            for each in found
        ),
    )
    if not found:
        output.note("There is none yet: `fas deployments create NAME --file FILE` makes one.")
    return None


@deployments.command()
@click.argument("name")
@pass_state
def get(state: State, /, name: str) -> None:
    """Show a deployment, its code last."""
    _show(state, state.client.deployments.get(name))


@deployments.command()
@click.argument("name")
@click.argument("number", type=int, required=False)
@pass_state
def versions(state: State, /, name: str, number: int | None) -> None:
    """List the versions of a deployment, the current one between stars, or show the one with that NUMBER."""
    if number is not None:
        return _show(state, state.client.deployments.version(name, number))
    found = state.client.deployments.versions(name)
    if state.as_json:
        return output.value(found)
    current = state.client.deployments.get(name)["version"]
    columns = ("status", "reason", "environment", "created")
    return output.table(
        ("version", *columns),
        (
            (f"*{each.version}*" if each.version == current else each.version, *(each.get(key) for key in columns))
            for each in found
        ),
    )


def _show(state: State, record: dict[str, Any]) -> None:
    if state.as_json:
        return output.value(record)
    first: dict[str, Any] = {key: record[key] for key in ("name", "version", "status") if key in record}
    lock = {"lock": _packages(record["lock"])} if record.get("lock") else {}
    return output.pairs({**first, **record, **lock}, last=("code",))


def _packages(lock: str) -> str:
    """The packages of a lock; their hashes, for people, are noise."""
    return ", ".join(re.findall(r"^([A-Za-z0-9][^\s;\\]*==[^\s;\\]+)", lock, re.MULTILINE)) or lock


# ---------------------------------------------------------------- running


@deployments.command()
@click.argument("words", nargs=-1, metavar="NAME [KEY=VALUE]...")
@parameter_options('A parameter, always a text. May be said again, or hold several: "a=1, b=2".')
@wait_option("it has ended, and print what it returned")
@click.option("--timeout", type=float, metavar="SECONDS", help="Wait no longer than this; the run goes on.")
@click.option("-i", "--interval", hidden=True, help="Taken for the sake of old scripts.")
@run_options
@pass_state
def run(
    state: State,
    /,
    words: tuple[str, ...],
    parameters: tuple[str, ...],
    args_json: str | None,
    wait: bool,
    timeout: float | None,
    interval: str | None,
    **options: Any,
) -> None:
    """Run a deployment.

    Prints the bare id of the execution; with --wait what main returned: a text as it is, anything else as JSON.
    """
    name, more = params.named(words)
    args = params.one(args_json, (*parameters, *more))
    if not (wait or timeout is not None):
        execution = state.client.deployments.run(name, args, **_said(options))
        return progress.told(state.client, execution, wait=False, text="", as_json=state.as_json)
    with progress.naming(lambda: _under_way(state, name, args)), progress.shown(f"Running {name}"):
        result = state.client.deployments.run(name, args, wait=True, timeout=timeout, **_said(options))
    return output.value(result, state.as_json)


def _under_way(state: State, name: str, args: dict[str, Any] | Path) -> str | None:
    """The run of `name` with these args that has not ended; None if there is none, or more than one."""
    from faaspot import FaaspotError

    try:
        found = state.client.executions.list(deployment=name)
    except FaaspotError:
        return None
    same = [each.uuid for each in found if each.get("kind") == "run" and each.get("args") == args]
    return same[0] if len(same) == 1 else None


@deployments.command()
@click.argument("name")
@parameter_options('The parameters of one run, as "a=1, b=2". Say it once for each run.')
@wait_option("all have ended, and print what they returned, one line each")
@run_options
@pass_state
def run_bulk(
    state: State, /, name: str, parameters: tuple[str, ...], args_json: str | None, wait: bool, **options: Any
) -> None:
    """Run a deployment many times: once for each -p, or for each item of --args.

    Prints the ids of the executions, in the order asked for. With --wait a line for each: what it returned, or its
    error, and then the exit code is 1; with --json a list of {uuid, status, output, error}.
    """
    items = params.many(args_json, parameters)
    if not items:
        raise click.UsageError("Nothing to run: say -p for each run, or --args with a JSON list.")
    ids = state.client.deployments.run_bulk(name, items, **_said(options))
    if wait:
        return _bulk_ended(state, name, ids)
    if state.as_json:
        return output.value(ids)
    for each in ids:
        output.line(each)
    return None


def _bulk_ended(state: State, name: str, ids: list[str]) -> None:
    """Show how each of the runs ended, as soon as those before it have."""
    records: list[Execution] = []
    try:
        for start in range(0, len(ids), AT_ONCE):
            with progress.shown(f"Running {name} {len(ids)} times"):
                found = state.client.executions.wait_bulk(ids[start : start + AT_ONCE])
            records += found
            if not state.as_json:
                _bulk_lines(found)
    finally:
        left = ids[len(records) :]
        if state.as_json:
            known = [*records, *({"uuid": each} for each in left)]
            output.value([{key: each.get(key) for key in ("uuid", "status", "output", "error")} for each in known])
        elif left:
            output.note(f"Not waited for to their end: {' '.join(left)}")
    failed = sum(each.status != "Success" for each in records)
    if failed:
        raise click.ClickException(f"{failed} of {len(ids)} runs did not succeed.")


def _bulk_lines(records: list[Execution]) -> None:
    for each in records:
        if each.status == "Success":
            output.value(each.output)
        else:
            output.line(output.printable(f"Error: {each.output} (execution {each.uuid})"))


# ---------------------------------------------------------------- samples


def sample_options(command: F) -> F:
    """One flag for each sample."""
    for name in reversed(SAMPLES):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, "chosen", flag_value=name, help=f"Write {name}.py.")(command)
    return command


@deployments.command()
@sample_options
@pass_state
def samples(state: State, /, chosen: str | None) -> None:
    """Write a sample function into the current folder; it needs no requirements."""
    if chosen is None:
        raise click.UsageError("No action requested, need to select some sample..")
    path = Path(f"{chosen}.py")
    source = Path(__file__).parent.parent / "samples" / path.name
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(source.read_text("utf-8"))
    except FileExistsError:
        message = f"File with name `{path}` already exists. Move it away, or go to another folder."
        raise click.ClickException(message) from None
    if state.as_json:
        return output.value({"file": str(path)})
    output.line(str(path))
    return output.note(f"Try it: fas deployments create {chosen} --file {path} --wait")
