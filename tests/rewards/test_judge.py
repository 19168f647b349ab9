"""Judges against a server on this machine: scores, verdicts on pairs, failures, and what must not be shown."""

from __future__ import annotations

import asyncio
import gc
import json
import pickle
import re
import traceback
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import tiny_gpt2, word_mdp
from tests.rewards.judge_server import FakeServer, Reply, busy, question, says, serving
from textgym.agents.ppo import PPO
from textgym.calls import await_all
from textgym.env.vector import TokenVectorEnv
from textgym.rewards import RewardError, call_reward, compose
from textgym.rewards.functions import check_columns, check_signature
from textgym.rewards.judges import client
from textgym.rewards.judges.client import SecretError
from textgym.rewards.judges.judge import Judge, PairwiseJudge, compare, settled

SECRET = "sk-abc123-secret-value"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no key of the user's, and no waiting."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OPENAI_API_KEY", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)


def judge(server: FakeServer, **options: Any) -> Judge:
    return Judge(server.url, **{"model": "m", "key": "none", **options})


def score(reward: Any, *completions: Any, prompts: Any = None, **columns: Any) -> list[Any]:
    asked = ["why?"] * len(completions) if prompts is None else prompts
    return call_reward(reward, asked, list(completions), [[1]] * len(completions), columns)


