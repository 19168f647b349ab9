"""Responses to prompts, written in any way of decoding, as texts with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from textgym.agents.loop.decode import BestOf, Decoding, Sampled, decode
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.env.mdp import TokenMDP
from textgym.types import BoolArray, Episodes, FloatArray, IntArray, Prompt


@dataclass(frozen=True)
class Answers:
    """Responses to prompts, ``S`` in a row to each.

    Attributes:
        prompts: ``[N·S]`` the prompt of each response.
        questions: ``[N·S]`` index of the prompt of each, in the token MDP.
        texts: ``[N·S]`` their texts.
        lengths: ``[N·S]`` their tokens, the end token included.
        ended: ``[N·S]`` bool, True if a response ended by itself, False if it was cut off at the horizon.
        scores: ``[N·S]`` the reward.
        components: ``[N·S]`` each component of the reward, by name; NaN where it does not apply.
        episodes: the episodes, if the responses are samples of the behaviour distribution; otherwise None.
    """

    prompts: Sequence[Prompt]
    questions: IntArray
    texts: Sequence[str]
    lengths: IntArray
    ended: BoolArray
    scores: FloatArray
    components: Mapping[str, FloatArray]
    episodes: Episodes | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def questions_asked(self) -> int:
        """Number of different prompts."""
        return len(set(self.questions.tolist()))

    @property
    def first_rows(self) -> list[int]:
        """The row of the first response to each prompt."""
        return [int(row) for row in np.unique(self.questions, return_index=True)[1]]

    @property
    def keys(self) -> list[int]:
        """The sampling unit of each response in intervals: its question; itself, where all answer the same one."""
        found = [int(question) for question in self.questions]
        return found if len(set(found)) > 1 else list(range(len(found)))


def answer(
    policy: LMPolicy, mdp: TokenMDP, questions: IntArray, samples: int, decoding: Decoding, seed: int
) -> Answers:
    """Write ``samples`` responses to each of the given prompts, and score them.

    Equal seeds give equal random streams, so that two policies are compared on the same prompts and streams.

    Args:
        policy: the policy that writes.
        mdp: the prompts and the reward.
        questions: ``[N]`` indices of its prompts.
        samples: ``S``, number of responses to each; 1 unless they are random. Of best-of-n each is chosen by itself.
        decoding: how they are written.
        seed: random seed.
    """
    rows = np.repeat(questions, samples) if isinstance(decoding, Sampled | BestOf) else questions
    found = answers_of(mdp, decode(policy, mdp, rows, decoding, seed))
    return found if isinstance(decoding, Sampled) else replace(found, episodes=None)


def answers_of(mdp: TokenMDP, episodes: Episodes) -> Answers:
    """Return episodes as answers."""
    prompts = [mdp.prompts[int(i)] for i in episodes.prompt_index]
    ids = [row[:n].tolist() for row, n in zip(episodes.actions, episodes.extents, strict=True)]
    return Answers(
        prompts=prompts,
        questions=episodes.prompt_index,
        texts=[mdp.completion(prompt, own) for prompt, own in zip(prompts, ids, strict=True)],
        lengths=episodes.lengths,
        ended=episodes.stopped,
        scores=episodes.rewards.sum(1, dtype=np.float64),
        components={name: np.asarray(values, np.float64) for name, values in episodes.components.items()},
        episodes=episodes,
    )
