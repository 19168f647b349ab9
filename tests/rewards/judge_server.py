"""A server on this machine that answers as a test tells it, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int  # 0 drops the connection
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0  # seconds before it
    trickle: float = 0.0  # seconds before each byte


def says(text: str | None, **reply: Any) -> Reply:
    """A chat completion, as OpenAI's server writes it."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = {"object": "chat.completion", "choices": [{"index": 0, "message": message}], "usage": usage}
    return Reply(200, body, **reply)


def busy(status: int, **headers: str) -> Reply:
    return Reply(status, {"error": {"message": f"status {status}"}}, {"Retry-After": "0", **headers})


def question(request: Mapping[str, Any]) -> str:
    """What the judge was asked."""
    return request["messages"][0]["content"]


class FakeServer:
    """Requests, their headers, and the most that were in flight at once."""

    def __init__(self, answer: Callable[[dict[str, Any]], Reply]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most = 0
        self.lock = threading.Lock()
        self.released = threading.Event()  # ends waiting
        self.url = ""

    def received(self, path: str, headers: dict[str, str], body: bytes) -> Reply:
        with self.lock:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
            self.paths.append(path)
            self.times.append(time.monotonic())
            self.headers.append(headers)
            self.requests.append(json.loads(body))
            request = self.requests[-1]
        reply = self.answer(request)
        if reply.after:
            self.released.wait(reply.after)
        # Before the answer leaves: the client may ask again the moment that it has it.
        with self.lock:
            self.in_flight -= 1
        return reply


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Reply] | list[Reply]) -> Iterator[FakeServer]:
    """Serve on a free port: by a function of the request, or a list of answers in turn."""
    if isinstance(answer, list):
        turns = iter(answer)
        fake = FakeServer(lambda _: next(turns))
    else:
        fake = FakeServer(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reply = fake.received(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            if not reply.status:
                self.close_connection = True
                return
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                for byte in data if reply.trickle else ():
                    fake.released.wait(reply.trickle)
                    self.wfile.write(bytes([byte]))
                if not reply.trickle:
                    self.wfile.write(data)
            except OSError:  # the client has given up
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition; fail if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
