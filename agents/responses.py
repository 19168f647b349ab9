"""Several responses to each of some prompts: what labellers rank, and what best-of-n chooses from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textgym.agents.evaluation import play
from textgym.agents.policy import LMPolicy
from textgym.mdp import TokenMDP
from textgym.types import BoolArray, FloatArray, IntArray, Messages


@dataclass(frozen=True)
class Responses:
    """``K`` responses to each of ``N`` prompts.

    Attributes:
        prompts: ``N`` texts or conversations.
        completions: ``N`` times ``K`` texts.
        stopped: ``[N, K]`` whether the response ended, rather than being cut off.
        rewards: ``[N, K]`` what the task paid.
        components: ``[N, K]`` of each component of the reward, by its name.
    """

    prompts: Sequence[str | Messages]
    completions: Sequence[Sequence[str]]
    stopped: BoolArray
    rewards: FloatArray
    components: Mapping[str, FloatArray]


def sample_responses(policy: LMPolicy, mdp: TokenMDP, prompt_index: IntArray, k: int, seed: int) -> Responses:
    """``k`` sampled responses to each of the given prompts.

    The responses to the first prompts are the same however many follow.

    Args:
        policy: what writes.
        mdp: the task.
        prompt_index: ``[N]`` which of its prompts.
        k: responses to each, at least 1.
        seed: of the samples.
    """
    episodes = play(policy, mdp, np.repeat(prompt_index, k), seed)
    written = zip(episodes.prompt_index, episodes.actions, episodes.lengths, strict=True)
    texts = [mdp.completion(mdp.prompts[int(i)], ids[:n].tolist()) for i, ids, n in written]
    return Responses(
        prompts=[mdp.prompts[int(i)].content for i in prompt_index],
        completions=[texts[i : i + k] for i in range(0, len(texts), k)],
        stopped=episodes.stopped.reshape(-1, k),
        rewards=episodes.rewards.sum(1, dtype=np.float64).reshape(-1, k),
        components={name: np.asarray(scores).reshape(-1, k) for name, scores in episodes.components.items()},
    )
