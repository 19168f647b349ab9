"""Text in, text out: a turn's text is encoded once, and played as a policy would play its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from tests.helpers import emit, word_mdp
from textgym.env import TextView, TokenEnv
from textgym.env.mdp import TokenMDP
from textgym.rewards.builtin import no_reward
from textgym.tokenization import encode_reply
from textgym.types import Completion, Prompt
from textgym.worlds import Call, Glue, Reply, tools

PAD, EOS, W0, W1, W2, W3 = 0, 1, 2, 3, 4, 5


class Parrot:
    """Says the turn's words backwards, pays 0.1 a word, and ends after three turns or the word w9."""

    def begin(self, prompts: list[Prompt], seeds: list[int]) -> list[int]:
        return [0] * len(prompts)

    def reply(self, states: list[int], turns: list[Completion]) -> list[tuple[int, Reply]]:
        words = [turn.text.split() for turn in turns]
        return [
            (state + 1, Reply(" ".join(reversed(said)), 0.1 * len(said), done=state == 2 or "w9" in said))
            for state, said in zip(states, words, strict=True)
        ]


END = 15  # w13 ends a turn


def talking(**settings: Any) -> TokenMDP:
    given = {"world": Parrot(), "turn_end_ids": (END,), "glue": Glue(), "max_new_tokens": 40, "reward": no_reward}
    return word_mdp(**{**given, **settings})


def played(mdp: TokenMDP, actions: Sequence[int]) -> tuple[dict[str, Any], float, dict[str, Any]]:
    """Return the last observation, the sum of rewards and the last info of tokens chosen one by one."""
    env = TokenEnv(mdp)
    env.reset(seed=0)
    total = 0.0
    for action in actions:
        observation, reward, terminated, _, info = env.step(action)
        total += reward
    assert terminated
    return observation, total, info


# --- one turn ----------------------------------------------------------------------------------------------------


def test_a_text_is_a_whole_response() -> None:
    env = TextView(TokenEnv(word_mdp(emit(W0))))
    prompt, info = env.reset(seed=0, options={"prompt_index": 0})
    assert (prompt, info["prompt_index"]) == ("w0 w1", 0)
    observation, reward, terminated, truncated, info = env.step("w0 w1 w0")
    assert (observation, reward, terminated, truncated) == ("", 0.5, True, False)
    assert (info["completion"].split(), info["finish_reason"]) == (["w0", "w1", "w0"], "stop")
    assert (info["tokens"], info["cut"]) == (4, 0)  # with the end token


@pytest.mark.parametrize(
    ("text", "tokens", "cut", "reason", "reward"),
    [
        ("", 1, 0, "stop", 0.0),
        ("w0", 2, 0, "stop", 1 / 2),
        ("w0 <eos> w1 w2", 2, 2, "stop", 1 / 2),  # the text ends the response by itself
        ("w0 <eos>", 2, 0, "stop", 1 / 2),
        ("w0 w0 w1 w1 w1", 6, 0, "stop", 2 / 6),
        ("w0 w0 w1 w1 w1 w0", 6, 0, "length", 3 / 6),  # T is 6, so no end token fits
        ("w0 w0 w1 w1 w1 w0 w0 w0", 6, 2, "length", 3 / 6),
    ],
)
def test_what_does_not_fit_is_cut(text: str, tokens: int, cut: int, reason: str, reward: float) -> None:
    env = TextView(TokenEnv(word_mdp(emit(W0))))
    env.reset(seed=0)
    _, paid, terminated, _, info = env.step(text)
    assert terminated
    assert (info["tokens"], info["cut"], info["finish_reason"]) == (tokens, cut, reason)
    assert paid == pytest.approx(reward)


def test_an_outer_time_limit_truncates() -> None:
    env = TextView(TimeLimit(TokenEnv(word_mdp(emit(W0))), 2))
    env.reset(seed=0)
    _, _, terminated, truncated, info = env.step("w0 w1 w2")
    assert (terminated, truncated, info["tokens"], info["cut"]) == (False, True, 2, 1)


@pytest.mark.parametrize("name", ["Reviews", "Arithmetic"])
def test_reference_texts_are_played_as_their_tokens(name: str) -> None:
    env = TextView(gym.make(f"textgym/{name}-v0", reward="gold"))
    mdp: TokenMDP = env.get_wrapper_attr("mdp")
    for index in range(5):
        text, _ = env.reset(seed=0, options={"prompt_index": index})
        prompt = mdp.prompts[index]
        reference = prompt.columns["reference"]
        observation, _, terminated, _, info = env.step(reference)
        ids = encode_reply(mdp.tokenizer, prompt.content, reference)
        assert (text, observation, terminated) == (prompt.text, "", True)
        assert info["completion"] == reference
        assert (info["tokens"], info["cut"]) == (len(ids) + 1, 0)


# --- several turns -----------------------------------------------------------------------------------------------


def test_turns_are_played_as_their_tokens() -> None:
    mdp = talking(reward=emit(W0))
    env = TextView(TokenEnv(mdp))
    env.reset(seed=0)
    replies, total = [], 0.0
    for text in ("w0 w1", "w2 w13", "w0 w3 w0"):
        observation, reward, terminated, _, info = env.step(text)
        replies.append((observation, terminated, info["tokens"], info["cut"], info["turn"]))
        total += reward
    # The second text brings its own turn-end token.
    assert replies == [("w1 w0", False, 3, 0, 1), ("w2", False, 2, 0, 2), ("w0 w3 w0", True, 4, 0, 3)]
    _, expected, last = played(mdp, [W0, W1, END, W2, END, W0, W3, W0, END])
    assert total == pytest.approx(expected)
    assert total == pytest.approx(0.2 + 0.1 + 0.3 + 3 / 9)  # of own tokens, three are w0
    assert total == pytest.approx(info["score"])
    assert info["conversation"] == last["conversation"]
    assert [message["content"].strip() for message in info["conversation"]] == [
        *("w0 w1", "w1 w0", "w2", "w2", "w0 w3 w0", "w0 w3 w0")
    ]


