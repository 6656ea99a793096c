"""--serve: a run is looked at in a browser of this machine while it goes on, and only there.

The server listens on 127.0.0.1, answers GET alone, and only under an address with a random token
that other users of the machine cannot guess; it ends with the run.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from d2_hloc.files.outputs import Outputs
from d2_hloc.reports.live import RunView

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
HTML, JSON = "text/html; charset=utf-8", "application/json"
SECONDS = 10  # that a connection may be silent
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address is a secret
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Parts = Mapping[str, tuple[str, Callable[[], bytes]]]  # kind and content, by path


class LiveServer(ThreadingHTTPServer):
    """A server of a few paths below a secret one."""

    daemon_threads = True

    def __init__(self, parts: Parts) -> None:
        super().__init__((HOST, 0), LiveHandler)
        self.token = secrets.token_urlsafe(24)
        self.paths = {f"/{self.token}/{name}": part for name, part in parts.items()}
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Leave a browser that went away out of the run's own output."""
        logger.debug("the live view did not answer %s", client_address, exc_info=True)


class LiveHandler(BaseHTTPRequestHandler):
    """Answers with a part of the view, or with nothing that says more than that it has none."""

    server: LiveServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = SECONDS
    server_version, sys_version = "d2-hloc", ""

    def do_GET(self) -> None:
        """Send what is at a path."""
        path = self.path.partition("?")[0]
        known = next((p for p in self.server.paths if is_same(p, path)), None)
        # Another name that leads here is of a page that wants to read over the reader's shoulder.
        if known is None or self.headers.get("Host") not in self.server.hosts:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, content = self.server.paths[known]
        body = content()
        self.send_response(HTTPStatus.OK)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the address, which is a secret, out of all logs."""


def is_same(known: str, asked: str) -> bool:
    """Compare paths in a time that says nothing about the token."""
    return secrets.compare_digest(known.encode(), asked.encode("utf-8", "replace"))


@contextmanager
def served(view: RunView) -> Iterator[str]:
    """Serve a view until the end; yields its address."""
    parts = {
        "": (HTML, view.page),
        "state.json": (JSON, view.state),
        "model.json": (JSON, view.model),
    }
    with LiveServer(parts) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True)
        thread.start()
        try:
            yield server.address
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def live_view(args: argparse.Namespace) -> Iterator[None]:
    """Serve the run of a command, and print the address to the standard error."""
    own = Outputs(args.output)
    models = [own] + ([Outputs.of_model(args.model)] if hasattr(args, "model") else [])
    with served(RunView(f"d2-hloc {args.command}", own, models)) as address:
        print(f"live view, on this machine alone: {address}", file=sys.stderr)
        yield
