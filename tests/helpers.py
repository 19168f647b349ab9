"""Tiny models and tokenizers, made in memory: no test downloads anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from textgym.env.mdp import TokenMDP
from textgym.prompts import encode_prompts


def word_tokenizer(n_words: int = 14) -> PreTrainedTokenizerFast:
    """Words ``w0 … w{n-1}`` with ids 2…, after ``<pad>`` = 0 and ``<eos>`` = 1."""
    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i + 2 for i in range(n_words)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, as byte-level BPE has before any merge; ids are in the alphabet's order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def save_byte_model(directory: Path, template: str | None = None, positions: int = 1024) -> Path:
    """Save a tiny random model that reads and writes bytes, so that it can be shown any text."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>", "pad_token": "<pad>"})
    if template is not None:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<user>", "<assistant>", "<end>"]})
        tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    model = tiny_gpt2(len(tokenizer), positions=positions, n_embd=8, n_layer=1, n_head=1)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(directory)
    return directory


def tiny_gpt2(vocabulary_size: int = 16, seed: int = 0, positions: int = 64, **config: Any) -> GPT2LMHeadModel:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, **config}
    made = GPT2Config(
        vocab_size=vocabulary_size, n_positions=positions, bos_token_id=1, eos_token_id=1, pad_token_id=0, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(made).eval()


def tiny_llama(vocabulary_size: int = 16, seed: int = 0, positions: int = 64, **settings: Any) -> LlamaForCausalLM:
    """Rotary positions and grouped heads, as the real ones have."""
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def tiny_t5(vocabulary_size: int = 16, seed: int = 0, **settings: Any) -> T5ForConditionalGeneration:
    """Positions are distances, encoder and decoder share the embedding, and the tied head reads scaled states."""
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, **settings}
    config = T5Config(
        vocab_size=vocabulary_size, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, dropout_rate=0.1, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config).eval()


def tiny_bart(
    vocabulary_size: int = 16, seed: int = 0, positions: int = 64, **settings: Any
) -> BartForConditionalGeneration:
    """Learned positions in both stacks."""
    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    config = BartConfig(
        vocab_size=vocabulary_size,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        max_position_embeddings=positions,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
        **{**sizes, **settings},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BartForConditionalGeneration(config).eval()


def taught(kind: Any, vocabulary_size: int = 16) -> dict[str, Any]:
    """Return the arguments that an algorithm needs beside those of all others: a teacher, if it learns from one."""
    return {"reference": tiny_gpt2(vocabulary_size, seed=1)} if kind.settings_class.has_teacher else {}


def next_logits(model: PreTrainedModel, prompt: list[int], response: list[int]) -> torch.Tensor:
    """``[V]`` of the next token, from one uncached pass without padding."""
    if not model.config.is_encoder_decoder:
        return model(torch.tensor([prompt + response])).logits[0, -1]
    begun = torch.tensor([[model.config.decoder_start_token_id, *response]])
    return model(input_ids=torch.tensor([prompt]), decoder_input_ids=begun).logits[0, -1]


def emit(token_id: int) -> Any:
    """Return a reward: the share of a response's tokens that are ``token_id``."""

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(i == token_id for i in ids) / len(ids) for ids in completion_ids]

    return reward


def word_mdp(
    reward: Any = None,
    prompts: Sequence[Any] = ("w0 w1", "w2", "w3 w4 w5"),
    max_prompt_length: int = 4,
    max_new_tokens: int = 6,
    n_words: int = 14,
    **settings: Any,
) -> TokenMDP:
    tokenizer = word_tokenizer(n_words)
    settings = {"end_token_ids": (1,), **settings}
    return TokenMDP(
        tokenizer=tokenizer,
        prompts=encode_prompts(prompts, tokenizer, max_prompt_length),
        reward=emit(7) if reward is None else reward,
        max_prompt_length=max_prompt_length,
        max_new_tokens=max_new_tokens,
        **settings,
    )


def moved(model: Any, by: float = 0.2) -> Any:
    """As after a training: every trained parameter is elsewhere, so that adapters and heads do something."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))
    return model
