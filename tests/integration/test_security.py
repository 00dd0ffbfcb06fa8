"""The worker and ``check --online`` on listeners with TLS, passwords, certificates and access rules."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kafka.fixtures import PROJECT, StartWorker, worker_config
from tests.kafka.security import CERTIFICATE_USER, PLAIN_PASSWORD, PLAIN_USER, SecureKafka, User
from worker.adapters.kafka_check import check_online
from worker.config_file import load
from worker.errors import Problem

EVENT = (PROJECT / "schemas" / "samples" / "transaction.json").read_bytes()
WRONG_PASSWORD = "wrong"  # noqa: S105 - the point is that it is no secret


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """One guarded broker for this module."""
    with SecureKafka(tmp_path_factory.mktemp("secure-kafka")) as broker:
        yield broker


@pytest.fixture
def ended_connections(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """For a test whose connection the broker ends: it warns in no later test.

    Asyncio leaves such a TLS connection open when its loop ends, and what was logged refers to it.
    """
    yield
    caplog.get_records("call").clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def config_of(secure: SecureKafka, login: Mapping[str, object]) -> dict[str, Any]:
    """A configuration with new topics that logs in as told."""
    return worker_config(secure, {"kafka": dict(login)}, 1)


def check(config: Mapping[str, Any], folder: Path) -> tuple[list[Problem], list[str]]:
    """Problems and notes of ``check --online``."""
    path = folder / "check.yaml"
    path.write_text(yaml.safe_dump(dict(config)))
    notes: list[str] = []
    return check_online(load(path, {}), notes.append), notes


def login_of(secure: SecureKafka, kind: str) -> tuple[str, dict[str, object]]:
    """Name and settings of a user who logs in by SCRAM, by PLAIN or by certificate."""
    if kind == "certificate":
        return CERTIFICATE_USER, secure.mutual_tls()
    if kind == "plain":
        return PLAIN_USER, secure.sasl_ssl(User(PLAIN_USER, PLAIN_PASSWORD), "PLAIN")
    user = secure.new_user()
    return user.name, secure.sasl_plaintext(user) if kind == "scram_plaintext" else secure.sasl_ssl(user)


@pytest.mark.parametrize("kind", ["scram", "certificate"])
def test_worker_scores_over_a_guarded_listener(secure: SecureKafka, worker_process: StartWorker, kind: str) -> None:
    """With the documented rights alone the worker reads, scores, dead-letters and commits."""
    name, login = login_of(secure, kind)
    config = config_of(secure, login)
    kafka = config["kafka"]
    secure.grant_worker(name, kafka)
    worker = worker_process(config, broker=secure)
    secure.client.produce(kafka["input_topics"][0], [EVENT, b"no json"])
    assert len(secure.client.read(kafka["output_topic"], count=1)) == 1
    assert len(secure.client.read(kafka["dead_letter_topic"], count=1)) == 1
    assert worker.stop() == 0
    assert secure.client.committed(kafka["group_id"], kafka["input_topics"][0]) == {0: 2}


@pytest.mark.parametrize("kind", ["scram", "scram_plaintext", "plain", "certificate"])
def test_check_finds_nothing_wrong_with_the_documented_rights(secure: SecureKafka, tmp_path: Path, kind: str) -> None:
    """Each way to log in passes; what these rights do not show is noted, not reported."""
    name, login = login_of(secure, kind)
    config = config_of(secure, login)
    secure.grant_worker(name, config["kafka"])
    problems, notes = check(config, tmp_path)
    assert problems == []
    assert any("DESCRIBE_CONFIGS" in note for note in notes)


def test_worker_refused_by_password_exits_with_the_reason(secure: SecureKafka, worker_process: StartWorker) -> None:
    """A wrong password is not retried: exit 4, and the message names the keys to look at but no password."""
    login = secure.sasl_ssl(User(secure.new_user().name, WRONG_PASSWORD))
    worker = worker_process(config_of(secure, login), broker=secure, ready=False)
    assert worker.wait_exit() == 4
    log = worker.log.read_text()
    assert "the broker refuses the login" in log
    assert "kafka.sasl_password" in log


def test_worker_that_distrusts_the_broker_exits(secure: SecureKafka, worker_process: StartWorker) -> None:
    """A certificate of an unknown authority ends the worker with exit 4 and the key of the authority's file."""
    login = secure.sasl_ssl(secure.new_user()) | {"ssl_ca_file": str(secure.folder / "stranger.pem")}
    worker = worker_process(config_of(secure, login), broker=secure, ready=False)
    assert worker.wait_exit() == 4
    assert "kafka.ssl_ca_file" in worker.log.read_text()


