"""A chat endpoint on loopback, whose replies and faults a test chooses."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LONGEST = 60.0  # seconds that a stalled answer waits for its test at most


class Endpoint:
    """What was asked, and what is done about it.

    Attributes:
        asked: Bodies of the requests, in their order.
        answered: Those that were answered well.
        keys: The Authorization header of each request.
        reply: Body of a request to the text of the reply.
        faults: Taken one by one, a request each, before a reply: a function of the handler that answers it instead.
    """

    def __init__(self, reply: Callable[[dict], str]):
        self.reply = reply
        self.asked: list[dict] = []
        self.answered: list[dict] = []
        self.keys: list[str | None] = []
        self.paths: list[str] = []
        self.faults: list[Callable] = []
        self.stalled, self.released = threading.Event(), threading.Event()
        self.url = ""


def status(code: int, text: str = "", **headers: str) -> Callable:
    """A fault: an answer with this status; headers are named with underscores."""

    def answer(handler) -> None:
        send(handler, code, text.encode(), {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def nonsense(body: str) -> Callable:
    """A fault: this body, as if all were well."""
    return status(200, body)


def drop(handler) -> None:
    """A fault: the connection is closed without an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def stall(handler) -> None:
    """A fault: nothing comes until the test releases it, and then no answer."""
    handler.server.endpoint.stalled.set()
    handler.server.endpoint.released.wait(LONGEST)
    handler.close_connection = True


def send(handler, code: int, body: bytes, headers: dict[str, str]) -> None:
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self) -> None:
        endpoint = self.server.endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        endpoint.asked.append(body)
        endpoint.keys.append(self.headers["Authorization"])
        endpoint.paths.append(self.path)
        if endpoint.faults:
            return endpoint.faults.pop(0)(self)
        endpoint.answered.append(body)
        held = {"choices": [{"message": {"content": endpoint.reply(body)}}]}
        held |= {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}
        send(self, 200, json.dumps(held).encode(), {"Content-Type": "application/json"})

    def log_message(self, *given) -> None:
        pass


@contextmanager
def serving(reply: Callable[[dict], str]):
    """An endpoint while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *given: None  # whoever asked may be gone
    server.endpoint = Endpoint(reply)
    server.endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.endpoint
    finally:
        server.endpoint.released.set()
        server.shutdown()
        server.server_close()
