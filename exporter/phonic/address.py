"""Pure: normalises the base URL of the Phonic API as users paste it."""

import re
from urllib.parse import urlsplit

# The version and an endpoint below it. Any other path belongs to a gateway and stays.
_API = re.compile(r"(/+v1(/+(conversations|projects|workspace|agents|audit_logs|sts)(/.*)?)?)+/*$", re.IGNORECASE)


def normalised(base_url: str) -> str:
    """``base_url`` without version, endpoint, trailing slashes and spaces around, with a lower-case host.

    A text that is no URL is returned as it is: `exporter.settings` refuses it.
    """
    text = base_url.strip()
    try:
        parts = urlsplit(text)
    except ValueError:
        return text
    if not parts.netloc or parts.query or parts.fragment or "?" in text or "#" in text:
        return text
    login, at, host = parts.netloc.rpartition("@")
    path = _API.sub("", parts.path).rstrip("/")
    return f"{parts.scheme}://{login}{at}{host.lower().strip()}{path.rstrip()}"
