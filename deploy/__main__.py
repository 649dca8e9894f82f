"""Wiring: write every generated file below ``deploy/``; exit 2 with one line when ``slo.yml`` is wrong."""

import sys
from pathlib import Path

from dashboards import slo
from exporter.errors import ConfigError

from . import files


def main() -> int:
    """Regenerate, and say what changed."""
    try:
        rendered = files.render(slo.load())
    except ConfigError as exc:
        print(f"deploy: error: {exc}", file=sys.stderr)
        return 2
    root = Path(__file__).parent
    for name, text in rendered.items():
        path = root / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(root.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
