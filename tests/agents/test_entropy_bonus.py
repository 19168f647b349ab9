"""The entropy bonus: its gradient is that of the entropies, worked out by plain torch from the model's logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.helpers import emit, taught, tiny_gpt2, word_mdp
from textgym.agents.loop.episodes import Minibatch, collect, minibatches
from textgym.agents.registry import ALGORITHMS
from textgym.env.vector import TokenVectorEnv
from textgym.lm.sampling import Sampling

P, V, END = 4, 16, 1
SMALL: dict[str, Any] = {"episodes_per_iteration": 16, "minibatch_size": 8, "seed": 0, "device": "cpu"}


def make(name: str = "ppo", **settings: Any) -> Any:
    if name == "best-of-n":
        settings = {"samples_per_prompt": 4, **settings}
    env = TokenVectorEnv(word_mdp(emit(7)), 8, "Disabled")
    kind = ALGORITHMS[name]
    return kind("LMPolicy", env, model=tiny_gpt2(), **{**SMALL, **taught(kind), **settings})


def a_batch(algorithm: Any) -> Minibatch:
    """Return the first minibatch of an iteration."""
    algorithm.env.seed(0)
    algorithm.env.reset()
    algorithm.begin_iteration()
    episodes = collect(algorithm._slots, algorithm._session, algorithm.plan())
    scored = algorithm.select(algorithm.score(episodes))
    return next(minibatches(scored, algorithm.estimate_advantages(scored), 8, 1, np.random.default_rng(0), "cpu"))


def plain_entropies(algorithm: Any, batch: Minibatch) -> list[list[Tensor]]:
    """For each response the entropy of each token's distribution, by one pass over the bare sequence."""
    sampling = algorithm.policy.sampling
    found: list[list[Tensor]] = []
    for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True):
        prompt, response = ids[:P][mask[:P].bool()], ids[P:][mask[P:].bool()]
        logits = algorithm.policy.lm(torch.cat([prompt, response])[None]).logits[0, len(prompt) - 1 : -1]
        entropies = []
        for t, row in enumerate(logits[:, :V] / sampling.temperature):
            if t < sampling.min_new_tokens:
                row = torch.cat([row[:END], row[END + 1 :]])
            if sampling.top_k:
                row = row.topk(sampling.top_k).values
            p = row.softmax(-1)
            entropies.append(-(p * p.log()).sum())
        found.append(entropies)
    return found


def normalised(entropies: list[list[Tensor]], kind: str) -> Tensor:
    if kind == "token":
        return torch.stack([value for row in entropies for value in row]).mean()
    sums = torch.stack([torch.stack(row).sum() for row in entropies])
    return (sums / torch.tensor([len(row) for row in entropies])).mean() if kind == "sequence" else sums.mean() / 6


def gradient(algorithm: Any, loss: Tensor) -> Tensor:
    given = torch.autograd.grad(loss, list(algorithm.policy.lm.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in given if part is not None])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, min_new_tokens=2), Sampling(top_k=5)])
@pytest.mark.parametrize("kind", ["token", "sequence", "constant"])
def test_its_gradient_is_that_of_the_entropies(kind: str, sampling: Sampling) -> None:
    settings = {"normalisation": kind, "sampling": sampling, "beta": 0.0}
    bare, rewarded = make(**settings), make(ent_coef=0.3, **settings)
    batch = a_batch(bare)
    losses = []
    for algorithm in (bare, rewarded):
        evaluation = algorithm.policy.evaluate(batch.input_ids, batch.attention_mask, batch.kept)
        losses.append(algorithm.loss(evaluation, batch)[0])
    found = gradient(rewarded, losses[1]) - gradient(bare, losses[0])
    bonus = normalised(plain_entropies(bare, batch), kind)
    expected = gradient(bare, -0.3 * bonus)
    assert expected.norm() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(losses[1], losses[0] - 0.3 * bonus, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")  # that it moves far is the point
@pytest.mark.parametrize("name", [name for name, kind in ALGORITHMS.items() if not kind.settings_class.has_teacher])
def test_a_large_bonus_keeps_every_algorithm_writing_varied_texts(name: str) -> None:
    """From a model that is sure of itself: its weights are three times as large."""
    entropies = []
    for weight in (0.0, 5.0):
        beta = 1e-3 if name == "a-star-po" else 0.0  # which divides by it
        algorithm = make(name, ent_coef=weight, learning_rate=3e-3, beta=beta)
        with torch.no_grad():
            for parameter in algorithm.policy.lm.parameters():
                parameter.mul_(3)
        algorithm.learn(300)
        entropies.append(algorithm.metrics["train/entropy"])
    assert entropies[1] > entropies[0] + 0.1


def test_no_bonus_changes_no_bit() -> None:
    weights = []
    for settings in ({}, {"ent_coef": 0.0}, {"ent_coef": 1e-3}):
        algorithm = make(**settings)
        algorithm.learn(100)
        weights.append(torch.nn.utils.parameters_to_vector(algorithm.policy.parameters()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
