"""Edge: the certificate authorities that connections to Phonic, or to a proxy, trust."""

import ssl
from pathlib import Path
from typing import Final

from ..errors import ConfigError

FLAG: Final = "--phonic.ca-file"
_LARGEST: Final = 16 * 1024 * 1024  # bytes; the authorities of a whole system are a quarter of a megabyte


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """A new TLS context that trusts the authorities in ``ca_file`` (PEM), or those of the system for None.

    Blocks on reading the file. Raises: ConfigError if the file holds no certificate.
    """
    if ca_file is None:
        return ssl.create_default_context()
    try:
        if not ca_file.is_file():  # a pipe would block until something writes to it
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
    # Set by default from Python 3.13: refuses private authorities without extensions that neither curl nor Go
    # require.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
