"""Requests to a server: checked settings, a bound on those in flight, retries, counts, and a cache of the answers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from textgym.numbers import LONGEST_WAIT, check, count, finite
from textgym.rewards.judges.cache import AnswerCache

T = TypeVar("T")

NO_KEY = "none"
"""Value of ``key`` for a server that needs none."""

FIRST_PAUSE = 0.5
"""Seconds before the first retry; each further pause is twice as long."""
LONGEST_PAUSE = 8.0
"""The longest pause, in seconds, that is not asked for by the server."""
LONGEST_ASKED = 120.0
"""The longest pause, in seconds, that a server may ask for; after a longer one the request has failed."""

UNSEEN = ("key", "cache", "replay", "concurrency", "retries", "timeout", "template", "batch")
"""Settings that no score depends on; a template is told by its digest."""

_OF_OPENAI = ("OpenAI-Organization", "OpenAI-Project")
_SHOWN = 500  # characters of an answer in a message, from its beginning and from its end


class ServerError(RuntimeError):
    """A server failed, or gave an answer that cannot be used. Rewards add the text that they asked about."""


class SecretError(ValueError):
    """A setting holds what may be a key. The message does not repeat it, and whoever adds to it must not either."""


# --- counts and connections ------------------------------------------------------------------------------------


class Traffic:
    """Counts of a service's requests, and its connections: one for each event loop that uses it.

    A copy, also by pickling, begins anew: neither connections nor counts go with the settings.
    """

    def __init__(self) -> None:
        self.sessions: dict[asyncio.AbstractEventLoop, Session] = {}
        self._lock = threading.Lock()
        self._counts: dict[str, float] = dict.fromkeys(
            ("calls", "cache_hits", "retries", "seconds", "prompt_tokens", "completion_tokens"), 0.0
        )

    def __reduce__(self) -> tuple[type[Traffic], tuple[()]]:
        return Traffic, ()

    def add(self, **counts: float) -> None:
        """Add to counts; safe from several threads."""
        with self._lock:
            for name, value in counts.items():
                self._counts[name] += value

    def counts(self) -> dict[str, float]:
        """Return a copy of the counts."""
        with self._lock:
            return dict(self._counts)


# --- settings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """Settings of a server that is asked, and the way to ask it.

    Requests are repeated after connection errors, time limits and the statuses 429 and 5xx alone.
    """

    url: str
    """Address of the server."""
    key: str = NO_KEY
    """Name of the environment variable that holds the key; "none" for a server that needs none."""
    cache: Path | None = None
    """File of answers, or a directory for it; what it holds is not asked again."""
    replay: bool = False
    """Answer from the cache alone; a request that it does not hold is an error."""
    concurrency: int = 16
    """Largest number of requests in flight."""
    retries: int = 3
    """Number of times that a failed request is repeated."""
    timeout: float = 60.0
    """Time limit of one request, in seconds."""

    traffic: Traffic = field(default_factory=Traffic, init=False, repr=False, compare=False)

    packages: ClassVar[tuple[str, ...]] = ("openai",)

    def __post_init__(self) -> None:
        _check_url(self.url)
        check(self, count, "concurrency")
        check(self, count, "retries", least=0)
        check(self, finite, "timeout", above=0, high=LONGEST_WAIT)
        if find_spec("openai") is None:
            raise ImportError(
                f"{type(self).__name__} needs the package openai, which is not installed: pip install textgym[judge]"
            )
        _check_key_name(self.key)
        if not self.replay:
            self.secret()
        if self.cache is not None:
            object.__setattr__(self, "cache", Path(self.cache))
            AnswerCache(Path(self.cache), self.replay).close()  # an error now, not after the first answer
        elif self.replay:
            raise ValueError("replay=True answers from the cache alone: name the cache of an earlier run with cache=")

    @property
    def signature(self) -> str:
        """Settings that decide the scores, in one line: neither the key's name nor how the server is reached."""
        shown = {one.name: getattr(self, one.name) for one in fields(self) if one.repr and one.name not in UNSEEN}
        settings = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        versions = ", ".join(f"{name} {metadata.version(name)}" for name in self.packages)
        return f"{type(self).__name__}({settings}; {versions})"

    @property
    def usage(self) -> dict[str, float]:
        """Counts so far: calls (retries included), cache hits, retries, seconds in requests, tokens read and written.

        Tokens are those that the server's answers state; servers that state none leave 0.
        """
        return self.traffic.counts()

    def secret(self) -> str | None:
        """Return the key from the environment; None for a server that needs none.

        Raises:
            ValueError: the variable is not set, or no key.
        """
        if self.key == NO_KEY:
            return None
        value = os.environ.get(self.key, "").strip()
        if not value:
            raise ValueError(
                f"key={self.key!r}: there is no environment variable {self.key}; set it to the server's key, name "
                "another variable with key=NAME, or give key=none for a server that needs no key"
            )
        if not (value.isascii() and value.isprintable() and " " not in value):
            raise SecretError(f"key={self.key!r}: the variable's value is no key: it has spaces or unusual characters")
        return value

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """Yield the connection of the running event loop, which calls that run together share.

        Each call of a reward may run in an event loop of its own, and a connection cannot outlive its loop: the last
        call that leaves closes it.
        """
        loop, sessions = asyncio.get_running_loop(), self.traffic.sessions
        session = sessions.setdefault(loop, Session(self))
        session.users += 1
        try:
            yield session
        finally:
            session.users -= 1
            if not session.users:
                del sessions[loop]
                await session.close()


