"""Wiring: write the generated parts of the pages, and say which page changed."""

import sys
from pathlib import Path

from . import configuration, metrics, scaling
from .markdown import rewritten

ROOT = Path(__file__).parent
PAGES = {"metrics.md": metrics.parts, "configuration.md": configuration.parts, "scaling.md": scaling.parts}


def main() -> int:
    """Regenerate all pages."""
    for name, parts in PAGES.items():
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if (fresh := rewritten(text, parts())) != text:
            path.write_text(fresh, encoding="utf-8")
            print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
