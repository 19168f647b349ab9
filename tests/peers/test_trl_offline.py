"""The losses that learn from data equal those of TRL's trainers, in value and gradient, on the same rows.

TRL gets texts and prepares them by itself: its tokens, its end tokens, and its mismatched pairs of KTO.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.agents import (
    DPOSettings,
    KTOSettings,
    encode_comparisons,
    encode_demonstrations,
    encode_judgements,
)
from textgym.agents.offline.data import collate, next_token_loss
from textgym.agents.offline.dpo import pair_objective
from textgym.agents.offline.kto import label_objective
from textgym.agents.offline.preference_loop import Example, Objective, completion_log_probs, text_log_probs
from textgym.lm.trunk import Trunk
from textgym.rewards import RewardModel
from textgym.rewards.labels.preferences import Judgement
from textgym.rewards.models.training import kwise_loss
from textgym.types import Ranking

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

PAIRS = [
    ("w1 w2", " w3", " w4 w5"),
    ("w6", " w7 w8 w9", " w2"),
    ("w3 w4 w5", " w5 w1", " w9"),
    ("w8 w8", " w1", " w6 w6"),
]
SAME_LENGTH = [("w1 w2", " w3 w9", " w4 w5"), ("w6", " w7 w8", " w2 w2"), ("w3 w4 w5", " w5 w1", " w9 w3")]
ROWS = [("w1 w2", " w3", True), ("w6", " w7 w8 w9", False), ("w3 w4 w5", " w5 w1", True), ("w8 w8", " w1", False)]


def trainer(kind: str, place: Path, rows: Sequence[dict[str, Any]], model: Any, **settings: Any) -> Any:
    """Return one of TRL's trainers; ``ref_model`` among the settings is handed to it."""
    others = {name: settings.pop(name) for name in ("ref_model",) if name in settings}
    config = getattr(trl, f"{kind}Config")(
        output_dir=str(place), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, **settings
    )
    data = datasets.Dataset.from_list(list(rows))
    made = getattr(trl, f"{kind}Trainer")
    return made(model=model, args=config, train_dataset=data, processing_class=word_tokenizer(), **others)


def theirs(made: Any, model: Any) -> tuple[Tensor, list[Tensor]]:
    """Return TRL's loss of all rows as one batch, and its gradient."""
    model.eval()
    return with_gradient(model, lambda: made.compute_loss(model, made.data_collator(list(made.train_dataset))))


def with_gradient(model: Any, loss: Callable[[], Tensor]) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    value = loss()
    value.backward()
    return value.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def ours(objective: Objective[Example], batch: Sequence[Example], model: Any, reference: Any) -> Callable[[], Tensor]:
    """Return the loss of a batch as the loop computes it."""
    here, before = Trunk(model.eval()), Trunk(reference.eval())
    texts = objective.background(batch)

    def loss() -> Tensor:
        with torch.no_grad():
            was = completion_log_probs(before, batch)
        background = text_log_probs(here, texts, 4) - text_log_probs(before, texts, 4)
        return objective.loss(batch, completion_log_probs(here, batch), was, background).mean()

    return loss


def assert_equal(
    found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]], factor: float = 1.0
) -> None:
    """Compare value and gradient to 1e-6; ``factor`` times what was expected."""
    torch.testing.assert_close(found[0], factor * expected[0], atol=1e-6, rtol=1e-6)
    assert any(float(gradient.abs().max()) > 1e-3 for gradient in found[1])
    for mine, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(mine, factor * other, atol=1e-6, rtol=1e-5)


def pair_rows(pairs: Sequence[tuple[str, str, str]]) -> list[dict[str, str]]:
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in pairs]


def comparisons(pairs: Sequence[tuple[str, str, str]]) -> Any:
    return encode_comparisons([Ranking(prompt, (a, b), (0, 1)) for prompt, a, b in pairs], word_tokenizer(), 1)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_dpo(tmp_path: Path, beta: float) -> None:
    model, reference = tiny_gpt2(), tiny_gpt2(seed=1)
    made = trainer("DPO", tmp_path, pair_rows(PAIRS), model, ref_model=reference, beta=beta)
    expected = theirs(made, model)
    found = with_gradient(model, ours(pair_objective(DPOSettings(beta=beta)), comparisons(PAIRS), model, reference))
    assert_equal(found, expected)


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_ipo_of_completions_of_one_length(tmp_path: Path, beta: float) -> None:
    """TRL divides log-ratios by the T = 3 tokens: its loss at β is 1/T² of ours at β/T."""
    model, reference = tiny_gpt2(), tiny_gpt2(seed=1)
    rows = pair_rows(SAME_LENGTH)
    made = trainer("DPO", tmp_path, rows, model, ref_model=reference, beta=beta, loss_type="ipo")
    expected = theirs(made, model)
    objective = pair_objective(DPOSettings(beta=beta / 3, loss="ipo"))
    found = with_gradient(model, ours(objective, comparisons(SAME_LENGTH), model, reference))
    assert_equal((found[0] / 9, [gradient / 9 for gradient in found[1]]), expected)


@pytest.mark.parametrize(("model_seed", "reference_seed"), [(0, 1), (1, 0)])
def test_kto(tmp_path: Path, model_seed: int, reference_seed: int) -> None:
    """The reference point is above 0 for one order of the models, and clamped for the other."""
    model, reference = tiny_gpt2(seed=model_seed), tiny_gpt2(seed=reference_seed)
    rows = [{"prompt": prompt, "completion": completion, "label": label} for prompt, completion, label in ROWS]
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    made = trainer(
        "KTO", tmp_path, rows, model, ref_model=reference, beta=0.4, per_device_train_batch_size=4, **weights
    )
    expected = theirs(made, model)
    batch = encode_judgements([Judgement(*row) for row in ROWS], word_tokenizer(), 1)
    objective = label_objective(KTOSettings(beta=0.4, **weights), 64)
    assert_equal(with_gradient(model, ours(objective, batch, model, reference)), expected)
    z = made._metrics["eval"]["kl"][-1]
    assert (z > 0) is (model_seed == 1)


def test_fine_tuning(tmp_path: Path) -> None:
    model = tiny_gpt2()
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion, _ in PAIRS]
    expected = theirs(trainer("SFT", tmp_path, rows, model), model)

    def loss() -> Tensor:
        batch = collate(encode_demonstrations(rows, word_tokenizer(), 1))
        labels = batch.pop("labels")
        return next_token_loss(model(**batch).logits, labels)

    assert_equal(with_gradient(model, loss), expected)


def test_reward_model(tmp_path: Path) -> None:
    reward = RewardModel.from_causal_lm(tiny_gpt2(), word_tokenizer(), generator=torch.Generator().manual_seed(0))
    model = reward.model
    made = trainer("Reward", tmp_path, pair_rows(PAIRS), model)
    expected = theirs(made, model)

    def loss() -> Tensor:
        sequences = [reward.encode(prompt, text) for prompt, *texts in PAIRS for text in texts]
        scores = reward.raw_scores(sequences).view(len(PAIRS), 2)
        return kwise_loss(scores, torch.tensor([[0, 1]] * len(PAIRS)))

    assert_equal(with_gradient(model, loss), expected)
