"""`stepopsd inspect`: writes the page of a run, or serves it."""

from __future__ import annotations

from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from stepopsd_rllib.report.inspect_page.page import page_of, write_page

HOST = "127.0.0.1"


def write(runs: Sequence[str], output: str | None) -> int:
    """Writes the page, and says where it is."""
    path = write_page(runs, output)
    print(f"page        {path} ({path.stat().st_size / 1000:.0f} kB)")
    return 0


def serve(runs: Sequence[str], *, port: int) -> int:
    """Serves the page to this machine until Ctrl-C, made anew at every visit as the run goes on."""
    page_of(runs)  # a mistake is told here, and not in a browser
    server = server_of(runs, port=port)
    print(f"serving     http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    finally:
        server.server_close()
    return 0


def server_of(runs: Sequence[str], *, port: int) -> ThreadingHTTPServer:
    """A server with the page at `/` and nothing else.

    Raises:
        ValueError: The port is taken.
    """

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/":
                self.send_error(404)
                return
            try:
                body = page_of(runs).encode()
            except ValueError as error:
                self.send_error(500, explain=str(error))
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    try:
        return ThreadingHTTPServer((HOST, port), Page)
    except OSError as error:
        raise ValueError(
            f"--port {port}: {error.strerror}. Choose another port, or 0 for any free one."
        ) from error
