"""Dense rewards per sentence and by a potential: numbers by hand, and the optimal policy by enumeration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.helpers import byte_tokenizer, tiny_gpt2, word_mdp, word_tokenizer
from textgym.agents import PPO
from textgym.env.vector import TokenVectorEnv
from textgym.exact import optimum
from textgym.exact.enumeration import Optimum
from textgym.registration import load_task, task_mdp
from textgym.rewards.builtin import length
from textgym.rewards.combine import Clipped
from textgym.rewards.compose import compose
from textgym.rewards.feedback.simulated import Watched
from textgym.rewards.functions import RewardError, call_reward
from textgym.rewards.relative import Majority
from textgym.rewards.shaping import PerSentence, PotentialShaping, differences, last_tokens, sentences_of
from textgym.tokenization import decode_response

END = 1


def score(reward: Any, texts: list[Any], ids: list[list[int]], prompts: Any = None, **columns: Any) -> list[Any]:
    """Call a reward as environments do, with an empty prompt."""
    given: dict[str, Any] = {"prompt_ids": [[] for _ in texts], "finish_reason": ["stop"] * len(texts), **columns}
    return call_reward(reward, prompts or ["p"] * len(texts), texts, ids, given)


# --- sentences -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" One two. Three!  Four", ["One two.", "Three!", "Four"]),
        ('He said "No." Then left.\n\nEnd', ['He said "No."', "Then left.", "End"]),
        ("Pi is 3.14 (about). Wait... what?!", ["Pi is 3.14 (about).", "Wait...", "what?!"]),
        ("no end", ["no end"]),
        ("one\ntwo", ["one", "two"]),
        ("", []),
        (" \n ", []),
        (".", ["."]),
    ],
)
def test_sentences_are_found(text: str, expected: list[str]) -> None:
    assert [text[start:stop] for start, stop in sentences_of(text)] == expected


def test_a_sentence_pays_at_its_last_token() -> None:
    tokenizer = byte_tokenizer()
    text = " One two. Naïve!\nSo"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())  # a token for each byte: ï has two
    calls = []

    def words(prompts: list[str], completions: list[str], completion_ids: Any, tone: Any, **_: Any) -> list[Any]:
        calls.append((prompts, completions, [tokenizer.decode(piece) for piece in completion_ids], tone))
        return [None if "So" in sentence else float(len(sentence.split())) for sentence in completions]

    reward = PerSentence(words).bind(tokenizer)
    dense, nothing, again = score(
        reward, [text, "", "Yes."], [ids, ids[:1], tokenizer("Yes.")["input_ids"]], ["p", "q", "r"], tone=[1, 2, 3]
    )
    expected = [0.0] * len(ids)
    expected[8], expected[16] = 2, 1  # the full stop, and the exclamation mark behind one byte more than characters
    assert dense == expected
    assert nothing == [0]
    assert again == [0, 0, 0, 1]
    assert calls == [
        (
            ["p", "p", "p", "r"],
            [" One two.", " Naïve!", "\nSo", "Yes."],
            [" One two.", " Naïve!", "\nSo", "Yes."],
            [1, 1, 1, 3],
        )
    ]
    assert reward.name == "words_per_sentence"


def test_the_end_token_and_special_tokens_do_not_move_the_places() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>", "pad_token": "<pad>", "additional_special_tokens": ["<t>"]})
    special, end = tokenizer.convert_tokens_to_ids(["<t>", "</s>"])
    ids = [*tokenizer("Hi. ")["input_ids"], special, *tokenizer("Yo.")["input_ids"], end]
    for skips in (False, True):
        text = decode_response(tokenizer, [], ids, (end,), skips)
        assert ("<t>" in text) is not skips
        stops = [stop for _, stop in sentences_of(text)]
        assert last_tokens(tokenizer, [], ids, text, stops) == [2, 7]
    reward = PerSentence(length).bind(tokenizer)
    assert score(reward, ["Hi. Yo."], [ids]) == [[0, 0, 1, 0, 0, 0, 0, 1, 0]]


def test_two_sentences_within_a_token_are_both_paid_there() -> None:
    tokenizer = word_tokenizer()
    reward = PerSentence(lambda completions, **_: [10.0 * float("w0" in c) + 1 for c in completions], ends=r"w\d")
    assert score(reward.bind(tokenizer), ["w0 w1"], [[2, 3, END]]) == [[11, 1, 0]]
    halves = PerSentence(lambda completions, **_: [1.0] * len(completions), ends="w")
    assert score(halves.bind(tokenizer), ["w0 w1"], [[2, 3, END]]) == [[1, 2, 0]]  # "w", "0 w" and "1"


def test_conversations_are_scored_by_messages() -> None:
    tokenizer = byte_tokenizer()
    seen = []

    def see(completions: list[Any], **_: Any) -> list[float]:
        seen.extend(completions)
        return [1.0] * len(completions)

    text = "A. B."
    talk = [{"role": "user", "content": "p"}]
    ids = [tokenizer(text)["input_ids"]]
    dense = score(PerSentence(see).bind(tokenizer), [[{"role": "assistant", "content": text}]], ids, [talk])
    assert dense == [[0, 1, 0, 0, 1]]
    assert seen == [[{"role": "assistant", "content": "A."}], [{"role": "assistant", "content": "B."}]]


def test_training_pays_within_the_response() -> None:
    def ends_with_w2(completions: list[str], **_: Any) -> list[float]:
        return [float(sentence.endswith("w2")) for sentence in completions]

    env = TokenVectorEnv(word_mdp(PerSentence(ends_with_w2, ends="w2")), 4, "Disabled")
    sizes = {"episodes_per_iteration": 32, "minibatch_size": 16, "n_epochs": 1}
    algorithm = PPO("LMPolicy", env, model=tiny_gpt2(), seed=0, **sizes)
    episodes = algorithm.collect()
    assert episodes is not None
    expected = (episodes.actions == 4) & episodes.own  # w2 is token 4
    assert expected[:, :-1].any()
    np.testing.assert_array_equal(episodes.rewards, expected.astype(np.float32))
    algorithm.train(episodes)
    assert algorithm.metrics["rollout/score"] == pytest.approx(expected.sum(1).mean())


# --- potentials ------------------------------------------------------------------------------------------------


def test_differences_telescope_to_the_first_potential() -> None:
    assert differences([3.0, 5.0, 4.0]) == [2, -1, -4]
    assert differences([3.0]) == [-3]


def test_a_potential_sees_every_state_before_the_last_token() -> None:
    tokenizer = word_tokenizer()
    calls = []

    def potential(prompts: Any, completions: Any, completion_ids: Any, tone: Any, finish_reason: Any, **_: Any) -> Any:
        calls.append((prompts, list(completions), completion_ids, tone, finish_reason))
        return [None if not ids else float(sum(ids)) for ids in completion_ids]

    reward = PotentialShaping(potential).bind(tokenizer)
    dense = score(reward, ["w0 w3", "w1"], [[2, 5, END], [3]], ["p", "q"], tone=[7, 8], prompt_ids=[[4], [4]])
    assert dense == [[2, 7 - 2, -7], [0]]
    assert calls == [(["p", "p", "p", "q"], ["", " w0", " w0 w3", ""], [[], [2], [2, 5], []], [7, 7, 7, 8], [None] * 4)]
    assert reward.name == "potential_shaping"


def test_texts_are_decoded_only_for_potentials_that_read_them() -> None:
    class Refusing:
        eos_token_id = pad_token_id = bos_token_id = None

        def decode(self, _: Any) -> str:
            raise AssertionError("decoded")

    reward = PotentialShaping(lambda completion_ids, **_: [float(len(ids)) for ids in completion_ids])
    assert score(reward.bind(Refusing()), ["x"], [[2, 3, END]]) == [[1, 1, -2]]
    with pytest.raises(RewardError, match="decoded"):
        score(PotentialShaping(length).bind(Refusing()), ["x"], [[2, 3, END]])


# --- the optimum -----------------------------------------------------------------------------------------------


def potential(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Some potential of prompt and prefix, not 0 at the start and without any structure."""
    return [
        math.sin(1 + len(prompt) + 3 * len(text) + sum((t + 2) * i for t, i in enumerate(ids)))
        for prompt, text, ids in zip(prompts, completions, completion_ids, strict=True)
    ]