def test_a_turn_ends_where_the_text_says_so() -> None:
    env = TextView(TokenEnv(talking()))
    env.reset(seed=0)
    observation, reward, *_, info = env.step("w0 w1 w13 w2 w3")
    assert (observation, info["tokens"], info["cut"]) == ("w1 w0", 3, 2)
    assert reward == pytest.approx(0.2)


def test_a_turn_that_grows_too_long_is_cut() -> None:
    env = TextView(TokenEnv(talking(max_turn_tokens=3)))
    env.reset(seed=0)
    observation, *_, info = env.step("w0 w1 w2 w3 w4")
    assert (observation, info["tokens"], info["cut"]) == ("w2 w1 w0", 3, 2)
    observation, *_, info = env.step("w3 w4 w5")  # no place for a turn-end token, and none is needed
    assert (observation, info["tokens"], info["cut"]) == ("w5 w4 w3", 3, 0)


def test_without_a_token_that_ends_a_turn_a_text_is_continued() -> None:
    env = TextView(TokenEnv(talking(max_turn_tokens=3, turn_end_ids=())))
    env.reset(seed=0)
    assert env.step("w0")[0::2][:2] == ("", False)
    observation, *_, info = env.step("w1 w2 w3")
    assert (observation, info["tokens"], info["cut"]) == ("w2 w1 w0", 2, 1)
    with pytest.raises(ValueError, match="has no tokens, and this task has none that ends a turn"):
        env.step(" ")


def test_the_horizon_ends_a_conversation() -> None:
    env = TextView(TokenEnv(talking(max_new_tokens=8)))
    env.reset(seed=0)
    observation, _, terminated, _, info = env.step("w0 w1")  # 3 columns, and 2 of the reply
    assert (observation, terminated) == ("w1 w0", False)
    observation, reward, terminated, _, info = env.step("w2 w3 w4 w5 w6")
    assert (observation, reward, terminated, info["finish_reason"]) == ("", 0.0, True, "length")
    assert (info["tokens"], info["cut"]) == (3, 2)


def test_a_tool_is_called_by_text() -> None:
    def double(word: str) -> str:
        return f"{word} {word}"

    def parse(text: str) -> Call | None:
        name, *words = text.split()
        return Call("double", tuple(words)) if name == "w5" else None

    env = TextView(TokenEnv(talking(world=tools([double], parse=parse, cost=0.5), reward=emit(W3))))
    env.reset(seed=0)
    observation, reward, terminated, *_ = env.step("w5 w3")
    assert (observation, reward, terminated) == ("w3 w3", -0.5, False)
    observation, reward, terminated, _, info = env.step("w3 w3")
    assert (observation, terminated, info["finish_reason"]) == ("", True, "stop")
    assert reward == pytest.approx(3 / 6)
    assert info["conversation"][1] == {"role": "tool", "content": "w3 w3"}


# --- bad input ---------------------------------------------------------------------------------------------------


def test_texts_that_cannot_be_played_change_nothing() -> None:
    env = TextView(TokenEnv(word_mdp(emit(W0), vocabulary_size=5)))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action 'w0 w9 w1' has the token 'w9', which is no action of this task"):
        env.step("w0 w9 w1")
    with pytest.raises(TypeError, match="action is 3; expected a text"):
        env.step(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="half a surrogate pair"):
        env.step("\ud800")
    assert env.step("w0")[1] == 0.5
    with pytest.raises(gym.error.ResetNeeded):
        env.step("w0")


def test_actions_must_be_tokens() -> None:
    fewer = gym.wrappers.TransformAction(TokenEnv(word_mdp()), lambda action: action + 2, gym.spaces.Discrete(3))
    with pytest.raises(
        ValueError, match=r"env has the actions Discrete\(3\); expected those of tokens, Discrete\(16\)"
    ):
        TextView(fewer)


# --- Gymnasium ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: word_mdp(vocabulary_size=6), talking, lambda: talking(max_turn_tokens=1)])
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version.*")  # true of every wrapper
def test_gymnasiums_checker_accepts_it(make: Any) -> None:
    check_env(TextView(TokenEnv(make())), skip_render_check=True)


def test_it_is_made_again_from_its_spec() -> None:
    env = TextView(gym.make("textgym/Emit-v0"))
    assert env.spec is not None
    again = gym.make(env.spec)
    assert isinstance(again, TextView)
    assert again.reset(seed=3)[0] == env.reset(seed=3)[0]


def test_samples_are_texts_of_the_tasks_tokens() -> None:
    env = RecordEpisodeStatistics(TextView(TokenEnv(word_mdp(vocabulary_size=6))))
    env.action_space.seed(0)
    known = {"<pad>", "<eos>", "w0", "w1", "w2", "w3"}
    texts = [env.action_space.sample() for _ in range(50)]
    assert set(" ".join(texts).split()) == known
    assert {len(text.split()) for text in texts} == {1, 2, 3, 4, 5, 6}  # T is 6
    env.action_space.seed(0)
    assert [env.action_space.sample() for _ in range(50)] == texts
    for text in texts:
        env.reset(seed=0)
        assert env.step(text)[2]
    assert "Wörter, 字\n" in env.action_space
    assert 3 not in env.observation_space
    assert repr(env.action_space) == "TurnText()"
    assert np.isfinite(env.return_queue).all()
