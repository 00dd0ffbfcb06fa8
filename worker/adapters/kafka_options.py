"""How every client of ours connects, and what aiokafka's refusals mean for the operator."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aiokafka import errors as kafka
from aiokafka.helpers import create_ssl_context

from worker.errors import BrokerError, ConfigError, Problem

if TYPE_CHECKING:
    from worker.settings import KafkaSection


def connection_options(section: KafkaSection) -> dict[str, Any]:
    """Keyword arguments that aiokafka's consumer, producer and admin client share."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(section.bootstrap_servers),
        "client_id": section.client_id,
        "security_protocol": section.security_protocol,
    }
    if "SASL" in section.security_protocol:
        options |= {
            "sasl_mechanism": section.sasl_mechanism,
            "sasl_plain_username": section.sasl_username,
            "sasl_plain_password": section.sasl_password.get_secret_value() if section.sasl_password else None,
        }
    if "SSL" in section.security_protocol:
        options["ssl_context"] = _ssl_context(section)
    return options


def _ssl_context(section: KafkaSection) -> ssl.SSLContext:
    """The TLS context of the configured files; host names are always checked."""
    names = (section.ssl_ca_file, section.ssl_cert_file, section.ssl_key_file)
    ca_file, cert_file, key_file = (None if name is None else str(name) for name in names)
    try:
        context: ssl.SSLContext = create_ssl_context(cafile=ca_file, certfile=cert_file, keyfile=key_file)
    except (OSError, ssl.SSLError) as error:
        problem = Problem(
            f"the TLS files cannot be used: {error}",
            "point kafka.ssl_ca_file, ssl_cert_file and ssl_key_file at readable PEM files that belong together",
            key="kafka.ssl_ca_file",
            code="tls_files",
        )
        raise ConfigError(problem) from error
    return context


class InvalidRecordError(kafka.BrokerResponseError):  # type: ignore[misc] # aiokafka ships no types
    """Code 87: the broker's rules refuse a record, such as one without key in a compacted topic."""

    errno = 87
    message = "INVALID_RECORD"
    description = "The broker refuses a record of the batch."


# aiokafka has no class for this code and would report it as UnknownError, like any other code it does not know.
kafka.kafka_errors.setdefault(InvalidRecordError.errno, InvalidRecordError)


def transactional_prefix(group_id: str) -> str:
    """What the transactional ids of a group's workers begin with: rights are granted on it."""
    return f"headrace-{group_id}-"


_ADVICE: Mapping[type[BaseException], tuple[str, str]] = {
    kafka.TopicAuthorizationFailedError: (
        "the broker denies access to topic {detail}",
        "grant READ to whoever reads it, WRITE to whoever writes to it, and DESCRIBE to both",
    ),
    kafka.GroupAuthorizationFailedError: (
        "the broker denies access to consumer group {detail}",
        "grant READ on the group kafka.group_id",
    ),
    kafka.TransactionalIdAuthorizationFailed: (
        "the broker denies transactions",
        "grant WRITE and DESCRIBE on transactional ids with the prefix headrace-<kafka.group_id>-",
    ),
    kafka.ClusterAuthorizationFailedError: (
        "the broker denies an idempotent producer",
        "grant WRITE on the output topic (or IDEMPOTENT_WRITE on the cluster for brokers before 2.8)",
    ),
    kafka.UnknownTopicOrPartitionError: (
        "a topic is missing: {detail}",
        "create it with: headrace topics ensure --config FILE",
    ),
}


def broker_error(error: BaseException, doing: str) -> BrokerError:
    """Our error for a refusal that aiokafka raised while ``doing`` something; the cause says what to change."""
    for kind, (message, remedy) in _ADVICE.items():
        if isinstance(error, kind):
            detail = ", ".join(map(str, error.args)) or "(unnamed)"
            return BrokerError(Problem(f"{doing}: {message.format(detail=detail)}", remedy, code=_code(error)))
    message = f"{doing}: {type(error).__name__}: {error}".rstrip(": ")
    return BrokerError(Problem(message, "see the broker's log for the reason", code=_code(error)))


def _code(error: BaseException) -> str:
    """A stable word for an error's class: TopicAuthorizationFailedError gives topic_authorization_failed."""
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