def per_token(completion_ids: list[list[int]], **_: Any) -> list[list[float]]:
    return [[0.3] * len(ids) for ids in completion_ids]


DIAGNOSTIC: dict[str, Callable[[], Any]] = {
    "Length": lambda: load_task("textgym/Length-v0"),
    "Dense": lambda: load_task("textgym/Dense-v0", words=3, horizon=4),
}


def solved(name: str, *further: Any) -> Optimum:
    task = DIAGNOSTIC[name]()
    return optimum(task_mdp(task, [task.reward or task.gold, *further]), 0.2)


def largest_difference(one: Optimum, other: Optimum) -> float:
    """The largest difference of the two optimal policies, over all states and tokens."""
    pairs = zip(one.log_probs, other.log_probs, strict=True)
    return max(float(np.abs(np.exp(a) - np.exp(b)).max()) for a, b in pairs)


@pytest.mark.parametrize("name", DIAGNOSTIC)
def test_a_potential_leaves_the_optimal_policy_and_shifts_its_value(name: str) -> None:
    plain, shaped = solved(name), solved(name, PotentialShaping(potential))
    assert largest_difference(plain, shaped) < 1e-10
    prompts = [prompt.text for prompt in plain.mdp.prompts]
    start = np.array(potential(prompts, [""] * len(prompts), [[]] * len(prompts)))
    assert np.abs(start).min() > 1e-2
    np.testing.assert_allclose(shaped.prompt_values, plain.prompt_values - start, atol=1e-10)
    assert shaped.value == pytest.approx(plain.value - start.mean(), abs=1e-10)
    assert shaped.best.kl == pytest.approx(plain.best.kl, abs=1e-10)


