"""The labelling page: a small ASGI application, and the loop that serves it.

It answers requests of this machine alone. The address that is printed holds a token. The page takes it out of the
address, keeps it for its tab, and sends it as a header with each request. A cookie opens the page's files and nothing
else, as browsers send it to every port of a machine. The page loads nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import re
import secrets
import signal
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from textgym.files import parse_json
from textgym.labelling.assignment import (
    Asked,
    keep_question,
    next_question,
    next_watched,
    progress,
    set_shares,
    shown_order,
)
from textgym.labelling.settings import PageSettings as PageSettings
from textgym.labelling.settings import check_name
from textgym.labelling.store import Answer, LabelStore, Watched
from textgym.rewards.labels.labelling import Question

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Receive, Scope, Send
except ImportError as error:
    raise ImportError("the labelling page needs starlette and uvicorn: pip install 'textgym[label]'") from error

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
LONGEST_BODY = 4_000_000  # bytes of a request
LOOKED = 0.5  # seconds between two questions whether enough is answered
KINDS = {"index.html": "text/html", "label.css": "text/css", "icon.svg": "image/svg+xml"}
"""Types of the page's files; the others are scripts."""
PAGE_FILES = ("index.html", "label.css", "icon.svg", "label.js", "ranking.js", "watching.js", "parts.js")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


# --- the application -----------------------------------------------------------------------------------------------


class BadRequestError(ValueError):
    """A request whose content cannot be used."""


Body = Mapping[str, Any]
Handler = Callable[[Body], Any]


@dataclass(frozen=True)
class Page:
    """Answers to the page's requests: each method takes a decoded JSON object and returns one.

    Args:
        store: the answers.
        settings: settings of the page.
        now: clock in seconds, one for all processes that serve the store.
    """

    store: LabelStore
    settings: PageSettings
    now: Callable[[], float] = time.time

    def about(self, body: Body) -> dict[str, Any]:
        """Return the settings that the page needs."""
        own = self.settings
        return {"labeller": own.labeller, "axes": own.axes, "scores": own.scores, "watch": own.watch}

    def next(self, body: Body) -> dict[str, Any]:
        """Return the labeller's next question, or None, and the progress."""
        labeller = self._labeller(body)
        asked = next_question(self.store, labeller, self.now())
        return {"question": asked and self._shown(asked, labeller), "progress": self._progress(labeller)}

    def keep(self, body: Body) -> dict[str, Any]:
        """Keep the question for the labeller, whose page is still open."""
        keep_question(self.store, self._labeller(body), _field(body, "question", str), self.now())
        return {}

    def answer(self, body: Body) -> dict[str, Any]:
        """Record an answer, and return its number with the progress."""
        labeller = self._labeller(body)
        order = _integers(body, "order")
        asked = self.store.question(_field(body, "question", str))
        if sorted(order) != list(range(len(asked.completions))):
            raise BadRequestError(
                f"order={order!r:.200}; expected each of the {len(asked.completions)} completions once"
            )
        number = self.store.record(
            Answer(
                question=_field(body, "question", str),
                labeller=labeller,
                order=order,
                ranks=None if body.get("ranks") is None else _by_completion(_integers(body, "ranks"), order),
                skipped=None if body.get("skipped") is None else _field(body, "skipped", str),
                flags={axis: _by_completion(values, order) for axis, values in _flags(body, self.settings.axes)},
                scores=_by_completion(_field(body, "scores", list), order) if self.settings.scores else None,
                seconds=float(_field(body, "seconds", int | float)),
                repeat=_field(body, "repeat", int),
            )
        )
        return {"number": number, "progress": self._progress(labeller)}

    def undo(self, body: Body) -> dict[str, Any]:
        """Take back the labeller's answer with a number, once, and return it with its question."""
        labeller = self._labeller(body)
        undone = self.store.undo(labeller, _field(body, "number", int), self.now())
        assert undone is not None, "without an answer of this number it raises"
        shown = self._shown(Asked(undone.question, undone.repeat), labeller, undone.order)
        given = {
            "ranks": undone.ranks and _by_place(undone.ranks, undone.order),
            "flags": {axis: _by_place(values, undone.order) for axis, values in undone.flags.items()},
            "scores": undone.scores and _by_place(undone.scores, undone.order),
        }
        return {"question": {**shown, "given": given}, "progress": self._progress(labeller)}

    def next_to_watch(self, body: Body) -> dict[str, Any]:
        """Return the labeller's next completion to watch, in words that join to it; or None."""
        labeller = self._labeller(body)
        found = next_watched(self.store, labeller)
        ((seen,),) = self.store.rows("SELECT count(*) FROM watched WHERE labeller = ?", labeller)
        if found is None:
            return {"question": None, "seen": seen}
        question = self.store.question(found[0])
        text = question.completions[found[1]]
        shown = {"id": found[0], "completion": found[1], "prompt": _turns(question), "tokens": words(text)}
        return {"question": shown, "seen": seen}

    def watched(self, body: Body) -> dict[str, Any]:
        """Record feedback to a completion that was watched."""
        self.store.record_watched(
            Watched(
                question=_field(body, "question", str),
                completion=_field(body, "completion", int),
                labeller=self._labeller(body),
                tokens=tuple(_field(body, "tokens", list)),
                shown=tuple(map(float, _field(body, "shown", list))),
                events=tuple((float(at), float(value)) for at, value in _field(body, "events", list)),
            )
        )
        return {}

    def _labeller(self, body: Body) -> str:
        labeller = self.settings.labeller or _field(body, "labeller", str).strip()
        check_name(labeller)
        return labeller

    def _progress(self, labeller: str) -> dict[str, Any]:
        found = progress(self.store, labeller, self.now())
        return asdict(found)

    def _shown(self, asked: Asked, labeller: str, order: Sequence[int] | None = None) -> dict[str, Any]:
        """Return a question as the page shows it: nothing but prompt and completions."""
        question = self.store.question(asked.question)
        size = len(question.completions)
        order = order or shown_order(self.settings.seed, asked.question, labeller, asked.repeat, size)
        return {
            "id": asked.question,
            "repeat": asked.repeat,
            "prompt": _turns(question),
            "order": order,
            "completions": [question.completions[i] for i in order],
        }


