"""Pure: finds values in JSON text in steps of about a millisecond, however large or hostile the text is.

Why: a parser written in C is faster, but reads a text in one piece and meanwhile holds the event loop and, with
the GIL, every thread. The walker only finds where values begin and end; the caller gives small values to such a
parser.

Theory of operation. A walker is a position (``at``) in a text, always at the beginning of a token. `members` and
`elements` iterate over an object or array that begins there. They are coroutines in the shape of iterators:

- For each key or element number that they yield, the position is at the value. The caller moves it behind the
  value, with `skip` or by iterating over it, before it asks for the next.
- For each ``None`` that they yield, the caller should let other tasks run. There is one after each `_STEPS`
  brackets and quotes, and after each `_AT_ONCE` characters without any.

Invariants: the walker only moves forward, so the whole text is read at most once for each level that the caller
iterates over. Nesting is counted, not recursed into. The work on one text is bounded by `MOST_STEPS`. Skipped text
is not validated: brackets need not match in kind. All iterators raise `NotJson` and `TooMuch`.
"""

import json
import re
from collections.abc import Iterator

_MARK = re.compile(r'["\[\]{}]')
_SPACE = re.compile(r"[ \t\r\n]*")
_SCALAR = re.compile(r'[^\s,\[\]{}":]*')
_BEFORE_QUOTE = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+){0,4096}+', re.DOTALL)
_AT_ONCE = 1 << 18  # characters searched without a pause
_STEPS = 1000  # brackets and quotes found between two pauses
MOST_STEPS = 2_000_000
"""Brackets and quotes in one text. A text with more is hostile, and reading on would cost seconds of CPU."""
MOST_MEMBERS = 1000
"""Members of one object that are yielded; the others are skipped."""
LONGEST_KEY = 1000  # characters of a key that are read


class NotJson(Exception):
    """The text is not JSON at the position of the walker."""


class TooMuch(Exception):
    """The text has more than `MOST_STEPS` brackets and quotes."""


class Walker:
    """A position in a JSON text."""

    def __init__(self, text: str, at: int = 0) -> None:
        self.text = text
        self.at = at
        self._steps = 0
        self.to_token()

    def to_token(self) -> None:
        """Move behind white space, at most `_AT_ONCE` characters of it."""
        match = _SPACE.match(self.text, self.at, self.at + _AT_ONCE)
        self.at = match.end() if match else self.at

    @property
    def next(self) -> str:
        """The character at the position, which tells the kind of value; empty at the end of the text."""
        return self.text[self.at : self.at + 1]

    def members(self) -> Iterator[str | None]:
        """Yield the keys of the object that begins here, with the position at the value of each."""
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
        """Yield the indexes of the elements of the array that begins here, with the position at each."""
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
        """Move behind the end of the array or object that the position is in."""
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
