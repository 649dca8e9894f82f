"""Announcements of running exporters, and which of them a health check trusts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.web.running import announced, find

HERE = ("http://127.0.0.1:1",)


@pytest.fixture(autouse=True)
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp))
    return tmp


def found(environ: dict[str, str] | None = None) -> list[tuple[str, ...]]:
    return [each.urls for each in find(environ or {})]


def files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.is_file())


def test_an_exporter_is_found_while_it_announces_itself(own_tmp: Path) -> None:
    assert found() == []
    with announced(HERE, {}):
        assert found() == [HERE]
        [file] = files(own_tmp)
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
    assert found() == []
    assert files(own_tmp) == []


@pytest.mark.parametrize("variable", ["RUNTIME_DIRECTORY", "STATE_DIRECTORY", "XDG_RUNTIME_DIR"])
def test_each_folder_is_enough(variable: str, tmp_path: Path, own_tmp: Path) -> None:
    environ = {variable: str(tmp_path / "x")}
    (tmp_path / "x").mkdir(mode=0o700)
    with announced(HERE, environ):
        assert found() == found(environ) == [HERE]  # in several folders it is still one exporter
        for file in files(own_tmp):
            file.unlink()
        assert found(environ) == [HERE]
        assert found() == []
    assert files(tmp_path) == []


def test_exporter_is_found_without_a_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container whose root is read-only, without a /tmp of its own."""
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/proc/none"])
    environ = {"STATE_DIRECTORY": str(tmp_path / "state")}
    (tmp_path / "state").mkdir(mode=0o700)
    with announced(HERE, environ):
        assert found(environ) == [HERE]
        assert found() == []


def test_folder_that_cannot_be_written_is_skipped(tmp_path: Path) -> None:
    with announced(HERE, {"STATE_DIRECTORY": "/proc/none", "RUNTIME_DIRECTORY": str(tmp_path / "no" / "such")}):
        assert found() == [HERE]


def test_file_of_a_process_that_has_ended_is_ignored_and_removed(own_tmp: Path) -> None:
    killed = "import os, sys; from exporter.web.running import announced; c = announced(['http://x:1'], {}); "
    code = f"import tempfile; tempfile.tempdir = {str(own_tmp)!r}; {killed} c.__enter__(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False, timeout=20)
    [left] = files(own_tmp)
    assert found() == []
    with announced(HERE, {}):
        assert found() == [HERE]
        assert not left.exists()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc for the start time of a process")
def test_file_of_another_process_with_the_same_pid_is_ignored(own_tmp: Path) -> None:
    with announced(HERE, {}):
        [file] = files(own_tmp)
        file.write_text(json.dumps({**json.loads(file.read_text()), "began": "1"}))
        assert found() == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"pid": 0, "urls": [], "began": ""}', '{"pid": "1"}', "\x00"]
)
def test_malformed_file_is_ignored(content: str, own_tmp: Path) -> None:
    with announced(HERE, {}):
        [file] = files(own_tmp)
        file.with_name("phonic-exporter-1.json").write_text(content)
        file.with_name("phonic-exporter-2.json").mkdir()
        assert found() == [HERE]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder away")
def test_folder_of_another_user_is_ignored(own_tmp: Path) -> None:
    with announced(HERE, {}):
        folder = files(own_tmp)[0].parent
        folder.chmod(0o777)
        assert found() == []
        folder.chmod(0o700)
        os.chown(folder, 65532, -1)
        assert found() == []
