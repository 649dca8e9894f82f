"""Pure: the base URL of the Phonic API, from what people paste as such."""

import re
from urllib.parse import urlsplit

# The version, and an endpoint below it; any other path is that of a gateway, and stays.
_API = re.compile(r"(/+v1(/+(conversations|projects|workspace|agents|audit_logs|sts)(/.*)?)?)+/*$", re.IGNORECASE)


def normalised(base_url: str) -> str:
    """``base_url`` without the version, an endpoint, trailing slashes or spaces around, scheme and host in lower
    case.

    What is no URL stays as it is: `exporter.settings` refuses it.
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
