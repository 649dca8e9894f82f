"""The keys of workspaces: what a folder of them holds, and what its changes mean. Uses real files."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from exporter.phonic.credentials import ApiKey, Credentials
from exporter.phonic.keys import (
    MOST_WORKSPACES,
    Keys,
    WorkspaceKey,
    is_reference,
    is_workspace_name,
    split_reference,
)


class Folder:
    """A folder of keys, looked at by `Keys`."""

    def __init__(self, path: Path, **keys: str) -> None:
        self.path = path
        path.mkdir(exist_ok=True)
        for name, key in keys.items():
            self.write(name, key)
        self.keys = Keys(folder=path)
        self.look()

    def write(self, name: str, key: str) -> None:
        (self.path / name).write_text(key)

    def look(self) -> Mapping[str, str]:
        """Look once; return the reasons why files cannot be used."""
        self.keys.take(self.keys.look())
        return self.keys.unusable

    @property
    def current(self) -> dict[str, ApiKey]:
        return {name: each.credentials.current() for name, each in self.keys.current.items()}  # type: ignore[misc]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "keys", acme="ph_acme", globex="ph_globex")


BOTH = {"acme": ApiKey("ph_acme"), "globex": ApiKey("ph_globex")}


def test_a_folder_names_workspaces_by_its_files_and_may_change(folder: Folder) -> None:
    assert (folder.current, folder.keys.is_usable) == (BOTH, True)
    folder.write("initech", "ph_initech\n")
    folder.write("acme", "ph_fresh")
    before = folder.keys.current["acme"].credentials
    assert not folder.look()
    assert folder.current == {**BOTH, "acme": ApiKey("ph_fresh"), "initech": ApiKey("ph_initech")}
    assert folder.keys.current["acme"].credentials is before, "the clients hold it"


def test_a_file_is_gone_when_two_looks_in_a_row_do_not_find_it(folder: Folder) -> None:
    (folder.path / "acme").unlink()
    folder.look()
    assert folder.current == BOTH
    folder.write("acme", "ph_acme")
    folder.look()
    (folder.path / "acme").unlink()
    folder.look()
    assert folder.current == BOTH, "the two looks were not in a row"
    folder.look()
    assert folder.current == {"globex": ApiKey("ph_globex")}
    folder.write("acme", "ph_acme")
    folder.look()
    assert folder.current == BOTH


def test_a_folder_that_cannot_be_read_changes_nothing(folder: Folder) -> None:
    shutil.rmtree(folder.path)
    for _ in range(3):
        assert "No such file" in folder.look()[""]
        assert (folder.current, folder.keys.is_usable) == (BOTH, False)
    folder.path.mkdir()
    folder.write("globex", "ph_globex")
    for _ in range(2):
        assert not folder.look()
    assert folder.current == {"globex": ApiKey("ph_globex")}


@pytest.mark.parametrize("content", ["", "two words", "s" * 9000, "ph_\xe9"])
def test_a_file_with_an_unusable_key_changes_nothing_and_is_told_without_quoting_it(
    folder: Folder, content: str
) -> None:
    folder.write("acme", content)
    folder.write("initech", content)
    for _ in range(3):
        unusable = folder.look()
        assert unusable.keys() == {"acme", "initech"}
        assert content == "" or not any(content in reason for reason in unusable.values())
        assert (folder.current, folder.keys.is_usable) == (BOTH, False)


@pytest.mark.parametrize("name", ["-x", "_x", "a b", "a/b", "", "x" * 101, "ä", 'a"', "a\nb", ".hidden"])
def test_a_name_is_safe_in_a_label_a_path_and_a_line(name: str) -> None:
    assert not is_workspace_name(name)
    assert not is_reference(f"{name}/conv_1")


def test_files_with_bad_names_are_told_and_other_things_ignored(folder: Folder) -> None:
    folder.write("not a name", "ph_other")
    folder.write(".hidden", "ph_hidden")
    (folder.path / "folder").mkdir()
    assert folder.look().keys() == {"'not a name'"}
    assert folder.current == BOTH


def test_no_two_workspaces_have_one_key_and_the_known_one_keeps_it(folder: Folder) -> None:
    folder.write("aaa", "ph_globex")
    assert folder.look() == {"aaa": "holds the key of 'globex' too"}
    assert folder.current == BOTH
    (folder.path / "globex").unlink()
    assert not folder.look(), "a file that is renamed is another workspace at once"
    folder.look()
    assert folder.current == {"acme": ApiKey("ph_acme"), "aaa": ApiKey("ph_globex")}


@pytest.mark.parametrize("is_refused_first", [True, False])
def test_a_copy_of_a_key_in_the_file_of_another_workspace_changes_neither(
    folder: Folder, is_refused_first: bool
) -> None:
    folder.write("acme", "ph_globex")
    if is_refused_first:  # Phonic has refused the old key, so the file is read again before the next look
        assert not folder.keys.current["acme"].credentials.reload()
    assert folder.look() == {"acme": "holds the key of 'globex' too"}
    assert folder.current == BOTH


def test_a_copy_of_a_fixed_key_changes_neither_and_is_told_once(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("acme", "globex")}
    for name, file in files.items():
        file.write_text(f"ph_{name}")
    keys = Keys(
        WorkspaceKey(name=name, credentials=Credentials(ApiKey(f"ph_{name}"), file=file))
        for name, file in files.items()
    )
    files["acme"].write_text("ph_globex")
    assert not keys.current["acme"].credentials.reload()
    keys.take(keys.look())
    assert {name: key.credentials.current() for name, key in keys.current.items()} == BOTH
    assert keys.news() == {"acme": "holds the key of 'globex' too"}
    assert keys.news() == {}
    files["globex"].write_text("ph_acme")
    keys.take(keys.look())
    assert {name: key.credentials.current() for name, key in keys.current.items()} == {
        "acme": ApiKey("ph_globex"),
        "globex": ApiKey("ph_acme"),
    }


def test_two_keys_may_be_swapped(folder: Folder) -> None:
    folder.write("acme", "ph_globex")
    folder.write("globex", "ph_acme")
    assert not folder.look()
    assert folder.current == {"acme": ApiKey("ph_globex"), "globex": ApiKey("ph_acme")}


def test_one_process_has_a_bounded_number_of_workspaces(tmp_path: Path) -> None:
    names = [f"w{number:04}" for number in range(MOST_WORKSPACES + 1)]
    folder = Folder(tmp_path / "keys", **{name: f"ph_{name}" for name in names})
    assert list(folder.current) == names[:-1]
    assert folder.keys.unusable == {names[-1]: "is one more than the 1000 workspaces of one process"}
    (folder.path / names[0]).unlink()
    folder.look()
    folder.look()
    folder.look()
    assert list(folder.current) == names[1:]


class Mounted:
    """A folder as Kubernetes mounts a Secret: names are links through ``..data``, which is swapped as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._versions = 0
        path.mkdir()

    def put(self, **keys: str) -> None:
        """The order is the kubelet's: new folder, swap, then links of new names, then those that are gone."""
        self._versions += 1
        version = self.path / f"..version_{self._versions}"
        version.mkdir()
        for name, key in keys.items():
            (version / name).write_text(key)
        fresh, data = self.path / "..data_tmp", self.path / "..data"
        before = data.resolve() if data.exists() else None
        fresh.symlink_to(version.name)
        fresh.rename(data)
        for name in keys:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for link in list(self.path.iterdir()):
            if not link.name.startswith("..") and link.name not in keys:
                link.unlink()
        if before is not None:
            shutil.rmtree(before)


