"""Normalisation of reward models: scores that differ by rounding only have no scale."""

import numpy as np
import pytest

from textgym.rewards.models.ensemble import RewardEnsemble
from textgym.rewards.models.normalised import normalise


class Scores:
    """In the place of a reward model: the scores of texts are given."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    def __call__(self, prompts: list[str], completions: list[str], **_: object) -> list[float]:
        return [self.scores[int(text)] for text in completions]


def normalised(*members: Scores) -> list[float]:
    texts = [str(i) for i in range(len(members[0].scores))]
    made = normalise(RewardEnsemble(members), texts, texts, [True] * len(texts))
    return made(texts, texts, completion_ids=[[]] * len(texts))


@pytest.mark.parametrize("value", [0.1, -1234.567])
def test_equal_scores_keep_their_scale(value: float) -> None:
    """The deviation of 256 equal numbers is 1e-17 and not 0, as their mean is rounded."""
    assert np.full(256, 0.1).std() > 0
    texts = ["0"] * 256
    made = normalise(RewardEnsemble((Scores(value, value + 0.5),)), texts, texts, [True] * 256)
    assert made(["1"], ["1"], completion_ids=[[]]) == pytest.approx([0.5])


def test_small_scores_are_scaled() -> None:
    """By hand: mean 0.002 and deviation 0.001; members that agree stay as they are."""
    assert normalised(Scores(0.001, 0.003), Scores(-1.0, 1.0)) == pytest.approx([-1.0, 1.0])
