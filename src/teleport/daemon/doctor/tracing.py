"""The collector of traces: whether it is reached, and is whom it should be. It is greeted in TLS, and asked nothing."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

from teleport.daemon.config import ports
from teleport.daemon.config.values import TracingConfig
from teleport.daemon.doctor.patient import Finding, Patient, Said, quoted

CHECK = "tracing"
SECONDS = 3.0  # for one attempt


def looked(patient: Patient) -> Said:
    tracing = patient.config.tracing
    if tracing is None:
        return
    parts = urlsplit(tracing.url)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (ports.HTTPS if secure else ports.HTTP)
    try:
        context = _context(tracing) if secure else None
    except (OSError, ValueError) as error:
        yield Finding(
            CHECK, f"the TLS files of tracing_service cannot be used: {error}", patient.edit("tracing_service")
        )
        return
    try:
        with socket.create_connection((host, port), SECONDS) as connection:
            if context is not None:
                context.wrap_socket(connection, server_hostname=host).close()
    except (socket.gaierror, UnicodeError):
        yield Finding(CHECK, f"the name of the collector of traces is not known: {host}", patient.edit("exporter_url"))
    except ssl.SSLCertVerificationError as error:
        yield Finding(
            CHECK,
            f"the collector of traces at {host}:{port} is not whom it should be: {error.verify_message}",
            patient.edit("ca_certs" if tracing.ca_files else "exporter_url"),
        )
    except OSError as error:
        yield Finding(
            CHECK,
            f"the collector of traces at {host}:{port} is not reached: {error.strerror or error}",
            # without path and query, in which a collector may want a secret
            f"curl -v {quoted(f'{parts.scheme}://{parts.netloc}')}   # and see whether it runs there",
        )


def _context(tracing: TracingConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tracing.ca_files[0]) if tracing.ca_files else None)
    for more in tracing.ca_files[1:]:
        context.load_verify_locations(more)
    for certificate, key in tracing.keypairs:
        context.load_cert_chain(certificate, key, password=lambda: b"")
    return context
