"""NLPO's mask is the nucleus of the model that it says, and what was sampled under it is trained under it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.replay import behaviour, prompt_and_response
from tests.agents.test_ppo import equal, parameters
from tests.helpers import tiny_gpt2, word_mdp
from tests.talking import TURN_END, talking_mdp
from textgym.agents import NLPO, PPO
from textgym.agents.loop.evaluation import evaluate
from textgym.env.vector import TokenVectorEnv
from textgym.env.wrappers import VectorReferenceKL
from textgym.exact import bracket, optimum
from textgym.lm.behaviour import Behaviour, NucleusMask
from textgym.lm.sampling import Sampling
from textgym.registration import load_task, task_mdp
from textgym.types import Episodes

MDP = word_mdp(n_words=30)
V, END = 32, 1
SAMPLING = Sampling(temperature=0.7, min_new_tokens=2)


def make(kind: type[PPO] = NLPO, sampling: Sampling = SAMPLING, **changes: Any) -> PPO:
    arguments = {"episodes_per_iteration": 16, "minibatch_size": 8, "seed": 0, "sampling": sampling, **changes}
    model = tiny_gpt2(V, initializer_range=0.2)
    return kind("LMPolicy", TokenVectorEnv(MDP, 8, "Disabled"), 2e-2, model=model, **arguments)


def expected_mask(model: Any, tokens: list[int], elapsed: int, top_mask: float, keep: int) -> set[int]:
    """Worked out with numpy, from an uncached pass over one row."""
    probs = behaviour(model, tokens, MDP, SAMPLING, elapsed).double().exp().numpy()
    order = np.argsort(-probs, kind="stable")
    needed = int(np.searchsorted(probs[order].cumsum(), top_mask)) + 1
    kept = {int(i) for i in order[: max(needed, keep)]} | {END}
    return {i for i in kept if probs[i] > 0}


def masks(model: Any, episodes: Episodes, top_mask: float, keep: int) -> list[set[int]]:
    found = []
    for i in range(len(episodes)):
        prompt, response = prompt_and_response(episodes, i)
        found += [expected_mask(model, prompt + response[:t], t, top_mask, keep) for t in range(len(response))]
    return found


def stored(episodes: Episodes) -> list[set[int]]:
    assert episodes.kept is not None
    return [{int(i) for i in kept if i >= 0} for kept in episodes.kept[episodes.own]]


def agreement(a: list[set[int]], b: list[set[int]]) -> float:
    """Not always 1: cached and uncached logits differ by 1e-6, which may tip a token at the edge of the nucleus."""
    return float(np.mean([x == y for x, y in zip(a, b, strict=True)]))


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")
def test_after_a_refresh_the_mask_is_the_current_policys_and_between_refreshes_the_copys() -> None:
    algorithm = make(top_mask=0.7, min_tokens_to_keep=3, target_update=2)
    copies: list[torch.nn.Module] = []
    for refreshed in (True, False, True, False):
        episodes = algorithm.collect()
        assert episodes is not None
        if refreshed:
            copies.append(copy.deepcopy(algorithm.policy.lm))
        own = stored(episodes)
        assert agreement(own, masks(copies[-1], episodes, 0.7, 3)) > 0.99
        current = agreement(own, masks(algorithm.policy.lm, episodes, 0.7, 3))
        assert current > 0.99 if refreshed else current < 0.9, "the update is large, so the two differ"
        inside = (episodes.kept == episodes.actions[:, :, None]).any(-1)
        assert (inside == episodes.own).all()
        algorithm.train(episodes)


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")
def test_with_an_all_true_mask_it_is_ppo_bit_for_bit() -> None:
    runs = []
    for kind, changes in ((PPO, {}), (NLPO, {"top_mask": 1.0}), (NLPO, {"top_mask": 0.5, "min_tokens_to_keep": V})):
        algorithm = make(kind, Sampling(), **changes)
        algorithm.learn(200)
        runs.append(parameters(algorithm))
    assert equal(runs[0], runs[1])
    assert equal(runs[0], runs[2])


def test_best_and_end_tokens_are_always_kept() -> None:
    mask = NucleusMask(tiny_gpt2(), 0.1, 2)
    policy, judged = torch.zeros(1, 5), torch.tensor([[9.0, 1.0, 8.0, 0.0, 2.0]])

    def kept(sampling: Sampling, allowed: torch.Tensor | None = None) -> list[list[bool]]:
        behaviour = Behaviour(5, (3,), sampling, mask)
        return torch.isfinite(behaviour.logits(policy, torch.zeros(1), allowed, judged)).tolist()

    assert kept(Sampling()) == [[True, False, True, True, False]]
    # What the minimum length or the task forbids, no mask brings back.
    assert kept(Sampling(min_new_tokens=1)) == [[True, False, True, False, False]]
    assert kept(Sampling(), torch.tensor([[False, True, True, False, True]])) == [[False, False, True, False, True]]


def test_a_mask_that_leaves_no_token_is_an_error() -> None:
    behaviour = Behaviour(5, mask=NucleusMask(tiny_gpt2(), 0.9, 1))
    logits, nothing = torch.zeros(1, 5), torch.zeros(1, 5, dtype=torch.bool)
    with pytest.raises(ValueError, match="leaves no token to choose"):
        behaviour.logits(logits, torch.zeros(1), nothing, logits)


def test_a_task_that_restricts_actions_is_refused() -> None:
    def allowed(input_ids: np.ndarray, _: Any) -> np.ndarray:
        return np.ones((len(input_ids), V), bool)

    env = TokenVectorEnv(word_mdp(n_words=30, allowed=allowed), 8, "Disabled")
    with pytest.raises(ValueError, match="cannot be combined with a task that restricts actions"):
        NLPO("LMPolicy", env, model=tiny_gpt2(V))
    algorithm = NLPO("LMPolicy", TokenVectorEnv(word_mdp(n_words=30), 8, "Disabled"), model=tiny_gpt2(V))
    with pytest.raises(ValueError, match="cannot be combined with a task that restricts actions"):
        algorithm.set_env(env)


def test_enumeration_and_evaluation_see_the_mask() -> None:
    mdp = task_mdp(load_task("Copy"))
    algorithm = NLPO("LMPolicy", TokenVectorEnv(mdp, 64, "Disabled"), 3e-3, top_mask=0.6, seed=0)
    algorithm.learn(600)
    exact = optimum(mdp, 0.05).evaluate(algorithm.policy)
    report = evaluate(algorithm.policy, algorithm.reference_trunk, mdp, 2000, seed=1)
    for sampled, value in ((report.episodes.rewards.sum(1), exact.reward), (report.kl.sum(1), exact.kl)):
        assert abs(sampled.mean() - value) < 4 * sampled.std() / np.sqrt(2000) + 1e-3
    assert exact.kl > 0.3  # the mask alone costs some


def test_who_does_not_see_the_mask_refuses_the_policy() -> None:
    mdp = task_mdp(load_task("Emit"))
    algorithm = NLPO("LMPolicy", TokenVectorEnv(mdp, 8, "Disabled"), seed=0)
    with pytest.raises(ValueError, match="mask, which a bracket does not support"):
        bracket(mdp, 0.05, [algorithm.policy])
    with pytest.raises(ValueError, match="mask, which the wrapper does not see"):
        VectorReferenceKL(
            TokenVectorEnv(mdp, 8, "Disabled"), algorithm.reference, 0.1, algorithm.sampling, algorithm.policy
        )


def test_a_turn_can_always_end() -> None:
    algorithm = NLPO(
        "LMPolicy",
        TokenVectorEnv(talking_mdp(max_turn_tokens=None), 8, "Disabled"),
        model=tiny_gpt2(16),
        top_mask=0.01,
        min_tokens_to_keep=1,
        episodes_per_iteration=16,
        minibatch_size=16,
        seed=0,
    )
    episodes = algorithm.collect()
    assert episodes is not None
    # The nucleus holds one token, beside which stand the ends of responses and of turns.
    assert all(kept >= {END, TURN_END} and len(kept) <= 3 for kept in stored(episodes))