def template(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


# --- requests and scores -----------------------------------------------------------------------------------------


def test_a_request_is_a_chat_completion_and_its_verdict_a_score() -> None:
    with serving([says("Fair. Score: 6")]) as server:
        reward = judge(server)
        check_signature(reward)
        assert score(reward, "because") == [6.0]
    assert server.paths == ["/v1/chat/completions"]
    (request,) = server.requests
    text = request.pop("messages")[0]
    assert request == {"model": "m", "temperature": 0.0, "seed": 0}
    assert text["role"] == "user"
    assert "why?" in text["content"]
    assert "because" in text["content"]
    assert "from 1 (very poor) to 10 (excellent)" in text["content"]
    usage = reward.usage
    assert usage.pop("seconds") > 0
    assert usage == {"calls": 1, "cache_hits": 0, "retries": 0, "prompt_tokens": 7, "completion_tokens": 3}


def test_sampling_settings_are_sent_and_minus_one_leaves_the_seed_out() -> None:
    with serving(lambda _: says("Score: 1")) as server:
        score(judge(server, temperature=0.5, seed=3), "x")
        score(judge(server, seed=-1), "x")
    assert (server.requests[0]["temperature"], server.requests[0]["seed"]) == (0.5, 3)
    assert "seed" not in server.requests[1]


@pytest.mark.parametrize(
    ("verdict", "number"),
    [
        ("Score: 7", 7.0),
        ("score = 7.5", 7.5),
        ("**Score:** 7", 7.0),
        ("Score: **7**/10", 7.0),
        ("**Score (1-10): 7.**", 7.0),
        ("Score: [[3]]", 3.0),
        ('{"reason": "a score of 2", "score": 9}', 9.0),
        ('{"score": "8", "n": 3}', 8.0),
        ("Score: 2 at first.\nFinal score: 4", 4.0),
        ("<think>Score: 1</think>\nScore: 10", 10.0),
        ("Score: 7/10, for 3 reasons", 7.0),
        ("7", None),
        ("", None),
        ("Score: N", None),
        ("Score: 5\nScore: N/A", None),  # the last one counts, and says nothing
        ("Score: 11", None),
        ("Score: 0", None),
        ("Score: -3", None),
        ("Score: 7/100", None),
        ("Score: 7,5", None),
        ("Score: 7-8", None),
        ("Score: 10-12", None),
        ("Score: nan", None),
        ("scores: 7", None),
    ],
)
def test_reading_of_a_verdict(verdict: str, number: float | None) -> None:
    assert Judge(model="m", key="none").number(verdict) == number


@pytest.mark.parametrize("value", [0.1 + 0.2, 1 / 3, 1e-17, -2.5e-8, 5e-324, 123456789.123456789, 0.0, -1.0])
def test_numbers_pass_exactly(value: float) -> None:
    reward = Judge(model="m", key="none", low=-1.0, high=1e9)
    for text in (f"Score: {value!r}", json.dumps({"score": value})):
        assert reward.number(text) == value


def test_an_own_expression_reads_the_last_match() -> None:
    reward = Judge(model="m", key="none", parse=r"rating=(\S+)", low=0, high=100)
    assert reward.number("rating=3 rating=55.5") == 55.5
    assert reward.number("rating=good") is None
    assert reward.number("rating=nan") is None
    assert reward.number("Score: 3") is None


def test_scores_may_be_mapped_to_the_unit_interval() -> None:
    with serving(lambda request: says(f"Score: {len(question(request)) % 10 + 1}")) as server:
        raw = score(judge(server), *(texts := ["a", "bb", "ccc", "dddd"]))
        mapped = score(judge(server, unit=True), *texts)
    assert len(set(raw)) > 1
    assert mapped == [(number - 1) / 9 for number in raw]


def test_scores_keep_the_order_of_the_completions() -> None:
    answered = {f"[{i}]": i for i in range(40)}
    pattern = re.compile(r"\[\d+\]")
    with serving(lambda request: says(f"Score: {answered[pattern.search(question(request))[0]]}")) as server:
        reward = judge(server, low=0, high=100, concurrency=4)
        assert score(reward, *answered) == list(map(float, answered.values()))


def test_a_template_shows_columns_and_conversations(tmp_path: Path) -> None:
    text = '{prompt}|{completion}|{answer}|{references}|{"score": N} {0} {low}'
    with serving(lambda _: says('{"score": 2}')) as server:
        reward = judge(server, template=template(tmp_path / "t", text))
        assert reward.required_columns == ("answer", "references")
        score(
            reward,
            [{"role": "assistant", "content": "{answer}"}],
            prompts=[[{"role": "system", "content": "Be good."}, {"role": "user", "content": "Hi"}]],
            answer=[42],
            references=[["a", "b"]],
        )
    assert question(server.requests[0]) == 'system: Be good.\nuser: Hi|{answer}|42|a\nb|{"score": N} {0} 1'


def test_equal_requests_are_sent_once_even_without_a_cache() -> None:
    with serving(lambda _: says("Score: 3")) as server:
        assert score(judge(server), "a", "b", "a") == [3.0] * 3
    assert len(server.requests) == 2


def test_equal_requests_of_a_large_batch_are_sent_once() -> None:
    """A batch of 128 is scored by eight calls at a time; equal rows in several of them are one request."""
    texts = [f"[{i % 3}]" for i in range(128)]
    pattern = re.compile(r"\[(\d)\]")
    with serving(lambda request: says(f"Score: {pattern.search(question(request))[1]}", after=0.2)) as server:
        assert score(judge(server, low=0, high=9), *texts) == [i % 3 for i in range(128)]
    assert len(server.requests) == 3


def test_a_call_that_fails_leaves_the_others_their_answers() -> None:
    """Two calls wait for one request; the one that fails by another row does not take it from the other."""
    slow = says("Score: 4", after=0.3)
    with serving(lambda request: slow if "both" in question(request) else busy(400)) as server:
        reward = judge(server)

        async def both() -> list[Any]:
            calls = [reward(["p"] * 2, ["both", "bad"]), reward(["p"], ["both"])]
            async with reward.session():
                return await asyncio.gather(*calls, return_exceptions=True)

        failed, scored = asyncio.run(both())
    assert isinstance(failed, RewardError)
    assert scored == [4.0]
    assert sorted("both" in question(request) for request in server.requests) == [False, True]


def test_requests_that_nobody_waits_for_any_more_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """The call that fails had another request under way; it is not repeated, and its failure is nobody's."""
    with serving(lambda request: replace(busy(503), after=0.3) if "slow" in question(request) else busy(400)) as server:
        reward = judge(server, retries=9)

        async def both() -> Any:
            async with reward.session():
                with pytest.raises(RewardError):
                    await reward(["p"] * 2, ["slow", "bad"])
                asked = len(server.requests)
                await asyncio.sleep(0.8)
                return asked

        asked = asyncio.run(both())
        assert len(server.requests) == asked
    gc.collect()
    assert not caplog.records


def test_no_completions_need_no_server() -> None:
    assert score(Judge("http://127.0.0.1:1", model="m", key="none")) == []


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statuses", [[429], [500, 503]])
def test_busy_servers_are_asked_again(statuses: list[int]) -> None:
    with serving([*map(busy, statuses), says("Score: 6")]) as server:
        reward = judge(server)
        assert score(reward, "x") == [6.0]
    assert len(server.requests) == len(statuses) + 1
    assert reward.usage["retries"] == len(statuses)
    assert reward.usage["calls"] == len(statuses) + 1


def test_a_dropped_connection_is_asked_again() -> None:
    with serving([Reply(0, ""), says("Score: 6")]) as server:
        assert score(judge(server), "x") == [6.0]


@pytest.mark.parametrize("status", [400, 401, 404, 408, 409, 422])
def test_other_statuses_are_errors_at_once(status: int) -> None:
    with serving(lambda _: busy(status, **{"x-should-retry": "true"})) as server:
        with pytest.raises(RewardError, match=rf"(?s)reward 'judge'.*answered {status}: .*status {status}.*'broken'"):
            score(judge(server), "broken")
        assert len(server.requests) == 1


def test_a_failure_in_a_batch_is_not_searched_for_by_asking_again() -> None:
    def answer(request: dict[str, Any]) -> Reply:
        return busy(400) if "bad" in question(request) else says("Score: 1", after=0.05)

    with serving(answer) as server:
        with pytest.raises(RewardError, match=r"(?s)answered 400.*'bad'"):
            score(judge(server), *"abcdefg", "bad")
        assert len(server.requests) <= 8
        assert sum("bad" in question(request) for request in server.requests) == 1


def test_retries_come_to_an_end() -> None:
    with serving(lambda _: busy(503)) as server:
        with pytest.raises(RewardError, match=r"answered 503: .*, in 3 attempts"):
            score(judge(server, retries=2), "x")
        assert len(server.requests) == 3
        with pytest.raises(RewardError, match="answered 503") as caught:
            score(judge(server, retries=0), "x")
        assert "attempts" not in str(caught.value)
        assert len(server.requests) == 4


def test_the_pause_that_a_server_asks_for_is_kept() -> None:
    with serving([busy(429, **{"Retry-After": "0.3"}), says("Score: 6")]) as server:
        assert score(judge(server), "x") == [6.0]
    first, second = server.times
    assert second - first >= 0.3


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("nan", 0.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None)],
)
def test_reading_of_the_pause(header: str, seconds: float | None) -> None:
    assert client._asked_pause(header) == seconds


