"""Pure: the text of a message with everybody's data replaced, and everything else as it came, byte for byte.

A recording must show how Phonic really writes: spaces, the order of keys, escapes, numbers, lengths. So the text
is not parsed and written anew; it is walked token by token, and only the inside of strings and numbers changes:

- Strings whose values are closed words of Phonic (types, roles, formats, endings) stay. A word there that could be
  data is replaced like any text.
- Times move by one offset for the whole recording, and keep their form: differences stay exact. A time that
  stands for none, or that would leave the calendar, stays.
- In all other strings each run of letters and digits is replaced by another of the same length and kind, always
  the same for the same run, so that ids still match each other. Prefixes of ids (``conv_``) stay, and so does a
  turn's index behind the id of the conversation that is recorded. A letter is what any script writes words with,
  combining marks too.
- Keys stay, but those of maps that customers fill. Numbers with seven and more digits in a row become others,
  except lengths in milliseconds; in customers' maps, and in what stands in their place, all numbers do.

What a string is, is decided by the key before it. In a text that is no JSON all letters and digits are replaced.

Lengths are kept in characters of the JSON, where an escape is as many as it is written with, and so in those of
the decoded text, in UTF-8 and in UTF-16.
"""

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs

from ..diagnosis import words
from ..enums import EndedBy, MessageType, Origin, Role
from .file import YEARS_OF_NO_TIME

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+|\s+', re.DOTALL)
# All that is not ASCII is taken for letters here; `_another` lets punctuation be.
_RUN: Final = re.compile(r'\\u[0-9a-fA-F]{4}|\\["\\/bfnrt]|[0-9A-Za-z\x80-\U0010ffff]+')
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?")
_ID_PREFIXES: Final = frozenset("conv agent proj org tool call item phone session ws analysis".split())
_ITEM_INDEX: Final = re.compile(r"[0-9]{1,6}")
# Enumerated strings (API 2.4), by key.
_CLOSED: Final = frozenset(
    """
    type role origin ended_by end_reason call_provider input_format output_format intelligence_level
    multilingual_mode default_language model phonic_model background_noise
    """.split()
)
_CLOSED_VALUES: Final = re.compile(
    r"[a-z]{2,3}|(pcm|mulaw)_\d{4,5}|phonic-\d(\.\d)?|merritt|coffee-shop|call-center|office|high|standard|initial"
)
_KNOWN: Final = frozenset({"", *(each.value for kind in (MessageType, Origin, Role, EndedBy) for each in kind)})
# Maps whose keys are a customer's. What stands there instead of a map is the customer's, too.
_CUSTOMERS_MAPS: Final = frozenset(
    """
    template_variables system_variables metadata annotations task_results query_params request_body response_body
    endpoint_headers
    """.split()
)
_LENGTHS: Final = frozenset("duration_ms latencies_ms".split())
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_LONG_NUMBER: Final = re.compile(r"\d{7,}")
_DIGITS: Final = re.compile(r"\d+")
_LETTERS, _HEX = "abcdefghijklmnopqrstuvwxyz", "abcdef"


@attrs.frozen
class _Open:
    """An object or array: its opening mark, the key that it stands under, and whether a customer filled it."""

    mark: str
    key: str
    is_customers: bool = attrs.field(kw_only=True)


