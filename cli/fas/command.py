"""What every command has: its common options, the client, and the way from an error to a message and an exit code.

| exit code | means |
|---|---|
| 0 | done |
| 1 | the platform refused it, or the function or the build failed |
| 2 | the command was not typed right, a file that it names cannot be read, or `fas up` cannot start here |
| 3 | the platform was not reached, or no profile says where it is |
| 4 | the wait ended first; the run goes on |
| 130 | interrupted by Ctrl-C |
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from fas import hints, output

if TYPE_CHECKING:
    from faaspot import Faaspot, FaaspotError

FAILED, USAGE, UNREACHED, STILL_GOING, INTERRUPTED = 1, 2, 3, 4, 130


class Command(click.Command):
    """A command with ``--json``, ``--profile`` and ``-v``; errors of the client library end it with their message."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="Print JSON, and nothing else."),
            click.Option(["--profile"], metavar="NAME", help="Use this profile and not the current one."),
            click.Option(
                ["-v", "--verbose"], count=True, help="Say what is asked of the platform; -vv and -vvv say more."
            ),
        ]

    def invoke(self, context: click.Context) -> Any:
        state = State(
            profile=context.params.pop("profile"),
            as_json=context.params.pop("as_json"),
            verbose=context.params.pop("verbose"),
        )
        context.obj = state
        state.listen()
        try:
            return self._guarded(context, state)
        finally:
            state.close()

    def _guarded(self, context: click.Context, state: State) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt as error:
            _tell_of_interruption(getattr(error, "execution", None), state)
            context.exit(INTERRUPTED)
        except _ours() as error:
            if state.verbose >= 3:
                output.trace(error)
            context.exit(told(error, state, context))


class Group(click.Group):
    """A group whose commands are `Command`s, found by underscores as well as dashes."""

    command_class = Command

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        return super().get_command(context, name.replace("_", "-"))


class State:
    """The common options of the command that runs, and its client."""

    def __init__(self, *, profile: str | None, as_json: bool, verbose: int) -> None:
        self.profile = profile
        self.as_json = as_json
        self.verbose = verbose
        self._client: Faaspot | None = None

    @property
    def client(self) -> Faaspot:
        """The client of the platform that the profile, or the environment, names."""
        if self._client is None:
            from faaspot import Faaspot

            self._client = Faaspot(profile=self.profile)
        return self._client

    def listen(self) -> None:
        """``-v``: the library's log goes to stderr: each request, with ``-vv`` the answers' headers, then all."""
        if not self.verbose:
            return
        import logging

        level = logging.INFO if self.verbose == 1 else logging.DEBUG
        logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s", level=logging.WARNING, force=True)
        logging.getLogger("faaspot").setLevel(level)
        if self.verbose >= 3:
            logging.getLogger().setLevel(logging.DEBUG)

    def close(self) -> None:
        """Give the connections back."""
        if self._client is not None:
            self._client.close()


pass_state = click.make_pass_decorator(State)


def _ours() -> type[FaaspotError]:
    """The base of the library's errors; an `except` clause asks for it only when something was raised."""
    from faaspot import FaaspotError

    return FaaspotError


class Interrupted(KeyboardInterrupt):
    """A Ctrl-C while the command waited for `execution`, which goes on."""

    def __init__(self, execution: str) -> None:
        super().__init__()
        self.execution = execution


def _tell_of_interruption(execution: str | None, state: State) -> None:
    hint = "What was asked of the platform goes on: `fas executions list` shows it."
    if execution is not None:
        hint = (
            f"Execution {execution} goes on: `fas executions get {execution} --wait` waits on,"
            f" `fas executions cancel {execution}` ends it."
        )
    if state.as_json:
        return output.failure_json({"message": "Interrupted", "execution_id": execution, "hint": hint})
    return output.note(f"Interrupted. {hint}")


@contextlib.contextmanager
def json_errors(context: click.Context, words: Sequence[str]) -> Iterator[None]:
    """Where ``--json`` is among the words of a command, an error of its form, too, is one line of JSON on stderr."""
    try:
        yield
    except click.ClickException as error:
        before = list(words)[: list(words).index("--")] if "--" in words else words
        if "--json" not in before:
            raise
        at = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else None
        help_line = f"`{at} --help` says how it is used." if at else None
        output.failure_json({"message": error.format_message(), "hint": help_line})
        context.exit(error.exit_code)


def told(error: FaaspotError, state: State, context: click.Context) -> int:
    """Say what went wrong and what to do next; the exit code for it."""
    from faaspot import errors

    hint = hints.hint(error, state.client, context.command_path, context.params, state.profile)
    if state.as_json:
        output.failure_json(_problem(error, hint))
    elif isinstance(error, errors.RunError):
        output.failure(_headline(error), [error.traceback.rstrip()] if error.traceback else [], hint)
    elif isinstance(error, errors.ApiError) and len(error.errors) > 1:
        fields = [f"  {each.field}: {each.message}" for each in error.errors]
        output.failure("The platform cannot take this:", fields, hint)
    else:
        output.failure(error.message, [], hint)
    return _exit_code(error)


def _exit_code(error: FaaspotError) -> int:
    from faaspot import errors

    if isinstance(error, errors.UnreadableFile | errors.BadArgument):
        return USAGE
    if isinstance(error, errors.ProfileExists):
        return FAILED
    if isinstance(error, errors.ConfigError | errors.ConnectionFailed):
        return UNREACHED
    return STILL_GOING if isinstance(error, errors.WaitTimeout) else FAILED


def _headline(error: Any) -> str:
    """``error: KeyError: 'name'``: the reason, the exception's type, its text."""
    named = error.type and not error.message.startswith(error.type)
    text = f"{error.type}: {error.message}" if named else error.message
    return text if error.reason in (None, "error") else f"{error.reason}: {text}"


def _problem(error: FaaspotError, hint: str | None) -> dict[str, Any]:
    known = ("message", "error_code", "status", "execution_id", "retry_after", "type", "traceback")
    problem = {name: getattr(error, name, None) for name in known}
    problem["errors"] = [
        {"field": each.field, "message": each.message, "line": each.line} for each in getattr(error, "errors", ())
    ]
    return {**problem, "hint": hint}


def forgiving() -> None:
    """Let stdout and stderr escape what their encoding cannot hold, and not fail in the middle of an answer."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