def test_a_weighted_potential_does_too() -> None:
    plain, shaped = solved("Length"), solved("Length", (PotentialShaping(potential), -4.0))
    assert largest_difference(plain, shaped) < 1e-10


def test_a_constant_for_each_token_moves_the_optimal_policy_as_calculated() -> None:
    # π*(y) ∝ π_ref(y)·exp((R(y) + c·|y|)/β): relative to the plain optimum, responses gain by exp(c·|y|/β).
    plain, paid = solved("Length"), solved("Length", per_token)
    assert largest_difference(plain, paid) > 0.1
    for i in range(len(plain.mdp.prompts)):
        before, after = response_chances(plain, i), response_chances(paid, i)
        assert sum(before.values()) == pytest.approx(1, abs=1e-12)
        tilted = {ids: chance * math.exp(0.3 * len(ids) / 0.2) for ids, chance in before.items()}
        total = math.fsum(tilted.values())
        for ids, chance in after.items():
            assert chance == pytest.approx(tilted[ids] / total, abs=1e-12)
        assert paid.prompt_values[i] - plain.prompt_values[i] == pytest.approx(0.2 * math.log(total), abs=1e-12)


def response_chances(found: Optimum, prompt: int) -> dict[tuple[int, ...], float]:
    """The probability of every response to a prompt under π*."""
    chances: dict[tuple[int, ...], float] = {}
    live: dict[tuple[int, ...], float] = {(): 1.0}
    while live:
        after: dict[tuple[int, ...], float] = {}
        for ids, chance in live.items():
            for token, step in enumerate(found.next_token_probs(prompt, ids).tolist()):
                more = (*ids, token)
                ends = token in found.mdp.end_token_ids or len(more) == found.mdp.max_new_tokens
                (chances if ends else after)[more] = chance * step
        live = after
    return chances


# --- what reaches the reward, and mistakes -----------------------------------------------------------------------


class Reader:
    """Reward with everything that a reward may have."""

    required_columns = ("page",)
    name = "reader"

    def __init__(self, bound: Any = None) -> None:
        self.bound, self.lengths = bound, []  # type: ignore[var-annotated]

    def __call__(self, completions: list[str], tone: Any, **_: Any) -> list[float]:
        return [1.0] * len(completions)

    def bind(self, tokenizer: Any) -> Reader:
        return Reader(tokenizer)

    def check_lengths(self, *arguments: Any) -> None:
        self.lengths.append(arguments)


@pytest.mark.parametrize("kind", [PerSentence, PotentialShaping])
def test_bind_columns_and_lengths_reach_the_reward(kind: Any) -> None:
    reader = Reader()
    dense = kind(reader)
    for lacking in ("tone", "page"):
        with pytest.raises(ValueError, match=f"'reader_.*' requires '{lacking}'"):
            compose(dense).check_columns({"tone", "page"} - {lacking})
    compose(dense).check_columns(["tone", "page"])
    compose(dense).check_lengths((), 4, (1,), True)
    assert reader.lengths == [((), 4, (1,), True)]
    bound = compose(dense).bind("tokenizer").rewards[0]
    assert (bound.tokenizer, bound.reward.bound) == ("tokenizer", "tokenizer")  # type: ignore[attr-defined]
    with pytest.raises(RewardError, match=r"no tokenizer.*call bind\(tokenizer\)"):
        score(dense, ["a"], [[2]], tone=[1], page=[2])


class World:
    """A world that says nothing."""

    def begin(self, prompts: Any, seeds: Any) -> Any:
        raise NotImplementedError

    def reply(self, states: Any, turns: Any) -> Any:
        raise NotImplementedError


def test_mistakes_are_found_at_construction() -> None:
    for kind in (PerSentence, PotentialShaping):
        with pytest.raises(TypeError, match="must be callable"):
            kind(3)
        with pytest.raises(ValueError, match="'majority' compares whole responses"):
            kind(Majority())
        with pytest.raises(ValueError, match=r"reads the tokens of one turn.*World"):
            word_mdp(kind(length), world=World(), max_turn_tokens=2)
    for watched in (Watched(length), Clipped(Watched(length), 0.0, 1.0)):
        with pytest.raises(ValueError, match=r"'length_feedback' reads the tokens of one turn.*World"):
            word_mdp(watched, world=World(), max_turn_tokens=2)
    with pytest.raises(ValueError, match=r"ends='\['; expected a regular expression"):
        PerSentence(length, ends="[")
    with pytest.raises(ValueError, match=r"missing_end_score=0 .*'length_shaping' needs every response"):
        word_mdp(PotentialShaping(length), missing_end_score=0.0)
    word_mdp(PerSentence(length), missing_end_score=0.0)


def test_tokens_of_another_text_are_an_error() -> None:
    with pytest.raises(RewardError, match="do not decode to its text, 'w5'"):
        score(PerSentence(length).bind(word_tokenizer()), ["w5"], [[2]])
