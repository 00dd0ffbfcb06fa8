"""HTTP on a thread of its own: liveness, readiness, start-up, metrics and status.

The thread answers while the event loop is busy, or hangs: that is when the answers matter.
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

import orjson
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from worker.errors import EnvironmentFault, Problem

_log = structlog.get_logger()

_CLIENT_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 32
_STOP_POLL_S = 0.1
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_INDEX = b"""headrace
/livez     200 while the worker makes progress, else 503
/readyz    200 while it takes part in the group with a ready model, else 503
/startupz  200 once the model is loaded and warm, else 503
/status    what it is doing, as JSON
/metrics   Prometheus metrics
"""

_Answer = tuple[HTTPStatus, str, bytes]


class ProbeState(Protocol):
    """What the worker tells about itself.

    Called from the server's threads, several at once and at any time between ``start`` and ``stop``: answer
    at once, from plain values, without waiting for the event loop. The text of a check says why it fails; it
    is empty, or a remark, where it holds.
    """

    def live(self) -> tuple[bool, str]:
        """Progress: the loop's heartbeat and the oldest batch in flight are young. Never whether Kafka answers."""

    def ready(self) -> tuple[bool, str]:
        """Model ready and a member of the group (an empty assignment counts), and not draining."""

    def started(self) -> tuple[bool, str]:
        """Model loaded, checked and warm."""

    def status(self) -> dict[str, object]:
        """What to show at ``/status``: anything orjson takes, else its text is shown."""


class ProbeServer:
    """Serves the probes from ``start`` until ``stop``."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, state: ProbeState) -> None:
        self._host = host
        self._port = port
        self._pages = _Pages(registry, state)
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """The port in use; differs from the one asked for where that was 0 and the server has started."""
        return self._port if self._server is None else int(self._server.server_address[1])

    def start(self, listener: socket.socket | None = None) -> None:
        """Bind, or take a ``listener`` that is bound already, and answer from now on.

        Raises EnvironmentFault where the address cannot be had.
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        try:
            self._server = _Server((self._host, self._port), family, self._pages, listener)
        except OSError as error:
            raise EnvironmentFault(
                Problem(
                    f"the probe server cannot listen on {self._host}:{self._port}: {error.strerror or error}",
                    remedy="end what uses the port, or set probes.host and probes.port to an address that is free",
                    key="probes.port",
                    code="address_unavailable",
                )
            ) from error
        threading.Thread(
            target=self._server.serve_forever, args=(_STOP_POLL_S,), name="headrace-probes", daemon=True
        ).start()

    def stop(self) -> None:
        """Give the port back, which may take 0.1 s; requests under way end by themselves."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()


class _Pages:
    """Maps a path to its answer; knows nothing of sockets."""

    def __init__(self, registry: CollectorRegistry, state: ProbeState) -> None:
        self._registry = registry
        self._state = state
        self._checks = {"/livez": state.live, "/readyz": state.ready, "/startupz": state.started}

    def answer(self, path: str, accept: str) -> _Answer:
        """The page at ``path``; a fault of a page is an answer too (500), and is logged."""
        try:
            return self._page(path, accept)
        except Exception as error:  # noqa: BLE001  a failing probe must still answer
            _log.exception("probe_failed", path=path)
            return _json(HTTPStatus.INTERNAL_SERVER_ERROR, {"ok": False, "cause": f"{path}: {error!r}"})

    def _page(self, path: str, accept: str) -> _Answer:
        if path in self._checks:
            ok, cause = self._checks[path]()
            return _json(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE, {"ok": ok, "cause": cause})
        if path == "/metrics":
            encode, content_type = choose_encoder(accept)
            return HTTPStatus.OK, content_type, encode(self._registry)
        if path in {"/status", "/statusz"}:
            return _json(HTTPStatus.OK, self._state.status())
        if path == "/":
            return HTTPStatus.OK, _TEXT, _INDEX
        return _json(HTTPStatus.NOT_FOUND, {"ok": False, "cause": "no such page; / lists them"})


class _Server(ThreadingHTTPServer):
    """A thread per connection, at most ``_MAX_CONNECTIONS``: beyond that, the oldest connection is cut off.

    So no number of stuck clients can keep the orchestrator's probe out.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], family: socket.AddressFamily, pages: _Pages, listener: socket.socket | None
    ) -> None:
        self.address_family = family
        self.pages = pages
        self._open: dict[int, socket.socket] = {}
        self._open_lock = threading.Lock()
        super().__init__(address, _Request, bind_and_activate=listener is None)
        if listener is not None:
            self.socket.close()
            self.socket = listener
            self.server_address = listener.getsockname()

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of the host's name, which can take seconds."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start the thread that answers ``request``, a connection just accepted."""
        with self._open_lock:
            self._open[id(request)] = request
            if len(self._open) > _MAX_CONNECTIONS:
                _cut_off(self._open.pop(next(iter(self._open))))
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close ``request``, answered or not."""
        with self._open_lock:
            self._open.pop(id(request), None)
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002  socketserver's signature
        """Log what ended a request, without ending the server; a client that went away is no fault of ours."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("probe_request_failed")


class _Request(BaseHTTPRequestHandler):
    """One request, then the connection is closed."""

    server: _Server
    timeout = _CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        """Answer with headers and body."""
        self._send(*self.server.pages.answer(self.path.partition("?")[0], self.headers.get("Accept", "")))

    def do_HEAD(self) -> None:
        """Answer with the headers that GET would have."""
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a request that cannot be served, as JSON; called by http.server (501: no such method here)."""
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        self.close_connection = True
        self.request_version = self.protocol_version  # else a line that cannot be parsed counts as HTTP/0.9: no headers
        self._send(*_json(status, {"ok": False, "cause": explain or message or status.phrase}))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name that http.server uses
        """Say nothing: probes come every few seconds."""

    def version_string(self) -> str:
        """Name the server without the versions behind it."""
        return "headrace"

    def _send(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _json(status: HTTPStatus, content: object) -> _Answer:
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
    return status, _JSON, orjson.dumps(content, default=str, option=options)


def _cut_off(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the client may have been faster
        connection.shutdown(socket.SHUT_RDWR)
