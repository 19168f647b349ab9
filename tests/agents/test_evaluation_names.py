"""An evaluation tells each number under its own name: gold wherever it is paid, no score where nobody judges."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import Report, evaluate, samples
from textgym.agents.loop.metrics import rollout_metrics
from textgym.env.mdp import TokenMDP
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.trunk import Trunk
from textgym.registration import load_task, task_mdp
from textgym.rewards.builtin import no_reward
from textgym.rewards.compose import compose
from textgym.types import completion_text


def a_half(completions: list[Any], **_: Any) -> list[float]:
    return [0.5] * len(completions)


def scaled(completions: list[Any], factor: float = 1.0, **_: Any) -> list[float]:
    return [factor * len(completion_text(one)) for one in completions]


class Judge:
    """A gold reward that is an object, asks for a column, and must be told the tokenizer."""

    required_columns = ("finish_reason",)
    bound = False

    def bind(self, tokenizer: Any) -> Judge:
        assert tokenizer is not None
        other = Judge()
        other.bound = True
        return other

    def __call__(self, completions: list[Any], **_: Any) -> list[float]:
        assert self.bound
        return [0.25] * len(completions)


async def asynchronous(completions: list[Any], **_: Any) -> list[float]:
    return [0.5] * len(completions)


def measured(mdp: TokenMDP) -> Report:
    model = load_causal_lm(mdp.base_model)
    return evaluate(acting_policy(model, mdp), Trunk(model), mdp, 6, 0)


@pytest.mark.parametrize(
    "gold",
    [a_half, Judge(), functools.partial(scaled, factor=0.125), compose([a_half, scaled], [1.0, 0.0]), asynchronous],
    ids=["function", "object", "partial", "sum", "async"],
)
def test_gold_is_told_under_its_name_whatever_it_is_made_of(gold: Callable[..., Any]) -> None:
    task = replace(load_task("Emit"), gold=gold, reward=None)
    assert not task.metrics
    mdp = task_mdp(task, "gold")
    assert mdp.rewards.names == ("gold",)
    report = measured(mdp)
    found = report.summary()
    assert found["gold"] == found["score"]
    assert found["gold"]["n"] == 6
    assert [row["gold"] for row in samples(report, mdp, "before", 0.0, 6)] == pytest.approx(
        report.episodes.rewards.sum(1), abs=1e-4
    )


def test_gold_that_is_paid_with_a_weight_is_told_without_it() -> None:
    found = measured(task_mdp(replace(load_task("Emit"), gold=a_half), "gold,-3")).summary()
    assert (found["score"]["mean"], found["gold"]["mean"]) == (-1.5, 0.5)


def test_an_iteration_logs_gold_where_it_is_the_reward() -> None:
    report = measured(task_mdp(replace(load_task("Emit"), gold=a_half), "gold"))

    class Scored:
        episodes = report.episodes
        ref_log_probs = report.episodes.log_probs
        companions = None
        divergence = None

    found = rollout_metrics(Scored())  # type: ignore[arg-type]
    assert found["components/gold"] == found["score"] == 0.5


def test_a_single_other_reward_is_the_score_and_nothing_beside() -> None:
    assert set(measured(task_mdp(load_task("Emit"), a_half)).summary()) == {"score", "kl", "length"}


def test_without_a_reward_there_is_no_score() -> None:
    mdp = task_mdp(load_task("Emit"), no_reward)
    report = measured(mdp)
    assert set(report.summary()) == {"kl", "length"}
    (row,) = samples(report, mdp, "before", 0.0, 1)
    assert not {"score", "no_reward"} & set(row)


def test_what_a_world_pays_is_a_score() -> None:
    report = measured(task_mdp(load_task("Relay"), no_reward))
    assert 0.5 <= report.summary()["score"]["mean"] <= 1  # now, or later


def test_a_component_called_length_hides_no_length_of_responses() -> None:
    def length(completions: list[Any], **_: Any) -> list[float]:
        return [-7.0] * len(completions)

    mdp = task_mdp(load_task("Emit"), [a_half, length])
    report = measured(mdp)
    found = report.summary()
    assert found["components/length"]["mean"] == -7
    assert found["length"]["mean"] == np.mean(report.episodes.lengths)
    (row,) = samples(report, mdp, "before", 0.0, 1)
    assert (row["score"], row["length"], row["a_half"]) == (-6.5, -7.0, 0.5)  # a sample has no length of its own


def test_a_component_called_kl_hides_no_kl() -> None:
    def kl(completions: list[Any], **_: Any) -> list[float]:
        return [-7.0] * len(completions)

    mdp = task_mdp(load_task("Emit"), [a_half, kl])
    report = measured(mdp)
    (row,) = samples(report, mdp, "before", 0.0, 1)
    assert (row["components/kl"], row["kl"]) == (-7.0, 0.0)
    assert report.summary()["kl"]["mean"] == 0.0