def _check_url(url: str) -> None:
    example = "such as http://localhost:8000/v1"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is no number
    except ValueError:
        raise SecretError(f"url: expected an address {example}, got one that cannot be read") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SecretError(
            f"url: expected an address alone, {example}, got one with a user, a query or a fragment, which is not "
            "shown as it may hold a key; put the key into an environment variable, and name it with key="
        )
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", url):
        raise ValueError(f"url={url!r}; expected an address that begins with http:// or https://, {example}")


def _check_key_name(name: str) -> None:
    # A key must not reach a message, a log or a file, so what is no plain name is not repeated. Keys have small letters
    # or hyphens, or are long runs of letters and digits.
    is_run = len(name) >= 16 and "_" not in name and any(letter.isdigit() for letter in name)
    if name != NO_KEY and (is_run or not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name)):
        raise SecretError(
            "key: expected the name of an environment variable in capital letters, such as OPENAI_API_KEY, or none; "
            "got something else, which is not shown as it may be a key itself. Put the key into a variable and name it"
        )


# --- requests ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failure:
    """Failure of one attempt: the reason, whether another may help, and the pause that the server asks for."""

    reason: str
    again: bool = False
    pause: float | None = None


@dataclass
class _Shared:
    """A request under way, and the number of calls that wait for it."""

    task: asyncio.Task[Any]
    waiting: int = 0


