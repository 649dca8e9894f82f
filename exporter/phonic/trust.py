"""Edge: whose certificates a connection to Phonic, or to the proxy on the way, accepts."""

import ssl
from pathlib import Path
from typing import Final

from ..errors import ConfigError

FLAG: Final = "--phonic.ca-file"
_LARGEST: Final = 16 * 1024 * 1024  # bytes; all authorities of a system are a quarter of a megabyte


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """A context of its own that trusts the authorities in ``ca_file`` (PEM), or the system's without one.

    Blocks on the file. Raises ConfigError where it brings no certificate.
    """
    if ca_file is None:
        return ssl.create_default_context()
    try:
        if not ca_file.is_file():  # a pipe would wait for whoever writes to it
            ca_file.stat()
            raise ConfigError(FLAG, f"{str(ca_file)!r} is not a regular file")
        if ca_file.stat().st_size > _LARGEST:
            raise ConfigError(FLAG, f"{str(ca_file)!r} is too large for a bundle of certificates")
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError:
        raise ConfigError(FLAG, f"{str(ca_file)!r} holds no certificate in PEM form") from None
    except (OSError, ValueError) as bad:
        reason = (bad.strerror if isinstance(bad, OSError) else None) or "no such path"
        raise ConfigError(FLAG, f"cannot read {str(ca_file)!r}: {reason}") from None
    if not context.cert_store_stats()["x509"]:
        raise ConfigError(FLAG, f"{str(ca_file)!r} holds no certificate")
    # On from Python 3.13: refuses private authorities for extensions that neither curl nor Go ask for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