def test_a_date_is_a_pause_until_then() -> None:
    assert 3e9 < client._asked_pause("Fri, 31 Dec 2199 23:59:59 GMT") < 6e9  # type: ignore[operator]


def test_pauses_grow_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.5)
    for repeated, longest in enumerate([0.5, 1.0, 2.0, 4.0, 8.0, 8.0]):
        assert longest / 2 <= client._pause(repeated) <= longest


def test_a_server_that_asks_for_an_hour_is_not_waited_for() -> None:
    with serving([busy(429, **{"Retry-After": "3600"})]) as server:
        with pytest.raises(RewardError, match=r"answered 429.*it asked for a pause of 3600 seconds"):
            score(judge(server), "x")
        assert len(server.requests) == 1


def test_a_server_that_cannot_be_reached_is_named() -> None:
    with serving([]) as server:
        pass
    with pytest.raises(RewardError, match=rf"(?s)'judge'.*{server.url} cannot be reached.*in 2 attempts"):
        score(judge(server, retries=1), "x")


def test_a_server_that_never_answers_names_reward_and_limit() -> None:
    with serving(lambda _: says("Score: 1", after=60)) as server:
        with pytest.raises(RewardError, match=r"'judge'.*did not answer within its time limit of 0\.2 seconds, in 2"):
            score(judge(server, timeout=0.2, retries=1), "x")
        assert len(server.requests) == 2
        with pytest.raises(RewardError, match=r"'judge' took longer than its time limit of 0\.3 seconds"):
            compose(judge(server), timeout=0.3).score(["p"], ["x"], [[1]], {})


