"""Files of certificates and keys: read into a context, or a complaint that names the setting and the fix."""

from __future__ import annotations

import ssl
from pathlib import Path

from portask.errors import ConfigError


def load_pair(context: ssl.SSLContext, certificate: str, key: str, names: tuple[str, str]) -> None:
    """Gives ``context`` a certificate with its chain, and its key; ``key`` may be empty if one file has both.

    Raises:
        ConfigError: they cannot be used; begins with the one of ``names`` (certificate, key) that is to blame.
    """
    _readable(certificate, names[0])
    if key:
        _readable(key, names[1])
    blamed = names[1] if key else names[0]

    def encrypted() -> str:
        # without this, OpenSSL would ask on the terminal
        raise ConfigError(
            f"{blamed}: {key or certificate} is encrypted: decrypt it with `openssl pkey -in … -out …`, "
            "and see to it that only this user can read it"
        )

    try:
        context.load_cert_chain(certificate, key or None, encrypted)
    except OSError as error:
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{blamed}: {key or certificate} is not the key of {certificate}") from None
        need = (
            f"{certificate} and {key} must be a certificate and its key"
            if key
            else (f"{certificate} must hold a certificate and its key, or say where that is with {names[1]}")
        )
        raise ConfigError(f"{names[0]}: cannot be used ({reason_of(error)}): {need}, in PEM form") from None


def load_ca(context: ssl.SSLContext, path: str, name: str) -> None:
    """Makes ``context`` trust the certificates in a file.

    Raises:
        ConfigError: there are none; begins with ``name``.
    """
    _readable(path, name)
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise ConfigError(f"{name}: {path} has no certificates in PEM form ({reason_of(error)})") from None


def _readable(path: str, name: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{name}: {path} cannot be read: {reason}; give the path of a PEM file") from None


def reason_of(error: OSError) -> str:
    """What went wrong, as far as TLS says it, without file names and line numbers of OpenSSL."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or str(error) or type(error).__name__
