"""A reward in the place of people: it answers the questions of a run, with noise that the seed repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from textgym.labelling.store import Answer, LabelStore
from textgym.rewards.compose import WeightedRewards
from textgym.rewards.labels.labelling import question_scores, simulated_ranks

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class RewardLabeller:
    """Labeller who sees the scores of a reward.

    Attributes:
        reward: the reward.
        tokenizer: makes the ``completion_ids`` that the reward receives.
        noise: temperature, error rate and threshold of :func:`textgym.rewards.simulated_ranks`.
        seed: the run's seed.
        name: name under which the answers are stored.
    """

    reward: WeightedRewards
    tokenizer: PreTrainedTokenizerBase
    noise: tuple[float, float, float]
    seed: int
    name: str

    def answer(self, store: LabelStore) -> int:
        """Answer all questions that nobody has answered, in their order; return their number.

        Raises:
            RewardError: the reward failed; the message names prompt and completion.
        """
        answered = {answer.question for answer in store.answers()}
        asked = store.asked().items()
        due = [(i, which, question) for i, (which, question) in enumerate(asked) if which not in answered]
        scores = question_scores(self.reward, [question for *_, question in due], self.tokenizer, progress=False)
        temperature, error_rate, threshold = self.noise
        for (i, which, question), own in zip(due, scores, strict=True):
            # The noise belongs to the question, so that it does not depend on who else was asked in the same moment.
            rng = np.random.default_rng([self.seed, i, NOISE])
            ranks = simulated_ranks(own, temperature, rng, error_rate, threshold)
            order = tuple(range(len(question.completions)))
            store.record(Answer(which, self.name, order, tuple(ranks.tolist())))
        return len(due)


NOISE = 1
"""Key of the labeller's random stream beside the run's seed."""