def test_the_limit_is_of_the_whole_request() -> None:
    """A server that keeps sending a little is too slow, too."""
    with serving(lambda _: says("Score: 1", trickle=0.05)) as server:
        with pytest.raises(RewardError, match=r"within its time limit of 0\.4 seconds, about"):
            score(judge(server, timeout=0.4, retries=0), "x")
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(200, {"choices": []}), r"no chat completion: {'choices': \[\]}"),
        (Reply(200, {"error": "no such model"}), "no chat completion: .*no such model"),
        (Reply(200, b"<html>Log in</html>", {"Content-Type": "text/html"}), "no chat completion: <html>Log in"),
        (Reply(200, b'{"choices": ['), "answered what is not JSON"),
    ],
)
def test_what_is_no_chat_completion_is_shown(reply: Reply, message: str) -> None:
    with serving([reply]) as server, pytest.raises(RewardError, match=message):
        score(judge(server), "x")


def test_a_verdict_that_cannot_be_read_is_asked_for_once_more() -> None:
    with serving([says("I like it."), says("Score: 6")]) as server:
        assert score(judge(server), "x") == [6.0]
    first, second = server.requests
    assert (first.pop("seed"), second.pop("seed")) == (0, 1)  # or a server that repeats itself would say the same
    assert first == second


@pytest.mark.parametrize("text", ["I refuse, twice.", None])
def test_a_verdict_that_cannot_be_read_twice_is_an_error_with_its_text(text: str | None) -> None:
    with serving(lambda _: says(text)) as server:
        with pytest.raises(RewardError, match=rf"(?s)'judge': the verdict of 'm' cannot be read.*'{text or ''}'.*'x'"):
            score(judge(server), "x")
        assert len(server.requests) == 2


def test_long_verdicts_are_shown_with_their_end() -> None:
    with serving(lambda _: says("begin " + "x" * 5000 + " end")) as server:
        with pytest.raises(RewardError, match=r"begin x+ … x+ end'") as caught:
            score(judge(server), "x")
        assert len(str(caught.value)) < 2000


# --- bound, loops and threads --------------------------------------------------------------------------------------


def test_a_thousand_calls_keep_to_the_bound() -> None:
    with serving(lambda _: says("Score: 6", after=0.002)) as server:
        assert score(judge(server), *map(str, range(1000))) == [6.0] * 1000
        assert len(server.requests) == 1000
        assert 1 < server.most <= 16


def test_calls_of_one_loop_share_the_bound_and_leave_nothing_open() -> None:
    with serving(lambda _: says("Score: 6", after=0.02)) as server:
        reward = judge(server, concurrency=3)
        calls = [reward(["p"] * 5, [f"{i} {k}" for k in range(5)]) for i in range(4)]
        assert await_all(calls) == [[6.0] * 5] * 4
        assert server.most == 3
        assert reward.traffic.sessions == {}


def test_it_works_where_a_loop_already_runs() -> None:
    with serving(lambda _: says("Score: 6")) as server:

        async def notebook() -> list[Any]:
            return score(judge(server), "x")

        assert asyncio.run(notebook()) == [6.0]


def test_copies_have_the_settings_and_count_anew() -> None:
    with serving(lambda _: says("Score: 6")) as server:
        reward = judge(server)
        score(reward, "x")
        for copied in (pickle.loads(pickle.dumps(reward)), replace(reward)):
            assert copied == reward
            assert copied.usage["calls"] == 0
            assert score(copied, "x") == [6.0]


# --- pairs -------------------------------------------------------------------------------------------------------


def test_a_judge_that_prefers_the_first_text_says_ties() -> None:
    with serving(lambda _: says("Verdict: A")) as server:
        pairwise = PairwiseJudge(server.url, model="m", key="none")
        assert compare(pairwise, ["p"] * 3, ["a", "b", "c"], ["x", "y", "z"]) == [0, 0, 0]
    assert len(server.requests) == 6


