"""Pure: the few pieces of Markdown that generated pages are made of."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, with the ``|`` in its cells escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def prose(text: str) -> str:
    """Plain text as Markdown: flags and words with an underscore become code."""
    return _CODE.sub(lambda found: found[0] if found[0].startswith("`") else f"`{found[0]}`", text)


_CODE = re.compile(
    r"`[^`]*`"  # is code already
    r"|(?<!\w)--[a-z][\w.-]*\w"
    r"|[/$]?[\w./{}\[\]]*_[\w./\[\]*-]*[\w*]"
)


def wrapped(text: str) -> str:
    """A paragraph, broken into lines of at most 118 characters."""
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def between(name: str, text: str) -> str:
    """The text between the ``name:begin`` and ``name:end`` comments. ValueError unless they are there once."""
    (found,) = re.findall(f"<!-- {name}:begin -->\n(.*?)<!-- {name}:end -->\n", text, re.DOTALL)
    return str(found)


def rewritten(page: str, parts: Mapping[str, str]) -> str:
    """The page with the text between its markers replaced. ValueError unless each marker is there once."""
    for name, part in parts.items():
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->\n"
        page = page.replace(begin + between(name, page) + end, begin + part + end)
    return page
