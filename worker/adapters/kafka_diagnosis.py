"""Why a connection was refused: aiokafka's exceptions say only that it was, its log says why."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.errors import Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection

_FINAL_REFUSALS: Mapping[str, tuple[str, str, str]] = {
    "SaslAuthenticationFailed": (
        "the broker refuses the login",
        "check kafka.sasl_username, kafka.sasl_password and kafka.sasl_mechanism",
        "kafka.sasl_username",
    ),
    "UnsupportedSaslMechanism": (
        "the broker does not offer this SASL mechanism",
        "set kafka.sasl_mechanism to one that the listener enables",
        "kafka.sasl_mechanism",
    ),
    "CERTIFICATE_VERIFY_FAILED": (
        "the broker's certificate is not trusted",
        "point kafka.ssl_ca_file at the authority that signed it, and use the host name that it is made out for",
        "kafka.ssl_ca_file",
    ),
    "CERTIFICATE_REQUIRED": (
        "the broker asks for a certificate of ours",
        "set kafka.ssl_cert_file and kafka.ssl_key_file",
        "kafka.ssl_cert_file",
    ),
    "alert unknown ca": (
        "the broker does not trust our certificate",
        "set kafka.ssl_cert_file to one that an authority of the broker's has signed",
        "kafka.ssl_cert_file",
    ),
    "WRONG_VERSION_NUMBER": (
        "the listener does not speak TLS",
        "set kafka.security_protocol to what the listener speaks, or the port to that of the TLS listener",
        "kafka.security_protocol",
    ),
}


def final_refusal(lines: Iterable[str], section: KafkaSection) -> Problem | None:
    """The problem where another attempt would be refused in the same way; None where waiting may help."""
    servers = ", ".join(section.bootstrap_servers)
    for line in lines:
        for mark, (message, remedy, key) in _FINAL_REFUSALS.items():
            if mark in line:
                return Problem(f"{message} ({servers}): {line}", remedy, key=key, code="refused")
    return None


def unreachable(lines: list[str], section: KafkaSection) -> Problem:
    """The problem of a broker that did not answer one attempt."""
    refused = final_refusal(lines, section)
    if refused is not None:
        return refused
    servers, detail = ", ".join(section.bootstrap_servers), lines[-1] if lines else "no answer in time"
    if detail.rstrip().endswith("closed"):
        return Problem(
            f"the broker ends the connection without a reason ({servers}): {detail}",
            f"check that the listener speaks {section.security_protocol} (kafka.security_protocol), and set "
            "kafka.ssl_cert_file and ssl_key_file if it asks for a certificate",
            key="kafka.security_protocol",
            code="connection_closed",
        )
    return Problem(
        f"no broker answers at {servers}: {detail}",
        "check the addresses, that a broker listens there, and that nothing on the way blocks the port",
        key="kafka.bootstrap_servers",
        code="unreachable",
    )


class _Heard(logging.Handler):
    """Keeps the text of what aiokafka logs."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the text."""
        self._lines.append(record.getMessage())


@contextmanager
def heard() -> Iterator[list[str]]:
    """What aiokafka logs meanwhile."""
    lines: list[str] = []
    handler, logger = _Heard(lines), logging.getLogger("aiokafka")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
