"""The table of architectures: a dozen of its rows are measured again, and its page holds them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers
from transformers import PreTrainedModel

from scripts.model_table import play
from scripts.model_table.configurations import Configuration, configurations
from scripts.model_table.measure import CRASH, REFUSED, RIGHT, SLOWER, WRONG, learn, measure, verdict
from scripts.model_table.page import power
from scripts.model_table.play import P, T
from scripts.model_table.tiny import WINDOW, build, small_config
from textgym.lm.decoding import PrefixDecoder

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
    "qwen3_next/Qwen3NextForCausalLM/": SLOWER,  # linear attention in some layers
    "bert/BertLMHeadModel/": REFUSED,  # looks both ways
    "t5/T5ForConditionalGeneration/": RIGHT,
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


def test_given_fields_stand_in_a_nested_config() -> None:
    small = small_config("dbrx", attn_config={"clip_qkv": 3.0, "rope_theta": 7.0})
    assert (small.attn_config.clip_qkv, small.attn_config.rope_theta, small.attn_config.kv_n_heads) == (3.0, 7.0, 4)


def test_a_crash_is_not_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(KNOWN["llama/LlamaForCausalLM/"])
    monkeypatch.setattr(model.lm_head, "forward", lambda _: 1 / 0)
    assert "plain_error" in measure(model)
    with pytest.raises(Exception, match="division"):
        learn(model)
    assert verdict({"learn_error": {"in_words": False, "message": "KeyError: 0"}}) == CRASH


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
