"""The measures of texts that training logs with each evaluation."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import tiny_gpt2, word_mdp
from textgym.agents import PPO
from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.callbacks import EvaluateEvery
from textgym.agents.loop.evaluation import evaluate
from textgym.evaluation.battery import watched_measures
from textgym.evaluation.decoders import answers_of
from textgym.evaluation.texts import distinct, self_bleu, words
from textgym.lm.trunk import Trunk
from textgym.rewards.builtin import no_reward

NAMES = {f"texts/{name}" for name in ("end_rate", "distinct_1", "distinct_2", "self_bleu", "length_correlation")}


def test_they_are_those_of_the_texts() -> None:
    mdp, model = word_mdp(), tiny_gpt2()
    report = evaluate(acting_policy(model, mdp), Trunk(model), mdp, 30, 0)
    found = watched_measures(report, mdp)
    texts = [words(text) for text in answers_of(mdp, report.episodes).texts]
    assert set(found) == NAMES
    assert not set(found) & set(report.summary())
    assert found["texts/distinct_2"]["mean"] == distinct(texts, 2)
    assert found["texts/self_bleu"]["mean"] == pytest.approx(self_bleu(texts).mean())
    assert found["texts/end_rate"]["mean"] == report.episodes.stopped.mean()
    expected = np.corrcoef(report.episodes.rewards.sum(1), report.episodes.lengths)[0, 1]
    assert found["texts/length_correlation"]["mean"] == pytest.approx(expected, abs=1e-6)
    assert all(entry["sem"] > 0 for entry in found.values())


def test_without_a_reward_nothing_correlates_with_it() -> None:
    mdp, model = word_mdp(no_reward), tiny_gpt2()
    found = watched_measures(evaluate(acting_policy(model, mdp), Trunk(model), mdp, 9, 0), mdp)
    assert set(found) == NAMES - {"texts/length_correlation"}


def test_evaluations_log_them_beside_their_own() -> None:
    mdp = word_mdp()
    algorithm = PPO("LMPolicy", mdp_env(mdp), model=tiny_gpt2(), episodes_per_iteration=8, minibatch_size=4)
    evaluation = EvaluateEvery(mdp, 1, 12, further=watched_measures)
    algorithm.learn(20, evaluation)
    for row in evaluation.rows:
        assert {f"validation/{name}" for name in NAMES} <= set(row)
        assert {"validation/score", "validation/kl_sem", "validation/length", "validation/texts/self_bleu_sem"} <= set(
            row
        )


def mdp_env(mdp: object) -> object:
    from textgym.agents.loop.slots import admitting_env

    return admitting_env(mdp, 8)  # type: ignore[arg-type]