@pytest.mark.parametrize("resource", ["input", "output", "dead_letter", "group"])
def test_missing_right_ends_the_worker_by_name(
    secure: SecureKafka, worker_process: StartWorker, tmp_path: Path, resource: str
) -> None:
    """Without a right the worker exits 4 naming topic or group, and ``check --online`` reports the same one."""
    user = secure.new_user()
    config = config_of(secure, secure.sasl_plaintext(user))
    kafka = config["kafka"]
    keys = {"input": "input_topics", "output": "output_topic", "dead_letter": "dead_letter_topic", "group": "group_id"}
    value = kafka[keys[resource]]
    denied = value[0] if isinstance(value, list) else value
    secure.grant_worker(user.name, kafka, without=denied)
    worker = worker_process(config, broker=secure, ready=False)
    assert worker.wait_exit() == 4
    (block,) = [text for text in worker.log.read_text().split("wrong:")[1:] if denied in text]
    assert "grant" in block
    problems, _ = check(config, tmp_path)
    assert [problem.key for problem in problems] == [f"kafka.{keys[resource]}"]
    assert denied in problems[0].message


def test_transactions_take_one_right_more(secure: SecureKafka, worker_process: StartWorker, tmp_path: Path) -> None:
    """Under ``exactly_once`` run and check both name a missing right on transactional ids, with their prefix."""
    user = secure.new_user()
    config = config_of(secure, secure.sasl_plaintext(user)) | {"delivery": {"guarantee": "exactly_once"}}
    kafka = config["kafka"]
    secure.grant_worker(user.name, kafka)
    worker = worker_process(config, broker=secure, ready=False)
    assert worker.wait_exit() == 4
    assert "headrace-<kafka.group_id>-" in worker.log.read_text()
    problems, _ = check(config, tmp_path)
    assert [problem.key for problem in problems] == ["delivery.guarantee"]

    secure.grant_transactions(user.name, kafka["group_id"])
    assert check(config, tmp_path)[0] == []
    worker = worker_process(config, broker=secure)
    secure.client.produce(kafka["input_topics"][0], [EVENT])
    assert len(secure.client.read(kafka["output_topic"], count=1)) == 1
    assert worker.stop() == 0


@pytest.mark.logs_errors
@pytest.mark.usefixtures("ended_connections")
@pytest.mark.parametrize(
    ("change", "key", "code"),
    [
        ({"sasl_password": WRONG_PASSWORD}, "kafka.sasl_username", "refused"),
        ({"sasl_mechanism": "SCRAM-SHA-256"}, "kafka.sasl_mechanism", "refused"),
        ({"ssl_ca_file": "stranger.pem"}, "kafka.ssl_ca_file", "refused"),
        ({"security_protocol": "SASL_PLAINTEXT", "ssl_ca_file": None}, "kafka.security_protocol", "connection_closed"),
    ],
)
def test_check_tells_why_the_broker_refuses(
    secure: SecureKafka, tmp_path: Path, change: dict[str, str | None], key: str, code: str
) -> None:
    """Each refusal is one problem at the key to change."""
    login = secure.sasl_ssl(secure.new_user()) | change
    if change.get("ssl_ca_file"):
        login["ssl_ca_file"] = str(secure.folder / "stranger.pem")
    problems, _ = check(config_of(secure, login), tmp_path)
    assert [(problem.key, problem.code) for problem in problems] == [(key, code)]
    assert problems[0].remedy


@pytest.mark.logs_errors
@pytest.mark.usefixtures("ended_connections")
def test_check_without_a_certificate_names_its_key(secure: SecureKafka, tmp_path: Path) -> None:
    """A listener that asks for certificates points to the certificate's key."""
    login = secure.mutual_tls() | {"ssl_cert_file": None, "ssl_key_file": None}
    problems, _ = check(config_of(secure, login), tmp_path)
    assert len(problems) == 1
    assert "kafka.ssl_cert_file" in problems[0].key + problems[0].remedy