def words(text: str) -> list[str]:
    """Split a text into words with the white space before them; they join to the text."""
    return re.findall(r"\s*\S+(?:\s+\Z)?|\s+\Z", text)


def _turns(question: Question) -> list[dict[str, str]]:
    """Return a prompt as turns; a text is one turn without a role."""
    content = question.content
    if isinstance(content, str):
        return [{"role": "", "text": content}]
    return [{"role": message["role"], "text": message["content"]} for message in content]


def _by_completion(values: Sequence[Any], order: Sequence[int]) -> tuple[Any, ...]:
    """Return values by completion that were given by place."""
    if len(values) != len(order):
        raise BadRequestError(f"{len(values)} values for {len(order)} completions; expected one each")
    at = dict(zip(order, values, strict=True))
    return tuple(at[i] for i in range(len(order)))


def _by_place(values: Sequence[Any], order: Sequence[int]) -> list[Any]:
    return [values[i] for i in order]


def _field(body: Body, name: str, kind: Any) -> Any:
    value = body.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise BadRequestError(f"{name}={value!r:.200}; expected {getattr(kind, '__name__', 'a number')}")
    return value


def _integers(body: Body, name: str) -> tuple[int, ...]:
    values = _field(body, name, list)
    if not all(type(value) is int for value in values):
        raise BadRequestError(f"{name}={values!r:.200}; expected whole numbers")
    return tuple(values)


def _flags(body: Body, axes: Sequence[str]) -> list[tuple[str, list[bool]]]:
    given = _field(body, "flags", dict) if axes else {}
    return [(axis, _field(given, axis, list)) for axis in axes]


def make_app(page: Page, token: str) -> ASGIApp:
    """Return the application: the page's files and its requests, behind a token.

    Args:
        page: answers the requests.
        token: opens the page as ``/?token=…``, and its requests as a header ``Authorization: Bearer …``.
    """
    visited = secrets.token_urlsafe(32)

    async def index(request: Request) -> Response:
        response = _file("index.html")
        if "token" in request.query_params:
            # The reader may have clicked on another site's link, after which a Strict cookie survives no redirect: the
            # page itself takes the token out of the address.
            name = cookie_name(request.headers.get("host", ""))
            response.set_cookie(name, visited, httponly=True, samesite="strict")
        return response

    async def file(request: Request) -> Response:
        return _file(request.path_params["name"])

    handlers: Mapping[str, Handler] = {
        "about": page.about,
        "next": page.next,
        "keep": page.keep,
        "answer": page.answer,
        "undo": page.undo,
        "next-to-watch": page.next_to_watch,
        "watched": page.watched,
    }
    routes = [
        Route("/", index),
        Route("/{name}", file),
        *(Route(f"/api/{name}", _json_route(handler), methods=["POST"]) for name, handler in handlers.items()),
    ]
    hosts = None if page.settings.network else {*LOCAL_NAMES, page.settings.host}
    return Guard(Starlette(routes=routes), token, visited, hosts)


def cookie_name(host: str) -> str:
    """Return the name of the cookie, which differs from port to port: a browser keeps one set for all of them."""
    return "textgym-label-" + re.sub("[^A-Za-z0-9]", "-", host)


def _file(name: str) -> Response:
    if name not in PAGE_FILES:
        return Response(status_code=404)
    content = (files("textgym.labelling") / "page" / name).read_bytes()
    return Response(content, media_type=KINDS.get(name, "text/javascript"))


