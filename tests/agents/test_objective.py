"""The shaped objective: conservation, and its gradient against enumeration of every response."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import tiny_gpt2, word_mdp
from textgym.agents.functional.objectives import gae
from textgym.agents.loop.evaluation import evaluate, play
from textgym.agents.ppo import PPO
from textgym.env.vector import TokenVectorEnv
from textgym.env.wrappers import VectorReferenceKL
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import k1, k3
from textgym.types import Episodes

BETA = 0.3
END = 1


def weighted(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Some reward that depends on every token and its place."""
    return [sum((t + 1) * i for t, i in enumerate(ids)) / 5 for ids in completion_ids]


def make_ppo(sampling: Sampling | None = None, n_words: int = 2, horizon: int = 3) -> PPO:
    """Return a policy that has moved away from its reference."""
    mdp = word_mdp(weighted, ["w0 w1"], 4, horizon, n_words)
    vocabulary = n_words + 2
    return PPO(
        "LMPolicy",
        TokenVectorEnv(mdp, 8, "Disabled"),
        model=tiny_gpt2(vocabulary, seed=0, initializer_range=0.4),
        reference=tiny_gpt2(vocabulary, seed=1, initializer_range=0.4),
        episodes_per_iteration=32,
        beta=BETA,
        sampling=sampling,
    )


def every_response(algorithm: PPO) -> Episodes:
    """All responses of up to 3 tokens over the vocabulary, as episodes."""
    horizon, vocabulary = 3, algorithm.policy.n_actions
    responses = {
        tuple(ids[: ids.index(END) + 1] if END in ids else ids) for ids in product(range(vocabulary), repeat=horizon)
    }
    mdp = algorithm._env_attribute("mdp")
    prompt = list(mdp.prompts[0].ids)
    n, width, start = len(responses), mdp.width, mdp.max_prompt_length
    ids, mask = np.zeros((n, width), np.int64), np.zeros((n, width), np.int8)
    rewards = np.zeros((n, horizon), np.float32)
    for row, response in enumerate(sorted(responses)):
        ids[row, start - len(prompt) : start] = prompt
        ids[row, start : start + len(response)] = response
        mask[row, start - len(prompt) : start + len(response)] = 1
        rewards[row, len(response) - 1] = weighted([list(response)])[0]
    with torch.no_grad():
        log_probs = algorithm.policy.evaluate(torch.from_numpy(ids), torch.from_numpy(mask)).log_probs
    index = np.arange(n)
    flags = np.zeros(n, bool)
    return Episodes(ids, mask, log_probs.numpy(), rewards, start, index * 0, index, flags, flags)


def gradient(algorithm: PPO, loss: torch.Tensor) -> torch.Tensor:
    lm = algorithm.policy.lm
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(lm.parameters()), retain_graph=True)])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7)])
def test_policy_gradient_equals_enumeration(sampling: Sampling) -> None:
    algorithm = make_ppo(sampling)
    episodes = every_response(algorithm)
    scored = algorithm.score(episodes)
    log_probs = algorithm.policy.evaluate(
        torch.from_numpy(episodes.input_ids), torch.from_numpy(episodes.attention_mask)
    ).log_probs
    sequence = log_probs.sum(1)
    probability = sequence.exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)  # every response is there, once

    reference = torch.from_numpy(scored.ref_log_probs.sum(1))
    score = torch.from_numpy(episodes.rewards.sum(1))
    objective = (probability * (score - BETA * (sequence - reference))).sum()
    truth = gradient(algorithm, objective)

    def policy_gradient(shaped: np.ndarray[Any, Any]) -> torch.Tensor:
        zeros = np.zeros((len(shaped), shaped.shape[1] + 1), np.float32)
        to_go = torch.from_numpy(gae(shaped, zeros, episodes.own, 1.0).advantages)
        surrogate = (probability.detach() * (log_probs * to_go).sum(1)).sum()
        return gradient(algorithm, surrogate)

    scale = truth.abs().max()
    assert (policy_gradient(scored.shaped) - truth).abs().max() < 1e-4 * scale
    # k3 as a reward follows the gradient of something else: why only k1 may shape it.
    wrong = episodes.rewards - BETA * np.where(episodes.own, k3(episodes.log_probs, scored.ref_log_probs), 0)
    assert (policy_gradient(wrong.astype(np.float32)) - truth).abs().max() > 0.05 * scale


def test_shaped_rewards_are_conserved() -> None:
    algorithm = make_ppo(Sampling(temperature=0.7, min_new_tokens=2), n_words=6, horizon=5)
    episodes = play(algorithm.policy, algorithm._env_attribute("mdp"), np.zeros(64, int), seed=3)
    scored = algorithm.score(episodes)
    penalty = np.where(episodes.own, episodes.log_probs - scored.ref_log_probs, 0).sum(1)
    np.testing.assert_allclose(scored.shaped.sum(1), episodes.rewards.sum(1) - BETA * penalty, atol=1e-5)
    assert episodes.lengths.min() < episodes.lengths.max()
    assert not scored.shaped[~episodes.own].any()