def test_a_judge_that_goes_by_the_texts_is_believed(tmp_path: Path) -> None:
    def longer(request: dict[str, Any]) -> Reply:
        first, second = question(request).split("|")
        return says("Verdict: " + ("tie" if len(first) == len(second) else "AB"[len(second) > len(first)]))

    path = template(tmp_path / "pair", "{first}|{second}")
    with serving(longer) as server:
        pairwise = PairwiseJudge(server.url, model="m", key="none", template=path)
        assert compare(pairwise, ["p"] * 3, ["aaa", "a", "b"], ["b", "bb", "c"]) == [1, -1, 0]
    assert sorted(map(question, server.requests)) == sorted(["aaa|b", "b|aaa", "a|bb", "bb|a", "b|c", "c|b"])


def test_pairs_of_conversations_with_columns(tmp_path: Path) -> None:
    path = template(tmp_path / "pair", "{prompt}|{topic}|{first}|{second}")
    talk = [[{"role": "user", "content": "hi"}]]
    first, second = ([[{"role": "assistant", "content": text}]] for text in "ab")
    with serving(lambda _: says('{"verdict": "tie"}')) as server:
        pairwise = PairwiseJudge(server.url, model="m", key="none", template=path)
        assert pairwise.required_columns == ("topic",)
        assert compare(pairwise, talk, first, second, topic=["sea"]) == [0]
    assert sorted(map(question, server.requests)) == ["user: hi|sea|a|b", "user: hi|sea|b|a"]


@pytest.mark.parametrize(
    ("there", "back", "expected"),
    [(1, -1, 1), (-1, 1, -1), (1, 1, 0), (-1, -1, 0), (0, 0, 0), (1, 0, 0), (0, -1, 0), (-1, 0, 0), (0, 1, 0)],
)
def test_both_orders_must_agree(there: int, back: int, expected: int) -> None:
    assert settled(there, back) == expected


def test_a_function_can_compare() -> None:
    def by_length(prompts: list[str], first: list[str], second: list[str]) -> list[int]:
        return [(len(a) > len(b)) - (len(a) < len(b)) for a, b in zip(first, second, strict=True)]

    assert compare(by_length, ["p"] * 3, ["aa", "a", "a"], ["a", "aa", "b"]) == [1, -1, 0]
    with pytest.raises(ValueError, match=r"lists of one length, got lengths \[1, 2\]"):
        compare(by_length, ["p"], ["a"], ["a", "b"])
    with pytest.raises(RewardError, match="shown 2 pairs, and gave 1 verdicts"):
        compare(lambda *_: [1], ["p"], ["a"], ["b"])


@pytest.mark.parametrize(
    ("verdict", "preference"),
    [
        ("Verdict: A", 1),
        ("Both are fine.\n**Verdict:** B", -1),
        ("Verdict: Response B.", -1),
        ("verdict: [[A]]", 1),
        ("Verdict: Tie", 0),
        ("Verdict: a tie", 0),
        ("Verdict: A tie", 0),
        ('{"verdict": "tie"}', 0),
        ("Verdict: A\nVerdict: B", -1),
        ("Verdict: A or B", None),
        ("Verdict: B/A", None),
        ("Verdict: A and B tie", None),
        ("Verdict: A, better than the other", 1),
        ("Verdict: C", None),
        ("Verdict: Also good", None),
        ("Verdict: a better one", None),
        ("Verdict: A\nVerdict: unclear", None),
        ("A", None),
        ("", None),
    ],
)
def test_reading_of_a_preference(verdict: str, preference: int | None) -> None:
    assert PairwiseJudge(model="m", key="none").preference(verdict) == preference


def test_an_own_expression_reads_mt_bench_verdicts() -> None:
    pairwise = PairwiseJudge(model="m", key="none", parse=r"\[\[([ABC])\]\]")
    assert [pairwise.preference(f"So: [[{letter}]]") for letter in "ABC"] == [1, -1, 0]


