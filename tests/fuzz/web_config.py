"""Any bytes as a web configuration file: accepted, or refused in one line that quotes no secret."""

import tempfile
from pathlib import Path

from exporter.errors import ConfigError
from exporter.web.reload import ReloadedConfig

SECRET = "hunter$2"  # cannot be a key
FOLDER = Path(tempfile.mkdtemp())


def check(data: bytes) -> None:
    file = FOLDER / "web.yml"
    file.write_bytes(data)
    try:
        ReloadedConfig(file)
    except ConfigError as refused:
        said = str(refused)
        assert "\n" not in said, said
        said.encode()
        assert SECRET not in said, said
