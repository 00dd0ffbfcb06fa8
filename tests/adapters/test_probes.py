"""The probe server over loopback HTTP: answers, refusals, and clients that misbehave."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import structlog
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from worker.adapters import probes
from worker.adapters.probes import ProbeServer
from worker.errors import EnvironmentFault
from worker.telemetry import M, Metrics


class _State:
    """Answers as each test sets it."""

    def __init__(self) -> None:
        self.checks: dict[str, tuple[bool, str]] = {
            "live": (True, ""),
            "ready": (False, "no partition assigned yet"),
            "started": (True, ""),
        }
        self.status_source: Callable[[], dict[str, object]] = lambda: {"model": "fraud@1.0.0", "lag": {0: 7}}

    def live(self) -> tuple[bool, str]:
        return self.checks["live"]

    def ready(self) -> tuple[bool, str]:
        return self.checks["ready"]

    def started(self) -> tuple[bool, str]:
        return self.checks["started"]

    def status(self) -> dict[str, object]:
        return self.status_source()


@pytest.fixture
def state() -> _State:
    """The worker's answers."""
    return _State()


@pytest.fixture
def metrics() -> Metrics:
    """The worker's metrics."""
    return Metrics()


@pytest.fixture
def server(state: _State, metrics: Metrics) -> Iterator[ProbeServer]:
    """A started server on a free port."""
    server = ProbeServer("127.0.0.1", 0, metrics.registry, state)
    server.start()
    yield server
    server.stop()


def _ask(
    server: ProbeServer, path: str, method: str = "GET", accept: str = "*/*"
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request(method, path, headers={"Accept": accept})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def _send_raw(server: ProbeServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(("path", "check"), [("/livez", "live"), ("/readyz", "ready"), ("/startupz", "started")])
def test_checks_answer_200_or_503_with_the_cause(server: ProbeServer, state: _State, path: str, check: str) -> None:
    """A check that holds is 200, one that fails is 503; both say why as JSON."""
    state.checks[check] = (True, "standby")
    status, headers, body = _ask(server, path)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == {"ok": True, "cause": "standby"}
    state.checks[check] = (False, "draining")
    status, _, body = _ask(server, path + "?verbose=1")
    assert (status, json.loads(body)) == (503, {"ok": False, "cause": "draining"})


def test_metrics_are_prometheus_text(server: ProbeServer, metrics: Metrics) -> None:
    """/metrics shows the numbers of this moment in the text format."""
    metrics.count(M.BATCHES, 3, reason="size")
    status, headers, body = _ask(server, "/metrics")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "text/plain")
    samples = [sample for family in parse_text(body.decode()) for sample in family.samples]
    assert ("headrace_batches_total", {"reason": "size"}, 3) in [(s.name, s.labels, s.value) for s in samples]


def test_metrics_speak_openmetrics_when_asked(server: ProbeServer) -> None:
    """A scraper that asks for OpenMetrics gets it."""
    status, headers, body = _ask(server, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "application/openmetrics-text")
    families = parse_openmetrics(body.decode())  # type: ignore[no-untyped-call]  # the library leaves it untyped
    assert "headrace_batches" in {family.name for family in families}


@pytest.mark.parametrize("path", ["/status", "/statusz"])
def test_status_is_json_of_any_value(server: ProbeServer, state: _State, path: str) -> None:
    """/status shows what the worker tells, with what JSON cannot hold as text."""
    state.status_source = lambda: {"lag": {0: 7}, "since": {1}, "mean": float("nan")}
    status, _, body = _ask(server, path)
    assert (status, json.loads(body)) == (200, {"lag": {"0": 7}, "since": "{1}", "mean": None})


def test_index_lists_the_pages(server: ProbeServer) -> None:
    """The root page names every other page."""
    status, headers, body = _ask(server, "/")
    assert (status, headers.get_content_type()) == (200, "text/plain")
    assert all(page in body for page in (b"/livez", b"/readyz", b"/startupz", b"/status", b"/metrics"))


@pytest.mark.parametrize("path", ["/nothing", "/livez/", "/metrics/x", "/../livez", "/%6civez"])
def test_unknown_page_is_404(server: ProbeServer, path: str) -> None:
    """Anything else is not found, and says so as JSON."""
    status, _, body = _ask(server, path)
    assert (status, json.loads(body)["ok"]) == (404, False)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"])
def test_only_get_and_head_are_allowed(server: ProbeServer, method: str) -> None:
    """Another method is refused with 405 and the ones that are allowed."""
    status, headers, body = _ask(server, "/livez", method)
    assert (status, headers["Allow"], json.loads(body)["ok"]) == (405, "GET, HEAD", False)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/nothing"])
def test_head_answers_like_get_without_a_body(server: ProbeServer, path: str) -> None:
    """HEAD has GET's status and type, and nothing after the headers."""
    expected, expected_headers, _ = _ask(server, path)
    status, headers, body = _ask(server, path, "HEAD")
    assert (status, headers["Content-Type"], body) == (expected, expected_headers["Content-Type"], b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("request_bytes", "part"),
    [
        (b"\r\n\r\n", b""),
        (b"GET /livez extra HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /livez HTTP/9.9\r\n\r\n", b"505"),
        (b"\xff\x00\xfe\r\n\r\n", b"400"),
        (b"GET /livez\r\n\r\n", b" tr"),  # version 0.9: a body without headers
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(200)) + b"\r\n", b"431"),
    ],
    ids=["empty", "four words", "version", "noise", "HTTP/0.9", "long path", "many headers"],
)
def test_malformed_requests_do_not_harm(server: ProbeServer, request_bytes: bytes, part: bytes) -> None:
    """Noise is refused or ignored, and the next request is answered."""
    assert _send_raw(server, request_bytes)[9:12] == part
    assert _ask(server, "/livez")[0] == 200


