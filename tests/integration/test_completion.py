"""Completion of commands, flags and values, with Tab in real shells."""

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exporter import cli
from exporter.settings import flag_table

# What is typed before Tab, and what the line becomes.
TYPED = [
    ("phonic-exporter che", "phonic-exporter check-config"),
    ("phonic-exporter --watch.idle", "phonic-exporter --watch.idle-timeout"),
    ("phonic-exporter --log.format js", "phonic-exporter --log.format json"),
    ("phonic-exporter demo --simulator.fau", "phonic-exporter demo --simulator.fault"),
    ("phonic-exporter dashboards exp", "phonic-exporter dashboards export"),
    ("phonic-exporter comp", "phonic-exporter completion"),
]
INTERACTIVE = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
SECONDS = 20.0
# Control sequences between the letters: colours, positions, the bell.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x07\x08]")


def script_for(shell: str, folder: Path) -> Path:
    path = folder / f"completion.{shell}"
    with path.open("w") as file:
        subprocess.run([sys.executable, "-m", "exporter", "completion", shell], stdout=file, check=True)
    return path


def need(shell: str) -> None:
    if shutil.which(shell) is None and not os.environ.get("CI"):
        pytest.skip(f"{shell} is not installed")


class Terminal:
    """An interactive shell in a pseudo-terminal."""

    def __init__(self, command: list[str], home: Path) -> None:
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, {**os.environ, "HOME": str(home), "PS1": "$ ", "TERM": "xterm"})  # noqa: S606

    def type(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def read_until(self, text: str) -> str:
        seen = ""
        end = time.monotonic() + SECONDS
        while text not in seen:
            left = end - time.monotonic()
            ready, _, _ = select.select([self.descriptor], [], [], max(left, 0))
            assert ready, f"{text!r} did not appear in {seen!r}"
            seen += CONTROL.sub("", os.read(self.descriptor, 65536).decode(errors="replace"))
        return seen

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.descriptor)


@pytest.mark.parametrize("shell", INTERACTIVE)
def test_tab_completes_commands_flags_and_values(shell: str, tmp_path: Path) -> None:
    need(shell)
    script = script_for(shell, tmp_path)
    terminal = Terminal(INTERACTIVE[shell], tmp_path)
    try:
        if shell == "zsh":
            terminal.type("autoload -Uz compinit; compinit -D\n")
        terminal.type(f"source {script}; echo it''works\n")
        terminal.read_until("itworks")
        for typed, whole in TYPED:
            terminal.type(f"{typed}\t")
            terminal.read_until(whole)
            terminal.type("\x15echo next''line\n")  # Ctrl-U: forget the line
            terminal.read_until("nextline")
    finally:
        terminal.close()


def test_fish_offers_commands_flags_and_values(tmp_path: Path) -> None:
    need("fish")
    script = script_for("fish", tmp_path)
    for typed, whole in TYPED:
        offered = subprocess.run(
            ["fish", "--no-config", "-c", f"source {script}; complete --do-complete {typed!r}"],
            env={**os.environ, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        words = [line.split("\t")[0] for line in offered.splitlines()]
        assert whole.rpartition(" ")[2] in words, typed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_knows_every_flag_and_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = printed(capsys, "completion", shell)
    for row in flag_table():
        # fish has the dashes in a word of its own
        assert row.flag.removeprefix("--") in script
    commands = re.findall(r"^  ([a-z]\S+)$", printed(capsys, "--help"), re.MULTILINE)
    assert {"demo", "completion", "dashboards"} <= set(commands)
    for command in (*commands, "export"):
        assert command in script


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["tcsh"]])
def test_other_shells_are_refused_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["completion", *arguments])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("phonic-exporter: error: SHELL: ")
