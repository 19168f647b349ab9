"""The K-wise loss against its sum written out, and a reward model that must really learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from textgym.rewards import RewardModel, kwise_loss, label, train_reward_model
from textgym.types import Ranking


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


def test_kwise_loss_is_the_sum_over_pairs():
    scores, ranks = [0.3, -1.2, 2.0, 0.7], [1, 3, 0, 2]  # order by rank: 2, 0, 3, 1
    pairs = [(2, 0), (2, 3), (2, 1), (0, 3), (0, 1), (3, 1)]
    expected = -sum(log_sigmoid(scores[i] - scores[j]) for i, j in pairs) / 6
    assert kwise_loss(torch.tensor([scores]), torch.tensor([ranks])).item() == pytest.approx(expected, abs=1e-6)


def test_kwise_loss_of_a_batch_is_the_mean_over_prompts():
    scores, ranks = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 1, 2, 3]] * 3)
    single = [kwise_loss(scores[i : i + 1], ranks[i : i + 1]).item() for i in range(3)]
    assert kwise_loss(scores, ranks).item() == pytest.approx(np.mean(single), abs=1e-6)


def test_kwise_loss_of_two_is_bradley_terry_and_ignores_a_shift():
    scores = torch.tensor([[1.0, 0.2]])
    expected = -log_sigmoid(0.8)
    assert kwise_loss(scores, torch.tensor([[0, 1]])).item() == pytest.approx(expected, abs=1e-6)
    assert kwise_loss(scores + 100, torch.tensor([[0, 1]])).item() == pytest.approx(expected, abs=1e-5)


def test_ties_contribute_nothing_and_the_divisor_stays():
    scores = torch.tensor([[1.0, 0.5, -1.0]], requires_grad=True)
    expected = -(log_sigmoid(2.0) + log_sigmoid(1.5)) / 3
    loss = kwise_loss(scores, torch.tensor([[0, 0, 1]]))
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    kwise_loss(scores, torch.tensor([[4, 4, 4]])).backward()
    assert (scores.grad == 0).all()


def test_kwise_loss_is_stable_far_out():
    scores = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    loss = kwise_loss(scores, torch.tensor([[0, 1]]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert scores.grad.tolist() == [[-1.0, 1.0]]


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((2, 1), (2, 1))])
def test_kwise_loss_checks_shapes(shapes):
    with pytest.raises(ValueError, match=r"one shape \[B, K\] with K ≥ 2"):
        kwise_loss(torch.zeros(shapes[0]), torch.zeros(shapes[1]))


def gold(_prompts, completions):
    """How often a praise word stands in the text, less how often a blame word does."""
    return [text.split().count("good") - text.split().count("dull") for text in completions]


def random_rankings(n, k, rng, prompts=40, temperature=0.0):
    words = ["good", "dull", "cat", "dog", "sat", "very"]
    texts = [[" ".join(rng.choice(words, size=rng.integers(2, 8))) for _ in range(k)] for _ in range(n)]
    subjects = ["the cat", "a dog", "the bird", "a mat", "tell me"]
    starts = [f"{subjects[i % 5]} {'very ' * (i % prompts // 5)}" for i in range(n)]
    rankings = label(starts, texts, gold, temperature, rng)
    return [r for r in rankings if len(set(r.ranks)) > 1]


@pytest.fixture
def reward(lm, tokenizer):
    return RewardModel.from_causal_lm(lm(), tokenizer, torch.Generator().manual_seed(0))


def train(reward, rankings, **settings):
    defaults = {"learning_rate": 3e-3, "generator": torch.Generator().manual_seed(0), "progress": False}
    return train_reward_model(reward, rankings, **(defaults | settings))


def test_a_preference_is_learned(reward):
    rankings = random_rankings(300, 4, np.random.default_rng(0))
    demonstrations = [("the cat ", "good good"), ("a dog ", "very good")]
    report = train(reward, rankings, demonstrations=demonstrations, heldout=0.2, epochs=3)
    assert report.heldout_accuracy > 0.9
    assert report.heldout_loss < 0.4
    assert np.mean(report.train_loss[-10:]) < 0.5 * np.mean(report.train_loss[:5])
    assert report.accuracy_by_rank_distance[3] >= report.accuracy_by_rank_distance[1]
    assert report.offset == reward.offset != 0
    assert np.mean(reward.score(*zip(*demonstrations, strict=True))) == pytest.approx(0, abs=1e-6)
    better, worse = reward.score(["the cat "] * 2, ["very good", "very dull"])
    assert better > worse


def test_training_is_reproducible_and_leaves_global_randomness_alone(lm, tokenizer):
    rankings = random_rankings(40, 3, np.random.default_rng(0))
    runs = []
    for _ in range(2):
        model = RewardModel.from_causal_lm(lm(), tokenizer, torch.Generator().manual_seed(0))
        state = torch.get_rng_state()
        report = train(model, rankings)
        assert torch.equal(torch.get_rng_state(), state)
        runs.append((report, model.model.score.weight))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


def test_every_completion_is_encoded_once(reward, monkeypatch):
    seen = []
    encode_all = RewardModel.raw_scores
    monkeypatch.setattr(RewardModel, "raw_scores", lambda self, s: seen.append(len(s)) or encode_all(self, s))
    rankings = random_rankings(40, 4, np.random.default_rng(1))
    train(reward, rankings[:16], heldout=rankings[16:18], batch_size=8)
    assert seen == [8 * 4, 8 * 4, 2 * 4]


def test_pairs_and_longer_rankings_train_together(reward):
    """In one step the loss is the mean over prompts, whatever their K."""
    rankings = [
        Ranking("the cat ", ("good", "dull"), (0, 1)),
        Ranking("a dog ", ("good good", "good", "sat", "dull"), (0, 1, 2, 3)),
    ]
    expected = [
        kwise_loss(torch.tensor([reward.score([r.prompt] * len(r.ranks), r.completions)]), torch.tensor([r.ranks]))
        for r in rankings
    ]
    report = train(reward, rankings, heldout=rankings, batch_size=2)
    assert report.train_loss[0] == pytest.approx(np.mean(expected), abs=1e-5)
    assert report.train_pairs == report.heldout_pairs == 1 + 6


def test_report_counts_by_hand(reward, monkeypatch):
    """Scores fixed at 3, 1, 2 for ranks 0, 1, 2: one of three pairs is wrong."""
    fixed = {6: 3.0, 7: 1.0, 8: 2.0}  # by the completion's token
    ranking = Ranking("the ", ("cat", "dog", "bird"), (0, 1, 2))
    monkeypatch.setattr(RewardModel, "score_ids", lambda _, sequences: [fixed[s[-2]] for s in sequences])
    report = train(reward, [ranking], heldout=[ranking])
    assert report.heldout_accuracy == pytest.approx(2 / 3)
    assert report.accuracy_by_rank_distance == {1: 0.5, 2: 1.0}
    expected = -(log_sigmoid(2.0) + log_sigmoid(1.0) + log_sigmoid(-1.0)) / 3
    assert report.heldout_loss == pytest.approx(expected, abs=1e-6)


def test_a_former_offset_does_not_stay(reward):
    rankings = random_rankings(12, 3, np.random.default_rng(0))
    reward.set_offset(7.0)
    assert train(reward, rankings, heldout=rankings[:2]).offset == reward.offset == 0.0


def test_progress_is_shown_on_request(reward, capsys):
    rankings = random_rankings(12, 3, np.random.default_rng(0))
    train(reward, rankings, heldout=rankings[:2], progress=True)
    assert "reward model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rankings", "settings", "message"),
    [
        ([], {"heldout": []}, "rankings: got no rankings"),
        ([Ranking("the ", ("cat", "dog"), (0, 1))], {"heldout": []}, "heldout: got no rankings"),
        (
            [Ranking("the ", ("cat", "dog"), (0, 1)), Ranking("q", ("a", "b"), (2, 2))],
            {"heldout": [Ranking("the ", ("cat", "dog"), (0, 1))]},
            r"rankings, row 2: all ranks are tied.* \(prompt 'q'\)",
        ),
        (
            [Ranking("the ", ("cat", "dog " * 40), (0, 1))],
            {"heldout": [Ranking("the ", ("cat", "dog"), (0, 1))]},
            r"rankings, row 1: .*42 tokens, the reward model reads at most 32",
        ),
        ([Ranking("the ", ("cat", "dog"), (0, 1))], {}, "pass the held-out rankings themselves"),
        ([Ranking("the ", ("cat", "dog"), (0, 1))], {"learning_rate": 0.0}, "learning_rate"),
        ([Ranking("the ", ("cat", "dog"), (0, 1))], {"epochs": 0}, "epochs=0; expected a whole number, at least 1"),
        ([Ranking("the ", ("cat", "dog"), (0, 1))], {"batch_size": 0}, "batch_size"),
    ],
)
def test_mistakes_are_found_before_training(rankings, settings, message, reward):
    before = reward.model.score.weight.clone()
    with pytest.raises(ValueError, match=message):
        train(reward, rankings, **settings)
    assert torch.equal(reward.model.score.weight, before)