def test_wrapper_and_agent_pay_the_same() -> None:
    sampling = Sampling(temperature=0.7, min_new_tokens=2)
    algorithm = make_ppo(sampling, n_words=6, horizon=5)
    mdp = algorithm._env_attribute("mdp")
    episodes = play(algorithm.policy, mdp, np.zeros(16, int), seed=3)
    agent = algorithm.score(episodes).shaped.sum(1)
    wrapped = VectorReferenceKL(
        TokenVectorEnv(mdp, 16, "Disabled"), algorithm.reference, BETA, sampling, algorithm.policy
    )
    wrapped.reset(seed=0)
    paid, live = np.zeros(16), np.ones(16, bool)
    for t in range(5):
        if not live.any():
            break
        _, rewards, terminated, _, _ = wrapped.step(episodes.actions[:, t])
        paid += np.where(live, rewards, 0)
        live &= ~terminated
    np.testing.assert_allclose(paid, agent, atol=1e-4)


def test_exact_kl_is_the_mean_of_k1() -> None:
    algorithm = make_ppo(n_words=6, horizon=5)
    report = evaluate(algorithm.policy, algorithm.reference_trunk, algorithm._env_attribute("mdp"), 4000, seed=0)
    episodes = report.episodes
    reference = algorithm.score(episodes).ref_log_probs
    sampled = np.where(episodes.own, k1(episodes.log_probs, reference), 0).sum(1)
    difference = sampled - report.kl.sum(1)
    assert report.kl.sum(1).mean() > 0.5
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))
    # Exact per state, so it varies less than the sampled log-ratio.
    assert report.kl.sum(1).std() < sampled.std()


@pytest.mark.parametrize(
    ("kl", "temperature", "message"), [(0.1, 1.0, "subtracts the KL already"), (0.0, 0.5, "make them equal")]
)
def test_wrapper_that_does_not_fit_the_agent_is_refused(kl: float, temperature: float, message: str) -> None:
    env = TokenVectorEnv(word_mdp(), 4, "Disabled")
    wrapped = VectorReferenceKL(env, tiny_gpt2(seed=1), BETA, Sampling())
    with pytest.raises(ValueError, match=message):
        PPO("LMPolicy", wrapped, model=tiny_gpt2(), beta=kl, sampling=Sampling(temperature))


def test_masked_task_restricts_the_reference_too() -> None:
    """The task's mask renormalises policy and reference; wrapper and agent agree on it."""

    def allowed(input_ids: np.ndarray[Any, Any], _: Any) -> np.ndarray[Any, Any]:
        masks = np.ones((len(input_ids), 8), bool)
        masks[:, [2, 5]] = False
        return masks

    mdp = word_mdp(weighted, ["w0 w1"], 4, 5, 6, allowed=allowed)
    models = {"model": tiny_gpt2(8, initializer_range=0.4), "reference": tiny_gpt2(8, 1, initializer_range=0.4)}
    env = TokenVectorEnv(mdp, 8, "Disabled")
    algorithm = PPO("LMPolicy", env, beta=BETA, episodes_per_iteration=32, **models)
    episodes = play(algorithm.policy, mdp, np.zeros(16, int), seed=3)
    agent = algorithm.score(episodes).shaped.sum(1)
    wrapped = VectorReferenceKL(
        TokenVectorEnv(mdp, 16, "Disabled"), algorithm.reference, BETA, Sampling(), algorithm.policy
    )
    wrapped.reset(seed=0)
    paid, live = np.zeros(16), np.ones(16, bool)
    for t in range(5):
        actions = np.where(live, episodes.actions[:, t], 3)
        _, rewards, terminated, _, _ = wrapped.step(actions)
        paid += np.where(live, rewards, 0)
        live &= ~terminated
        if not live.any():
            break
    np.testing.assert_allclose(paid, agent, atol=1e-4)


def test_kl_of_a_truncated_policy_counts_the_truncation() -> None:
    """Policy and reference are one model, but the policy samples from 2 tokens only."""
    mdp = word_mdp(weighted, ["w0 w1"], 4, 3, 6)
    algorithm = PPO(
        "LMPolicy",
        TokenVectorEnv(mdp, 8, "Disabled"),
        model=tiny_gpt2(8, initializer_range=0.4),
        sampling=Sampling(top_k=2),
        episodes_per_iteration=32,
    )
    report = evaluate(algorithm.policy, algorithm.reference_trunk, mdp, 3000, seed=0)
    reference = algorithm.score(report.episodes).ref_log_probs
    sampled = np.where(report.episodes.own, k1(report.episodes.log_probs, reference), 0).sum(1)
    difference = sampled - report.kl.sum(1)
    assert report.kl.sum(1).mean() > 0.1  # before truncation counted it was 0
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


def test_reference_given_as_the_model_itself_does_not_freeze_the_policy() -> None:
    model = tiny_gpt2()
    env = TokenVectorEnv(word_mdp(), 4, "Disabled")
    algorithm = PPO("LMPolicy", env, model=model, reference=model, episodes_per_iteration=32)
    assert all(parameter.requires_grad for parameter in algorithm.policy.lm.parameters())
