"""Sums of rewards, checked against sums written out by hand."""

from __future__ import annotations

import math
import time

import pytest

from textgym.rewards import RewardError, WeightedRewards, compose, distinct, length, repetition

PROMPTS, TEXTS, IDS = ["p", "q"], ["a b", "c"], [[1, 2, 9], [3, 9]]


def fixed(*scores, name="fixed"):
    def reward(**_):
        return list(scores)

    reward.__name__ = name
    return reward


def score(reward, weights=None):
    return compose(reward, weights).score(PROMPTS, TEXTS, IDS, {})


def test_a_single_reward_is_the_one_element_case():
    scored = score(fixed(1, 2))
    assert scored.totals == [1.0, 2.0]
    assert scored.components == {"fixed": [1.0, 2.0]}


def test_weights_apply_to_totals_and_not_to_the_log():
    first, second = fixed(1, 2, name="first"), fixed(10, 20, name="second")
    expected = [2 * 1 - 0.5 * 10, 2 * 2 - 0.5 * 20]
    for scored in (score([(first, 2), (second, -0.5)]), score([first, second], [2, -0.5])):
        assert scored.totals == expected
        assert scored.components == {"first": [1.0, 2.0], "second": [10.0, 20.0]}


def test_weight_zero_only_logs():
    scored = score([fixed(1, 2, name="trained"), (fixed(5, 5, name="watched"), 0)])
    assert scored.totals == [1.0, 2.0]
    assert scored.components["watched"] == [5.0, 5.0]


def test_equal_names_are_made_unique():
    assert compose([length, length, distinct, length]).names == ("length", "length_2", "distinct", "length_3")


def test_nested_sums_keep_their_parts_in_the_log():
    inner = compose([(fixed(1, 1, name="x"), 2), (fixed(3, 3, name="y"), 1)])
    outer = compose([(inner, 10), fixed(100, 100, name="z")])
    assert outer.names == ("x", "y", "z")
    assert outer.weights == (20.0, 10.0, 1.0)
    assert outer(PROMPTS, TEXTS, completion_ids=IDS) == [10 * (2 + 3) + 100] * 2


def test_none_drops_out_of_the_sum_and_stays_in_the_log():
    scored = score([fixed(None, 2, name="math"), fixed(5, None, name="code")])
    assert scored.totals == [5.0, 2.0]
    assert math.isnan(scored.components["math"][0])
    assert scored.components["math"][1] == 2.0


def test_none_from_everyone_is_an_error():
    with pytest.raises(
        RewardError, match=r"(?s)completion 1 of 2: every reward \(math, code\) returned None.*'q'.*'c'"
    ):
        score([fixed(1, None, name="math"), fixed(None, None, name="code")])


def test_scalars_join_a_dense_reward_at_the_last_token():
    scored = score([(fixed([1, 2, 3], 7, name="dense"), 2), fixed(10, 20, name="scalar")])
    assert scored.totals == [[2.0, 4.0, 6.0 + 10.0], 14.0 + 20.0]
    assert scored.components["dense"] == [6.0, 7.0]


def test_two_dense_rewards_add_token_by_token():
    scored = score([fixed([1, 2, 3], [1, 2], name="a"), (fixed([1, 1, 1], [0, 1], name="b"), -1)])
    assert scored.totals == [[0.0, 1.0, 2.0], [1.0, 1.0]]


def test_dense_reward_without_tokens_is_an_error():
    with pytest.raises(RewardError, match="no token that a dense reward"):
        compose(fixed([])).score(["p"], [""], [[]], {})


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            [fixed(3e38, 1, name="a"), fixed(3e38, 1, name="b")],
            r"completion 0 of 2: the weighted sum.*\(a, b\).*float32",
        ),
        ([(fixed(0, 1e38, name="a"), 1e38)], "completion 1 of 2: the weighted sum.*float32"),
        ([fixed([3e38, 3e38, 0], 1, name="a")], "completion 0 of 2: the weighted sum.*float32"),
    ],
)
def test_a_sum_beyond_float32_is_an_error(reward, message):
    with pytest.raises(RewardError, match=f"(?s){message}.*prompt: .*completion: "):
        score(reward)


def test_a_time_limit_is_kept_where_rewards_are_composed_and_bound():
    inner = compose([length, distinct], timeout=5)
    assert inner.timeout == 5
    assert compose([(inner, 2), length]).timeout == 5
    assert compose([inner, compose(length, timeout=3)]).timeout == 3
    assert compose([inner], timeout=9).timeout == 9
    assert compose([inner]).bind(None).timeout == 5
    assert compose(length).timeout is None
    for seconds in (0, -1, math.inf, math.nan):
        with pytest.raises(ValueError, match="timeout="):
            compose(length, timeout=seconds)


def test_a_time_limit_holds():
    def sleeps(completions, **_):
        time.sleep(0.3)
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r"'sleeps' took longer than its time limit of 0.02 seconds"):
        compose(sleeps, timeout=0.02).score(PROMPTS, TEXTS, IDS, {})


def test_async_and_sync_components_mix():
    async def judge(completions, **_):
        return [float(len(text)) for text in completions]

    assert score([judge, length]).totals == [3.0 + 2.0, 1.0 + 1.0]


@pytest.mark.parametrize(
    ("reward", "weights", "error", "message"),
    [
        ([], None, ValueError, "empty list"),
        ([length], [1, 2], ValueError, "got 2 for 1 rewards"),
        ([(length, math.nan)], None, ValueError, "weight of 'length'=nan; expected a finite number"),
        ([(length, "2")], None, ValueError, "weight of 'length'='2'; expected a finite number"),
        (3, None, TypeError, "must be callable, got int"),
        ([lambda completions: [0.0 for _ in completions]], None, TypeError, r"add \*\*kwargs"),
    ],
)
def test_mistakes_are_found_before_work_starts(reward, weights, error, message):
    with pytest.raises(error, match=message):
        compose(reward, weights)


def test_bind_reaches_the_components_that_ask_for_a_tokenizer():
    class Model:
        name = "model"

        def bind(self, tokenizer):
            return fixed(*tokenizer)

        def __call__(self, **_):
            return [0.0, 0.0]

    bound = compose([(Model(), 3), length]).bind((1.0, 2.0))
    assert isinstance(bound, WeightedRewards)
    assert bound.names == ("model", "length")
    assert bound.score(PROMPTS, TEXTS, IDS, {}).totals == [3.0 + 2.0, 6.0 + 1.0]


def test_builtin_rewards():
    texts = ["a b a b a b", "one two three", ""]
    assert length(completions=texts) == [6.0, 3.0, 0.0]
    assert distinct(completions=texts) == [2 / 6, 1.0, 0.0]
    # ab ba ab ba ab: two different pairs of five
    assert repetition(completions=texts) == [2 / 5 - 1, 0.0, 0.0]
