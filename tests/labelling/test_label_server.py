"""The labelling server: who may ask it, what it tells, and that no answer is lost when it is killed."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import random
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.labelling.label_questions import question
from textgym.labelling import server
from textgym.labelling.server import Page, PageSettings, serve_until, words
from textgym.labelling.store import Answer, LabelStore, question_id
from textgym.rewards.labels.labelling import Question
from textgym.types import Prompt

TOKEN = "the-token-of-a-test"
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.sqlite"


@pytest.fixture
def port(path: Path) -> Iterator[int]:
    """Serve four questions in a thread."""
    found: list[str] = []
    ready, stopping = threading.Event(), threading.Event()

    def announce(address: str) -> None:
        found.append(address)
        ready.set()

    def serve() -> None:
        with LabelStore(path) as store:
            store.add([question(f"q{i}", 3, gold=[1, 2, 3], model="secret") for i in range(4)])
            assert serve_until(store, PageSettings(), lambda _: stopping.is_set(), announce, TOKEN)

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(60)
    assert found[0].endswith(f"/?token={TOKEN}")
    yield int(found[0].split(":")[2].split("/")[0])
    stopping.set()
    thread.join(60)
    assert not thread.is_alive()


class Client:
    """A browser without a screen."""

    def __init__(self, port: int, token: str = TOKEN) -> None:
        self.port = port
        self.headers: dict[str, str] = {"content-type": "application/json"}
        response = self.request("GET", f"/?token={token}")
        self.cookie = response.headers.get("set-cookie", "")
        self.headers |= {"cookie": self.cookie.partition(";")[0], "authorization": f"Bearer {token}"}

    def request(self, method: str, address: str, body: str | None = None, **headers: str) -> http.client.HTTPResponse:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, address, body, {**self.headers, **headers})
            response = connection.getresponse()
            response.content = response.read()  # type: ignore[attr-defined]
            return response

    def call(self, name: str, **body: Any) -> tuple[int, dict[str, Any]]:
        response = self.request("POST", f"/api/{name}", json.dumps(body))
        return response.status, json.loads(response.content)  # type: ignore[attr-defined]


def test_only_the_token_opens_the_page(port: int) -> None:
    client = Client(port)
    assert "HttpOnly" in client.cookie
    assert "samesite=strict" in client.cookie.lower()
    assert TOKEN not in client.cookie
    for address in ("/", "/label.js", "/label.css", "/icon.svg", "/ranking.js", "/watching.js", "/parts.js"):
        response = client.request("GET", address)
        assert response.status == 200
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert client.request("GET", address, cookie="").status == 403
        name = client.headers["cookie"].partition("=")[0]
        assert client.request("GET", address, cookie=f"{name}=x").status == 403
    assert client.request("GET", f"/label.js?token={TOKEN}", cookie="").status == 403
    for wrong in ("", TOKEN, "Bearer ", "Bearer x"):  # a cookie does not ask or answer
        assert client.request("POST", "/api/next", '{"labeller": "x"}', authorization=wrong).status == 403
    assert client.request("POST", "/api/next", '{"labeller": "x"}', cookie="").status == 200
    assert client.request("GET", "/store.py").status == 404
    assert client.request("GET", "/..%2fstore.py").status == 404
    with pytest.raises(AssertionError):
        assert Client(port, "wrong").cookie


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost.:1"])
def test_names_that_strangers_point_here_are_refused(port: int, host: str) -> None:
    assert Client(port).request("GET", "/", host=host).status == 403


def test_a_tunnel_may_change_the_port(port: int) -> None:
    """A browser keeps the cookies of all ports together, so their names differ."""
    client, host = Client(port), "localhost:9999"
    response = client.request("GET", f"/?token={TOKEN}", host=host)
    assert response.status == 200
    cookie = response.headers["set-cookie"].partition(";")[0]
    assert cookie.partition("=")[0] != client.cookie.partition("=")[0]
    assert client.request("GET", "/label.js", host=host, cookie=f"{client.headers['cookie']}; {cookie}").status == 200


def test_a_database_that_cannot_be_used_is_told(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(server, "next_question", fail)
    status, told = Client(port).call("next", labeller="anna")
    assert status == 503
    assert "(database or disk is full). Nothing was stored; try again" in told["error"]
    monkeypatch.undo()
    assert Client(port).call("next", labeller="anna")[0] == 200


def test_requests_of_other_sites_are_refused(port: int) -> None:
    client, body = Client(port), '{"labeller": "anna"}'
    assert client.request("POST", "/api/next", body, origin="http://evil.example").status == 403
    for origin in ("null", "http://["):
        assert client.request("POST", "/api/next", body, origin=origin).status == 403
    assert client.request("POST", "/api/next", body, origin=f"http://127.0.0.1:{port}").status == 200
    # A form of another site can send no JSON.
    assert client.request("POST", "/api/next", body, **{"content-type": "text/plain"}).status == 400
    assert client.request("GET", "/api/next").status in (404, 405)


def test_a_question_shows_nothing_but_prompt_and_completions(port: int) -> None:
    status, found = Client(port).call("next", labeller="anna")
    assert status == 200
    assert found["question"].keys() == {"id", "repeat", "prompt", "order", "completions"}
    assert found["question"]["completions"] == [f"q0 {i}" for i in found["question"]["order"]]
    assert "secret" not in json.dumps(found)
    assert found["progress"] == {"answered": 0, "left": 4, "seconds": None, "last": None}


def test_ranks_by_place_become_ranks_by_completion(path: Path) -> None:
    asked = question("p", 3)
    which = question_id("p", asked.completions)
    with LabelStore(path) as store:
        store.add([asked])
        page = Page(store, PageSettings(labeller="anna", axes=("true",), scores=True), now=lambda: 0.0)
        given = {
            "question": which,
            "repeat": 0,
            "order": [2, 0, 1],
            "ranks": [0, 2, 1],
            "seconds": 2,
            "flags": {"true": [True, False, False]},
            "scores": [7, None, 1],
        }
        assert page.answer(given)["number"] == 1
        assert page.answer(given)["number"] == 1
        expected = Answer(
            which, "anna", (2, 0, 1), (2, 1, 0), None, {"true": (False, False, True)}, (None, 1, 7), seconds=2.0
        )
        assert store.answers() == (expected,)
        undone = page.undo({"number": 1})["question"]
        assert undone["order"] == (2, 0, 1)
        assert undone["completions"] == ["p 2", "p 0", "p 1"]
        assert undone["given"] == {"ranks": [0, 2, 1], "flags": {"true": [True, False, False]}, "scores": [7, None, 1]}
        assert page.undo({"number": 1})["question"] == undone  # a request sent twice
        with pytest.raises(ValueError, match="number=2"):
            page.undo({"number": 2})


@pytest.mark.parametrize(
    "wrong",
    [
        {"question": "unknown"},
        {"question": 3},
        {"order": [0, 1]},
        {"order": [0, 1, 1]},
        {"order": "012"},
        {"ranks": [0, 1]},
        {"ranks": [0, 1, "2"]},
        {"ranks": [0, 1, 9]},
        {"ranks": None},
        {"ranks": None, "skipped": 3},
        {"seconds": None},
        {"seconds": -1},
        {"seconds": 10**400},
        {"repeat": "0"},
        {"repeat": True},
        {"repeat": 1},
        {"repeat": 2**70},
        {"labeller": ""},
        {"labeller": None},
        {"labeller": "a\u0007"},
    ],
)
def test_a_malformed_answer_gets_400_and_changes_nothing(port: int, path: Path, wrong: dict[str, Any]) -> None:
    client = Client(port)
    _, found = client.call("next", labeller="anna")
    asked = found["question"]
    good = {
        "labeller": "anna",
        "question": asked["id"],
        "repeat": 0,
        "order": asked["order"],
        "ranks": [0, 1, 2],
        "skipped": None,
        "flags": {},
        "scores": None,
        "seconds": 1.5,
    }
    status, told = client.call("answer", **{**good, **wrong})
    assert status == 400
    assert told["error"]
    assert client.call("answer", **good)[0] == 200
    with LabelStore(path) as store:
        assert store.count() == 1


@pytest.mark.parametrize("body", ["", "[]", "3", "{", '{"labeller": ' + "[" * 100_000, '{"labeller": "\\ud800"}'])
def test_a_body_that_is_no_object_gets_400(port: int, body: str) -> None:
    assert Client(port).request("POST", "/api/next", body).status == 400


def answered(client: Client, asked: Question, number: int) -> int:
    """Send the answer to a question, and return its number."""
    status, told = client.call(
        "answer",
        labeller="anna",
        question=question_id(asked.prompt.content, asked.completions),
        repeat=0,
        order=[0, 1],
        ranks=[number % 2, 1 - number % 2],
        seconds=1.0,
    )
    assert status == 200, told
    return int(told["number"])


def serve_alone(path: Path, port: int) -> None:
    with LabelStore(path) as store:
        serve_until(store, PageSettings(port=port), token=TOKEN, announce=lambda _: None)


@FORKS
def test_none_is_lost_or_doubled_when_the_server_is_killed_at_50_random_moments(path: Path) -> None:
    """A request without a reply is sent again to the next server; a number that was told stays what it was."""
    asked = [question(f"q{i}", 2) for i in range(2000)]
    with LabelStore(path) as store:
        store.add(asked)
        ids = store.ids()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    moments = random.Random(1)
    heard: dict[int, int] = {}
    place = kills = 0
    while kills < 50:
        process = multiprocessing.get_context("fork").Process(target=serve_alone, args=(path, port))
        process.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.005)
        killer = threading.Timer(moments.uniform(0, 0.2), process.kill)
        killer.start()
        try:
            client = Client(port)
            while True:
                heard[place] = answered(client, asked[place], place)
                place += 1
        except (OSError, http.client.HTTPException):
            killer.join()
            process.join()
        kills += process.exitcode == -signal.SIGKILL
    with LabelStore(path) as store:
        stored = {found.number: found for found in store.answers()}
        assert store.rows("PRAGMA integrity_check") == [("ok",)]
    assert place > 20
    assert list(heard) == list(range(place))
    for number, answer_number in heard.items():
        assert stored[answer_number].question == ids[number]
        assert stored[answer_number].ranks == (number % 2, 1 - number % 2)
    assert len({found.question for found in stored.values()}) == len(stored)
    assert len(stored) - len(heard) <= 1


@FORKS
def test_ctrl_c_ends_serving_in_peace(path: Path) -> None:
    LabelStore(path).close()
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)

    def serve() -> None:
        with LabelStore(path) as store:
            sender.send(serve_until(store, PageSettings(), announce=sender.send))

    process = multiprocessing.get_context("fork").Process(target=serve)
    process.start()
    assert receiver.poll(60)
    assert receiver.recv().startswith("http://127.0.0.1:")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    assert receiver.poll(60)
    assert receiver.recv() is False
    process.join(60)
    assert process.exitcode == 0


def test_serving_ends_when_enough_is_answered(path: Path) -> None:
    with LabelStore(path) as store:
        assert serve_until(store, PageSettings(), lambda opened: opened.count() == 0, lambda _: None)


def test_a_port_in_use_is_told_before_anything_is_served(path: Path) -> None:
    with socket.socket() as taken, LabelStore(path) as store:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port={port}: Address already in use; set another port"):
            serve_until(store, PageSettings(port=port))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"host": "0.0.0.0"}, "lets other machines connect"),
        ({"host": "192.168.0.3"}, "lets other machines connect"),
        ({"host": "::"}, "lets other machines connect"),
        ({"host": "example.org"}, "lets other machines connect"),
        ({"host": ""}, "lets other machines connect"),
        ({"port": 70000}, "port=70000"),
        ({"shared": 1.5}, "shared=1.5"),
        ({"repeat": -0.1}, "repeat=-0.1"),
        ({"axes": ("true", "true")}, "expected different names"),
        ({"axes": ("",)}, "blank"),
        ({"labeller": " "}, "expected a name"),
        ({"watch": 0}, "watch=0"),
    ],
)
def test_settings_without_meaning_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PageSettings(**wrong)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_every_name_of_this_machine_is_allowed(host: str) -> None:
    assert PageSettings(host=host).host == host
    assert PageSettings(host="0.0.0.0", network=True).host == "0.0.0.0"


@pytest.mark.parametrize("text", ["a", " a  b\n", "a\n\nb ", "👩‍👩‍👧 x", "x" * 9, "  \n"])
def test_words_join_to_their_text(text: str) -> None:
    assert "".join(words(text)) == text
    assert all(words(text))
    assert len(words(text)) == max(1, len(text.split()))


def test_a_conversation_is_shown_as_turns(path: Path) -> None:
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    with LabelStore(path) as store:
        store.add([Question(("a", "b"), Prompt(chat, "", ()))])
        shown = Page(store, PageSettings(labeller="anna")).next({})["question"]
    assert shown["prompt"] == [{"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Yes?"}]


def test_the_extra_is_named_where_its_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, server.__name__)
    with pytest.raises(ImportError, match=r"textgym\[label\]"):
        __import__(server.__name__)
