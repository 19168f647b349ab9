"""Perplexity against transformers' own loss."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers import tiny_gpt2, tiny_llama, word_tokenizer
from textgym.evaluation.likelihoods import perplexity
from textgym.lm.trunk import Trunk
from textgym.prompts import encode_prompts

TOKENIZER = word_tokenizer()
PROMPTS = encode_prompts(["w0 w1", "w2", "w3 w4 w5"], TOKENIZER, 8)
TEXTS = ["w6 w7 w8", "w9", "w1 w2"]


def by_transformers(model: torch.nn.Module) -> float:
    """The loss of ``forward(labels=…)``, of one text at a time, weighted by its tokens."""
    loss, tokens = 0.0, 0
    for prompt, text in zip(PROMPTS, TEXTS, strict=True):
        response = TOKENIZER(text)["input_ids"]
        ids = torch.tensor([[*prompt.ids, *response]])
        labels = torch.tensor([[-100] * len(prompt.ids) + response])
        loss += model(input_ids=ids, labels=labels).loss.item() * len(response)
        tokens += len(response)
    return math.exp(loss / tokens)


@pytest.mark.parametrize("model", [tiny_gpt2(), tiny_llama()], ids=["gpt2", "llama"])
def test_it_is_the_exponential_of_transformers_loss(model: torch.nn.Module) -> None:
    found = perplexity(Trunk(model), TOKENIZER, PROMPTS, TEXTS)  # type: ignore[arg-type]
    assert found.value == pytest.approx(by_transformers(model), rel=1e-5)
    assert found.n == 3
    assert (found.low or 0.0) < (found.value or 0.0) < (found.high or 0.0)


def test_a_uniform_model_has_the_size_of_its_vocabulary() -> None:
    model = tiny_gpt2()
    model.lm_head.weight.data.zero_()
    found = perplexity(Trunk(model), TOKENIZER, PROMPTS, TEXTS)
    assert (found.value, found.low, found.high) == tuple(pytest.approx(16, rel=1e-5) for _ in range(3))


def test_an_empty_text_adds_nothing() -> None:
    trunk = Trunk(tiny_gpt2())
    with_empty = perplexity(trunk, TOKENIZER, [*PROMPTS, PROMPTS[0]], [*TEXTS, ""])
    assert with_empty.value == pytest.approx(perplexity(trunk, TOKENIZER, PROMPTS, TEXTS).value)
    assert perplexity(trunk, TOKENIZER, PROMPTS[:1], [""]).value is None


def test_what_does_not_fit_loses_its_beginning() -> None:
    """A model of 4 positions reads the last prompt token only before three tokens of text."""
    model = tiny_gpt2(positions=4)
    long = encode_prompts(["w1 w2 w3 w4 w5 w0"], TOKENIZER, 8)
    last = encode_prompts(["w0"], TOKENIZER, 8)
    found, expected = (perplexity(Trunk(model), TOKENIZER, prompts, ["w6 w7 w8"]) for prompts in (long, last))
    assert found.value == pytest.approx(expected.value)
    cut, whole = (perplexity(Trunk(model), TOKENIZER, last, [text]) for text in ("w6 w7 w8 w9 w1", "w6 w7 w8"))
    assert cut.value == pytest.approx(whole.value)