def test_a_pair_without_a_verdict_is_an_error() -> None:
    with (
        serving(lambda _: says("Hm.")) as server,
        pytest.raises(RewardError, match=r"(?s)'Hm\.'.*first: '[ab]'.*'[ab]'"),
    ):
        compare(PairwiseJudge(server.url, model="m", key="none"), ["p"], ["a"], ["b"])


# --- training ----------------------------------------------------------------------------------------------------


def weights(reward: Any) -> tuple[list[torch.Tensor], Any]:
    settings: dict[str, Any] = {"episodes_per_iteration": 16, "minibatch_size": 8, "beta": 0.05}
    env = TokenVectorEnv(word_mdp(reward=reward), 8, "Disabled")
    algorithm = PPO("LMPolicy", env, 3e-3, model=tiny_gpt2(), seed=0, **settings)
    algorithm.learn(150)
    assert algorithm.iteration == 2
    return [value.clone() for value in algorithm.policy.state_dict().values()], algorithm


def test_a_judge_that_says_the_gold_score_trains_the_same_policy(tmp_path: Path) -> None:
    """The reward is a share of 6 tokens, such as 1/3, so the numbers must pass exactly for the bits to agree."""
    path = template(tmp_path / "words", "{completion}")
    asked: list[str] = []

    def gold(texts: list[str]) -> list[float]:
        return [text.split().count("w5") / max(len(text.split()), 1) + len(text) / 7 for text in texts]

    def own(completions: list[str], **_: Any) -> list[float]:
        asked.extend(completions)
        return gold(completions)

    def answer(request: dict[str, Any]) -> Reply:
        return says(f"Score: {gold([question(request)])[0]!r}")

    expected, _ = weights(own)
    with serving(answer) as server:
        found, _ = weights(judge(server, template=path, low=0, high=100))
        constant, _ = weights(lambda completions, **_: [0.5] * len(completions))
        assert {question(request) for request in server.requests} == set(asked)
    assert all(map(torch.equal, found, expected))
    assert not all(map(torch.equal, constant, expected))


# --- what must not be shown ----------------------------------------------------------------------------------------


def test_the_key_is_sent_and_shown_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", SECRET)
    cache = tmp_path / "cache"

    def answer(request: dict[str, Any]) -> Reply:
        text = question(request)
        if "status" in text:
            # The second time where a message is cut.
            said = f"Incorrect API key provided: {SECRET} {'x' * 416}{SECRET}{'x' * 900}"
            return Reply(401, {"error": {"message": said}})
        if "shape" in text:
            return Reply(200, {"detail": SECRET})
        return says(f"{SECRET} {'Hm' if 'verdict' in text else 'Score: 6'}")

    errors = []
    with serving(answer) as server:
        reward = judge(server, key="MY_KEY", cache=cache)
        assert score(reward, "fine") == [6.0]
        assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
        for text in ("status", "shape", "verdict"):
            with pytest.raises(RewardError, match=r"\(key\)") as caught:
                score(reward, text)
            errors.append(caught.value)
    with pytest.raises(RewardError, match="cannot be reached") as caught:
        score(reward, "gone")
    shown = [repr(reward), str(reward), reward.signature, str(reward.usage), repr(vars(reward))]
    for error in [*errors, caught.value]:
        shown += traceback.format_exception(error)
        below: BaseException | None = error
        while below is not None:  # also what Python keeps, and does not print
            assert "openai" not in type(below).__module__
            shown.append(repr(vars(below)))
            below = below.__cause__ or below.__context__
    assert not [text for text in shown if SECRET[:8] in text]
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET.encode() not in pickle.dumps(reward)


def test_a_server_without_a_key_receives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serving(lambda _: says("Score: 6")) as server:
        score(judge(server), "x")
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize("key", [SECRET, "hf_abcDEF", "AIzaSyA1234567890", "ABCDEF0123456789ABCDEF", "MY KEY", "", "a"])
def test_a_key_in_place_of_a_name_is_refused_unseen(key: str) -> None:
    with pytest.raises(SecretError, match="expected the name of an environment variable") as caught:
        Judge(model="m", key=key)
    assert not key or key == "a" or key not in str(caught.value)


