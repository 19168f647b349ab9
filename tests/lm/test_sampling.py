"""The behaviour distribution: drawn as it says, restricted as worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from textgym.lm.behaviour import Behaviour, draw, kept_ids
from textgym.lm.sampling import Sampling

INF = math.inf


def kept(logits: torch.Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero()[:, 0].tolist() for row in logits]


# --- draw --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 64, 130, 1000])
def test_frequencies_are_the_softmax(size):
    """Vocabularies of less than a block, of whole blocks, and of blocks and a rest; χ² of many draws."""
    generator = torch.Generator().manual_seed(size)
    n = 100_000 if size < 1000 else 30_000
    logits = 1.5 * torch.randn(size, generator=generator)
    tokens, _ = draw(logits.expand(n, -1), torch.rand(n, generator=generator, dtype=torch.float64))
    expected = n * logits.double().softmax(-1).numpy()
    statistic = ((np.bincount(tokens, minlength=size) - expected) ** 2 / expected).sum()
    freedom = size - 1  # the mean of χ², half its variance
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_log_probs_are_those_of_the_drawn_tokens():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(200, 300, generator=generator)
    tokens, log_probs = draw(logits, torch.rand(200, generator=generator, dtype=torch.float64))
    expected = logits.double().log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    torch.testing.assert_close(log_probs.double(), expected, atol=1e-6, rtol=1e-6)


EXTREMES = [0.0, 5e-324, 1e-17, 0.5, 1 - 2**-53]


@settings(max_examples=200, deadline=None)
@given(
    size=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.01, 1.0),
    uniform=st.one_of(st.sampled_from(EXTREMES), st.floats(0, 1, exclude_max=True)),
    scale=st.sampled_from([0.0, 1.0, 60.0]),
)
def test_a_token_without_probability_is_never_drawn(size, seed, share, uniform, scale):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(1, size, generator=generator)
    logits[torch.rand(1, size, generator=generator) > share] = -INF
    logits[0, seed % size] = 0.0
    token, log_prob = draw(logits, torch.tensor([uniform], dtype=torch.float64))
    assert logits.softmax(-1)[0, token] > 0
    assert log_prob.isfinite().all()


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 1), (0.2499, 1), (0.25, 70), (0.4999, 70), (0.5, 129), (1 - 1e-16, 129)]
)
def test_the_cumulative_distribution_is_inverted(uniform, token):
    """Three tokens in three blocks hold a quarter, a quarter and a half."""
    logits = torch.full((1, 130), -INF)
    logits[0, [1, 70, 129]] = torch.tensor([0.25, 0.25, 0.5]).log()
    assert draw(logits, torch.tensor([uniform], dtype=torch.float64))[0].tolist() == [token]


def test_a_draw_depends_on_nothing_but_its_row():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(16, 500, generator=generator)
    uniforms = torch.rand(16, generator=generator, dtype=torch.float64)
    together, log_probs = draw(logits, uniforms)
    order = torch.randperm(16, generator=generator)
    permuted, _ = draw(logits[order], uniforms[order])
    assert permuted.tolist() == together[order].tolist()
    for row in range(16):
        alone, log_prob = draw(logits[row : row + 1], uniforms[row : row + 1])
        assert (alone.item(), log_prob.item()) == (together[row].item(), log_probs[row].item())


# --- logits ------------------------------------------------------------------------------------------------------

PROBS = torch.tensor([[0.1, 0.4, 0.2, 0.3]])


def test_temperature_divides():
    logits = torch.tensor([[1.0, -2.0, 3.0]])
    torch.testing.assert_close(Behaviour(3, sampling=Sampling(temperature=0.5)).logits(logits), 2 * logits)


def test_a_head_wider_than_the_action_space_is_cut():
    assert Behaviour(5).logits(torch.zeros(2, 7)).shape == (2, 5)


def test_half_precision_becomes_float32():
    assert Behaviour(4).logits(torch.zeros(1, 4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    "sampling", [Sampling(min_new_tokens=1), Sampling(top_k=1), Sampling(top_p=0.5), Sampling(temperature=0.5)]
)
def test_the_callers_logits_stay_as_they_are(sampling):
    logits = PROBS.log()
    Behaviour(4, (1,), sampling).logits(logits, torch.tensor([0]), torch.tensor([[True, True, True, False]]))
    assert torch.equal(logits, PROBS.log())


def test_no_end_token_before_the_minimum_length():
    logits = Behaviour(4, (1, 3), Sampling(min_new_tokens=2)).logits(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    assert kept(logits) == [[0, 2], [0, 2], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("top_k", "expected"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3])]
)
def test_top_k(top_k, expected):
    assert kept(Behaviour(4, sampling=Sampling(top_k=top_k)).logits(PROBS.log())) == [expected]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.1, [1]),
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.69, [1, 3]),
        (0.71, [1, 2, 3]),
        (0.91, [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
    ],
)
def test_top_p_is_the_smallest_set_that_holds_the_mass(top_p, expected):
    assert kept(Behaviour(4, sampling=Sampling(top_p=top_p)).logits(PROBS.log())) == [expected]


def test_top_p_counts_the_mass_that_top_k_leaves():
    """Of 0.4 and 0.3 alone the first holds 4/7 > 0.5."""
    assert kept(Behaviour(4, sampling=Sampling(top_k=2, top_p=0.5)).logits(PROBS.log())) == [[1]]


def test_equal_probabilities_are_kept_alike_in_every_batch():
    flat = torch.zeros(5, 40)
    assert kept(Behaviour(40, sampling=Sampling(top_p=0.24)).logits(flat)) == [list(range(10))] * 5
    assert kept(Behaviour(40, sampling=Sampling(top_p=0.24)).logits(flat[:1])) == [list(range(10))]


def test_a_task_mask_comes_before_top_k_and_top_p():
    allowed = torch.tensor([[True, False, True, True]])
    assert kept(Behaviour(4, sampling=Sampling(top_k=2)).logits(PROBS.log(), allowed=allowed)) == [[2, 3]]
    assert kept(Behaviour(4, sampling=Sampling(top_p=0.45)).logits(PROBS.log(), allowed=allowed)) == [[3]]  # 0.3 of 0.6


def test_no_token_left_is_an_error():
    only_end = torch.tensor([[False, True, False, False]])
    with pytest.raises(ValueError, match="leaves no token"):
        Behaviour(4).logits(PROBS.log(), allowed=torch.zeros(1, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="leaves no token"):
        Behaviour(4, (1,), Sampling(min_new_tokens=1)).logits(PROBS.log(), torch.tensor([0]), only_end)


def test_kept_ids_are_padded():
    logits = torch.tensor([[0.0, -INF, 1.0, -INF], [-INF, -INF, -INF, 2.0], [0.0, 0.0, 0.0, -INF]])
    assert kept_ids(logits).tolist() == [[0, 2, -1], [3, -1, -1], [0, 1, 2]]
    assert kept_ids(logits).dtype == torch.int32


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0}, "temperature=0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"top_p": 0}, "top_p=0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": -1}, "top_k=-1"),
        ({"min_new_tokens": -2}, "min_new_tokens=-2"),
    ],
)
def test_impossible_settings_are_named(settings, named):
    with pytest.raises(ValueError, match=named):
        Sampling(**settings)


def test_what_the_reference_shares():
    sampling = Sampling(temperature=0.7, min_new_tokens=3, top_k=5, top_p=0.9)
    assert sampling.truncates
    assert sampling.shared == Sampling(temperature=0.7, min_new_tokens=3)
    assert not sampling.shared.truncates
