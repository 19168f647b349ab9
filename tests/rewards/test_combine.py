"""Products, limits and normalisation of rewards: numbers by hand, and what reaches their parts."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from tests.helpers import tiny_gpt2, word_mdp
from textgym.agents import GRPO
from textgym.env.vector import TokenVectorEnv
from textgym.exact import optimum
from textgym.rewards.combination import OneReward, combination_of, evaluate, leaves
from textgym.rewards.combine import Clipped, Product, Threshold, Whitened, WhitenedInBatch
from textgym.rewards.compose import Named, WeightedRewards, compose
from textgym.rewards.functions import Batch, RewardError, call_reward

PROMPTS, TEXTS, IDS = ["p", "q", "r"], ["a", "b", "c"], [[1, 2], [3], [4, 5]]


def fixed(*scores: Any, name: str = "fixed") -> Any:
    def reward(**_: Any) -> list[Any]:
        return list(scores)

    reward.__name__ = name
    return reward


def score(reward: Any, **columns: Any) -> list[Any]:
    return call_reward(reward, PROMPTS, TEXTS, IDS, columns)


# --- numbers ---------------------------------------------------------------------------------------------------


def test_a_product_multiplies() -> None:
    first, second = fixed(2, -3, 0.5, name="x"), fixed(4, 5, 0, name="y")
    assert score(Product((first, second))) == [8, -15, 0]
    assert score(Product((first, second, second))) == [32, -75, 0]


def test_a_factor_that_does_not_apply_drops_out_and_a_dense_one_counts_as_its_sum() -> None:
    assert score(Product((fixed(None, 2, None), fixed(3, None, None)))) == [3, 2, None]
    assert score(Product((fixed([1, 2], [3], 5), fixed(10, [2], [1, 1])))) == [30, 6, 10]


def test_a_clipped_reward_stays_within_its_limits() -> None:
    reward = fixed(-2, None, [1, 4])
    assert score(Clipped(reward, -1, 3)) == [-1, None, 3]
    assert score(Clipped(reward, high=3)) == [-2, None, 3]
    assert score(Clipped(reward, low=-1.5)) == [-1.5, None, 5]


def test_a_threshold_pays_above_it_alone() -> None:
    assert score(Threshold(fixed(0.5, 0.51, None), above=0.5)) == [0, 1, None]
    assert score(Threshold(fixed([0.5, 0.5], -1, 0))) == [1, 0, 0]


def test_a_whitened_reward_has_mean_0_and_deviation_1_on_its_reference() -> None:
    scores = [1.0, 2.0, 4.0, 9.0, None, math.nan]
    reward = Whitened.from_scores(fixed(1, 2, 9), scores)
    # The mean is 4, and the squared distances from it are 9, 4, 0 and 25.
    assert (reward.mean, reward.std) == (4, math.sqrt(38 / 4))
    assert score(reward) == pytest.approx([-3 / math.sqrt(9.5), -2 / math.sqrt(9.5), 5 / math.sqrt(9.5)])
    again = np.array(
        [call_reward(Whitened(fixed(s), reward.mean, reward.std), ["p"], ["a"], [[1]], {}) for s in scores[:4]]
    )
    assert again.mean() == pytest.approx(0, abs=1e-12)
    assert again.std() == pytest.approx(1)


def test_a_dense_reward_stays_dense_and_its_sum_is_whitened() -> None:
    assert score(Whitened(fixed([1, 2], [7], None), mean=3, std=2)) == [[0.5, 1 - 1.5], [2], None]


def test_a_reward_whitened_in_a_batch_has_mean_0_and_deviation_1_there() -> None:
    # The sums 1, 4 and 7 have mean 4 and deviation √6.
    found = score(WhitenedInBatch(fixed([0.25, 0.75], 4, 7)))
    assert found[0] == pytest.approx([0.25 / math.sqrt(6), (0.75 - 4) / math.sqrt(6)])
    assert found[1:] == pytest.approx([0, 3 / math.sqrt(6)])
    assert sum(found[0]) + sum(found[1:]) == pytest.approx(0, abs=1e-12)
    assert score(WhitenedInBatch(fixed(3, None, 5))) == [-1, None, 1]
    assert score(WhitenedInBatch(fixed(0.1, 0.1, None))) == [0, 0, None]
    assert score(WhitenedInBatch(fixed(0.1 + 0.2, 0.3, 0.3))) == [0, 0, 0]  # they differ by 5e-17
    assert score(WhitenedInBatch(fixed(None, None, None))) == [None] * 3


def test_an_iteration_is_whitened_as_a_whole() -> None:
    def sums(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(sum(ids)) for ids in completion_ids]

    # Four rows play at a time, and are scored together all the same.
    env = TokenVectorEnv(word_mdp(WhitenedInBatch(sums)), 4, "Disabled")
    algorithm = GRPO("LMPolicy", env, model=tiny_gpt2(), episodes_per_iteration=16, minibatch_size=8, n_epochs=1)
    episodes = algorithm.collect()
    assert episodes is not None
    paid = episodes.rewards.sum(1)
    assert paid.mean() == pytest.approx(0, abs=1e-6)
    assert paid.std() == pytest.approx(1, abs=1e-6)
    ids = [row[:n].sum() for row, n in zip(episodes.actions, episodes.lengths, strict=True)]
    assert np.corrcoef(paid, ids)[0, 1] == pytest.approx(1)
    alone = TokenVectorEnv(word_mdp(WhitenedInBatch(sums)), 4, "Disabled")
    with pytest.raises(ValueError, match="whitened_sums"):
        GRPO("LMPolicy", alone, model=tiny_gpt2(), score_together=False)


def test_combinations_nest() -> None:
    inner = compose([(fixed(1, 2, 3, name="x"), 2), (fixed(1, 1, 1, name="y"), -1)])
    reward = Clipped(Product((Whitened(inner, 1, 2), fixed(10, 10, 10, name="z"))), high=15)
    assert score(reward) == [0, 10, 15]
    # The same, with every part of it in the log.
    scored = compose([(reward, 2), (fixed(5, 5, 5, name="alone"), 1)]).score(PROMPTS, TEXTS, IDS, {})
    assert scored.totals == [5, 25, 35]
    assert scored.components == {
        "clipped_product": [0, 10, 15],
        "alone": [5, 5, 5],
        "x": [1, 2, 3],
        "y": [1, 1, 1],
        "z": [10, 10, 10],
    }


# --- names -----------------------------------------------------------------------------------------------------


def test_parts_keep_their_names_in_the_log() -> None:
    rm = fixed(3, -1, None, name="rm")
    total = compose([Named(Clipped(rm, 0), "safe"), Whitened(rm, 1, 2), Threshold(rm)])
    assert total.names == ("safe", "whitened_rm", "rm_above")
    assert total.logged_names == (*total.names, "rm")
    scored = compose([Named(Clipped(fixed(3, -1, 2, name="rm"), 0), "safe")]).score(PROMPTS, TEXTS, IDS, {})
    assert scored.components == {"safe": [3, 0, 2], "rm": [3, -1, 2]}


def test_equal_names_are_made_unique_among_all() -> None:
    total = compose([fixed(1, 1, 1, name="x"), Clipped(fixed(2, 2, 2, name="x"), 0)])
    assert total.logged_names == ("x", "clipped_x", "x_2")
    assert total.score(PROMPTS, TEXTS, IDS, {}).components["x_2"] == [2, 2, 2]


def test_components_of_training_are_logged() -> None:
    def sums(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(sum(ids)) for ids in completion_ids]

    env = TokenVectorEnv(word_mdp(Whitened(Clipped(sums, 10, 20), 15, 2)), 4, "Disabled")
    algorithm = GRPO("LMPolicy", env, model=tiny_gpt2(), episodes_per_iteration=16, minibatch_size=8, n_epochs=1)
    episodes = algorithm.collect()
    assert episodes is not None
    ids = [row[:n] for row, n in zip(episodes.actions, episodes.lengths, strict=True)]
    expected = [(min(max(each.sum(), 10), 20) - 15) / 2 for each in ids]
    np.testing.assert_allclose(episodes.rewards.sum(1), expected, rtol=1e-6)
    np.testing.assert_array_equal(episodes.components["sums"], [each.sum() for each in ids])


# --- what reaches the parts ------------------------------------------------------------------------------------


class Reader:
    """Reward with everything that a reward may have."""

    name = "reader"
    required_columns = ("page",)

    def __init__(self, bound: Any = None, log: list[Any] | None = None) -> None:
        self.bound = bound
        self.log = [] if log is None else log

    def __call__(self, completions: list[str], page: list[int], **_: Any) -> list[float]:
        return [float(number) for number in page]

    def bind(self, tokenizer: Any) -> Reader:
        return Reader(tokenizer, self.log)

    def check_lengths(self, *arguments: Any) -> None:
        self.log.append(arguments)


COMBINED: dict[str, Any] = {
    "product": lambda reward: Product((reward, fixed(1, 1, 1))),
    "clipped": lambda reward: Clipped(reward, high=9),
    "threshold": lambda reward: Threshold(reward, 1.5),
    "whitened": lambda reward: Whitened(reward, 1, 1),
    "whitened in its batch": lambda reward: WhitenedInBatch(reward),
    "nested": lambda reward: Named(Clipped(compose([(Product((fixed(1, 1, 1), reward)), 2)]), 0), "n"),
}


@pytest.mark.parametrize("kind", COMBINED)
def test_bind_columns_and_lengths_reach_the_parts(kind: str) -> None:
    reader = Reader()
    total = compose(COMBINED[kind](reader))
    assert total.required_columns == ("page",)
    with pytest.raises(ValueError, match="'reader' requires 'page'"):
        total.check_columns(["book"])
    total.check_columns(["page"])
    total.check_lengths((), 5, (1,), False)
    assert reader.log == [((), 5, (1,), False)]
    bound = total.bind("tokenizer")
    (found,) = (leaf for reward in bound.rewards for leaf in leaves(reward) if isinstance(leaf, Reader))
    assert found.bound == "tokenizer"
    assert reader.bound is None
    # Alone as in a sum, and the column arrives.
    assert score(COMBINED[kind](reader), page=[1, 2, 3]) == total.score(PROMPTS, TEXTS, IDS, {"page": [1, 2, 3]}).totals
    with pytest.raises(ValueError, match="'reader' requires 'page'"):
        word_mdp(COMBINED[kind](reader))


def test_async_parts_are_split_and_overlap() -> None:
    sizes, running, most = [], [0], [0]

    def judge(name: str) -> Any:
        async def reward(completions: list[str], **_: Any) -> list[float]:
            sizes.append(len(completions))
            running[0] += 1
            most[0] = max(most[0], running[0])
            await asyncio.sleep(0.01)
            running[0] -= 1
            return [2.0] * len(completions)

        reward.__name__ = name
        return reward

    batch = Batch(["p"] * 64, ["c"] * 64, [[1]] * 64, {})
    scored = compose(Clipped(Product((judge("x"), judge("y"))), high=3)).score_batch(batch)
    assert scored.totals == [3.0] * 64
    assert len(sizes) == 8
    assert max(sizes) == 16
    assert most[0] > 4  # calls of both parts at the same time


def test_time_limits_reach_the_parts() -> None:
    def sleeps(completions: list[str], **_: Any) -> list[float]:
        time.sleep(0.5)
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r"'sleeps' took longer than its time limit of 0.02 seconds"):
        compose(Clipped(sleeps, 0), timeout=0.02).score(PROMPTS, TEXTS, IDS, {})
    inner = compose(fixed(1, 1, 1), timeout=4)
    assert compose([Product((inner, fixed(1, 1, 1))), compose(fixed(1), timeout=7)]).timeout == 4
    assert compose(Named(Clipped(inner, 0), "n")).timeout == 4


def test_a_failure_names_the_part_and_the_completion() -> None:
    def fails(completions: list[str], **_: Any) -> list[float]:
        return [1 / (text != "b") for text in completions]

    for reward in (compose(Clipped(fails, 0)), Clipped(fails, 0)):
        with pytest.raises(RewardError, match=r"(?s)^reward 'fails' raised ZeroDivisionError.*completion 1 of 3.*'b'"):
            score(reward)
    beyond = Product((fixed(1e20, 1, 1), fixed(1e20, 1, 1)))
    for reward in (beyond, compose([(beyond, 0), fixed(1, 1, 1)]), Clipped(beyond, high=1)):
        with pytest.raises(RewardError, match=r"'product', completion 0 of 3: expected a finite number, got 1e\+40"):
            score(reward)


def test_what_has_no_sum_is_an_error_of_a_nested_sum() -> None:
    nested = compose([fixed(None, 1, 1, name="x"), fixed(None, 2, 2, name="y")])
    with pytest.raises(RewardError, match=r"completion 0 of 3: every reward \(x, y\) returned None"):
        score(Clipped(nested, 0))


# --- noisy rewards ---------------------------------------------------------------------------------------------


class Noisy:
    """1 or 3 by chance for an even first id, 5 otherwise."""

    name = "noisy"

    def __call__(self, completion_ids: list[list[int]], episode_seed: list[int], **_: Any) -> list[float]:
        return [
            5.0 if ids[0] % 2 else 1.0 + 2 * (seed % 2) for ids, seed in zip(completion_ids, episode_seed, strict=True)
        ]

    def expected(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [5.0 if ids[0] % 2 else 2.0 for ids in completion_ids]


def test_only_what_is_linear_declares_a_mean() -> None:
    whitened = Whitened(Noisy(), 2, 3)
    assert score(whitened.expected) == [pytest.approx(1), pytest.approx(1), 0]
    for reward in (Clipped(Noisy(), 2), Threshold(Noisy(), 2), Product((Noisy(), Noisy())), Whitened(fixed(1, 1, 1))):
        assert not hasattr(reward, "expected")
    model = tiny_gpt2(5, n_embd=16)
    small = {"prompts": ["w0"], "max_new_tokens": 2, "n_words": 3}
    plain, scaled = (
        optimum(word_mdp(r, **small), beta, reference=model) for r, beta in ((Noisy(), 0.3), (whitened, 0.1))
    )
    assert scaled.value == pytest.approx((plain.value - 2) / 3, abs=1e-12)  # J of (R − 2)/3 at β/3
    with pytest.raises(ValueError, match=r"clipped_noisy.*depends on episode_seed"):
        optimum(word_mdp(Clipped(Noisy(), 2), **small), 0.1, reference=model)


# --- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Product((fixed(1),)), ValueError, "at least two factors"),
        (lambda: Product((fixed(1), lambda prompts: prompts)), TypeError, r"add \*\*kwargs"),
        (lambda: Clipped(fixed(1)), ValueError, "expected a limit"),
        (lambda: Clipped(fixed(1), 2, 1), ValueError, "low=2, high=1; expected low < high"),
        (lambda: Clipped(fixed(1), math.nan), ValueError, "low=nan"),
        (lambda: Clipped(3, 1), TypeError, "must be callable, got int"),
        (lambda: Threshold(fixed(1), math.inf), ValueError, "above=inf"),
        (lambda: Whitened(fixed(1), 0, 0), ValueError, "std=0; expected a finite number, more than 0"),
        (lambda: Whitened.from_scores(fixed(1), [1.0, 1.0]), ValueError, "2 numbers, 1 of them different"),
        (lambda: Whitened.from_scores(fixed(1), [1.0, None]), ValueError, "1 numbers, 1 of them different"),
    ],
)
def test_mistakes_are_found_at_construction(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_what_a_combination_is() -> None:
    total = compose([fixed(1, 1, 1)])
    assert isinstance(total, WeightedRewards)
    assert combination_of(total) is total
    assert combination_of(fixed(1)) is combination_of(Named(fixed(1), "n")) is None
    clipped = Clipped(fixed(1), 0)
    assert isinstance(clipped, OneReward)
    assert combination_of(Named(clipped, "n")) is clipped
    evaluated = evaluate([clipped], Batch(["p"], ["a"], [[1]], {}))
    assert (evaluated.scores, evaluated.within) == ([[1]], [(clipped.reward, [1])])


@dataclass(frozen=True, eq=False)
class Copied:
    """Reward that binding copies, as reward models are."""

    scale: float
    calls: list[float]
    name: str = "copied"

    def bind(self, tokenizer: Any) -> Copied:
        return replace(self)

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        self.calls.append(self.scale)
        return [self.scale * len(text) for text in completions]


def test_a_reward_in_two_places_is_called_once_after_binding_too() -> None:
    calls: list[float] = []
    one = Copied(2.0, calls)
    whole = compose([(Product((one, fixed(3, 3))), 1.0), (Clipped(one, 0, 3), 10.0), (Copied(5.0, calls), 1.0)])
    both = whole.bind(None)
    assert both.logged_names == whole.logged_names
    scored = both.score(["p", "q"], ["a", "bb"], [[1], [2]], {})
    # 2·1·3 + 10·min(2·1, 3) + 5·1, and 2·2·3 + 10·min(2·2, 3) + 5·2
    assert scored.totals == [6 + 20 + 5, 12 + 30 + 10]
    assert sorted(calls) == [2.0, 5.0]


def test_equal_rewards_are_two_where_they_are_two() -> None:
    """A subclass may differ in what the fields of its parent do not show."""

    @dataclass(frozen=True)
    class Plain:
        name: str = "plain"

        def __call__(self, completions: list[str], **_: Any) -> list[float]:
            return [0.0] * len(completions)

    class Scaled(Plain):
        def __init__(self, scale: float) -> None:
            super().__init__()
            object.__setattr__(self, "scale", scale)

        def __call__(self, completions: list[str], **_: Any) -> list[float]:
            return [self.scale] * len(completions)

    assert Scaled(1) == Scaled(100)
    assert compose([Scaled(1), Scaled(100)]).score(["p"], ["a"], [[1]], {}).totals == [101.0]