@pytest.mark.parametrize("url", [f"http://me:{SECRET}@host/v1", f"http://host/v1?key={SECRET}", f"http://h:{SECRET}/"])
def test_a_key_in_an_address_is_refused_unseen(url: str) -> None:
    with pytest.raises(SecretError, match="url: expected an address") as caught:
        Judge(url, model="m", key="none")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_value_that_is_no_key_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "first\nsecond")
    with pytest.raises(SecretError, match="'MY_KEY'") as caught:
        Judge(model="m", key="MY_KEY")
    assert "second" not in str(caught.value)


def test_the_signature_has_what_decides_a_score(tmp_path: Path) -> None:
    reward = Judge("http://h/v1", model="m", key="none")
    assert reward.signature == (
        f"Judge(url='http://h/v1', model='m', parse='', temperature=0.0, seed=0, "
        f"template_digest={reward.template_digest!r}, low=1.0, high=10.0, unit=False; openai {version('openai')})"
    )
    same = replace(reward, retries=9, timeout=1, concurrency=2, cache=tmp_path, key="none")
    assert same.signature == reward.signature
    other = replace(reward, template=template(tmp_path / "t", "{completion} {low}"))
    assert other.signature != reward.signature


# --- bad settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "name the model that judges with model=NAME"),
        ({"url": "localhost:8000/v1"}, "url='localhost:8000/v1'; expected an address that begins with http://"),
        ({"url": "ftp://host/v1"}, "begins with http:// or https://"),
        ({"url": "http://"}, "begins with http:// or https://"),
        ({"url": "http://host:port/v1"}, "expected an address such as"),
        ({"url": "http://h/v1/chat/completions"}, "without /chat/completions, which is added"),
        ({"parse": "(["}, r"parse='\(\[' is not a regular expression"),
        ({"parse": "score"}, "has no group"),
        ({"concurrency": 0}, "concurrency=0; expected a whole number, at least 1"),
        ({"retries": -1}, "retries=-1; expected a whole number, at least 0"),
        ({"timeout": 0}, "timeout=0; expected a finite number, more than 0"),
        ({"temperature": -1}, "temperature=-1; expected a finite number, at least 0"),
        ({"seed": -2}, "seed=-2; expected a whole number"),
        ({"low": 5, "high": 5}, "low=5 and high=5; expected low to be below high"),
        ({"key": "NO_SUCH_KEY"}, "there is no environment variable NO_SUCH_KEY; set it to the server's key"),
        ({"key": "OPENAI_API_KEY"}, "there is no environment variable OPENAI_API_KEY"),
        ({"template": Path("no/such/file")}, "template='no/such/file' cannot be read"),
        ({"template": Path("/")}, "template='/' cannot be read"),
    ],
)
def test_bad_settings_are_named_before_any_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Judge(**{"url": "http://h/v1", "model": "m", "key": "none", **options})


def test_the_key_of_openai_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert Judge(model="m").url == "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{prompt}", r"lacks the field \{completion\}; it has \{prompt\}"),
        ("Score: N", r"lacks the field \{completion\}; it has no field"),
        ("{completion} {prompts}", r"has the field \{prompts\}, which is a list"),
    ],
)
def test_bad_templates_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Judge(model="m", key="none", template=template(tmp_path / "t", text))


def test_a_template_of_pairs_needs_both_texts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks the field \{second\}"):
        PairwiseJudge(model="m", key="none", template=template(tmp_path / "t", "{first}"))


def test_columns_of_a_template_must_be_in_the_data(tmp_path: Path) -> None:
    reward = Judge(model="m", key="none", template=template(tmp_path / "t", "{completion} {answr}"))
    with pytest.raises(ValueError, match=r"reward 'judge' requires 'answr'.*did you mean 'answer'"):
        check_columns(reward, ["answer"])


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match=r"openai, which is not installed: pip install textgym\[judge\]"):
        Judge(model="m", key="none")
