"""The table of architectures: a dozen of its rows are measured again, and its page holds them all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from scripts.model_table import play
from scripts.model_table.configurations import Configuration, configurations
from scripts.model_table.measure import (
    CRASH,
    NOT_BUILT,
    REFUSED,
    RIGHT,
    SLOWER,
    WRONG,
    attempt,
    learn,
    measure,
    task,
    verdict,
)
from scripts.model_table.page import power
from scripts.model_table.play import P, T
from scripts.model_table.tiny import PAD, VOCABULARY, WINDOW, build, small_config
from textgym.lm.agreement import check_agreement
from textgym.lm.decoding import PrefixDecoder
from textgym.lm.files.loading import frozen_copy
from textgym.lm.parts.seq2seq import Seq2SeqBackbone
from textgym.lm.trunk import Trunk
from textgym.types import IntArray, MaskArray

PAGE = Path(__file__).parents[2] / "docs" / "models.md"

OUTCOMES = {
    "llama/LlamaForCausalLM/": RIGHT,  # rotary positions, grouped heads
    "llama/LlamaForCausalLM/longrope, trained on 16": REFUSED,  # a pass changes with its length
    "llama4_text/Llama4ForCausalLM/": RIGHT,  # its base_model is itself; chunks shorter than the width
    "gemma2/Gemma2ForCausalLM/tight caps": RIGHT,
    "granite/GraniteForCausalLM/scaled": RIGHT,
    "cohere/CohereForCausalLM/": RIGHT,
    "bloom/BloomForCausalLM/": RIGHT,  # positions from the mask
    "codegen/CodeGenForCausalLM/": RIGHT,  # its config names no padding token
    "bart/BartForCausalLM/": SLOWER,  # absolute positions that nobody can tell it
    "roberta/RobertaForCausalLM/decoder": SLOWER,  # positions that begin behind the padding token's id
    "openai-gpt/OpenAIGPTLMHeadModel/": SLOWER,  # takes no cache
    "mamba/MambaForCausalLM/": SLOWER,
    "recurrent_gemma/RecurrentGemmaForCausalLM/": SLOWER,  # its modules keep what they computed last
    "qwen3_next/Qwen3NextForCausalLM/": SLOWER,  # linear attention in some layers
    "bert/BertLMHeadModel/": REFUSED,  # looks both ways
    "t5/T5ForConditionalGeneration/": RIGHT,
    "t5gemma/T5GemmaForConditionalGeneration/": RIGHT,  # overlooks the padding token where no mask is given
    "m2m_100/M2M100ForConditionalGeneration/": SLOWER,  # sinusoidal positions from the ids
}
KNOWN = {f"{one.model_type}/{one.cls}/{one.varies}": one for one in configurations()}


def built(one: Configuration) -> PreTrainedModel:
    return build(one.model_type, one.cls, **one.fields)


@pytest.mark.parametrize("name", OUTCOMES)
def test_a_row_is_right_by_plain_calls_or_refused(name: str) -> None:
    found = measure(built(KNOWN[name]))
    assert verdict(found) == OUTCOMES[name], found
    assert found["spread"] > 0.5  # flat logits would hide what is wrong
    assert not found["warnings"]
    if OUTCOMES[name] == REFUSED:
        assert found["whole"] > 0.1  # not a false alarm: the model's own passes disagree
        assert re.search("causal|length", found["learn_error"]["message"])


@pytest.mark.filterwarnings("ignore::textgym.lm.agreement.SlowActingWarning")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("reformer/ReformerModelWithLMHead/", "with dropout off"),  # its passes are right; its backward pass refuses
        ("encoder-decoder/EncoderDecoderModel/", "no trunk"),  # its decoder has a head
    ],
)
def test_code_that_cannot_be_trained_is_refused_in_words(name: str, reason: str) -> None:
    model = built(KNOWN[name])
    with pytest.raises(ValueError, match=reason):
        learn(model)


def test_a_model_that_keeps_its_last_pass_is_copied() -> None:
    """RecurrentGemma's modules hold states that belong to a graph, which no copy can have."""
    model = built(KNOWN["recurrent_gemma/RecurrentGemmaForCausalLM/"])
    ids = torch.tensor([[5, 6, 7]])
    model(input_ids=ids).logits.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(frozen_copy(model)(input_ids=ids).logits, model(input_ids=ids).logits)


def test_the_check_plays_the_padding_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5Gemma takes it for padding where it is given no mask, as training once did."""

    def decode(self: Seq2SeqBackbone, ids: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        seen = {"encoder_hidden_states": encoded, "encoder_attention_mask": mask, "use_cache": False}
        states: Tensor = self.decoder(input_ids=ids, **seen).last_hidden_state
        return states

    trunk = Trunk(built(KNOWN["t5gemma/T5GemmaForConditionalGeneration/"]))
    monkeypatch.setattr(Seq2SeqBackbone, "_decode", decode)
    with pytest.raises(ValueError, match="log-probabilities"):
        check_agreement(trunk, P + T, P)


def test_the_measure_sees_wrong_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of columns under a decoder with absolute positions, without the check that prevents it."""
    model = built(KNOWN["bart/BartForCausalLM/"])
    monkeypatch.setattr(play, "make_decoder", lambda model, n, width, _: PrefixDecoder(model, n, width))
    found = measure(model)
    assert verdict(found) == WRONG
    assert found["acting"] > 1
    assert found["training"] < 1e-4


