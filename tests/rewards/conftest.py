"""A word tokenizer and tiny random models, made in memory: no network, no files."""

from __future__ import annotations

import pytest
import torch

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "flew", "good", "bad", "very", "dull"]
WORDS += ["on", "mat", ".", "user", "assistant", ":", "tell", "me"]
SPECIAL = ["<unk>", "<pad>", "<s>", "</s>"]
CHAT = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def make_tokenizer(pad: str | None = "<pad>", words: list[str] = WORDS):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(SPECIAL + words)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token=pad
    )


def make_lm(kind: str = "gpt2", width: int = 32, layers: int = 2, context: int = 32, seed: int = 0):
    """A random causal language model with dropout in its config, to notice if anyone leaves it on."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1, "vocab_size": len(SPECIAL + WORDS)}
    torch.manual_seed(seed)
    if kind == "gpt2":
        config = GPT2Config(
            n_embd=width, n_layer=layers, n_head=4, n_positions=context, resid_pdrop=0.3, embd_pdrop=0.3, **ends
        )
        return GPT2LMHeadModel(config)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=context,
            **ends,
        )
    )


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(params=["gpt2", "llama"])
def kind(request):
    return request.param


@pytest.fixture
def lm():
    return make_lm


@pytest.fixture
def chat_template():
    return CHAT


@pytest.fixture
def tokenizer_with():
    return make_tokenizer
