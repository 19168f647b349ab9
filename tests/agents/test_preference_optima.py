"""Where DPO, IPO and KTO end on two answers to one prompt, of which a share of the labels prefers the first.

DPO ends at h = log(p/(1 − p))/β, the soft-optimal policy of the Bradley–Terry rewards; IPO at h = (2p − 1)/(2β);
KTO at the majority's answer. h is the log-ratio of the first to the second answer.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.agents.test_dpo import response_log_prob
from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.agents import (
    DPOSettings,
    KTOSettings,
    encode_comparisons,
    encode_judgements,
    train_dpo,
    train_kto,
)
from textgym.rewards.labels.preferences import Judgement
from textgym.types import Ranking

PROMPT, FIRST, SECOND = "w1 w2", "w3", "w7"
EPOCHS = {"epochs": 150, "learning_rate": 1e-2, "batch_size": 64, "max_grad_norm": 10.0}


def gap(model: Any, reference: Any) -> float:
    """Return h: how much more the first answer has gained over the second."""
    one, other = encode_comparisons([Ranking(PROMPT, (FIRST, SECOND), (0, 1))], word_tokenizer(), 1)[0].texts
    with torch.no_grad():
        gained = [response_log_prob(model, text) - response_log_prob(reference, text) for text in (one, other)]
    return float(gained[0] - gained[1])


@pytest.mark.parametrize("share", [5, 7, 9])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_pairs_end_at_the_published_optimum(loss: Any, share: int) -> None:
    beta, p = 0.5, share / 10
    rankings = [Ranking(PROMPT, (FIRST, SECOND), (0, 1) if i < share else (1, 0)) for i in range(10)]
    pairs, model = encode_comparisons(rankings, word_tokenizer(), 1), tiny_gpt2()
    reference = copy.deepcopy(model)
    rows = train_dpo(model, pairs, held_out=pairs, settings=DPOSettings(beta=beta, loss=loss, **EPOCHS), progress=False)
    h = math.log(p / (1 - p)) / beta if loss == "sigmoid" else (2 * p - 1) / (2 * beta)
    assert gap(model, reference) == pytest.approx(h, abs=0.01)
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    least = entropy if loss == "sigmoid" else (1 - (2 * p - 1) ** 2) / (4 * beta**2)
    assert rows[-1]["validation/loss"] == pytest.approx(least, abs=1e-3)


def test_unanimous_labels_have_an_optimum_under_ipo_alone() -> None:
    """h = 1/(2β) under IPO; under DPO it still grows."""
    pairs = encode_comparisons([Ranking(PROMPT, (FIRST, SECOND), (0, 1))] * 4, word_tokenizer(), 1)
    found = {}
    for loss in ("sigmoid", "ipo"):
        model = tiny_gpt2()
        reference = copy.deepcopy(model)
        settings = DPOSettings(beta=0.25, loss=loss, **EPOCHS)  # type: ignore[arg-type]
        train_dpo(model, pairs, held_out=pairs, settings=settings, progress=False)
        found[loss] = gap(model, reference)
    assert found["ipo"] == pytest.approx(2, abs=0.01)
    assert found["sigmoid"] > 4


@pytest.mark.parametrize("share", [3, 7])
def test_labels_end_at_the_majority(share: int) -> None:
    """Seven of ten call the first answer good and three bad, of the second the other way round."""
    judgements = [
        Judgement(PROMPT, text, (i < share) is (text == FIRST)) for i in range(10) for text in (FIRST, SECOND)
    ]
    labelled, model = encode_judgements(judgements, word_tokenizer(), 1), tiny_gpt2()
    reference = copy.deepcopy(model)
    settings = KTOSettings(beta=0.5, **EPOCHS)
    train_kto(model, labelled, held_out=labelled, settings=settings, progress=False)
    assert np.sign(share - 5) * gap(model, reference) > 8  # DPO would stay at log(7/3)/β = 1.7
