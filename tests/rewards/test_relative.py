"""Relative rewards: scores by hand and by sacrebleu, whole groups from our own algorithms, and who refuses them."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from functools import partial, wraps
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sacrebleu
from gymnasium.vector import SyncVectorEnv, VectorRewardWrapper
from stable_baselines3.common.vec_env import DummyVecEnv

from tests.helpers import emit, tiny_gpt2, word_mdp
from textgym.agents import GRPO, PPO, RLOO, ReMax, SB3VecEnv
from textgym.agents.a_star_po import AStarPO
from textgym.agents.dapo import DAPO
from textgym.agents.loop import episodes as episodes_module
from textgym.agents.loop.evaluation import EVALUATED_TOGETHER, evaluate, play, sample_responses, spread_prompts
from textgym.env.mdp import TokenMDP
from textgym.env.single import TokenEnv
from textgym.env.vector import TokenVectorEnv
from textgym.env.wrappers import VectorReferenceKL
from textgym.exact import bracket, optimum
from textgym.rewards.combine import Clipped
from textgym.rewards.compose import Named, compose
from textgym.rewards.functions import Batch, RewardError, call_reward, call_rewards, compared
from textgym.rewards.judges.judge import compare
from textgym.rewards.relative import (
    CorrectLength,
    Majority,
    Novelty,
    Pairwise,
    Ranked,
    RelativeLength,
    groups_of,
    pairs_of,
    self_bleu,
)

SIZES: dict[str, Any] = {"episodes_per_iteration": 24, "minibatch_size": 12, "n_epochs": 1, "seed": 0}


def score(reward: Any, texts: list[str], groups: list[int] | None = None, ids: Any = None, **columns: Any) -> list[Any]:
    """Call a reward as environments do."""
    columns |= {} if groups is None else {"episode_group": groups}
    return call_reward(reward, ["p"] * len(texts), texts, ids or [[0]] * len(texts), columns)


def longer(prompts: list[Any], first: list[str], second: list[str]) -> list[float]:
    """Prefer the longer text."""
    return [0.5 if len(a) == len(b) else float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


# --- groups and pairs ------------------------------------------------------------------------------------------


def test_groups_are_those_of_the_column_and_otherwise_those_of_equal_prompts() -> None:
    assert groups_of(["a", "a", "a", "b"], [7, 3, 7, 3]) == [[0, 2], [1, 3]]
    talk = [{"role": "user", "content": "hi"}]
    assert groups_of(["a", talk, "a", [dict(talk[0])]]) == [[0, 2], [1, 3]]


@pytest.mark.parametrize("k", [2, 3, 4, 5, 8])
def test_each_pair_is_asked_once_and_no_response_comes_first_more_often(k: int) -> None:
    rows = list(range(10, 10 + k))
    pairs = pairs_of([rows])
    assert {frozenset(pair) for pair in pairs} == {frozenset((a, b)) for a in rows for b in rows if a < b}
    assert len(pairs) == k * (k - 1) // 2
    first = Counter(a for a, _ in pairs)
    assert all(abs(2 * first[row] - (k - 1)) <= 1 for row in rows)


def test_pairs_stay_within_their_group() -> None:
    assert sorted(map(sorted, pairs_of([[0, 3], [1, 2], [4]]))) == [[0, 3], [1, 2]]


def test_the_score_is_the_mean_share_of_wins() -> None:
    # Group 0: lengths 1, 2, 2, 4; group 1: 3 and 3.
    texts, groups = ["a", "xyz", "bb", "cc", "uvw", "dddd"], [0, 1, 0, 0, 1, 0]
    assert score(Pairwise(longer), texts, groups) == [0, 0.5, pytest.approx(0.5), pytest.approx(0.5), 0.5, 1]
    signed = Pairwise(lambda p, a, b: [2 * share - 1 for share in longer(p, a, b)], signed=True)
    assert score(signed, texts, groups) == score(Pairwise(longer), texts, groups)


def test_all_pairs_come_in_one_call_with_their_prompts() -> None:
    calls = []

    def compare(prompts: list[str], first: list[str], second: list[str]) -> list[float]:
        calls.append((prompts, first, second))
        return [1.0] * len(prompts)

    prompts, texts = ["p", "q", "p", "q", "p"], ["a", "b", "c", "d", "e"]
    scores = call_reward(Pairwise(compare), prompts, texts, [[0]] * 5, {"episode_group": [0, 1, 0, 1, 0]})
    ((asked, first, second),) = calls
    assert sorted(zip(asked, map("".join, map(sorted, zip(first, second, strict=True))), strict=True)) == [
        ("p", "ac"),
        ("p", "ae"),
        ("p", "ce"),
        ("q", "bd"),
    ]
    # The first always wins here, so a score is the share of pairs in which a response came first.
    counts = Counter(first)
    assert scores == [counts["a"] / 2, counts["b"], counts["c"] / 2, counts["d"], counts["e"] / 2]


def test_a_compare_that_takes_columns_receives_those_of_the_data() -> None:
    class Judge:
        required_columns = ("tone",)

        async def __call__(self, prompts: Any, first: Any, second: Any, **columns: Any) -> list[int]:
            assert columns == {"tone": [5, 6]}
            return [1, -1]

    pairwise = Pairwise(Judge(), signed=True)
    compose(pairwise).check_columns(["tone"])
    with pytest.raises(ValueError, match="'pairwise' requires 'tone'"):
        compose(pairwise).check_columns([])
    prompts, texts = ["p", "q", "p", "q"], ["a", "b", "c", "d"]
    columns = {"tone": [5, 6, 5, 6], "episode_group": [0, 1, 0, 1], "episode_seed": [1, 2, 3, 4]}
    assert call_reward(pairwise, prompts, texts, [[0]] * 4, columns) == [1, 0, 0, 1]


def test_an_async_compare_is_awaited() -> None:
    async def compare(prompts: list[Any], first: list[str], second: list[str]) -> list[float]:
        await asyncio.sleep(0)
        return longer(prompts, first, second)

    assert score(Pairwise(compare), ["a", "bb", "ccc"], [0, 0, 0]) == [0, 0.5, 1]


def test_pairs_that_cannot_be_told_do_not_count() -> None:
    def compare(_: list[Any], first: list[str], second: list[str]) -> list[float | None]:
        return [None if "c" in a + b else float(a > b) for a, b in zip(first, second, strict=True)]

    assert score(Pairwise(compare), ["a", "b", "c"], [0, 0, 0]) == [0, 1, None]
    assert score(Pairwise(compare), ["a", "b", "d"], [0, 0, 1]) == [0, 1, None]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([1.0], "returned 1 results for 3 pairs"),
        ([1.0, -1.0, 0.0], "signed=True"),
        ([1.0, 2.0, 0.0], "expected a number from 0 to 1"),
        ([1.0, "win", 0.0], "'win'"),
        ([1.0, math.nan, 0.0], "nan"),
    ],
)
def test_what_a_compare_returns_is_checked(answers: list[Any], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        score(Pairwise(lambda *_: answers), ["a", "b", "c"], [0, 0, 0])


def test_a_compare_must_be_callable() -> None:
    with pytest.raises(TypeError, match="compare='judge'"):
        Pairwise("judge")  # type: ignore[arg-type]


def test_ranked_compares_the_scores_of_a_reward() -> None:
    calls = []

    def size(completions: list[str], **_: Any) -> list[Any]:
        calls.append(len(completions))
        return [None if text == "?" else [float(len(text))] for text in completions]

    texts, groups = ["a", "xyz", "bb", "cc", "uvw", "dddd", "?"], [0, 1, 0, 0, 1, 0, 0]
    assert score(Ranked(size), texts, groups)[:6] == score(Pairwise(longer), texts[:6], groups[:6])
    assert score(Ranked(size), texts, groups)[6] is None
    assert calls == [7, 7]  # once for each response, not for each pair
    scored = compose(Ranked(size)).score(["p"] * 2, ["a", "bb"], [[0], [0]], {"episode_group": [0, 0]})
    assert scored.components == {"ranked": [0, 1], "size": [1, 2]}


# --- agreement -------------------------------------------------------------------------------------------------


def test_the_majority_pays_one() -> None:
    texts = ["x = 4", "so  X =  4", "it is 4, no 5", "5", "", "4"]
    assert score(Majority(r"\d+"), texts, [0] * 6) == [1, 1, 0, 0, 0, 1]
    assert score(Majority(), ["A  b", "a b", "a", ""], [0] * 4) == [1, 1, 0, 0]
    assert score(Majority(r"= (\d)|none"), ["= 1", "none", "none", "none"], [0] * 4) == [1, 0, 0, 0]


def test_tied_answers_share_the_vote_and_groups_vote_apart() -> None:
    assert score(Majority(), ["a", "b", "a", "b", "c"], [0] * 5) == [0.5, 0.5, 0.5, 0.5, 0]
    assert score(Majority(), ["a", "b", "c", "d"], [0] * 4) == [0.25] * 4
    assert score(Majority(), ["a", "b", "a", "b", "b"], [0, 0, 0, 1, 1]) == [1, 0, 1, 1, 1]
    assert score(Majority(), ["", " ", "x"], [0, 0, 1]) == [0, 0, None]
    with pytest.raises(ValueError, match=r"pattern='\('; expected a regular expression"):
        Majority("(")


# --- novelty ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_self_bleu_is_that_of_sacrebleu(seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(list("abcde"), rng.integers(1, 12))) for _ in range(9)]
    texts += [texts[0], "z y x", "a"]
    found = self_bleu([text.split() for text in texts])
    for i, text in enumerate(texts):
        others = texts[:i] + texts[i + 1 :]
        peer = sacrebleu.sentence_bleu(text, others, tokenize="none", smooth_method="exp", use_effective_order=True)
        assert found[i] == pytest.approx(peer.score / 100, abs=1e-12)


def test_novelty_by_hand() -> None:
    # "a b" and "a c": one of two words is shared, and the one pair of words is not: √(1/2 · 1/2).
    assert score(Novelty(), ["a b", "a c"]) == pytest.approx([0.5, 0.5])
    # A copy is not new; without anything in common it is; nothing at all is not new either.
    assert score(Novelty(), ["a b c d", "a b c d", "e f g", ""]) == pytest.approx([0, 0, 1, 0])
    assert score(Novelty(), ["a b"]) == [1]
    # Two of the three "a" are in the other text; its brevity penalty is 1, the other's exp(1 − 3/2).
    first, second = score(Novelty(), ["a a a", "a a"])
    assert first == pytest.approx(1 - (2 / 3 * 1 / 2 * 1 / 2) ** (1 / 3))
    assert second == pytest.approx(1 - math.exp(1 - 3 / 2))


def test_novelty_is_against_the_batch_or_the_group() -> None:
    texts, groups = ["a b", "c d", "a b"], [0, 0, 1]
    assert score(Novelty(), texts, groups) == pytest.approx([0, 1, 0])
    assert score(Novelty("group"), texts, groups) == pytest.approx([1, 1, 1])
    assert (compared(Novelty()), compared(Novelty("group"))) == ("batch", "group")
    with pytest.raises(ValueError, match="against='all'; expected 'batch' or 'group'"):
        Novelty("all")  # type: ignore[arg-type]


# --- length ----------------------------------------------------------------------------------------------------


def test_length_is_relative_to_the_group() -> None:
    ids = [[0] * n for n in (2, 6, 3, 9, 9)]
    assert score(RelativeLength(), [""] * 5, [0, 0, 0, 1, 1], ids) == [0.5, -0.5, 0.25, 0, 0]
    assert score(RelativeLength(), [""], [0], [[0]]) == [None]


def test_the_length_of_wrong_answers_only_punishes() -> None:
    def right(completions: list[str], **_: Any) -> list[float | None]:
        return [None if text == "?" else float(text == "yes") for text in completions]

    texts, ids = ["yes", "no", "no", "yes", "?"], [[0] * n for n in (2, 2, 6, 6, 4)]
    assert score(CorrectLength(right), texts, [0] * 5, ids) == [0.5, 0, -0.5, -0.5, None]
    assert score(CorrectLength(right, above=2), texts[:3], [0] * 3, ids[:3]) == [0, 0, -0.5]


def test_a_reward_that_occurs_twice_is_called_once() -> None:
    calls = []

    def right(completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        return [1.0] * len(completions)

    total = compose([(right, 1), (CorrectLength(right), 0.1)])
    scored = total.score(["p", "p"], ["a", "b"], [[0], [0, 1]], {"episode_group": [0, 0]})
    assert scored.totals == [pytest.approx(1.05), pytest.approx(0.95)]
    assert scored.components == {"right": [1, 1], "correct_length": [0.5, -0.5]}
    assert calls == [2]


# --- one call ---------------------------------------------------------------------------------------------------


def test_what_compares_is_seen_through_wrappers() -> None:
    pairwise = Pairwise(longer)

    @wraps(pairwise.__call__)
    def decorated(**columns: Any) -> Any:
        return pairwise(**columns)

    decorated.__wrapped__ = pairwise  # type: ignore[attr-defined]
    for reward in (
        pairwise,
        Named(pairwise, "n"),
        partial(pairwise),
        decorated,
        Clipped(pairwise, 0.1),
        Ranked(emit(7)),
    ):
        assert compared(reward) == "group"
    assert compared(emit(7)) is compose([emit(7)]).compares is None
    assert compose([emit(7), Novelty()]).compares == "batch"
    assert compose([Novelty(), (pairwise, 0), emit(7)]).compares == "group"


def test_an_async_relative_reward_is_not_split() -> None:
    calls = []

    async def relative(completions: list[str], **_: Any) -> list[float]:
        calls.append(len(completions))
        return [0.0] * len(completions)

    batch = Batch(["p"] * 100, ["c"] * 100, [[0]] * 100, {})
    call_rewards([relative], batch)
    assert len(calls) > 1
    calls.clear()
    relative.compares = "batch"  # type: ignore[attr-defined]
    call_rewards([relative], batch)
    assert calls == [100]


def test_a_relative_reward_that_fails_is_not_asked_about_parts() -> None:
    calls = []

    def compare(_: list[Any], first: list[str], __: list[str]) -> list[float]:
        calls.append(len(first))
        raise OSError("no judge")

    with pytest.raises(RewardError, match=r"'pairwise' raised OSError: no judge on 4 completions, which it compares"):
        score(Pairwise(compare), ["a", "b", "c", "d"], [0, 0, 1, 1])
    assert calls == [2]


# --- training ---------------------------------------------------------------------------------------------------


class Recorder:
    """Reward of the share of mates with a smaller sum of ids, which keeps what it was called with."""

    compares = "group"
    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self, prompts: list[str], completion_ids: list[list[int]], episode_group: Any = None, **columns: Any
    ) -> list[float]:
        self.calls.append({"prompts": prompts, "ids": completion_ids, "groups": episode_group, **columns})
        assert episode_group is not None
        sums = [sum(ids) for ids in completion_ids]
        scores = []
        for i, group in enumerate(episode_group):
            mates = [j for j, other in enumerate(episode_group) if other == group and j != i]
            scores.append(sum(sums[j] < sums[i] for j in mates) / len(mates))
        return scores


def train(kind: Any, reward: Any, iterations: int = 2, **settings: Any) -> tuple[Any, list[Any]]:
    """Train for some iterations; return the algorithm, and the episodes of each."""
    env = TokenVectorEnv(word_mdp(reward), 5, "Disabled")
    algorithm = kind("LMPolicy", env, 1e-3, model=tiny_gpt2(), **{**SIZES, **settings})
    played = []
    for _ in range(iterations):
        played.append(algorithm.collect())
        algorithm.train(played[-1])
    return algorithm, played


@pytest.mark.parametrize("kind", [PPO, GRPO, RLOO])
def test_an_iteration_is_one_call_with_whole_groups(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes_module, "SCORED_AT_ONCE", 5)
    recorder = Recorder()
    _, played = train(kind, recorder, samples_per_prompt=4)
    assert [len(call["groups"]) for call in recorder.calls] == [24, 24]
    for call, episodes in zip(recorder.calls, played, strict=True):
        # Three prompts, six groups: the second group of a prompt is one of its own.
        assert list(Counter(call["groups"]).values()) == [4] * 6
        assert len({(group, prompt) for group, prompt in zip(call["groups"], call["prompts"], strict=True)}) == 6
        assert len(set(call["prompts"])) == 3
        texts = [ids[:n].tolist() for ids, n in zip(episodes.actions, episodes.lengths, strict=True)]
        assert call["ids"] == texts  # in the order of the episodes, so in the order of advantages
        sums = np.array([sum(ids) for ids in texts]).reshape(6, 4)
        shares = (sums[:, None, :] < sums[:, :, None]).sum(2) / 3
        np.testing.assert_allclose(episodes.rewards.sum(1).reshape(6, 4), shares, rtol=1e-6)
        assert len(set(call["episode_number"])) == 24
    assert not set(recorder.calls[0]["groups"]) & set(recorder.calls[1]["groups"])


def test_other_rewards_are_still_scored_in_parts_and_see_the_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes_module, "SCORED_AT_ONCE", 10)
    calls = []

    def alone(completion_ids: list[list[int]], episode_group: Any = None, **_: Any) -> list[float]:
        calls.append(episode_group)
        return [0.0] * len(completion_ids)

    train(GRPO, alone, 1, samples_per_prompt=4)
    assert [len(groups) for groups in calls] == [10, 10, 4]
    assert [group for groups in calls for group in groups] == np.repeat(np.arange(6), 4).tolist()


def test_a_relative_reward_beside_others_trains_and_is_logged() -> None:
    algorithm, _ = train(GRPO, [Pairwise(longer), (Majority(), 0.5), (Novelty(), 0.1), (emit(7), 0.0)])
    for name in ("pairwise", "majority", "novelty", "reward"):
        assert f"rollout/components/{name}" in algorithm.metrics
    assert algorithm.metrics["rollout/components/pairwise"] == pytest.approx(0.5)


def test_dapo_scores_each_collection_by_itself() -> None:
    recorder = Recorder()
    algorithm = DAPO("LMPolicy", TokenVectorEnv(word_mdp(recorder), 5, "Disabled"), model=tiny_gpt2(), **SIZES)
    algorithm.collect()
    assert recorder.calls
    for call in recorder.calls:
        assert set(Counter(call["groups"]).values()) == {algorithm.group}


def test_greedy_companions_and_references_are_refused() -> None:
    for kind, reason in (
        (ReMax, "ReMax subtracts the score of a greedy response"),
        (AStarPO, "AStarPO compares scores"),
    ):
        for reward in (Novelty(), Pairwise(longer)):
            with pytest.raises(ValueError, match=f"{reason}.*use another algorithm"):
                train(kind, reward, 0, samples_per_prompt=2, episodes_per_iteration=24)


# --- who refuses them ------------------------------------------------------------------------------------------


def task(reward: Any = None, **settings: Any) -> TokenMDP:
    return word_mdp(Pairwise(longer) if reward is None else reward, **settings)


def algorithm_on(make: Any, **settings: Any) -> Any:
    return GRPO("LMPolicy", make, model=tiny_gpt2(), **{**SIZES, **settings})


class Doubled(VectorRewardWrapper):
    def rewards(self, rewards: Any) -> Any:
        return 2 * rewards


REFUSED: dict[str, tuple[Any, str]] = {
    "a single environment": (lambda: TokenEnv(task()), "single environment.*make_vec"),
    "stock algorithms": (lambda: DummyVecEnv([lambda: TokenEnv(task())]), "single environment"),
    "vectors of single ones": (lambda: SyncVectorEnv([lambda: TokenEnv(task())] * 2), "single environment"),
    "NextStep": (lambda: TokenVectorEnv(task(), 2), "autoreset_mode='NextStep'.*autoreset_mode='Disabled'"),
    "SameStep": (lambda: TokenVectorEnv(task(Novelty()), 2, "SameStep"), "'novelty'.*autoreset_mode='SameStep'"),
    "the adapter": (lambda: SB3VecEnv(TokenVectorEnv(task(), 2, "Disabled")), "stable-baselines3.*without SB3VecEnv"),
    "ReferenceKL": (
        lambda: VectorReferenceKL(TokenVectorEnv(task(), 2, "Disabled"), tiny_gpt2(), 0.1),
        "wrapper.*by beta",
    ),
    "the optimum": (lambda: optimum(task(max_new_tokens=2), 0.1, reference=tiny_gpt2()), "an enumeration"),
    "its parts": (lambda: optimum(task(Clipped(Novelty(), 0.5)), 0.1, reference=tiny_gpt2()), "'clipped_novelty'"),
    "the bracket": (lambda: bracket(task(), 0.1, reference=tiny_gpt2()), "a bracket"),
    "score_together=False": (
        lambda: algorithm_on(TokenVectorEnv(task(), 2, "Disabled"), score_together=False),
        "pass score_together=True",
    ),
    "wrappers": (lambda: algorithm_on(Doubled(TokenVectorEnv(task(), 2, "Disabled"))), "without wrappers"),
    "one sample": (
        lambda: PPO("LMPolicy", TokenVectorEnv(task(), 2, "Disabled"), model=tiny_gpt2(), **SIZES),
        "PPO samples one to each prompt.*samples_per_prompt=4",
    ),
    "missing_end_score": (lambda: task(missing_end_score=-1.0), "missing_end_score=-1.*'pairwise'"),
    "evaluations of one": (
        lambda: play(None, task(), np.arange(3), 0),  # type: ignore[arg-type]
        "one response only.*at least two",
    ),
}


@pytest.mark.parametrize("who", REFUSED)
def test_who_scores_responses_alone_refuses_before_any_work(who: str) -> None:
    make, message = REFUSED[who]
    with pytest.raises(ValueError, match=message):
        make()


def test_stepping_by_hand_is_refused_in_the_first_step() -> None:
    env = TokenVectorEnv(task(), 2, "Disabled")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"'pairwise' compares the responses.*score_together=True"):
        env.step(np.array([3, 3]))


def test_novelty_needs_no_mates() -> None:
    algorithm, _ = train(PPO, Novelty(), 1)
    assert algorithm.metrics["rollout/score"] > 0


def test_columns_of_the_data_may_not_take_the_name() -> None:
    with pytest.raises(ValueError, match="columns \\['episode_group'\\]"):
        word_mdp(prompts=[{"prompt": "w0", "episode_group": 1}])


# --- evaluation ------------------------------------------------------------------------------------------------


def test_prompts_of_an_evaluation_are_spread_over_groups() -> None:
    order = np.array([5, 2, 9])
    assert spread_prompts(order, 5, 1).tolist() == [5, 2, 9, 5, 2]
    assert spread_prompts(order, 8, 4).tolist() == [5] * 4 + [2] * 4
    assert spread_prompts(order, 11, 4).tolist() == [5] * 6 + [2] * 5
    assert spread_prompts(order, 3, 4).tolist() == [5] * 3


def test_an_evaluation_groups_by_prompt() -> None:
    recorder = Recorder()
    algorithm, _ = train(GRPO, recorder, 0)
    mdp = word_mdp(recorder)
    report = evaluate(algorithm.policy, algorithm.reference_trunk, mdp, 10, seed=1)
    (call,) = recorder.calls
    assert sorted(Counter(call["groups"]).values()) == [5, 5]
    assert min(Counter(call["prompts"]).values()) >= EVALUATED_TOGETHER
    assert report.summary()["score"]["n"] == 10
    with pytest.raises(ValueError, match="one response only"):
        evaluate(algorithm.policy, algorithm.reference_trunk, mdp, 1, seed=1)
    sample_responses(algorithm.policy, mdp, np.array([0, 2]), 3, seed=0)
    assert list(Counter(recorder.calls[-1]["groups"]).values()) == [3, 3]


def test_a_task_by_id_trains(tmp_path: Any) -> None:
    algorithm = GRPO("LMPolicy", gym.make_vec("textgym/Noise-v1", 4, autoreset_mode="Disabled", reward=Ranked(emit(2))))
    algorithm.learn(1)
    assert algorithm.metrics["rollout/components/ranked"] == pytest.approx(0.5)
    algorithm.save(tmp_path / "kept")
    assert GRPO.load(tmp_path / "kept").iteration == 1


def test_a_comparison_may_say_itself_that_it_is_signed() -> None:
    """A tie of a judge is half a win for both, whether or not the user remembers to say so."""

    def undecided(prompts: list[str], first: list[str], second: list[str]) -> list[int]:
        return [0 for _ in zip(prompts, first, second, strict=True)]

    tied = partial(compare, undecided)
    assert Pairwise(tied)(["q", "q"], ["a", "b"], completion_ids=[[1], [1]]) == [0.5, 0.5]
    assert sorted(Pairwise(tied, signed=False)(["q", "q"], ["a", "b"], completion_ids=[[1], [1]])) == [0.0, 1.0]
