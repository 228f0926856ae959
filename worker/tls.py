"""What is wrong where TLS is: told apart by the codes of OpenSSL, never by its text."""

from __future__ import annotations

import ssl

_EXPIRED, _NOT_YET_VALID = 10, 9
_OTHER_HOST, _OTHER_ADDRESS = 62, 64
_HOST_REMEDY = "Connect by a name that the server's certificate holds, or have one made for this name."
_BY_VERIFY_CODE = {
    _EXPIRED: "Renew the server's certificate.",
    _NOT_YET_VALID: "Set the clocks of this machine and of the one that made the certificate.",
    _OTHER_HOST: _HOST_REMEDY,
    _OTHER_ADDRESS: _HOST_REMEDY,
}
_UNKNOWN_AUTHORITY = (
    "Name the certificate of the authority that signed the server's, with ssl_ca_certs in REDIS_URL or "
    "sslrootcert in DATABASE_URL."
)
_OWN_CERTIFICATE = (
    "The server refuses our certificate, or wants one: name it and its key, with ssl_certfile and "
    "ssl_keyfile in REDIS_URL or sslcert and sslkey in DATABASE_URL."
)
_OWN_CERTIFICATE_ALERTS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
}
"""What a server says of a client's certificate, unless it hangs up faster than that is read."""


def tls_error(error: BaseException) -> ssl.SSLError | None:
    """The error of TLS that this one is, or was raised for; redis-py's hold it only as their context."""
    for at in (error, error.__cause__, error.__context__):
        if isinstance(at, ssl.SSLError):
            return at
    return None


def tls_remedy(error: BaseException) -> str:
    """What an operator should do about an error of TLS; empty for any other, and for a broken connection."""
    found = tls_error(error)
    if isinstance(found, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(getattr(found, "verify_code", 0), _UNKNOWN_AUTHORITY)
    return _OWN_CERTIFICATE if found is not None and found.reason in _OWN_CERTIFICATE_ALERTS else ""


def tls_words(error: ssl.SSLError) -> str:
    """What OpenSSL says, without the place in its source where it does."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {getattr(error, 'verify_message', error)}".rstrip(".")
    return (error.reason or str(error)).lower().replace("_", " ")
