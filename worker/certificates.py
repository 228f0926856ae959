"""The files that TLS needs, looked into before anything connects."""

from __future__ import annotations

import ssl
from pathlib import Path

from worker.errors import SettingsError
from worker.tls import tls_words


def check_certificates(
    variable: str, *, authorities: str | None, certificate: str | None, key: str | None, password: str | None
) -> None:
    """Raise SettingsError, naming file and variable, unless these files are there and what they should be.

    ``authorities`` are the certificates that are trusted, ``certificate`` is the client's own, in PEM like
    its ``key``, which may stand in the same file. Each may be None. An encrypted key needs its ``password``:
    a service has nobody to ask.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for file in filter(None, (authorities, certificate, key)):
        try:
            Path(file).open("rb").close()
        except OSError as error:
            raise SettingsError(
                f"{variable} names {file}, which cannot be read ({error.strerror}): mend the path, or the "
                "file's rights."
            ) from None
    try:
        if authorities is not None:
            context.load_verify_locations(cafile=authorities)
        if certificate is not None:
            context.load_cert_chain(certificate, key, password=lambda: password or "")
    except ssl.SSLError as error:
        raise SettingsError(
            f"{variable} names {' and '.join(filter(None, (authorities, certificate, key)))}, which are no "
            f"certificates and keys in PEM that belong together, or lack a password: {tls_words(error)}."
        ) from None