class Anonymiser:
    """Replaces consistently within one recording. Another ``key`` gives other replacements."""

    def __init__(self, key: bytes, *, conversation_id: str, begins_at: datetime) -> None:
        """Prepare for one recording.

        Args:
            key: secret random bytes, to be forgotten.
            conversation_id: of the conversation that is recorded.
            begins_at: what the first time becomes, in UTC.
        """
        self._key = key
        self._conversation_id = conversation_id
        self._begins_at = begins_at
        self._offset: timedelta | None = None

    def text(self, text: str) -> str:
        """The text of a message, or the body of a reply, of the same length."""
        tokens = _TOKEN.findall(text)
        if "".join(tokens) != text or not text.lstrip().startswith(("{", "[")):
            return self.word(text)
        return "".join(self._walk(tokens))

    def word(self, text: str) -> str:
        """Any text with all its runs of letters and digits replaced."""
        return _RUN.sub(lambda found: self._run(found[0]), text)

    def identity(self, text: str) -> str:
        """An id: as `word`, but its prefix stays."""
        prefix, underscore, rest = text.partition("_")
        return f"{prefix}_{self.word(rest)}" if underscore and prefix in _ID_PREFIXES else self.word(text)

    def _walk(self, tokens: list[str]) -> Iterator[str]:
        open_in: list[_Open] = []  # the objects and arrays around this place
        key = ""
        for at, found in enumerate(tokens):
            around = open_in[-1] if open_in else _Open("", "", is_customers=False)
            is_customers = around.is_customers or key in _CUSTOMERS_MAPS
            match found[0]:
                case "{" | "[":
                    open_in.append(_Open(found, key, is_customers=is_customers))
                    yield found
                case "}" | "]":
                    key = open_in.pop().key if open_in else ""
                    yield found
                case '"' if around.mark == "{" and _is_key(tokens, at):
                    key = found[1:-1]
                    yield f'"{self._key_text(key, is_customers=around.is_customers)}"'
                case '"':
                    yield f'"{self._value(key, found[1:-1], is_customers=is_customers)}"'
                case _ if _NUMBER.fullmatch(found):
                    yield self._number(key, found, is_customers=is_customers)
                case _:
                    is_meant = found in ("true", "false", "null", ",", ":") or found.isspace()
                    yield found if is_meant else self.word(found)

    def _number(self, key: str, text: str, *, is_customers: bool) -> str:
        if is_customers:
            return _DIGITS.sub(self._digits, text)
        return text if key in _LENGTHS else _LONG_NUMBER.sub(self._digits, text)

    def _digits(self, found: re.Match[str]) -> str:
        """Others, of which none is 0: JSON allows none at the beginning."""
        return self._run(found[0]).replace("0", "1")

    def _key_text(self, key: str, *, is_customers: bool) -> str:
        return key if not is_customers and words.field_name(key) == key else self.word(key)

    def _value(self, key: str, text: str, *, is_customers: bool) -> str:
        if not is_customers and key in _CLOSED and _is_closed_word(text):
            return text
        if _TIME.fullmatch(text):
            return self._time(text)
        stem, _, index = text.rpartition("-")
        if not is_customers and stem == self._conversation_id and _ITEM_INDEX.fullmatch(index):
            return f"{self.identity(stem)}-{index}"
        return self.identity(text)

    def _time(self, text: str) -> str:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return self.word(text)
        if moment.year in YEARS_OF_NO_TIME:
            return text
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if self._offset is None:
            self._offset = self._begins_at - moment
        try:
            moved = (moment + self._offset).isoformat(timespec="microseconds")[:26]
        except OverflowError:
            return text
        found = _TIME.fullmatch(text)
        fraction, zone = (found[1] or "", found[2] or "") if found else ("", "")
        digits = moved[20:] + "0" * len(fraction)
        return moved[:19] + (f".{digits[: len(fraction) - 1]}" if fraction else "") + zone

    def _run(self, run: str) -> str:
        if run.startswith("\\u"):
            character = chr(int(run.removeprefix("\\u"), base=16))
            return rf"\u{ord(self._run(character)):04x}" if _is_letter(character) else run
        if run[0] == "\\":
            return run
        digest = hmac.new(self._key, run.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        is_hex = any(each.isdigit() for each in run) and all(each in "0123456789abcdef" for each in run)
        choose = _chooser(digest)
        return "".join(_another(each, choose, is_hex=is_hex) for each in run)


def _chooser(digest: bytes) -> Callable[[int], int]:
    state = int.from_bytes(digest)

    def choose(count: int) -> int:
        nonlocal state
        state, chosen = divmod(state, count)
        if not state:
            state = int.from_bytes(hashlib.sha256(digest + bytes([chosen])).digest())
        return chosen

    return choose


def _another(character: str, choose: Callable[[int], int], *, is_hex: bool) -> str:
    """A character of the same kind, as long in UTF-8; one that is no letter and no digit stays."""
    if not _is_letter(character):
        return character
    if character.isascii():
        if character.isdigit():
            return str(choose(10))
        letter = (_HEX if is_hex else _LETTERS)[choose(len(_HEX if is_hex else _LETTERS))]
        return letter.upper() if character.isupper() else letter
    if "\ud800" <= character <= "\udfff":  # one half of an escaped "𠮷", or a half that stands alone
        return chr(0xD842 if character < "\udc00" else 0xDFB7)
    return {2: "ä", 3: "語", 4: "𠮷"}[len(character.encode())]


def _is_letter(character: str) -> bool:
    """Whether words or numbers are written with it; a character that Python does not know yet may be a letter.

    Symbols (So) are some letters in circles and emoji. Halves of surrogate pairs (Cs) are letters, because what
    they stand for is not looked up; so what lies beyond the BMP, where little punctuation is, is all letters.
    """
    category = unicodedata.category(character)
    return category[0] in "LMN" or category in ("So", "Cs", "Co", "Cn") or character > "\uffff"


def _is_key(tokens: list[str], at: int) -> bool:
    after = at + 1
    while after < len(tokens) and tokens[after].isspace():
        after += 1
    return after < len(tokens) and tokens[after] == ":"


def _is_closed_word(text: str) -> bool:
    return text in _KNOWN or words.enumerated(text) == text or _CLOSED_VALUES.fullmatch(text) is not None
