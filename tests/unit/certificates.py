"""Certificates for TLS tests, made by the `openssl` program."""

import ssl
import subprocess
from pathlib import Path


def make_authority(folder: Path, name: str = "ca") -> None:
    """``<name>.pem`` and ``<name>.key``: a self-signed authority."""
    _certify(folder, name, "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign")


def make_certificate(folder: Path, name: str, *, sans: str, authority: str = "ca") -> None:
    """``<name>.pem`` and ``<name>.key``, signed by an authority; ``sans`` as ``DNS:a,IP:b``."""
    signer = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key")
    _certify(folder, name, *signer, "-addext", f"subjectAltName={sans}")


def trusting(folder: Path, client: str | None = None) -> ssl.SSLContext:
    """A client that trusts the authority `ca`, and shows a certificate if it has one."""
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # on from Python 3.13; our test authority is a plain one
    if client:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    return context


def _certify(folder: Path, name: str, *more: str) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
    subprocess.run(
        ["openssl", "req", "-x509", "-days", "2", "-subj", f"/CN={name}", *key, "-out", f"{name}.pem", *more],
        cwd=folder,
        check=True,
        capture_output=True,
    )