def test_client_that_leaves_does_not_harm(server: ProbeServer) -> None:
    """A client that goes away in the middle of its request costs nothing."""
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    client.sendall(b"GET /met")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()
    assert _ask(server, "/livez")[0] == 200


def test_silent_client_is_dropped(server: ProbeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends nothing is closed after the timeout."""
    monkeypatch.setattr(probes._Request, "timeout", 0.05)
    assert _send_raw(server, b"GET /livez HT") == b""


def test_stuck_clients_cannot_keep_the_probe_out(server: ProbeServer) -> None:
    """With all connections taken by clients that say nothing, the oldest gives way to a probe."""
    stuck = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(probes._MAX_CONNECTIONS)]
    try:
        assert _ask(server, "/livez")[0] == 200
        assert stuck[0].recv(1) == b""
    finally:
        for client in stuck:
            client.close()


def test_failing_page_answers_500_and_is_logged(server: ProbeServer, state: _State) -> None:
    """A fault while answering is an answer that names it and a log event, and the server lives on."""

    def fail() -> dict[str, object]:
        raise LookupError("no such partition")

    state.status_source = fail
    with structlog.testing.capture_logs() as events:
        status, _, body = _ask(server, "/status")
    assert (status, json.loads(body)) == (500, {"ok": False, "cause": "/status: LookupError('no such partition')"})
    assert [(event["event"], event["path"], event["log_level"]) for event in events] == [
        ("probe_failed", "/status", "error")
    ]
    assert _ask(server, "/livez")[0] == 200


def test_bug_in_a_request_is_logged(server: ProbeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unexpected fault outside the pages ends its request with a log event, not the server."""
    logged = threading.Event()

    def fail(*_: object) -> None:
        raise LookupError("bug")

    with monkeypatch.context() as patch:
        patch.setattr(probes._Request, "_send", fail)
        patch.setattr(probes._log, "exception", lambda event: logged.set() if event == "probe_request_failed" else None)
        assert _send_raw(server, b"GET /livez HTTP/1.0\r\n\r\n") == b""
        assert logged.wait(10)
    assert _ask(server, "/livez")[0] == 200


def test_requests_are_not_logged(server: ProbeServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Answers, refusals and noise write nothing to stdout or stderr."""
    with structlog.testing.capture_logs() as events:
        _ask(server, "/livez")
        _ask(server, "/nothing")
        _ask(server, "/livez", "POST")
        _send_raw(server, b"noise\r\n\r\n")
    captured = capsys.readouterr()
    assert (events, captured.out, captured.err) == ([], "", "")


def test_answers_while_another_request_waits(server: ProbeServer, state: _State) -> None:
    """A slow status page does not hold up the liveness probe."""
    entered, release = threading.Event(), threading.Event()

    def wait() -> dict[str, object]:
        entered.set()
        assert release.wait(10)
        return {}

    state.status_source = wait
    waiting = threading.Thread(target=_ask, args=(server, "/status"))
    waiting.start()
    try:
        assert entered.wait(10)
        assert _ask(server, "/livez")[0] == 200
    finally:
        release.set()
        waiting.join()


def test_port_in_use_is_an_environment_fault(server: ProbeServer, state: _State, metrics: Metrics) -> None:
    """A taken port is refused with the address, the key and what to do."""
    second = ProbeServer("127.0.0.1", server.port, metrics.registry, state)
    with pytest.raises(EnvironmentFault) as caught:
        second.start()
    (problem,) = caught.value.problems
    assert f"127.0.0.1:{server.port}" in problem.message
    assert (problem.key, problem.code, caught.value.exit_code) == ("probes.port", "address_unavailable", 3)
    assert "probes.port" in problem.remedy
    second.stop()
    assert _ask(server, "/livez")[0] == 200


def test_stop_gives_the_port_back(state: _State, metrics: Metrics) -> None:
    """After stop nobody listens, the port can be taken again, and a second stop does nothing."""
    server = ProbeServer("127.0.0.1", 0, metrics.registry, state)
    assert server.port == 0
    server.start()
    port = server.port
    assert port > 0
    server.stop()
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)
    again = ProbeServer("127.0.0.1", port, metrics.registry, state)
    again.start()
    assert _ask(again, "/livez")[0] == 200
    again.stop()


def test_a_listener_that_is_bound_already_is_taken(state: _State, metrics: Metrics) -> None:
    """Whoever starts the worker may know the port before the worker runs."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = ProbeServer("192.0.2.1", 1, metrics.registry, state)
    server.start(listener)
    try:
        assert server.port == port
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
            assert connection.recv(64).startswith(b"HTTP/1.")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("host", "family"), [("127.0.0.1", socket.AF_INET), ("localhost", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_host_with_colons_is_an_ipv6_address(
    state: _State, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, host: str, family: socket.AddressFamily
) -> None:
    """The address family follows from the form of the host."""
    asked: list[tuple[tuple[str, int], socket.AddressFamily]] = []

    def refuse(address: tuple[str, int], family: socket.AddressFamily, *_: object) -> None:
        asked.append((address, family))
        raise OSError("seen enough")

    monkeypatch.setattr(probes, "_Server", refuse)
    with pytest.raises(EnvironmentFault, match="seen enough"):
        ProbeServer(host, 8080, metrics.registry, state).start()
    assert asked == [((host, 8080), family)]
