"""TLS as clients use it: whom they trust, what they show, and what failures mean."""

from __future__ import annotations

import ssl

from portask.client.options import Address, Options
from portask.config.pem import load_ca, load_pair, reason_of


class Encryption:
    """Contexts for the connections of one client: TLS 1.2 at least, the broker's certificate and name checked.

    Raises:
        ConfigError: a file cannot be used.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._made = self._make()

    def context(self) -> ssl.SSLContext:
        """For the next connection. Reads files again that were named: they may have been renewed.

        Raises:
            ConfigError: one of them cannot be used.
        """
        if self._options.ca or self._options.certificate:
            self._made = self._make()
        return self._made

    def _make(self) -> ssl.SSLContext:
        options = self._options
        if options.tls is not None:
            return options.tls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if options.ca:
            load_ca(context, options.ca, "ca")
        else:
            context.load_default_certs()
        if options.certificate:
            load_pair(context, options.certificate, options.key, ("certificate", "key"))
        return context


_NOT_TLS = {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"}
_UNTRUSTED = {18, 19, 20, 21}  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT and its like
_OTHER_NAME = {62, 64}  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def why(error: OSError) -> str:
    """Why no connection came about, in one line."""
    reason = reason_of(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNTRUSTED:
            return f"its certificate is not trusted here ({reason}): name its authority's file (ca=…, --ca)"
        if error.verify_code in _OTHER_NAME:
            return f"its certificate is another's ({reason}): use the name that is in it"
        return f"its certificate is not good ({reason})"
    if isinstance(error, ssl.SSLError):
        if error.reason in _NOT_TLS:
            return f"does not speak TLS ({reason}): use portask://, or give that broker a certificate"
        return f"TLS failed: {reason}"
    return reason


def hint_of(address: Address) -> str:
    """What it may mean that a broker hung up without a word."""
    if address.tls:
        return "; it may ask for a certificate of ours, or refuse the one that it got"
    return "; if it speaks TLS, use portasks://"
