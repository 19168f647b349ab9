"""Answers on disk: what is in the cache is not asked again, also after a kill, and by another process."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.rewards.judge_server import Reply, question, says, serving, until
from textgym.rewards import RewardError, call_reward
from textgym.rewards.judges.cache import AnswerCache, digest
from textgym.rewards.judges.judge import Judge, PairwiseJudge, compare

TEXTS = [f"text {i}" for i in range(40)]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def asks(tmp_path: Path) -> Path:
    """A template that is the completion alone, so that a request is its text."""
    path = tmp_path / "template"
    path.write_text("{completion}", "utf-8")
    return path


def score(reward: Any, texts: list[str]) -> list[Any]:
    return call_reward(reward, ["p"] * len(texts), texts, [[1]] * len(texts), {})


class Fickle:
    """A judge that says something else each time."""

    def __init__(self) -> None:
        self.numbers = count()
        self.lock = threading.Lock()

    def __call__(self, request: dict[str, Any]) -> Reply:
        with self.lock:
            return says(f"Score: {next(self.numbers) / 7!r}")


def fickle_judge(url: str, asks: Path, cache: Path, **options: Any) -> Judge:
    return Judge(url, model="m", template=asks, cache=cache, high=1e6, low=0, **{"key": "none", **options})


PROCESS = """
import json, sys
from pathlib import Path
from textgym.rewards.functions import call_reward
from textgym.rewards.judges.judge import Judge

