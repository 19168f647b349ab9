"""Rankings: files, and labellers whose noise is known."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch

from textgym.rewards import (
    agreement_ceiling,
    label,
    plackett_luce_ranks,
    read_rankings,
    split_rankings,
    write_rankings,
)
from textgym.types import Ranking

SCORES = np.array([1.0, 0.0, -0.5, 2.0])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_pairs_are_bradley_terry():
    n, temperature = 40_000, 0.7
    ranks = plackett_luce_ranks(np.tile(SCORES, (n, 1)), temperature, np.random.default_rng(0))
    for i, j in itertools.combinations(range(4), 2):
        p = sigmoid((SCORES[i] - SCORES[j]) / temperature)
        assert abs((ranks[:, i] < ranks[:, j]).mean() - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_whole_rankings_are_plackett_luce():
    """Each of the 3! orders against the product of softmaxes over what remains."""
    n, scores = 40_000, SCORES[:3]
    ranks = plackett_luce_ranks(np.tile(scores, (n, 1)), 1.0, np.random.default_rng(1))
    for order in itertools.permutations(range(3)):
        p, remaining = 1.0, list(order)
        while remaining:
            p *= math.exp(scores[remaining[0]]) / sum(math.exp(scores[i]) for i in remaining)
            remaining.pop(0)
        share = np.all(ranks[:, list(order)] == np.arange(3), axis=1).mean()
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_without_noise_the_order_is_gold_and_ties_share_a_rank():
    ranks = plackett_luce_ranks([[1, 3, 3, 0], [0, 1, 2, 3]], 0.0, np.random.default_rng(0))
    assert ranks.tolist() == [[2, 0, 0, 3], [3, 2, 1, 0]]


def test_agreement_ceiling_is_what_the_gold_order_reaches():
    pairs = itertools.combinations(SCORES, 2)
    expected = np.mean([sigmoid(abs(a - b) / 0.7) for a, b in pairs])
    assert agreement_ceiling(SCORES, 0.7) == pytest.approx(expected)
    scores = np.random.default_rng(2).normal(size=(5_000, 4))
    ranks = plackett_luce_ranks(scores, 0.5, np.random.default_rng(3))
    i, j = np.triu_indices(4, k=1)
    agreement = ((scores[:, i] > scores[:, j]) == (ranks[:, i] < ranks[:, j])).mean()
    assert agreement == pytest.approx(agreement_ceiling(scores, 0.5), abs=0.01)
    assert agreement_ceiling([1.0, 1.0, 2.0], 0.0) == pytest.approx((0.5 + 1 + 1) / 3)


def test_label_draws_from_its_generator_alone():
    def score(prompts, completions):
        return [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]

    arguments = (["p", "q"], [["a", "bbbb"], ["cc", "d", "eeee"]], score)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = label(*arguments, 1.0, np.random.default_rng(0))
    assert first == label(*arguments, 1.0, np.random.default_rng(0))
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002
    noiseless = label(*arguments, 0.0, np.random.default_rng(0))
    assert noiseless == [Ranking("p", ("a", "bbbb"), (1, 0)), Ranking("q", ("cc", "d", "eeee"), (1, 2, 0))]


def test_labelling_mistakes():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"score_fn gave 1 scores for the 2"):
        label(["p"], [["a", "b"]], lambda *_: [0.0], 1.0, rng)
    with pytest.raises(ValueError, match=r"temperature: .* got -1"):
        plackett_luce_ranks([0.0, 1.0], -1, rng)
    with pytest.raises(ValueError, match="scores: expected finite"):
        plackett_luce_ranks([0.0, math.nan], 1.0, rng)
    with pytest.raises(ValueError, match="at least 2 completions"):
        agreement_ceiling([1.0], 1.0)


def test_files_round_trip_and_pairs_are_read(tmp_path):
    path = tmp_path / "rankings.jsonl"
    rankings = [Ranking("prompt ü", ("a", "b\nc", "d"), (1, 0, 1)), Ranking("q", ("x", "y"), (0, 1))]
    write_rankings(path, rankings)
    assert read_rankings(path) == rankings
    path.write_text(json.dumps({"prompt": "p", "chosen": "good", "rejected": "bad"}) + "\n\n", encoding="utf-8")
    assert read_rankings(path) == [Ranking("p", ("good", "bad"), (0, 1))]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected a JSON object, got list"),
        ('{"prompt": "p"}', "expected the fields .* got prompt"),
        ('{"prompt": "p", "completions": ["a", "b"], "ranks": [0]}', "2 completions and 1 ranks"),
        ('{"prompt": "p", "completions": ["a"], "ranks": [0]}', "at least 2"),
        ('{"prompt": "p", "completions": ["a", 3], "ranks": [0, 1]}', "completions, number 2: expected a text"),
        ('{"prompt": "p", "completions": ["a", "b"], "ranks": [0, 1.5]}', "ranks: expected a list of integers"),
        ('{"prompt": "p", "completions": ["a", "b"], "ranks": [true, false]}', "ranks"),
        (
            '{"prompt": [{"role": "user"}], "completions": ["a", "b"], "ranks": [0, 1]}',
            "expected a text, or a list of messages",
        ),
        ('{"prompt": 3, "chosen": "a", "rejected": "b"}', "prompt is 3; expected a text, or a list of messages"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"bad\.jsonl, (line|row) 2: .*{message}"):
        read_rankings(path)


def test_split_keeps_the_rankings_of_a_prompt_together():
    rankings = [Ranking(f"p{i % 10}", ("a", "b"), (0, 1)) for i in range(50)]
    train, aside = split_rankings(rankings, 0.2, torch.Generator().manual_seed(0))
    assert len({r.prompt for r in aside}) == 2
    assert not {r.prompt for r in train} & {r.prompt for r in aside}
    assert len(train) + len(aside) == 50
    with pytest.raises(ValueError, match="there are 1: pass the held-out rankings"):
        split_rankings(rankings[:1], 0.2, torch.Generator())
    with pytest.raises(ValueError, match="heldout: expected a share between 0 and 1"):
        split_rankings(rankings, 1.5, torch.Generator())
