"""Learned proxies: labels that grow from a common beginning, and scores on one scale."""

import numpy as np
import pytest

from textgym.benchmarks.proxies.models import (
    ProxySettings,
    agreement,
    base_responses,
    label_epochs,
    label_responses,
    learn_proxy,
    proxy_scores,
)
from textgym.registration import load_task

SETTINGS = ProxySettings()


def test_few_labels_are_the_beginning_of_many() -> None:
    task = load_task("Translation")
    few, many = (label_responses(task, count, SETTINGS, seed=3).rankings for count in (2, 5))
    assert list(many[:2]) == list(few)
    assert {len(ranking.completions) for ranking in many} == {SETTINGS.completions}
    assert label_responses(task, 2, SETTINGS, seed=4).rankings != few


def test_a_labeller_without_noise_ranks_by_gold() -> None:
    labels = label_responses(load_task("Translation"), 4, ProxySettings(temperature=0.0), seed=0)
    for ranking, gold in zip(labels.rankings, labels.responses.rewards, strict=True):
        by_rank = gold[np.argsort(ranking.ranks, kind="stable")]
        assert (np.diff(by_rank) <= 0).all()


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_a_proxy_is_standardised_and_repeats_itself(size: str) -> None:
    task = load_task("Translation")
    rankings = label_responses(task, 4, SETTINGS, seed=0).rankings
    pool = base_responses(task, 3, 4, seed=0)
    scores = proxy_scores(learn_proxy(task, rankings, pool, size, SETTINGS, seed=1), pool)
    assert scores.shape == pool.rewards.shape == (3, 4)
    assert (scores.mean(), scores.std()) == pytest.approx((0, 1), abs=1e-5)
    again = proxy_scores(learn_proxy(task, rankings, pool, size, SETTINGS, seed=1), pool)
    np.testing.assert_array_equal(scores, again)


def test_agreement_by_hand() -> None:
    gold = np.array([[0.0, 0.5, 1.0], [1.0, 1.0, 0.0]])
    # Of three pairs one is wrong; of the other prompt's two pairs one ties, and its equal golds count for nothing.
    scores = np.array([[1.0, 3.0, 2.0], [5.0, 4.0, 4.0]])
    assert agreement(scores, gold) == pytest.approx((2 + 1 + 0.5) / 5)


def test_few_labels_are_gone_through_more_often() -> None:
    assert [label_epochs(labels, SETTINGS) for labels in (8, 128, 256, 2048)] == [16, 8, 4, 2]