url, asks, cache, texts = json.loads(sys.argv[1])
judge = Judge(url, model="m", key="none", template=Path(asks), cache=Path(cache), high=1e6, low=0)
print("ready", flush=True)
sys.stdin.readline()
scores = call_reward(judge, ["p"] * len(texts), texts, [[1]] * len(texts), {})
print(json.dumps([scores, judge.usage]))
"""


def started(url: str, asks: Path, cache: Path, texts: list[str]) -> subprocess.Popen[str]:
    """A process that waits for a line of input, and then scores the texts."""
    given = json.dumps([url, str(asks), str(cache), texts])
    return subprocess.Popen(
        [sys.executable, "-c", PROCESS, given], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def begin(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def test_a_run_repeats_without_a_server_and_without_a_key(asks: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("A_KEY", "sk-secret")
    with serving(Fickle()) as server:
        reward = fickle_judge(server.url, asks, tmp_path, key="A_KEY")
        scores = score(reward, TEXTS)
        assert len(server.requests) == len(set(scores)) == 40
        assert score(reward, TEXTS) == scores
        assert len(server.requests) == 40
        assert (reward.usage["calls"], reward.usage["cache_hits"]) == (40, 40)
    monkeypatch.delenv("A_KEY")
    again = fickle_judge(server.url, asks, tmp_path, key="A_KEY", replay=True)
    assert score(again, TEXTS[::-1]) == scores[::-1]
    assert (again.usage["calls"], again.usage["cache_hits"]) == (0, 40)


def test_replay_names_the_first_request_that_is_new(asks: Path, tmp_path: Path) -> None:
    with serving(Fickle()) as server:
        score(fickle_judge(server.url, asks, tmp_path), ["a", "b"])
        again = fickle_judge(server.url, asks, tmp_path, replay=True)
        with pytest.raises(RewardError, match=r"(?s)'judge': replay=True, .* has no answer to .*completion: 'c'"):
            score(again, ["a", "c", "b", "d"])
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"temperature": 0.5}, {"seed": 1}, {"url": "/v2"}, {"template": "{completion}!"}]
)
def test_another_request_is_asked_anew(asks: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    with serving(Fickle()) as server:
        settings: dict[str, Any] = {"url": server.url, "model": "m", "template": asks, "key": "none", "cache": tmp_path}
        before = score(Judge(**settings, low=0), ["a"])
        assert score(Judge(**settings, low=0, retries=1, concurrency=2, timeout=5), ["a"]) == before
        if "template" in change:
            change = {"template": tmp_path / "other"}
            change["template"].write_text("{completion}!")
        if "url" in change:
            change = {"url": f"{server.url}/v2"}
        assert score(Judge(**{**settings, **change}, low=0), ["a"]) != before
        assert len(server.requests) == 2


def test_a_verdict_that_cannot_be_read_is_not_kept(asks: Path, tmp_path: Path) -> None:
    with serving([says("Hm."), says("Hm."), says("Hm."), says("Score: 6")]) as server:
        reward = Judge(server.url, model="m", key="none", template=asks, cache=tmp_path)
        with pytest.raises(RewardError, match="cannot be read"):
            score(reward, ["a"])
        assert score(reward, ["a"]) == [6.0]
        assert score(reward, ["a"]) == [6.0]
        assert len(server.requests) == 4


def test_another_parser_asks_again_where_it_cannot_read_what_is_kept(asks: Path, tmp_path: Path) -> None:
    with serving([says("Score: 6"), says("rating 3")]) as server:
        settings: dict[str, Any] = {"url": server.url, "model": "m", "key": "none", "template": asks, "cache": tmp_path}
        score(Judge(**settings), ["a"])
        other = Judge(**settings, parse="rating (.*)")
        with pytest.raises(RewardError, match=r"(?s)an answer that cannot be read \('Score: 6'\)"):
            score(Judge(**settings, parse="rating (.*)", replay=True), ["a"])
        assert score(other, ["a"]) == [3.0]
        assert score(other, ["a"]) == [3.0]
        assert len(server.requests) == 2


def test_pairs_are_kept_too(tmp_path: Path) -> None:
    path = tmp_path / "pair"
    path.write_text("{first}|{second}")
    with serving(lambda request: says("Verdict: " + ("A" if question(request).startswith("good") else "B"))) as server:
        settings: dict[str, Any] = {"url": server.url, "model": "m", "key": "none", "template": path, "cache": tmp_path}
        assert compare(PairwiseJudge(**settings), ["p", "p"], ["good", "bad"], ["bad", "good"]) == [1, -1]
        assert len(server.requests) == 2  # the second pair is the first one in the other order
    assert compare(PairwiseJudge(**settings, replay=True), ["p"], ["good"], ["bad"]) == [1]


def test_what_a_killed_process_was_told_is_not_asked_again(asks: Path, tmp_path: Path) -> None:
    """Of 40 texts 32 are answered; the process is killed while it waits for the others."""
    cache, fickle, waits = tmp_path / "answers", Fickle(), threading.Event()

    def answer(request: dict[str, Any]) -> Reply:
        is_slow = int(question(request).split()[1]) >= 32 and not waits.is_set()
        return says(fickle(request).body["choices"][0]["message"]["content"], after=600 if is_slow else 0)

    with serving(answer) as server:
        process = started(server.url, asks, cache, TEXTS)
        try:
            begin(process)
            until(lambda: len(server.requests) == 40 and kept_in(cache) == 32)
        finally:
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        waits.set()
        before = score(fickle_judge(server.url, asks, cache, replay=True), TEXTS[:32])
        assert len(set(before)) == 32
        scores = score(fickle_judge(server.url, asks, cache), TEXTS)
        assert scores[:32] == before
        assert sorted(map(question, server.requests[40:])) == sorted(TEXTS[32:])
    assert score(fickle_judge(server.url, asks, cache, replay=True), TEXTS) == scores


def kept_in(cache: Path) -> int:
    file = sqlite3.connect(cache)
    try:
        return file.execute("SELECT count(*) FROM answers").fetchone()[0]
    finally:
        file.close()


def test_two_processes_share_a_cache_and_agree(asks: Path, tmp_path: Path) -> None:
    """Both ask at once, and are told different numbers; both go by the one that is kept."""
    cache = tmp_path / "answers"
    with serving(Fickle()) as server:
        processes = [started(server.url, asks, cache, texts) for texts in (TEXTS, TEXTS[::-1])]
        begin(*processes)
        (first, _), (second, _) = [json.loads(process.communicate()[0]) for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        asked = len(server.requests)
        assert 40 <= asked <= 80
        assert first == second[::-1]
        assert score(fickle_judge(server.url, asks, cache), TEXTS) == first
        assert len(server.requests) == asked


def test_many_may_open_a_new_cache_at_once(tmp_path: Path) -> None:
    barrier, kept, failed = threading.Barrier(8), [], []

    def use(number: int) -> None:
        barrier.wait()
        try:
            cache = AnswerCache(tmp_path / "new")
            kept.append([cache.put(str(i), f"{number}") for i in range(20)])
            cache.close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert kept == [kept[0]] * 8


def test_the_first_answer_is_kept_unless_it_could_not_be_read(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    assert cache.get("a") is None
    assert cache.put("a", "first") == "first"
    assert cache.put("a", "second") == "first"
    assert cache.put("a", "third", instead="other") == "first"
    assert cache.put("a", "fourth", instead="first") == "fourth"
    assert cache.put("empty", "") == ""
    cache.close()
    assert (tmp_path / "answers.sqlite").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["answers.sqlite"]  # the log is merged when it is closed
    again = AnswerCache(tmp_path / "answers.sqlite", replay=True)
    assert again.get("a") == "fourth"
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        again.put("b", "x")
    again.close()


def test_a_digest_is_that_of_the_content() -> None:
    assert digest({"a": 1, "b": [1, "ä"]}) == digest({"b": [1, "ä"], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_bad_caches_are_named_before_any_work(tmp_path: Path) -> None:
    def made(**options: Any) -> Judge:
        return Judge("http://h/v1", model="m", key="none", **options)

    (text := tmp_path / "text").write_text("no cache, but long enough that SQLite reads a header of it: " + "x" * 100)
    with pytest.raises(ValueError, match=r"cache='.*text' cannot be written \(file is not a database\)"):
        made(cache=text)
    with pytest.raises(ValueError, match=r"cache='.*text' cannot be read \(file is not a database\)"):
        made(cache=text, replay=True)
    with pytest.raises(ValueError, match=r"cache='.*file' cannot be written .*in a directory that exists"):
        made(cache=tmp_path / "no" / "file")
    with pytest.raises(ValueError, match="name the cache of an earlier run with cache="):
        made(replay=True)
    with pytest.raises(ValueError, match=r"there is no file '.*new'"):
        made(cache=tmp_path / "new", replay=True)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"there is no file '.*answers\.sqlite'"):
        made(cache=tmp_path, replay=True)
    sqlite3.connect(tmp_path / "other").close()
    with pytest.raises(ValueError, match="no such table: answers"):
        made(cache=tmp_path / "other", replay=True)
