"""The command line with several workspaces: tables and folders of keys, and one line for each mistake in them."""

import re
from pathlib import Path

import pytest

from exporter import cli
from exporter.metrics.catalog import BY_TOOL, CATALOG, Scope
from exporter.metrics.formats import Format
from exporter.metrics.store import LabelLimits
from tests.unit.counted import live, new_conversations, page_of, recorded

pytestmark = pytest.mark.usefixtures("quiet_logs")

SECRET = "ph_planted-secret"
ACME = '[[workspace]]\nname = "acme"\napi-key-file = "KEYS/acme"\n'
# A live call with a number for each gauge: the assistant has answered, and the user waits again.
WAITING = {
    "duration_ms": 5000,
    "items": [
        {
            "item_idx": 0,
            "role": "assistant",
            "timings": {"model_generation_time": 450, "phonic_api_output_to_first_audio_chunk": 600},
        },
        {"item_idx": 1, "role": "user", "started_at": "2026-11-25T12:00:00Z", "duration_ms": 900},
    ],
}
GLOBEX = '[[workspace]]\nname = "globex"\napi-key-file = "KEYS/globex"\n'


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of keys; the working directory, so that messages have short paths."""
    for name in ("PHONIC_API_KEY", "PHONIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "KEYS"
    folder.mkdir()
    for name in ("acme", "globex"):
        (folder / name).write_text(f"{SECRET}-{name}")
    monkeypatch.chdir(tmp_path)
    return folder


def checked(capsys: pytest.CaptureFixture[str], text: str, *argv: str, code: int = 0) -> tuple[str, str]:
    """Output and errors of ``check-config`` with this TOML file."""
    Path("exporter.toml").write_text(text)
    with pytest.raises(SystemExit, check=lambda stop: stop.code == code):
        cli.main(["check-config", "--config.file=exporter.toml", "--state.file=", *argv])
    out, err = capsys.readouterr()
    assert "planted" not in out + err
    return out, err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (ACME + 'api-key = "x"\n', "[[workspace]] 1: unknown key 'api-key'; did you mean api-key-file?"),
        (ACME + "[workspace.web]\nmax = 1\n", "[[workspace]] 1: unknown key 'web'"),
        ('[[workspace]]\nname = "acme"\n', "[[workspace]] 1: needs api-key-file"),
        (ACME + '[[workspace]]\napi-key-file = "KEYS/globex"\n', "[[workspace]] 2: needs name"),
        ('[[workspace]]\nname = ""\napi-key-file = "KEYS/acme"\n', "[[workspace]] 1: needs name"),
        ('[[workspace]]\nname = 7\napi-key-file = "KEYS/acme"\n', "[[workspace]] 1: name must be a text"),
        ('[[workspace]]\nname = "acme"\napi-key-file = ["x"]\n', "[[workspace]] 1: api-key-file must be a text"),
        (ACME + 'projects = "main"\n', "[[workspace]] 1: projects must be a list of texts"),
        (ACME + "projects = [1]\n", "[[workspace]] 1: projects must be a list of texts"),
        (ACME + "base-url = 1\n", "[[workspace]] 1: base-url must be a text"),
        (ACME + 'base-url = "nonsense"\n', "[[workspace]] 'acme' base-url: "),
        (ACME + f'base-url = "https://{SECRET}@x"\n', "[[workspace]] 'acme' base-url: must not hold a user or"),
        ('[workspace]\nname = "acme"\n', "--config.file: 'exporter.toml': workspaces are tables [[workspace]]"),
        ('workspace = "acme"\n', "--config.file: 'exporter.toml': workspaces are tables [[workspace]]"),
        (ACME.replace('"acme"', '"a b"'), "[[workspace]] 'a b': a name is up to 100 letters, digits, '.', '_' or"),
        (ACME.replace("KEYS/acme", "KEYS/none"), "[[workspace]] 'acme' api-key-file: cannot read 'KEYS/none': No"),
        (ACME + GLOBEX.replace('"globex"', '"acme"'), "[[workspace]] 'acme': names a workspace twice"),
        (
            ACME + GLOBEX.replace("KEYS/globex", "KEYS/acme"),
            "[[workspace]] 'globex' api-key-file: holds the key of",
        ),
        (ACME + '[phonic]\napi-key-dir = "KEYS"\n', "--phonic.api-key-dir: cannot be combined with [[workspace]]"),
        (
            ACME + '[phonic]\napi-key-file = "KEYS/acme"\n',
            "[[workspace]]: cannot be combined with --phonic.api-key-f",
        ),
        (
            '[phonic]\napi-key-dir = "KEYS"\napi-key-file = "KEYS/acme"\n',
            "--phonic.api-key-dir: cannot be combined",
        ),
        (
            '[phonic]\napi-key-dir = "none"\n',
            "--phonic.api-key-dir: cannot read 'none': No such file or directory",
        ),
        (
            '[phonic]\napi-key-dir = "KEYS/acme"\n',
            "--phonic.api-key-dir: cannot read 'KEYS/acme': Not a directory",
        ),
        (
            ACME + '[watch]\nconversation = ["conv_1"]\n',
            "--watch.conversation: with several workspaces, name one: ",
        ),
        (
            ACME + '[watch]\nconversation = ["initech/conv_1"]\n',
            "--watch.conversation: no workspace is called 'ini",
        ),
    ],
)
def test_a_mistake_is_one_line(text: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = checked(capsys, text, code=2)
    assert out == ""
    assert err.startswith(f"phonic-exporter: error: {line}")
    assert err.count("\n") == 1


def test_each_mistake_has_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHONIC_API_KEY", SECRET)
    text = ACME.replace("KEYS/acme", "none") + GLOBEX + 'project = ["main"]\n' + '[[workspace]]\nname = "x"\n'
    _, err = checked(capsys, text, "--watch.limit=0", code=2)
    subjects = [line.partition("error: ")[2].partition(": ")[0] for line in err.splitlines()]
    assert sorted(subjects) == [
        "--watch.limit",
        "[[workspace]]",
        "[[workspace]] 'acme' api-key-file",
        "[[workspace]] 2",
        "[[workspace]] 3",
    ]


def test_tables_are_shown_with_their_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = checked(
        capsys, ACME + GLOBEX + 'base-url = "https://eu.phonic.example/v1/"\nprojects = ["main", "b"]\n'
    )
    assert err == ""
    lines = out.splitlines()
    assert "workspaces: acme, globex" in lines
    assert "--workspace.acme = KEYS/acme" in lines
    assert [
        line for line in lines if line.startswith("--workspace.globex = KEYS/globex https://eu.phonic.example")
    ]


def test_a_folder_is_listed_and_an_unusable_file_in_it_is_a_warning(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (keys / "initech").write_text("two words")
    out, err = checked(capsys, '[phonic]\napi-key-dir = "KEYS"\n')
    assert "workspaces: acme, globex" in out.splitlines()
    assert "API key unusable" in err
    assert "file=initech" in err


def test_an_empty_folder_is_allowed(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in keys.iterdir():
        file.unlink()
    assert "workspaces: none" in checked(capsys, '[phonic]\napi-key-dir = "KEYS"\n')[0].splitlines()


@pytest.mark.parametrize("text", [ACME + GLOBEX, '[phonic]\napi-key-dir = "KEYS"\n'])
@pytest.mark.parametrize("command", [["doctor"], ["record", "--conversation=conv_1", "--output=x.jsonl"]])
def test_commands_that_use_one_key_ask_for_it(
    text: str, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("exporter.toml").write_text(text)
    with pytest.raises(SystemExit, check=lambda stop: stop.code == 2):
        cli.main([*command, "--config.file=exporter.toml"])
    err = capsys.readouterr().err
    assert "this command uses one key; name its file with --phonic.api-key-file" in err


def test_the_estimated_series_are_those_of_a_page_on_which_every_workspace_is_beyond_the_limits(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets, tools, lives = 5, 4, 3
    limits = [f"--metrics.label-set-limit={sets}", f"--metrics.tool-limit={tools}"]
    out, _ = checked(capsys, ACME + GLOBEX, *limits, f"--metrics.per-conversation-limit={lives}")
    said = re.search(r"about (\d+) series: (\d+) of label sets, (\d+) of their tools, (\d+) of live", out)
    assert said is not None
    of_sets, of_tools, of_live = map(int, said.groups()[1:])

    names = ("workspace", "project", "agent")
    conversations = new_conversations(LabelLimits(names=names, sets=sets, tools=tools), live_limit=lives)
    conversations.store.shares.set(["acme", "globex"])
    calls = [{"id": f"call_{each}", "tool": {"name": f"tool {each}"}} for each in range(2 * tools)]
    for number in range(2 * sets):
        for workspace in ("acme", "globex"):
            agent = {"id": f"agent_{number}", "name": f"agent {number}"}
            one, other = f"conv_{workspace}_{number}", f"ended_{workspace}_{number}"
            conversations.update(one, live({"id": one, "agent": agent, **WAITING}), workspace)
            record = {"id": other, "agent": agent, "items": [{"role": "user", "tool_calls": calls}]}
            conversations.finish(other, recorded(record), workspace=workspace)

    def on_page(families: list[str]) -> int:
        page = page_of(conversations).render(Format.TEXT_0_0_4, frozenset(families)).decode()
        return sum(not line.startswith("#") for line in page.splitlines())

    by_tool = [family.name for family in BY_TOOL]
    labelled = [each.name for each in CATALOG if each.scope is Scope.CONVERSATIONS and each.name not in by_tool]
    assert on_page(labelled) == of_sets
    assert 0 < on_page(by_tool) <= of_tools
    live_families = [each.name for each in CATALOG if each.scope is Scope.LIVE]
    assert on_page(live_families) == of_live
