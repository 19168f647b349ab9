"""Evaluation of a policy: sampled responses, their scores, and the exact KL to the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from textgym.agents.loop.episodes import EpisodePlan, collect
from textgym.agents.loop.metrics import mean_and_error, named_parts
from textgym.agents.loop.slots import AdmittingSlots, admitting_env
from textgym.agents.policy.lm_policy import LMPolicy, Session
from textgym.env.mdp import TokenMDP
from textgym.lm.behaviour import Against
from textgym.lm.trunk import Trunk
from textgym.numbers import count, random_seed
from textgym.rewards.builtin import no_reward
from textgym.rewards.kl import vocabulary_kl
from textgym.tokenization import token_strings
from textgym.types import BoolArray, Episodes, FloatArray, IntArray, Messages


def play(policy: LMPolicy, mdp: TokenMDP, prompt_index: IntArray, seed: int, greedy: bool = False) -> Episodes:
    """Sample one response to each of the given prompts ``[N]``, or take its most probable tokens if ``greedy``.

    Responses to one prompt are a group.

    Raises:
        ValueError: the reward compares the responses to a prompt, and some prompt has only one.
    """
    every = np.arange(len(prompt_index))
    plan = EpisodePlan(prompt_index, every, np.full(len(every), True) if greedy else None)
    return played(mdp, plan, seed, lambda n_rows: policy.session(n_rows, seed))


def played(mdp: TokenMDP, plan: EpisodePlan, seed: int, session: Callable[[int], Session]) -> Episodes:
    """Play the planned episodes in rows of our own; ``session(n_rows)`` makes the one that acts.

    Raises:
        ValueError: the reward compares the responses to a prompt, and some prompt has only one.
    """
    if mdp.rewards.compares == "group" and (np.unique(plan.prompt_index, return_counts=True)[1] < 2).any():
        mdp.check_scores_alone("some prompt gets one response only", "sample at least two to each prompt")
    env = admitting_env(mdp, len(plan.episode))
    env.reset(seed=seed)
    slots = AdmittingSlots(env, score_together=True)
    episodes = collect(slots, session(slots.n), plan)
    assert episodes is not None, "nothing stops this collection"
    return episodes


def spread_prompts(order: IntArray, n_episodes: int, together: int) -> IntArray:
    """Return the prompts of ``n_episodes`` responses, in a given order: each ``together`` times, or a few more."""
    n_groups = max(1, n_episodes // together)
    sizes = n_episodes // n_groups + (np.arange(n_groups) < n_episodes % n_groups)
    return np.repeat(np.resize(order, n_groups), sizes)


EVALUATED_TOGETHER = 4
"""Responses to each prompt that an evaluation samples for a reward that compares them."""
OF_EVALUATION = ("score", "kl", "length")
OF_SAMPLE = ("score", "kl", "stage", "prompt", "completion", "tokens", "token_rewards", "own", "finish_reason")
"""Names that an evaluation, and a row of samples, reserve for their own columns."""


def _column(component: str, reserved: tuple[str, ...]) -> str:
    """Return the column name of a reward component; ``components/NAME`` if ``NAME`` is reserved."""
    return f"components/{component}" if component in reserved else component


@dataclass(frozen=True)
class Report:
    """Evaluation results on ``N`` prompts.

    Attributes:
        episodes: the responses.
        kl: ``[N, T]`` KL(π‖π_ref) in each visited state, exact over the vocabulary, in nats; its sum over a response
            estimates the sequence's KL with less variance than the sampled log-ratio.
        judged: False if the reward is :func:`textgym.rewards.builtin.no_reward` and no world pays: there is no score
            then.
    """

    episodes: Episodes
    kl: FloatArray
    judged: bool = True

    def summary(self) -> dict[str, dict[str, float]]:
        """Compute ``mean``, ``sem`` (standard error) and ``n`` (number of episodes) of each measure.

        The measures are the score (unless ``judged`` is False), the components of a composed reward, gold if there is
        any, KL in nats per sequence, and length in tokens. An episode to which a component did not apply is not counted
        in it.
        """
        columns = {
            **self._scores(),
            "kl": self.kl.sum(1),
            "length": self.episodes.lengths,
        }
        values = {name: np.asarray(column, np.float64) for name, column in columns.items()}
        found = {name: mean_and_error(name, column) for name, column in values.items()}
        return {
            name: {"mean": m[name], "sem": m[f"{name}_sem"], "n": int(np.isfinite(values[name]).sum())}
            for name, m in found.items()
            if m
        }

    def _scores(self) -> Mapping[str, FloatArray]:
        """Return the score and its components, ``[N]`` each; empty without a reward."""
        if not self.judged:
            return {}
        parts = named_parts(self.episodes.components)
        return {
            "score": self.episodes.rewards.sum(1),
            **{_column(name, OF_EVALUATION): values for name, values in parts.items()},
        }

    def row_scores(self, i: int) -> dict[str, float]:
        """Return the score of episode ``i`` and each component that applies to it; empty without a reward."""
        if not self.judged:
            return {}
        parts = {_column(name, OF_SAMPLE): float(values[i]) for name, values in self.episodes.components.items()}
        return {"score": float(self.episodes.rewards[i].sum()), **{n: v for n, v in parts.items() if np.isfinite(v)}}


def evaluate(policy: LMPolicy, reference: Trunk, mdp: TokenMDP, n_episodes: int, seed: int) -> Report:
    """Sample responses to ``n_episodes`` prompts, the same ones for every policy, and measure them.

    A reward that compares the responses to a prompt gets :data:`EVALUATED_TOGETHER` of them: then ``n_episodes``
    responses to a quarter as many prompts are sampled. All responses to a prompt are one group, whatever the group's
    size in training; a reward that compares with the whole batch sees all responses of the evaluation. Such a score is
    relative here too: the mean win share in a group, for instance, is always 1/2.

    Raises:
        ValueError: ``n_episodes`` is not a whole number of at least 1, or of at least 2 for a reward that compares the
            responses to a prompt; or ``seed`` is not a seed.
    """
    n_episodes, seed = count("n_episodes", n_episodes), random_seed("seed", seed)
    order = np.random.default_rng(seed).permutation(len(mdp.prompts))
    together = EVALUATED_TOGETHER if mdp.rewards.compares == "group" else 1
    episodes = play(policy, mdp, spread_prompts(order, n_episodes, together), seed)
    judged = mdp.world is not None or mdp.rewards.rewards != (no_reward,)
    return Report(episodes, visited_kl(policy, reference, episodes), judged)


@torch.no_grad()
def visited_kl(policy: LMPolicy, reference: Trunk, episodes: Episodes, batch_size: int = 32) -> FloatArray:
    """Compute KL(π‖π_ref) of the behaviour distributions in every state of a choice, ``[N, T]``; 0 elsewhere."""
    kl = np.zeros(episodes.rewards.shape)
    for rows in np.array_split(np.arange(len(episodes)), -(-len(episodes) // batch_size)):
        ids = torch.from_numpy(episodes.input_ids[rows]).to(policy.device)
        mask = torch.from_numpy(episodes.attention_mask[rows]).to(policy.device)
        states, others = (
            trunk.hidden_states(ids, mask, policy.prompt_length)[:, :-1] for trunk in (policy.trunk, reference)
        )
        divergence = policy.behaviour.score(
            policy.trunk.head,
            states,
            ids[:, policy.prompt_length :],
            torch.from_numpy(episodes.own[rows]).to(policy.device),
            None if episodes.kept is None else torch.from_numpy(episodes.kept[rows]).to(policy.device),
            Against(reference.head, others, vocabulary_kl),
        ).divergence
        assert divergence is not None
        kl[rows] = divergence.cpu().numpy()
    return kl


def samples(report: Report, mdp: TokenMDP, stage: str, beta: float, count: int) -> list[dict[str, Any]]:
    """Return the first ``count`` responses as JSON-able rows, with each token's share of the shaped reward."""
    episodes = report.episodes
    rows = []
    for i in range(min(count, len(episodes))):
        length = int(episodes.extents[i])
        ids = episodes.actions[i, :length].tolist()
        prompt = mdp.prompts[int(episodes.prompt_index[i])]
        rows.append(
            {
                "stage": stage,
                "prompt": prompt.text,
                "completion": mdp.completion(prompt, ids),
                "tokens": token_strings(mdp.tokenizer, ids, before=prompt.ids),
                "token_rewards": (episodes.rewards[i, :length] - beta * report.kl[i, :length]).round(4).tolist(),
                **({} if mdp.world is None else {"own": episodes.own[i, :length].tolist()}),
                "kl": round(float(report.kl[i].sum()), 4),
                "finish_reason": "stop" if episodes.stopped[i] else "length",
                **{name: round(value, 4) for name, value in report.row_scores(i).items()},
            }
        )
    return rows