class Session:
    """Connection of one event loop to a service: client, cache and bound on the requests in flight."""

    def __init__(self, service: Service) -> None:
        self.users = 0
        self._service = service
        self._gate = asyncio.Semaphore(service.concurrency)
        self._client: Any = None
        self._cache: AnswerCache | None = None
        self._secret: str | None = None
        self._under_way: dict[str, _Shared] = {}

    async def close(self) -> None:
        """Close the connections and the cache."""
        client, cache, self._client, self._cache = self._client, self._cache, None, None
        if cache is not None:
            cache.close()
        if client is not None:
            await client.close()

    async def once(self, key: str, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what a request brings. While it is under way for one call, no other call sends it again.

        A large batch is scored by several calls at the same time, and equal rows may be in any of them.

        Args:
            key: the same for the same request.
            ask: sends it.
        """
        shared = self._under_way.get(key)
        if shared is None:
            shared = self._under_way[key] = _Shared(asyncio.create_task(ask()))
            shared.task.add_done_callback(lambda _: self._under_way.pop(key, None))
        shared.waiting += 1
        try:
            answer: T = await asyncio.shield(shared.task)  # a call that fails must not take it from the others
            return answer
        finally:
            shared.waiting -= 1
            if not shared.waiting and not shared.task.done():
                shared.task.cancel()
                await asyncio.gather(shared.task, return_exceptions=True)

    def recall(self, key: str) -> str | None:
        """Return the cached answer to a request; None if there is none."""
        return None if (cache := self._opened_cache()) is None else cache.get(key)

    def keep(self, key: str, answer: str, instead: str | None = None) -> str:
        """Cache an answer, and return the one to go by: see :meth:`AnswerCache.put`."""
        return answer if (cache := self._opened_cache()) is None else cache.put(key, answer, instead)

    def _opened_cache(self) -> AnswerCache | None:
        # Opened here and not at the start, so that it is in the loop's thread, which SQLite asks for.
        if self._cache is None and self._service.cache is not None:
            self._cache = AnswerCache(self._service.cache, self._service.replay)
        return self._cache

    async def post(self, url: str, body: Mapping[str, Any]) -> Any:
        """Send a request, again if that may help, and return the JSON of its answer.

        Args:
            url: an address, or a path after the service's.
            body: the request.

        Raises:
            ServerError: there was no answer, or one that says that the request failed.
        """
        service = self._service
        async with self._gate:  # pauses keep their place: a server that asks for patience gets fewer requests
            for repeated in range(service.retries + 1):
                outcome = await self._attempt(url, body)
                if not isinstance(outcome, _Failure):
                    return outcome
                pause = _pause(repeated) if outcome.pause is None else outcome.pause
                if not outcome.again or repeated == service.retries or pause > LONGEST_ASKED:
                    break
                service.traffic.add(retries=1)
                await asyncio.sleep(pause)
        attempts = f", in {repeated + 1} attempts" if repeated else ""
        asked = f"; it asked for a pause of {pause:g} seconds" if outcome.again and pause > LONGEST_ASKED else ""
        raise ServerError(f"the server at {service.url} {outcome.reason}{attempts}{asked}")

    async def _attempt(self, url: str, body: Mapping[str, Any]) -> Any:
        import openai  # takes seconds to import, so only if a request is sent

        # Errors of the client hold its request, and with it the key: their texts leave this function, they do not.
        service, began = self._service, time.monotonic()
        try:
            client, options = self._opened_client()
            async with asyncio.timeout(service.timeout):
                answer = await client.post(url, cast_to=object, body=body, options=options)
                return _read(answer) if isinstance(answer, str) else answer
        except TimeoutError:
            return _Failure(f"did not answer within its time limit of {service.timeout:g} seconds", again=True)
        except openai.APIStatusError as error:
            status, pause = error.status_code, _asked_pause(error.response.headers.get("retry-after"))
            said = self.shown(error.response.text)
            return _Failure(f"answered {status}: {said}", again=status == 429 or status >= 500, pause=pause)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            return _Failure(f"cannot be reached ({self.redacted(f'{type(cause).__name__}: {cause}')})", again=True)
        except openai.OpenAIError as error:
            return _Failure(f"cannot be asked ({self.redacted(f'{type(error).__name__}: {error}')})")
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            return _Failure(f"answered what is not JSON ({type(error).__name__}: {error})")
        finally:
            service.traffic.add(calls=1, seconds=time.monotonic() - began)

    def _opened_client(self) -> tuple[Any, dict[str, Any]]:
        import openai

        if self._client is None:
            self._secret = self._service.secret()
            # Its own retries cover 408 and 409 too, and its time limit is one of each read, so both are off.
            self._client = openai.AsyncOpenAI(
                api_key=self._secret or NO_KEY, base_url=self._service.url, max_retries=0, timeout=None
            )
        # The client takes these from the environment; they are for OpenAI's own server.
        own = urlsplit(self._service.url).hostname == "api.openai.com"
        unsent = [*(() if self._secret else ("Authorization",)), *(() if own else _OF_OPENAI)]
        return self._client, {"headers": {name: openai.Omit() for name in unsent}} if unsent else {}

    def shown(self, answer: Any) -> str:
        """Return an answer for a message: without the key, and shortened."""
        return shortened(self.redacted(str(answer)))

    def redacted(self, text: str) -> str:
        """Return a text without the key, which some servers repeat."""
        return text.replace(self._secret, "(key)") if self._secret else text


def _read(answer: str) -> Any:
    """Return the JSON of an answer that the server does not call so; other text as it is."""
    try:
        return json.loads(answer)
    except json.JSONDecodeError:
        return answer


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await coroutines at the same time, and return their results in order.

    Raises:
        BaseException: that of the first one that fails; the others are cancelled.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in coroutines]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
    else:
        return [task.result() for task in tasks]
    raise first


def shortened(text: str) -> str:
    """Return a text for a message, without its middle if it is long: verdicts end with what counts."""
    return text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} … {text[-_SHOWN:]}"


def _pause(repeated: int) -> float:
    """Return the pause after a failure, a random part of it shorter, so that requests do not all return at once."""
    return min(FIRST_PAUSE * 2.0**repeated, LONGEST_PAUSE) * random.Random().uniform(0.5, 1.0)


def _asked_pause(header: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which holds a number or a date; None if it holds neither."""
    if header is None:
        return None
    with suppress(ValueError):
        return seconds if (seconds := float(header)) > 0 else 0.0
    try:
        date = parsedate_to_datetime(header)
    except ValueError:
        return None
    left: float = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(left, 0.0)
