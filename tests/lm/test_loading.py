"""Loading, and the checks that come before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from tests.helpers import tiny_gpt2, tiny_llama, word_tokenizer
from textgym.lm.files.loading import accepted, check_fits, context_length, frozen_copy, load_causal_lm, load_lm
from textgym.lm.parts.backbones import position_ids
from textgym.lm.parts.lora import save_pretrained


def test_what_was_saved_is_loaded_in_float32_without_dropout(tmp_path: Path):
    saved = tiny_gpt2(seed=3, resid_pdrop=0.5)
    saved.half().save_pretrained(tmp_path)
    model = load_causal_lm(tmp_path)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(model(ids).logits, saved.float().eval()(ids).logits)


def test_a_truncated_file_is_named(tmp_path: Path):
    tiny_gpt2().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cannot be loaded as a causal language model: SafetensorError"):
        load_causal_lm(tmp_path)


def test_nothing_there(tmp_path: Path):
    with pytest.raises(ValueError, match="no such directory"):
        load_causal_lm(tmp_path / "nothing")


def test_a_model_without_an_output_head_is_refused(tmp_path: Path):
    """transformers would play on with a random head, after a warning."""
    tiny_llama().save_pretrained(tmp_path / "lm")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "lm", num_labels=1)
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"holds no weights for \['lm_head.weight'\]"):
        load_causal_lm(tmp_path / "classifier")


def test_a_frozen_copy_shares_nothing():
    model = tiny_gpt2()
    twin = frozen_copy(model)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()
    assert twin.get_input_embeddings().weight.any()
    assert not any(p.requires_grad for p in twin.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_that_fits():
    assert context_length(tiny_gpt2(positions=10)) == 10
    check_fits(tiny_gpt2(positions=10), word_tokenizer(14), n_actions=16, width=10)
    check_fits(tiny_llama(vocabulary_size=99), word_tokenizer(14), n_actions=16, width=64)


@pytest.mark.parametrize(
    ("words", "n_actions", "width", "message"),
    [
        (15, 16, 10, "the tokenizer has 17 tokens, the model embeds 16"),
        (14, 17, 10, "the task has 17 actions"),
        (14, 16, 11, "= 11 is more than the model's context of 10 tokens"),
    ],
)
def test_a_model_that_does_not_fit(words, n_actions, width, message):
    with pytest.raises(ValueError, match=message):
        check_fits(tiny_gpt2(positions=10), word_tokenizer(words), n_actions, width)


def test_positions_begin_at_the_first_token():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert position_ids(mask).tolist() == [[0, 0, 0, 1, 2], [0, 1, 2, 2, 2]]


class Adapted(nn.Module):
    """As peft wraps a model: names some arguments, and passes the others on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def get_base_model(self) -> nn.Module:
        return self.inner

    def forward(self, input_ids=None, **others):
        return self.inner(input_ids=input_ids, **others)


def test_arguments_that_a_model_takes():
    arguments = {"position_ids": 1, "no_such_argument": 2}
    assert accepted(tiny_gpt2(), **arguments) == {"position_ids": 1}
    assert accepted(Adapted(tiny_gpt2()), **arguments) == {"position_ids": 1}


def test_loading_and_saving_show_no_bars_and_leave_them_to_others(tmp_path, capsys):
    shown = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()  # as transformers has it, unless a command was run before
    try:
        save_pretrained(tiny_gpt2(), tmp_path)
        load_lm(tmp_path)
        assert capsys.readouterr().err == ""
        assert logging.is_progress_bar_enabled()
        tiny_gpt2().save_pretrained(tmp_path)
        assert "Writing model shards" in capsys.readouterr().err
    finally:
        (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
