"""A broker whose listeners ask for TLS, passwords or certificates, and which grants nothing unless told to."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from tests.kafka.broker import KafkaBroker
from tests.kafka.processes import free_ports, wait_until

REQUEST_TIMEOUT_S = 20.0
PLAIN_USER, PLAIN_PASSWORD = "plain-user", "plain-secret"
CERTIFICATE_USER = "certified"
_LOGINS = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True)
class User:
    """A login by SCRAM."""

    name: str
    password: str


class SecureKafka(KafkaBroker):
    """``bootstrap`` stays plain and all-powerful for the tests; the worker uses the guarded listeners."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._write_certificates(folder)
        self.sasl_ssl_port, self.ssl_port, self.sasl_port = free_ports(3)
        super().__init__(folder, self._properties(folder))
        self._overrides |= self._listeners()
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def sasl_ssl(self, user: User, mechanism: str = "SCRAM-SHA-512") -> dict[str, object]:
        """Settings of ``kafka`` that log in over TLS."""
        return {
            "bootstrap_servers": [f"localhost:{self.sasl_ssl_port}"],
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": mechanism,
            "sasl_username": user.name,
            "sasl_password": user.password,
            "ssl_ca_file": str(self.folder / "ca.pem"),
        }

    def sasl_plaintext(self, user: User) -> dict[str, object]:
        """Settings of ``kafka`` that log in without TLS."""
        return {
            "bootstrap_servers": [f"127.0.0.1:{self.sasl_port}"],
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": user.name,
            "sasl_password": user.password,
        }

    def mutual_tls(self) -> dict[str, object]:
        """Settings of ``kafka`` that show a certificate."""
        return {
            "bootstrap_servers": [f"localhost:{self.ssl_port}"],
            "security_protocol": "SSL",
            "ssl_ca_file": str(self.folder / "ca.pem"),
            "ssl_cert_file": str(self.folder / "client.crt"),
            "ssl_key_file": str(self.folder / "client.key"),
        }

    def new_user(self) -> User:
        """A SCRAM user that nobody has granted anything."""
        user = User(f"user-{uuid.uuid4().hex[:8]}", "scram-secret")
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(user.name, credential, user.password.encode())
        for done in self._admin.alter_user_scram_credentials([change]).values():
            done.result(REQUEST_TIMEOUT_S)
        return user

    def grant_worker(self, user: str, kafka: Mapping[str, object], *, without: str = "") -> None:
        """What the worker needs for the topics and the group of its configuration, less the resource ``without``."""
        inputs = kafka["input_topics"]
        assert isinstance(inputs, list)
        outputs = (kafka["output_topic"], kafka["dead_letter_topic"])
        wanted = [
            *((ResourceType.TOPIC, name, (AclOperation.READ, AclOperation.DESCRIBE)) for name in inputs),
            *((ResourceType.TOPIC, name, (AclOperation.WRITE, AclOperation.DESCRIBE)) for name in outputs),
            (ResourceType.GROUP, kafka["group_id"], (AclOperation.READ,)),
        ]
        for kind, name, operations in wanted:
            if name != without:
                self.grant(user, kind, str(name), *operations)

    def grant_transactions(self, user: str, group_id: object) -> None:
        """What the worker needs besides under ``exactly_once``."""
        operations = (AclOperation.WRITE, AclOperation.DESCRIBE)
        kind, prefixed = ResourceType.TRANSACTIONAL_ID, ResourcePatternType.PREFIXED
        self.grant(user, kind, f"headrace-{group_id}-", *operations, pattern=prefixed)

    def grant(
        self,
        user: str,
        kind: ResourceType,
        name: str,
        *operations: AclOperation,
        pattern: ResourcePatternType = ResourcePatternType.LITERAL,
    ) -> None:
        """Allow operations on a resource; returns once the broker applies them."""
        allow = AclPermissionType.ALLOW
        bindings = [AclBinding(kind, name, pattern, f"User:{user}", "*", operation, allow) for operation in operations]
        for done in self._admin.create_acls(bindings).values():
            done.result(REQUEST_TIMEOUT_S)
        mine = AclBindingFilter(kind, name, pattern, f"User:{user}", "*", AclOperation.ANY, AclPermissionType.ANY)
        wait_until(
            lambda: set(bindings) <= set(self._admin.describe_acls(mine).result(REQUEST_TIMEOUT_S)),
            timeout_s=REQUEST_TIMEOUT_S,
            what=lambda: f"the broker does not apply {bindings}",
        )

    def _listeners(self) -> dict[str, str]:
        guarded = {
            "SASL_SSL": f"localhost:{self.sasl_ssl_port}",
            "SSL": f"localhost:{self.ssl_port}",
            "SASL_PLAINTEXT": f"127.0.0.1:{self.sasl_port}",
        }
        advertised = [f"PLAINTEXT://{self.bootstrap}", *(f"{name}://{address}" for name, address in guarded.items())]
        bound = [address.replace("localhost", "127.0.0.1") for address in advertised]
        return {
            "listeners": ",".join([*bound, f"CONTROLLER://127.0.0.1:{self._controller_port}"]),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(
                ["CONTROLLER:PLAINTEXT", "PLAINTEXT:PLAINTEXT", *(f"{name}:{name}" for name in guarded)]
            ),
        }

    @staticmethod
    def _properties(folder: Path) -> dict[str, str]:
        scram = f"{_LOGINS}.scram.ScramLoginModule required;"
        plain = f'{_LOGINS}.plain.PlainLoginModule required user_{PLAIN_USER}="{PLAIN_PASSWORD}";'
        logins = {
            f"listener.name.{listener}.{mechanism}.sasl.jaas.config": login
            for listener in ("sasl_ssl", "sasl_plaintext")
            for mechanism, login in (("scram-sha-512", scram), ("plain", plain))
        }
        return logins | {
            "inter.broker.listener.name": "PLAINTEXT",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "server.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(folder / "ca.pem"),
            "listener.name.ssl.ssl.client.auth": "required",
            "listener.name.ssl.ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }

    @staticmethod
    def _write_certificates(folder: Path) -> None:
        authority, stranger = trustme.CA(), trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        stranger.cert_pem.write_to_path(folder / "stranger.pem")
        server = authority.issue_cert("localhost", "127.0.0.1")
        # Java reads no other form of key than PKCS#8.
        key = serialization.load_pem_private_key(server.private_key_pem.bytes(), None)
        pkcs8 = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "server.pem").write_bytes(pkcs8 + _chain(server))
        client = authority.issue_cert("worker.test", common_name=CERTIFICATE_USER)
        client.private_key_pem.write_to_path(folder / "client.key")
        (folder / "client.crt").write_bytes(_chain(client))


def _chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(part.bytes() for part in certificate.cert_chain_pems)
