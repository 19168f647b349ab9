"""Fine-tuning, DPO, IPO and KTO against plain torch: the same weights after some epochs of small batches."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.agents.test_dpo import response_log_prob
from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.agents import (
    DPOSettings,
    KTOSettings,
    SFTSettings,
    encode_comparisons,
    encode_demonstrations,
    encode_judgements,
    fine_tune,
    train_dpo,
    train_kto,
)
from textgym.rewards.labels.preferences import Judgement
from textgym.types import Ranking

ATOL = 2e-5
WORDS = [" ".join(f"w{(5 * i + j) % 14}" for j in range(1 + i % 4)) for i in range(16)]  # of 1 to 4 words


def descend(optimizer: torch.optim.Optimizer, rate: float, loss: Tensor, most: float) -> float:
    """Take a step at a rate, along the gradient scaled down to a norm of ``most``; return the norm that it had."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.zero_grad()
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in parameters))
    for parameter in parameters:
        parameter.grad *= min(1.0, most / norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    return norm


def equal(mine: Any, theirs: Any) -> None:
    for (name, one), other in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        if name.endswith("attn.c_attn.bias"):
            # No softmax sees the keys' bias: its gradient is rounding, which Adam's ε of 1e-8 makes steps of.
            one, other = (bias.view(3, -1)[[0, 2]] for bias in (one, other))
        torch.testing.assert_close(one, other, atol=ATOL, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


def clipped_and_not(norms: Iterable[float], most: float) -> bool:
    """Return True if some steps were scaled down and some were not, so that a test sees both."""
    return min(norms) < most < max(norms)


# --- fine-tuning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_fine_tuning_is_adam_on_completions_and_end_tokens(accumulate: int) -> None:
    """Three epochs of four batches: cosine to a tenth, β₂ = 0.95, ε = 1e-8, order from the seed and the epoch."""
    rows = [{"prompt": f"w{i % 7} w{i % 3}", "completion": words} for i, words in enumerate(WORDS)]
    shown = encode_demonstrations(rows, word_tokenizer(), 1)
    rate, most, epochs, size = 5e-3, 1.9, 3, 4
    model, by_hand = tiny_gpt2(), tiny_gpt2()
    settings = SFTSettings(epochs, learning_rate=rate, batch_size=size, accumulate=accumulate, max_grad_norm=most)
    report = fine_tune(model, shown, validation=shown, settings=settings, seed=3, progress=False)
    assert report.kept_epoch == epochs  # the weights are those of the end

    optimizer = torch.optim.Adam(by_hand.parameters(), betas=(0.9, 0.95), eps=1e-8)
    norms, n_steps = [], epochs * len(shown) // size
    for epoch in range(epochs):
        order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(3 + epoch)).tolist()
        for start in range(0, len(shown), size):
            batch = [shown[row] for row in order[start : start + size]]
            n_tokens = sum(len(one.response_ids) for one in batch)
            loss = -torch.stack([response_log_prob(by_hand, one) for one in batch]).sum() / n_tokens
            done = len(norms) / n_steps
            decayed = rate * (0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2)
            norms.append(descend(optimizer, decayed, loss, most))
    assert clipped_and_not(norms, most)
    equal(by_hand, model)
    assert all(one.response_ids[-1] == 1 for one in shown)  # the end is learned, too
    with torch.no_grad():
        total = -float(sum(response_log_prob(by_hand, one) for one in shown))
    left = total / sum(len(one.response_ids) for one in shown)
    assert report.epochs[-1]["validation/loss"] == pytest.approx(left, abs=1e-4)


# --- DPO and IPO -----------------------------------------------------------------------------------------------------


def of_dpo(margin: Tensor, beta: float) -> Tensor:
    return -(1 / (1 + (-margin).exp())).log()


def of_ipo(margin: Tensor, beta: float) -> Tensor:
    return (margin / beta - 1 / (2 * beta)) ** 2


@pytest.mark.parametrize(("name", "published", "most"), [("sigmoid", of_dpo, 3.0), ("ipo", of_ipo, 20.0)])
def test_dpo_is_adam_on_the_published_loss(name: Any, published: Any, most: float) -> None:
    """Two epochs of four batches, the last of three: linear decay over all steps, the reference as it was at first."""
    words = [*WORDS, *(f"{text} w3" for text in WORDS)]
    rankings = [Ranking(f"w{i % 7} w{i % 3}", (words[i], words[-1 - i]), (i % 2, 1 - i % 2)) for i in range(15)]
    pairs = encode_comparisons(rankings, word_tokenizer(), 1)
    rate, epochs, size, beta = 2e-3, 2, 4, 0.6
    model, by_hand = tiny_gpt2(), tiny_gpt2()
    reference = copy.deepcopy(by_hand)
    settings = DPOSettings(beta, epochs, rate, size, most, name)
    rows = train_dpo(model, pairs, held_out=pairs[:3], settings=settings, seed=5, progress=False)

    def margin(pair: Any) -> Tensor:
        with torch.no_grad():
            before = response_log_prob(reference, pair.chosen) - response_log_prob(reference, pair.rejected)
        return beta * (response_log_prob(by_hand, pair.chosen) - response_log_prob(by_hand, pair.rejected) - before)

    optimizer = torch.optim.Adam(by_hand.parameters(), eps=1e-5)
    norms, n_steps = [], epochs * 4
    for epoch in range(epochs):
        met, lost = [], []
        order = np.random.default_rng([5, epoch]).permutation(len(pairs))
        for start in range(0, len(pairs), size):
            margins = torch.stack([margin(pairs[row]) for row in order[start : start + size]])
            losses = published(margins, beta)
            norms.append(descend(optimizer, rate * (1 - len(norms) / n_steps), losses.mean(), most))
            met += margins.tolist()
            lost += losses.tolist()
        assert rows[epoch + 1]["train/margin"] == pytest.approx(np.mean(met), abs=1e-4)
        assert rows[epoch + 1]["train/loss"] == pytest.approx(np.mean(lost), abs=1e-4)
    assert clipped_and_not(norms, most)
    equal(by_hand, model)
    with torch.no_grad():
        held_out = np.mean([float(margin(pair)) for pair in pairs[:3]])
    assert rows[-1]["validation/margin"] == pytest.approx(held_out, abs=1e-4)
    assert held_out > 0.05


# --- KTO -----------------------------------------------------------------------------------------------------


def test_kto_is_adam_on_the_published_loss() -> None:
    """Two epochs of 13 completions in batches of 4, 4 and 5: a last batch of one would have no mismatched pair."""
    judgements = [Judgement(f"w{i % 7} w{i % 3}", WORDS[i], i % 3 > 0) for i in range(13)]
    labelled = encode_judgements(judgements, word_tokenizer(), 1)
    held_out = [*labelled[:2], *labelled[5:7]]
    rate, most, epochs, size, beta = 4e-3, 1.7, 2, 4, 0.6
    weights = {True: 1.3, False: 1.7}
    model, by_hand = tiny_gpt2(), tiny_gpt2()
    reference = copy.deepcopy(by_hand)
    settings = KTOSettings(beta, epochs, rate, size, most, weights[True], weights[False])
    rows = train_kto(model, labelled, held_out=held_out, settings=settings, seed=6, progress=False)

    def ratio(prompt: Any, completion: Any) -> Tensor:
        text = dataclasses.replace(prompt.shown, response_ids=completion.shown.response_ids)
        with torch.no_grad():
            before = response_log_prob(reference, text)
        return response_log_prob(by_hand, text) - before

    def loss(batch: list[Any]) -> Tensor:
        with torch.no_grad():
            ring = [batch[-1], *batch]
            z = max(0.0, float(np.mean([float(ratio(prompt, other)) for other, prompt in pairwise(ring)])))
        zs.append(z)
        signs = [1 if one.desirable else -1 for one in batch]
        gains = [beta * sign * (ratio(one, one) - z) for sign, one in zip(signs, batch, strict=True)]
        return torch.stack(
            [weights[one.desirable] * (1 - 1 / (1 + (-gain).exp())) for gain, one in zip(gains, batch, strict=True)]
        )

    optimizer = torch.optim.Adam(by_hand.parameters(), eps=1e-5)
    norms: list[float] = []
    zs: list[float] = []
    for epoch in range(epochs):
        lost = []
        order = np.random.default_rng([6, epoch]).permutation(len(labelled))
        for part in np.split(order, [4, 8]):
            losses = loss([labelled[row] for row in part])
            norms.append(descend(optimizer, rate * (1 - len(norms) / (epochs * 3)), losses.mean(), most))
            lost += losses.tolist()
        assert rows[epoch + 1]["train/loss"] == pytest.approx(np.mean(lost), abs=1e-4)
    assert clipped_and_not(norms, most)
    assert min(zs) == 0 < 0.05 < max(zs)  # both sides of the clamp
    equal(by_hand, model)
    with torch.no_grad():
        shuffled = [held_out[row] for row in np.random.default_rng(6).permutation(4)]
        assert rows[-1]["validation/loss"] == pytest.approx(float(loss(shuffled).mean()), abs=1e-4)
        ratios = [float(ratio(one, one)) for one in held_out]
    good, bad = (
        [r for r, one in zip(ratios, held_out, strict=True) if one.desirable is side] for side in (True, False)
    )
    assert rows[-1]["validation/margin"] == pytest.approx(beta * (np.mean(good) - np.mean(bad)), abs=1e-4)