@dataclass(frozen=True)
class Responses:
    """``K`` responses to each of ``N`` prompts.

    Attributes:
        prompts: ``N`` texts or conversations.
        completions: ``N`` times ``K`` texts.
        stopped: ``[N, K]`` bool, True if the response ended, False if it was cut off.
        rewards: ``[N, K]`` the task's scores.
        components: ``[N, K]`` scores of each component of the reward, by name.
    """

    prompts: Sequence[str | Messages]
    completions: Sequence[Sequence[str]]
    stopped: BoolArray
    rewards: FloatArray
    components: Mapping[str, FloatArray]


def sample_responses(policy: LMPolicy, mdp: TokenMDP, prompt_index: IntArray, k: int, seed: int) -> Responses:
    """Sample ``k`` responses to each of the given prompts.

    The responses to a prompt do not depend on the prompts after it.

    Args:
        policy: the policy that samples.
        mdp: the task.
        prompt_index: ``[N]`` indices of its prompts.
        k: number of responses to each prompt, at least 1.
        seed: random seed of the samples.
    """
    episodes = play(policy, mdp, np.repeat(prompt_index, k), seed)
    written = zip(episodes.prompt_index, episodes.actions, episodes.extents, strict=True)
    texts = [mdp.completion(mdp.prompts[int(i)], ids[:n].tolist()) for i, ids, n in written]
    return Responses(
        prompts=[mdp.prompts[int(i)].content for i in prompt_index],
        completions=[texts[i : i + k] for i in range(0, len(texts), k)],
        stopped=episodes.stopped.reshape(-1, k),
        rewards=episodes.rewards.sum(1, dtype=np.float64).reshape(-1, k),
        components={name: np.asarray(scores).reshape(-1, k) for name, scores in episodes.components.items()},
    )
