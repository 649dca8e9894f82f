"""Pure: finds its way through JSON text in steps of a millisecond, however large the text and whatever is in it.

A parser written in C reads faster, but in one piece: 4 MB of ``0,`` hold the event loop for 0.7 s, and every
thread with it. The walker only finds where values begin and end; what is small is then given to such a parser.

Rules for this file:
- It has a place in the text. A caller that is given a key or an element moves it behind the value (`skip`, or a
  walk through it) before asking for the next one.
- ``None`` from one of its iterators is a pause: the caller may let others run. All raise `NotJson` and `TooMuch`.
- Nesting costs no recursion. What is skipped is not checked: brackets need not match in kind.
"""

import json
import re
from collections.abc import Iterator

_MARK = re.compile(r'["\[\]{}]')
_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r'[^\s,\[\]{}":]*')
_BEFORE_QUOTE = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+){0,4096}+', re.DOTALL)
_AT_ONCE = 1 << 18  # characters looked through without a pause
_STEPS = 1000  # marks found between two pauses, of 0.5 µs each
MOST_STEPS = 2_000_000
"""Marks in one text; beyond it is nothing but brackets, and reading on would cost seconds of CPU."""
MOST_MEMBERS = 1000
"""Members of one object that are given out; the others are skipped."""
LONGEST_KEY = 1000


class NotJson(Exception):
    """The text is not JSON where the walker looked."""


class TooMuch(Exception):
    """The text has more in it than anybody would write."""


class Walker:
    """A place in a JSON text."""

    def __init__(self, text: str, at: int = 0) -> None:
        self.text = text
        self.at = at
        self._steps = 0
        self.to_token()

    def to_token(self) -> None:
        """Move behind white space, unless there is more of it than anybody would write."""
        match = _SPACE.match(self.text, self.at, self.at + _AT_ONCE)
        self.at = match.end() if match else self.at

    @property
    def next(self) -> str:
        """The character here, which says what kind of value begins; empty at the end."""
        return self.text[self.at : self.at + 1]

    def members(self) -> Iterator[str | None]:
        """The keys of the object that begins here, each with the walker at its value."""
        self._expect("{")
        number = 0
        while self.next != "}":
            number += 1
            if number > MOST_MEMBERS:
                yield from self.leave()
                self.to_token()
                return
            start = self.at
            if self.next != '"':
                raise NotJson
            yield from self.skip()
            key = self.text[start : min(self.at, start + LONGEST_KEY)]
            self._expect(":")
            yield _key(key)
            yield from self._step_over()
        self._expect("}")

    def elements(self) -> Iterator[int | None]:
        """The numbers of the elements of the array that begins here, each with the walker at it."""
        self._expect("[")
        number = 0
        while self.next != "]":
            yield number
            number += 1
            yield from self._step_over()
        self._expect("]")

    def _step_over(self) -> Iterator[None]:
        yield from self._step()
        self.to_token()
        if self.next == ",":
            self._expect(",")
            if self.next in ("]", "}"):
                raise NotJson
        elif self.next not in ("]", "}"):
            raise NotJson

    def _expect(self, mark: str) -> None:
        if self.next != mark:
            raise NotJson
        self.at += 1
        self.to_token()

    def skip(self) -> Iterator[None]:
        """Move behind the value that begins here."""
        begins = self.next
        if begins == '"':
            yield from self._skip_string()
        elif begins in ("[", "{"):
            self.at += 1
            yield from self.leave()
        else:
            match = _SCALAR.match(self.text, self.at)
            if not match or match.end() == self.at:
                raise NotJson
            self.at = match.end()
        self.to_token()

    def leave(self) -> Iterator[None]:
        """Move behind the end of the array or object in which this place is."""
        depth = 1
        size = len(self.text)
        while depth:
            found = _MARK.search(self.text, self.at, self.at + _AT_ONCE)
            if found is None:
                self.at += _AT_ONCE
                if self.at >= size:
                    raise NotJson
                yield
                continue
            yield from self._step()
            mark = found[0]
            self.at = found.start()
            if mark == '"':
                yield from self._skip_string()
            else:
                self.at += 1
                depth += 1 if mark in "[{" else -1

    def _step(self) -> Iterator[None]:
        self._steps += 1
        if self._steps % _STEPS == 0:
            if self._steps >= MOST_STEPS:
                raise TooMuch
            yield

    def _skip_string(self) -> Iterator[None]:
        self.at += 1
        while True:
            match = _BEFORE_QUOTE.match(self.text, self.at, self.at + _AT_ONCE)
            self.at = match.end() if match else self.at
            if self.next == '"':
                self.at += 1
                return
            if self.at + 1 >= len(self.text):
                raise NotJson
            yield


def _key(quoted: str) -> str:
    if "\\" not in quoted:
        return quoted[1:-1]
    try:
        return str(json.loads(quoted))
    except ValueError:
        return ""
