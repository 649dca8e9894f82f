"""Wiring: writes every generated file below ``dashboards/``. Exits with 2 and one line if ``slo.yml`` is wrong."""

import sys
from pathlib import Path

from exporter.errors import ConfigError

from . import files, slo


def main() -> int:
    """Regenerate the files, and print those that changed."""
    try:
        rendered = files.render(slo.load())
    except ConfigError as exc:
        print(f"dashboards: error: {exc}", file=sys.stderr)
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
