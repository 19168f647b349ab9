"""A reward server in OpenRLHF's protocol: what it receives, what it may answer, and what is kept."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.rewards.judge_server import FakeServer, Reply, busy, serving
from textgym.rewards import RewardError, call_reward
from textgym.rewards.functions import check_columns, check_signature
from textgym.rewards.judges import client
from textgym.rewards.judges.remote import RemoteReward


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)


def lengths(request: dict[str, Any]) -> Reply:
    """A number that a float32 could not hold, for each row."""
    return Reply(200, {"rewards": [len(query) / 7 for query in request["query"]], "extra_logs": {"x": [1]}})


def score(reward: Any, completions: list[Any], prompts: list[Any] | None = None, **columns: Any) -> list[Any]:
    asked = ["p"] * len(completions) if prompts is None else prompts
    return call_reward(reward, asked, completions, [[1, 2]] * len(completions), columns)


def address(server: FakeServer) -> str:
    return server.url.replace("/v1", "/get_reward")


def test_the_server_receives_queries_and_the_columns_that_are_asked_for() -> None:
    with serving(lengths) as server:
        reward = RemoteReward(address(server), columns="labels+level")
        check_signature(reward)
        assert score(reward, ["ab", "c"], ["p", "qq"], labels=["x", ["y"]], level=[1, 2], other=[0, 0]) == [3 / 7] * 2
    assert server.paths == ["/get_reward"]
    assert server.requests == [
        {
            "query": ["pab", "qqc"],
            "prompts": ["p", "qq"],
            "completions": ["ab", "c"],
            "labels": ["x", ["y"]],
            "level": [1, 2],
        }
    ]
    assert "authorization" not in server.headers[0]
    assert reward.usage["calls"] == 1


def test_conversations_are_sent_as_they_are() -> None:
    prompt = [{"role": "user", "content": "hi"}]
    completion = [{"role": "assistant", "content": "ho"}]
    with serving(lengths) as server:
        score(RemoteReward(address(server)), [completion], [prompt])
    assert server.requests[0] == {
        "query": ["user: hi\nassistant: ho"],
        "prompts": [prompt],
        "completions": [completion],
    }


def test_a_key_is_sent_as_a_bearer_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RM_KEY", "sk-secret")
    with serving([Reply(403, {"detail": "sk-secret may not"})]) as server:
        with pytest.raises(RewardError, match=r"'remote': .* answered 403: .*\(key\) may not") as caught:
            score(RemoteReward(address(server), key="RM_KEY"), ["a"])
        assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in str(caught.value)


def test_batches_are_bounded_and_come_back_in_order() -> None:
    texts = ["x" * (i % 50) + str(i) for i in range(200)]
    with serving(lengths) as server:
        reward = RemoteReward(address(server), batch=10, concurrency=2)
        assert score(reward, texts) == [len("p" + text) / 7 for text in texts]
        sizes = [len(request["query"]) for request in server.requests]
    assert max(sizes) == 10
    assert sum(sizes) == 200
    assert server.most <= 2


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        ([0.1, 2], [0.1, 2.0]),
        ({"rewards": [None, 1.5]}, [None, 1.5]),
        ({"rewards": [[1, 2.5], 0]}, [[1.0, 2.5], 0.0]),
        ({"rewards": [0.1 + 0.2, 1e-30]}, [0.1 + 0.2, 1e-30]),
    ],
)
def test_answers_that_are_scores(answer: Any, scores: list[Any], tmp_path: Path) -> None:
    with serving([Reply(200, answer)]) as server:
        reward = RemoteReward(address(server), cache=tmp_path)
        assert score(reward, ["a", "b"]) == scores
    assert score(reward, ["b", "a"]) == scores[::-1]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"rewards": [1]}, r"with 2 scores, or the list alone, got \{'rewards': \[1\]\}"),
        ({"reward": [1, 2]}, "with 2 scores"),
        ({"rewards": 1}, "with 2 scores"),
        ("busy", "got busy"),
        ([1, "2"], "expected a number.*got str: '2'"),
        ([1, {"score": 2}], "expected a number.*got dict"),
        (b'{"rewards": [1, NaN]}', "expected a finite number, got nan"),
        (b'{"rewards": [1, 1e999]}', "expected a finite number, got inf"),
        ({"rewards": [1, [1, 2, 3]]}, "expected 2, got 3"),
    ],
)
def test_answers_that_are_no_scores(answer: Any, message: str, tmp_path: Path) -> None:
    with serving([Reply(200, answer)]) as server, pytest.raises(RewardError, match=message):
        score(RemoteReward(address(server)), ["a", "b"])
    assert len(server.requests) == 1


def test_scores_of_tokens_are_those_of_the_tokens_that_were_sampled(tmp_path: Path) -> None:
    """One text may be sampled by two or by three tokens; what fits the one is not remembered for the other."""
    answers = [Reply(200, [[1.0, 2.0]]), Reply(200, [[1.0, 2.0]]), Reply(200, [[1.0, 2.0, 3.0]])]
    with serving(answers) as server:
        reward = RemoteReward(address(server), cache=tmp_path)
        assert call_reward(reward, ["p"], ["ab"], [[1, 2]], {}) == [[1.0, 2.0]]
        with pytest.raises(RewardError, match="expected 3, got 2"):
            call_reward(reward, ["p"], ["ab"], [[1, 2, 3]], {})
        for _ in range(2):  # the wrong answer was not kept, and the right one is
            assert call_reward(reward, ["p"], ["ab"], [[1, 2, 3]], {}) == [[1.0, 2.0, 3.0]]
        assert call_reward(reward, ["p"], ["ab"], [[1, 2]], {}) == [[1.0, 2.0]]
    assert len(server.requests) == 3


def test_a_score_of_a_text_is_that_of_any_tokens(tmp_path: Path) -> None:
    with serving([Reply(200, [2.5])]) as server:
        reward = RemoteReward(address(server), cache=tmp_path)
        for tokens in ([1, 2], [1, 2, 3]):
            assert call_reward(reward, ["p"], ["ab"], [tokens], {}) == [2.5]


def test_retries_are_those_of_a_judge() -> None:
    with serving([busy(429), busy(502), Reply(200, [1])]) as server:
        assert score(RemoteReward(address(server)), ["a"]) == [1.0]
    with serving([busy(409)]) as server:
        with pytest.raises(RewardError, match=r"(?s)answered 409.*about 1 rows, of which the first is.*'pa'"):
            score(RemoteReward(address(server)), ["a"])
        assert len(server.requests) == 1


def test_rows_are_kept_and_not_asked_for_again(tmp_path: Path) -> None:
    with serving(lengths) as server:
        reward = RemoteReward(address(server), cache=tmp_path, columns="label")
        assert score(reward, ["a", "bb", "a"], label=[1, 1, 1]) == [2 / 7, 3 / 7, 2 / 7]
        assert [request["completions"] for request in server.requests] == [["a", "bb"]]
        assert score(reward, ["bb", "ccc", "a"], label=[1, 1, 2]) == [3 / 7, 4 / 7, 2 / 7]
        assert [request["completions"] for request in server.requests[1:]] == [["ccc", "a"]]
        assert reward.usage["cache_hits"] == 1
    again = RemoteReward(reward.url, cache=tmp_path, columns="label", replay=True)
    assert score(again, ["ccc", "bb"], label=[1, 1]) == [4 / 7, 3 / 7]
    with pytest.raises(RewardError, match=r"(?s)'remote': replay=True, .* lacks the row .*completions: 'new'"):
        score(again, ["a", "new", "newer"], label=[1, 1, 1])
    assert again.usage["calls"] == 0


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="columns='a\\+prompts' has 'prompts'; expected names of columns with \\+"):
        RemoteReward("http://h", columns="a+prompts")
    with pytest.raises(ValueError, match="has ''"):
        RemoteReward("http://h", columns="a+")
    with pytest.raises(ValueError, match="batch=0"):
        RemoteReward("http://h", batch=0)
    with pytest.raises(ValueError, match="url='h'"):
        RemoteReward("h")
    with pytest.raises(ValueError, match="reward 'remote' requires 'labels'"):
        check_columns(RemoteReward("http://h", columns="labels"), ["label"])
    assert RemoteReward("http://h", batch=3, retries=1).signature == (
        f"RemoteReward(url='http://h', columns=''; openai {version('openai')})"
    )


def test_json_is_read_whatever_the_server_calls_it() -> None:
    reply = Reply(200, {"rewards": [0.25, 0.5]}, {"Content-Type": "text/plain"})
    with serving([reply]) as server:
        assert score(RemoteReward(address(server)), ["ab", "c"], ["p", "q"]) == [0.25, 0.5]


def test_what_openai_gets_of_the_environment_no_other_server_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    with serving([Reply(200, [1.0])]) as server:
        score(RemoteReward(address(server)), ["ab"])
    assert not any(name.startswith("openai-") for name in server.headers[0])


def test_servers_share_a_cache_and_no_scores(tmp_path: Path) -> None:
    with serving(lambda _: Reply(200, [1.0])) as one, serving(lambda _: Reply(200, [2.0])) as other:
        for server, wanted in ((one, 1.0), (other, 2.0)):
            reward = RemoteReward(address(server), columns="url", cache=tmp_path / "answers")
            assert score(reward, ["ab"], url=["http://page"]) == [wanted]
