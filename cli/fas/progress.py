"""Waiting, with something to look at: a line that moves on a terminal, nothing anywhere else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from fas import output
from fas.command import Interrupted

if TYPE_CHECKING:
    from faaspot import Execution, Faaspot


@contextlib.contextmanager
def shown(text: str) -> Iterator[Callable[[str], None]]:
    """Show `text` on stderr while the block runs; what is yielded adds a detail to it."""
    if not output.lively():
        yield lambda detail: None
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)

    def line(detail: str) -> Text:
        """One line: a second one would be left standing when the first is drawn anew."""
        whole = Text(f"{text}  {output.printable(detail)}" if detail else text)
        whole.truncate(console.width - len("⠋ "), overflow="ellipsis")
        return whole

    with console.status(line("")) as status:
        yield lambda detail: status.update(line(detail))


@contextlib.contextmanager
def naming(find: Callable[[], str | None]) -> Iterator[None]:
    """A Ctrl-C while the block waits for an execution says which, if `find` knows it."""
    try:
        yield
    except KeyboardInterrupt:
        execution = find()
        raise (Interrupted(execution) if execution else KeyboardInterrupt) from None


def ended(client: Faaspot, execution: str, text: str) -> Execution:
    """The record of `execution` once it succeeded, its `RunError` if not; meanwhile its log's last line is shown."""
    with naming(lambda: execution), shown(text) as say:
        if output.lively():
            _follow(client, execution, say)
        client.executions.result(execution)
    return client.executions.get(execution)


def _follow(client: Faaspot, execution: str, say: Callable[[str], None]) -> None:
    from faaspot import FaaspotError

    tail = ""
    # Only for show: what becomes of the execution is asked for afterwards, and that must not fail.
    with contextlib.suppress(FaaspotError):
        for piece in client.executions.follow(execution):
            *lines, tail = (tail + piece).split("\n")
            if last := next((each for each in reversed(lines) if each.strip()), ""):
                say(last.strip())


def told(client: Faaspot, execution: Any, *, wait: bool, text: str, as_json: bool) -> None:
    """What a command that starts an execution prints: its bare id, or after a wait the line that it ended with."""
    uuid = str(execution)
    if not wait:
        output.value({"uuid": uuid}, True) if as_json else output.line(uuid)
        return
    record = ended(client, uuid, text)
    output.value(record if as_json else record.output, as_json)