def _json_route(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            if request.headers.get("content-type") != "application/json":
                raise BadRequestError("content-type: expected application/json")
            body = bytearray()
            async for part in request.stream():
                body += part
                if len(body) > LONGEST_BODY:
                    raise BadRequestError(f"more than {LONGEST_BODY} bytes")
            decoded = parse_json(bytes(body).decode(), "the request")
            if not isinstance(decoded, dict):
                raise BadRequestError("expected a JSON object")
            return JSONResponse(handler(decoded))
        except (ValueError, TypeError, OverflowError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except sqlite3.Error as error:
            told = f"The file of the answers cannot be used at the moment ({error}). Nothing was stored; try again."
            return JSONResponse({"error": told}, status_code=503)

    return respond


@dataclass(frozen=True)
class Guard:
    """Middleware: refuses requests without the token, and those from other sites and other names.

    Args:
        app: the application behind it.
        token: value of the query ``token`` that opens the page, and of the header that each of its requests needs.
        visited: value of the cookie that opens the page's files.
        hosts: names that the ``Host`` header may have, whatever the port, which a tunnel changes; None for all. A name
            that a stranger has pointed at this machine (DNS rebinding) is none of them.
    """

    app: ASGIApp
    token: str
    visited: str
    hosts: set[str] | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403; every response gets the security headers."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        request = Request(scope)
        refused = self._refusal(request)
        if refused is None:
            await self.app(scope, receive, send_with_headers)
        else:
            await Response(refused, 403, media_type="text/plain")(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> str | None:
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if self.hosts is not None and name not in self.hosts:
            return f"Host {host!r:.80} is not this machine's.\n"
        origin = request.headers.get("origin")
        if origin is not None and _site(origin) != host:
            return "The request comes from another site.\n"
        path = request.scope["path"]
        if path.startswith("/api/"):
            opens = _same(request.headers.get("authorization", ""), f"Bearer {self.token}")
        else:
            opens = _same(request.cookies.get(cookie_name(host), ""), self.visited) or (
                path == "/" and _same(request.query_params.get("token", ""), self.token)
            )
        return None if opens else "This address has no valid token. Open the address that textgym has printed.\n"


def _site(origin: str) -> str | None:
    with suppress(ValueError):
        return urlsplit(origin).netloc
    return None


def _same(given: str, secret: str) -> bool:
    return hmac.compare_digest(given.encode(), secret.encode())


# --- serving -------------------------------------------------------------------------------------------------------


def serve_until(
    store: LabelStore,
    settings: PageSettings,
    enough: Callable[[LabelStore], bool] | None = None,
    announce: Callable[[str], None] = print,
    token: str | None = None,
) -> bool:
    """Serve the page until enough is answered, or until Ctrl-C.

    Args:
        store: the answers; it was opened in this thread.
        settings: settings of the page.
        enough: called twice a second; True ends serving. None serves until Ctrl-C.
        announce: called once with the page's address, as soon as it can be opened.
        token: token in the address; None draws one.

    Returns:
        True if enough is answered, False after Ctrl-C.

    Raises:
        OSError: the port is in use, or the host is not this machine's.
    """
    listening = listen(settings.host, settings.port)
    with listening:
        set_shares(store, settings.shared, settings.repeat, settings.seed)
        token = token or secrets.token_urlsafe(24)
        config = uvicorn.Config(
            make_app(Page(store, settings), token),
            log_config=None,
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"
        try:
            return asyncio.run(_serve(server, listening, store, enough, lambda: announce(address)))
        except KeyboardInterrupt as interrupt:
            if getattr(interrupt, "number", signal.SIGINT) != signal.SIGINT:  # it ends the command
                raise
            return False


async def _serve(
    server: uvicorn.Server,
    listening: socket.socket,
    store: LabelStore,
    enough: Callable[[LabelStore], bool] | None,
    announce: Callable[[], None],
) -> bool:
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    announced = reached = False
    try:
        while not serving.done():
            if server.started and not announced:
                announce()
                announced = True
            reached = enough is not None and enough(store)
            server.should_exit |= reached
            await asyncio.wait([serving], timeout=LOOKED if announced else 0.01)
    finally:
        server.should_exit = True
        await serving
    return reached


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        OSError: the port is in use, or the host is not this machine's; the message names the setting.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        # Two sockets can be bound to one port under SO_REUSEADDR until one of them listens.
        listening.listen(128)
    except OSError as error:
        listening.close()
        fix = (
            "set another port, or 0 for a free one"
            if error.errno == errno.EADDRINUSE
            else "is host an address of this machine?"
        )
        raise OSError(f"host={host!r}, port={port}: {error.strerror or error}; {fix}") from error
    return listening