def test_the_measure_sees_a_row_that_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary positions are distances: while they are not told, only a row that begins beside others shows it."""

    class Untold(PrefixDecoder):
        def __init__(self, model: PreTrainedModel, n_rows: int, width: int) -> None:
            super().__init__(model, n_rows, width)
            self._optional = {name: value for name, value in self._optional.items() if name != "position_ids"}

    model = built(KNOWN["llama/LlamaForCausalLM/"])
    monkeypatch.setattr(play, "make_decoder", lambda model, n, width, _: Untold(model, n, width))
    played = play.episodes()
    acting = play.acting_log_probs(model, played)
    gaps = [float((a - play.whole_log_probs(model, one)).abs().max()) for a, one in zip(acting, played, strict=True)]
    assert max(gaps[:3]) < 1e-4
    assert gaps[3] > 0.1


def test_a_shrunk_config_keeps_layers_of_every_kind() -> None:
    small = small_config("gemma3_text")
    assert set(small.layer_types) == {"sliding_attention", "full_attention"}
    assert small.num_hidden_layers == len(small.layer_types) == 3
    assert small.sliding_window == WINDOW < P + T


def test_a_list_of_layer_numbers_is_no_list_of_kinds() -> None:
    small = small_config("llama4_text")
    assert small.moe_layers == list(range(small.num_hidden_layers)) == [0, 1, 2]


def test_given_fields_stand_in_a_nested_config() -> None:
    small = small_config("dbrx", attn_config={"clip_qkv": 3.0, "rope_theta": 7.0})
    assert (small.attn_config.clip_qkv, small.attn_config.rope_theta, small.attn_config.kv_n_heads) == (3.0, 7.0, 4)


def test_the_measure_sees_a_padding_token_that_is_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that takes the padding token for padding, wherever it stands."""

    class Overlooking(PrefixDecoder):
        def logits(self, input_ids: IntArray, attention_mask: MaskArray, rows: IntArray) -> Tensor:
            return super().logits(input_ids, attention_mask * (input_ids != PAD), rows)

    model = built(KNOWN["llama/LlamaForCausalLM/"])
    monkeypatch.setattr(play, "make_decoder", lambda model, n, width, _: Overlooking(model, n, width))
    found = measure(model)
    assert found["acting"] < 1e-4
    assert found["padding"] > 0.1
    assert verdict(found) == WRONG


SOUND = dict.fromkeys(("acting", "training", "gap", "padding", "ratio_error", "kl"), 1e-6) | {"greedy": True}


@pytest.mark.parametrize(
    ("differs", "expected"),
    [
        ({}, RIGHT),
        ({"slow": "it keeps a recurrent state"}, SLOWER),
        *(({name: 2e-3}, WRONG) for name in SOUND if name != "greedy"),
        ({"kl": -2e-3}, WRONG),
        ({"ratio_error": float("nan")}, WRONG),
        ({"greedy": False}, WRONG),
        ({"slow": "it keeps a recurrent state", "gap": 2e-3}, WRONG),
        ({"generate": False}, RIGHT),
        ({"learn_error": {"in_words": True}}, REFUSED),
        ({"learn_error": {"in_words": False}}, CRASH),
        ({"acting_error": {"in_words": True}}, CRASH),  # it trains, yet raises elsewhere
        ({"plain_error": {"in_words": False}}, NOT_BUILT),
        ({"build_error": {"in_words": False}}, NOT_BUILT),
    ],
)
def test_verdicts(differs: dict[str, Any], expected: str) -> None:
    assert verdict({**SOUND, **differs}) == expected


def test_what_raises_is_noted_with_whose_it_is() -> None:
    found: dict[str, Any] = {}
    model = built(KNOWN["llama/LlamaForCausalLM/"])
    assert attempt("index", found, lambda: model.model.embed_tokens(torch.tensor([VOCABULARY]))) is None
    assert attempt("width", found, lambda: task(0)) is None
    assert found["index_error"]["message"].startswith("IndexError: ")
    assert not found["index_error"]["in_words"]
    assert found["width_error"]["in_words"]


@pytest.mark.parametrize(
    ("value", "written"), [(0.0, "0"), (9e-6, "1e-5"), (1e-5, "1e-5"), (1.1e-5, "1e-4"), (3.0, "1e1")]
)
def test_differences_are_rounded_up(value: float, written: str) -> None:
    assert power(value) == written


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_page_has_nothing_wrong_and_enough_that_is_right() -> None:
    counts = {what: int(n) for what, n in re.findall(r"^\| ([\w ,]+) \| (\d+) \|$", PAGE.read_text(), re.M)}
    assert counts[WRONG] == counts[CRASH] == 0
    assert counts[RIGHT] + counts[SLOWER] + counts[REFUSED] >= 90


def test_the_page_has_a_row_for_every_configuration() -> None:
    text = PAGE.read_text()
    if f"transformers {transformers.__version__} " not in text:
        pytest.skip(f"the page was made with another transformers than {transformers.__version__}")
    rows = set(re.findall(r"^\| `([\w.-]+)` \| (\w+) \| ([^|]*) \|", text, re.M))
    assert {(model_type, cls, varies.strip()) for model_type, cls, varies in rows} >= {
        (one.model_type, one.cls, one.varies) for one in configurations()
    }


@pytest.mark.parametrize("name", OUTCOMES)
def test_the_page_says_what_is_measured(name: str) -> None:
    model_type, cls, varies = name.split("/")
    section = re.search(rf"^\| `{model_type}` \| {cls} \| {re.escape(varies)} \| ([^|]*)", PAGE.read_text(), re.M)
    assert section is not None
    shown = section.group(1).strip()
    assert {RIGHT: "with a cache", SLOWER: "without"}.get(OUTCOMES[name], shown) == shown
