"""Simulated trainers: people who watch tokens appear and give feedback on their true value, after a delay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from textgym.numbers import check, finite
from textgym.rewards.combination import OneReward
from textgym.rewards.feedback.credit import credit_weights, credited, times_of
from textgym.rewards.feedback.delays import Delay, Uniform
from textgym.rewards.feedback.records import Feedback
from textgym.rewards.functions import Batch, reward_name
from textgym.types import FloatArray, Score

STREAM = 19
"""Key of a person's random numbers, beside the episode's seed."""


@dataclass(frozen=True)
class SimulatedTrainer:
    """Simulated person who judges single tokens.

    What a value means is the caller's choice: a token's reward, its advantage under the present policy, or 1 and −1 for
    tokens that the person's own policy would and would not choose (the three kinds of Shah 2021, arXiv 2109.07054).

    Attributes:
        delay: distribution of the time from a token's appearance to the feedback on it.
        response_rate: probability of feedback on a token.
    """

    delay: Delay = field(default_factory=Uniform)
    response_rate: float = 1.0

    def __post_init__(self) -> None:
        check(self, finite, "response_rate", low=0, high=1)

    def watch(self, values: ArrayLike, shown: ArrayLike, generator: np.random.Generator) -> tuple[Feedback, ...]:
        """Give feedback on a response, in order of time; there is none on tokens of value 0.

        Args:
            values: ``[T]`` true values of the tokens.
            shown: ``[T]`` seconds at which they appear.
            generator: draws responses and delays.

        Raises:
            ValueError: lengths differ, or times run backwards.
        """
        true, appeared = np.asarray(values, np.float64), times_of("shown", shown)
        if true.shape != appeared.shape:
            raise ValueError(f"values has the shape {true.shape} and shown {appeared.shape}; expected the same")
        responds = generator.random(len(true)) < self.response_rate
        times = appeared + self.delay.sample(generator, len(true))
        given = np.flatnonzero(responds & (true != 0))
        order = given[np.argsort(times[given], kind="stable")]
        return tuple(Feedback(float(times[t]), float(true[t])) for t in order)


@dataclass(frozen=True)
class Watched(OneReward):
    """Dense reward of a simulated person's feedback, in place of the reward that the person judges tokens by.

        f_t = Σ_e w_et·h_e

    h_e are the events of a person who sees the response appear, and w_et is the credit that a learner gives to tokens
    by :func:`textgym.rewards.feedback.credit.credit_weights`. Random numbers come from the column ``episode_seed``.

    Attributes:
        reward: true values of tokens; a score of the whole response counts for its last token.
        trainer: the person.
        delay: the delay that the learner assumes; None for the person's own.
        tokens_per_second: speed at which tokens appear.
    """

    trainer: SimulatedTrainer = field(default_factory=SimulatedTrainer)
    delay: Delay | None = None
    tokens_per_second: float = 2.0
    single_turn: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "tokens_per_second", above=0)

    @property
    def name(self) -> str:
        """``NAME_feedback``."""
        return f"{reward_name(self.reward)}_feedback"

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[Score]:
        """Return ``N`` lists of one number for each token."""
        seeds = batch.columns["episode_seed"]
        return [
            None if score is None else self._felt(score, len(ids), int(seed))
            for score, ids, seed in zip(scores[0], batch.completion_ids, seeds, strict=True)
        ]

    def events(self, values: Sequence[float], seed: int) -> tuple[Feedback, ...]:
        """Return the feedback on one response of an episode, given ``T`` true values."""
        return self.trainer.watch(values, self._shown(len(values)), np.random.default_rng([seed, STREAM]))

    def _felt(self, score: float | Sequence[float], length: int, seed: int) -> list[float]:
        values = list(score) if isinstance(score, Sequence) else [0.0] * (length - 1) + [score]
        events = self.events(values, seed)
        delay = self.trainer.delay if self.delay is None else self.delay
        weights = credit_weights(self._shown(length), [event.time for event in events], delay)
        return [float(value) for value in credited(weights, [event.value for event in events])]

    def _shown(self, length: int) -> FloatArray:
        return np.arange(length) / self.tokens_per_second
