"""Edge: the API keys of workspaces: fixed ones, or a folder that holds a file for each.

A folder is looked at again and again, because the file system does not tell of changes, and because a mounted
secret of Kubernetes changes by swapping a symbolic link (``..data``) to another folder: what a path led to a
moment ago may be gone. So a file that is listed but cannot be read changes nothing, and only one that two looks in
a row do not find is gone. Names that begin with a dot are ignored. A key that another file holds too would give
the conversations of one workspace of Phonic either name: it is not used.
"""

import os
import re
import stat
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from ..errors import ConfigError
from .credentials import ApiKey, Credential, Credentials, read_key
from .wire import is_conversation_id

FLAG: Final = "--phonic.api-key-dir"
MOST_WORKSPACES: Final = 1000
"""Workspaces of one process; each has clients and tasks of its own."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_RULE: Final = "up to 100 letters, digits, '.', '_' or '-', the first a letter or digit"


def is_workspace_name(text: str) -> bool:
    """Whether a text can name a workspace: in a label, a path and a line of a file."""
    return _NAME.fullmatch(text) is not None


def split_reference(text: str) -> tuple[str, str]:
    """The workspace and the conversation of ``NAME/conv_…``; without a name the former is empty."""
    name, _, conversation_id = text.rpartition("/")
    return name, conversation_id


def is_reference(text: str) -> bool:
    """Whether a text names a conversation of a workspace: ``NAME/conv_…``."""
    name, conversation_id = split_reference(text)
    return is_workspace_name(name) and is_conversation_id(conversation_id)


@attrs.frozen(kw_only=True, eq=False)
class WorkspaceKey:
    """The key of one workspace.

    ``name`` is empty where workspaces have no names. ``base_url`` and ``projects`` replace the settings of these
    names unless they are empty.
    """

    name: str = ""
    credentials: Credentials
    base_url: str = ""
    projects: tuple[str, ...] = ()


class Keys:
    """The keys of all workspaces, in the order in which they were found.

    ``current`` changes only in `take`. ``is_usable``: whether the last look at the folder could use all of it;
    None without a folder. ``unusable``: the reason by file, or by workspace where keys are fixed; empty while
    there is none. ``read_at``: Unix time of the last look that could use everything; None before.
    """

    def __init__(self, keys: Iterable[WorkspaceKey] = (), *, folder: Path | None = None) -> None:
        """Fixed ``keys``, or those of a ``folder`` once `look` has been called and its result taken."""
        self.current: dict[str, WorkspaceKey] = {each.name: each for each in keys}
        self.folder = folder
        self.unusable: Mapping[str, str] = {}
        self.read_at: float | None = None
        self._missed: set[str] = set()
        self._told: Mapping[str, str] = {}
        for each in self.current.values():
            each.credentials.is_taken = partial(self._is_of_another, each.name)

    @property
    def is_usable(self) -> bool | None:
        return None if self.folder is None else not self.unusable

    def look(self) -> "Look":
        """Look at all files again, those of fixed keys too (blocking). Raises nothing; `take` the result.

        A key that has changed is used from then on.
        """
        if self.folder is None:
            return _look_at_fixed(self.current)
        return _look(self.folder, self.current)

    def take(self, look: "Look") -> None:
        """Make what was found the current keys."""
        self.unusable = look.unusable
        if not look.unusable:
            self.read_at = time.time()
        if look.listed is None:
            return
        missed = self.current.keys() - look.listed
        gone, self._missed = missed & self._missed, missed
        for name in gone:
            del self.current[name]
        for name, credentials in look.keys.items():
            if len(self.current) < MOST_WORKSPACES:
                credentials.is_taken = partial(self._is_of_another, name)
                self.current[name] = WorkspaceKey(name=name, credentials=credentials)

    def news(self) -> dict[str, str]:
        """Those of ``unusable`` that the last call did not return, for the log."""
        new = {name: reason for name, reason in self.unusable.items() if self._told.get(name) != reason}
        self._told = self.unusable
        return new

    def _is_of_another(self, name: str, credential: Credential) -> bool:
        """Whether another workspace uses it. Also called in other threads."""
        return any(
            each.credentials.current() == credential for each in list(self.current.values()) if each.name != name
        )


@attrs.frozen(kw_only=True)
class Look:
    """What a look at the folder has found.

    ``listed``: the names of its files; None if it could not be read. ``keys``: those that are not current yet.
    """

    listed: frozenset[str] | None
    keys: Mapping[str, Credentials]
    unusable: Mapping[str, str]


def _look(folder: Path, current: Mapping[str, WorkspaceKey]) -> Look:
    try:
        with os.scandir(folder) as entries:
            names = sorted(each.name for each in entries if not each.name.startswith("."))
    except (OSError, ValueError) as bad:
        reason = (bad.strerror if isinstance(bad, OSError) else None) or "no such path"
        return Look(listed=None, keys={}, unusable={"": f"cannot read {str(folder)!r}: {reason}"})
    listed: list[str] = []
    keys: dict[str, Credentials] = {}
    unusable: dict[str, str] = {}
    read: dict[str, ApiKey] = {}
    for name in names:
        file = folder / name
        try:
            mode = file.stat().st_mode
        except OSError:
            mode = stat.S_IFREG  # in the middle of a swap: a file, until it is no longer listed
        if not stat.S_ISREG(mode):
            continue
        if not is_workspace_name(name):
            unusable[ascii(name)] = f"is not a name of a workspace: {NAME_RULE}"
            continue
        listed.append(name)
        try:
            read[name] = ApiKey(read_key(file, flag=FLAG))
        except ConfigError as bad:
            unusable[name] = bad.reason
    copies = _copies(read, current)
    for name in sorted(read.keys() - copies.keys()):
        if name in current:
            current[name].credentials.replace(read[name])
        elif len(current.keys() | keys.keys()) >= MOST_WORKSPACES:
            unusable[name] = f"is one more than the {MOST_WORKSPACES} workspaces of one process"
        else:
            keys[name] = Credentials(read[name], file=folder / name)
    return Look(listed=frozenset(listed), keys=keys, unusable=unusable | copies)


def _look_at_fixed(current: Mapping[str, WorkspaceKey]) -> Look:
    read = {name: key.credentials.fresh() for name, key in current.items()}
    copies = _copies(read, current)
    for name in read.keys() - copies.keys():
        current[name].credentials.replace(read[name])
    return Look(listed=frozenset(current), keys={}, unusable=copies)


def _copies(read: Mapping[str, Credential], current: Mapping[str, WorkspaceKey]) -> dict[str, str]:
    """What is wrong with those that hold the key of another one.

    The key stays with the workspace that uses it, else with one that is known, not with a new file.
    """

    def order(name: str) -> tuple[bool, bool, str]:
        known = current.get(name)
        return known is None or known.credentials.current() != read[name], known is None, name

    owners: dict[Credential, str] = {}
    for name in sorted(read, key=order):
        owners.setdefault(read[name], name)
    return {
        name: f"holds the key of {owner!r} too"
        for name, owner in ((name, owners[read[name]]) for name in read)
        if owner != name
    }