def test_the_folder_of_a_kubernetes_secret(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path / "keys")
    mounted.put(acme="ph_acme", globex="ph_globex")
    folder = Folder(mounted.path)
    assert folder.current == BOTH
    mounted.put(acme="ph_fresh", initech="ph_initech")
    assert not folder.look()
    assert folder.current == {
        "acme": ApiKey("ph_fresh"),
        "globex": BOTH["globex"],
        "initech": ApiKey("ph_initech"),
    }
    assert not folder.look()
    assert folder.current == {"acme": ApiKey("ph_fresh"), "initech": ApiKey("ph_initech")}


def test_a_look_in_the_middle_of_a_swap_changes_nothing(tmp_path: Path) -> None:
    mounted = Mounted(tmp_path / "keys")
    mounted.put(acme="ph_acme", globex="ph_globex")
    folder = Folder(mounted.path)
    (mounted.path / "..data").unlink()  # the names are listed, and lead nowhere
    for _ in range(3):
        assert folder.look().keys() == {"acme", "globex"}
        assert folder.current == BOTH


def test_fixed_keys_are_read_again_and_none_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("ph_old")
    keys = Keys([WorkspaceKey(name="acme", credentials=Credentials(ApiKey("ph_old"), file=file))])
    file.write_text("ph_new")
    keys.take(keys.look())
    assert keys.current["acme"].credentials.current() == ApiKey("ph_new")
    file.unlink()
    for _ in range(3):
        keys.take(keys.look())
    assert keys.current["acme"].credentials.current() == ApiKey("ph_new")
    assert keys.is_usable is None


def test_a_reference_names_workspace_and_conversation() -> None:
    assert is_reference("acme/conv_1")
    assert split_reference("acme/conv_1") == ("acme", "conv_1")
    assert split_reference("conv_1") == ("", "conv_1")
    assert not any(
        map(is_reference, ["conv_1", "acme/", "acme/x", "acme/conv_1/conv_2", "/conv_1", "acme\\conv_1"])
    )
