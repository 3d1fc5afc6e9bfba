"""`fas completion`: the script that makes a shell complete `fas`."""

from __future__ import annotations

import click

from fas import output
from fas.command import Command, State, pass_state


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_state
def completion(state: State, /, shell: str) -> None:
    """Print the shell completion script.

    \b
      bash: eval "$(fas completion bash)"     in ~/.bashrc
      zsh:  eval "$(fas completion zsh)"      in ~/.zshrc
      fish: fas completion fish > ~/.config/fish/completions/fas.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows each shell that the argument may be"
    script = kind(click.get_current_context().find_root().command, {}, "fas", "_FAS_COMPLETE").source()
    return output.value({"shell": shell, "script": script}) if state.as_json else output.line(script)
