"""Wiring: ``phonic-exporter completion``: a script for completion in bash, zsh or fish."""

import re
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from cyclopts import App, Parameter


def command(program: App, others: Callable[[], Iterable[App]]) -> App:
    """The command that writes the script.

    Args:
      program: the program whose commands and flags are completed.
      others: gives the commands that ``program`` does not have. Called only when the command runs.
    """
    app = App(
        name="completion",
        help="Write a script with which bash, zsh or fish completes commands and flags.",
        usage="Usage: phonic-exporter completion SHELL",
        help_format="plaintext",
        help_formatter="plain",  # as all other commands: no boxes
        version_flags=(),
        config=(),
    )

    @app.default
    def write(
        shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Shell that will read the script.")], /
    ) -> None:
        """Write a script with which bash, zsh or fish completes commands and flags."""
        sys.stdout.write(script(program, others(), shell))
        sys.stdout.flush()  # here, where a full disk is still an error of ours

    return app


def script(program: App, others: Iterable[App], shell: Literal["bash", "zsh", "fish"]) -> str:
    """The completion script of ``program`` and the ``others`` among its commands, to be sourced by ``shell``."""
    [name] = program.name
    whole = App(name=name, default_command=program.default_command, default_parameter=program.default_parameter)
    whole.command(program, name="*")  # its commands; the default command does not come along
    for each in others:
        whole.command(each)
    text = whole.generate_completion(prog_name=name, shell=shell)
    if shell == "zsh":
        # The library's script is a file for a folder of $fpath. Sourced, it has to register its function itself.
        function = re.search(r"^([\w-]+)\(\) \{", text, re.MULTILINE)
        if function is not None:
            text += f"compdef {function[1]} {name}\n"
    return text
