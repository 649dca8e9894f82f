"""Builds the long description, which pyproject.toml cannot: the README with absolute links.

In the repository the README's links are relative, so that they stay on the branch that is looked at. On an index
page they have to be absolute: they lead to the tag of the release.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
# The start of a link or picture in Markdown or HTML whose target is neither absolute nor on the page.
RELATIVE = re.compile(r"""(\]\(|\b(?:href|src|srcset)=")(?!\w+:|#|//)(?:\./)?([^)"\s]+)""")
PICTURE = re.compile(r"\.(gif|jpe?g|png|svg|webp)$")


def on_an_index_page(readme: str, repository: str, ref: str) -> str:
    """The README with relative links made absolute: to ``ref`` (a tag or branch) of ``repository`` (a URL)."""

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if PICTURE.search(link[2]) else "blob"
        return f"{link[1]}{repository}/{kind}/{ref}/{link[2]}"

    return RELATIVE.sub(absolute, readme)


def version() -> str:
    found = re.search(
        r'^__version__ = "(.+)"$', (HERE / "exporter" / "__init__.py").read_text("utf-8"), re.MULTILINE
    )
    if found is None:
        raise SystemExit("exporter/__init__.py has no __version__")
    return found[1]


if __name__ == "__main__":
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    setup(
        long_description=on_an_index_page(
            (HERE / "README.md").read_text("utf-8"), project["urls"]["Repository"], f"v{version()}"
        ),
        long_description_content_type="text/markdown",
    )
