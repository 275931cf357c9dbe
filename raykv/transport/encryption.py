"""TLS for streams between hosts, by the settings that Ray has for its own calls.

Where ``RAY_USE_TLS`` is set, both sides show the certificate of ``RAY_TLS_SERVER_CERT``, signed by ``RAY_TLS_CA_CERT``, as
with Ray's calls, and the server's must name the address of the connection. No stream between hosts exists without:
with invalid settings all traffic uses Ray's calls. Each connection reads the settings anew, so new files count.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

CERTIFICATE, KEY, AUTHORITY = "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"


def is_asked_for() -> bool:
    """Return whether Ray encrypts its calls, by Ray's own reading of the setting."""
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def context(*, server: bool) -> ssl.SSLContext | None:
    """Return the TLS context of a connection between hosts; None without encryption. Raises ``OSError``."""
    if not is_asked_for():
        return None
    import ssl  # late: it takes its time

    missing = [name for name in (CERTIFICATE, KEY, AUTHORITY) if not os.environ.get(name)]
    if missing:
        raise OSError(f"RAY_USE_TLS is set, but not {', '.join(missing)}")
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.check_hostname = False  # see ``names``
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_cert_chain(os.environ[CERTIFICATE], os.environ[KEY], password=_nobody_to_ask)
    made.load_verify_locations(os.environ[AUTHORITY])
    return made


def names(certificate: Mapping[str, Any] | None, host: str) -> bool:
    """Return whether a certificate names an address: as an address or, as with gRPC, as a name that reads like it."""
    return any(
        kind in {"IP Address", "DNS"} and name.lower() == host.lower()
        for kind, name in (certificate or {}).get("subjectAltName", ())
    )


def _nobody_to_ask() -> str:
    raise OSError("the key has a password, for which there is nobody to ask")
