"""Tiny random instances of the language models in transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig, PreTrainedModel

VOCABULARY = 512
PAD, BOS, EOS = 0, 1, 2
WINDOW = 8
"""Sliding windows, chunks and blocks, in tokens: shorter than the width that is played."""

LAYERS = 3
MOST_PARAMETERS = 6_000_000

SIZES = {
    r"pad_token_id": PAD,
    r"bos_token_id": BOS,
    r"eos_token_id": EOS,
    r"(|src_|tgt_|decoder_|unpadded_)vocab_size(|_per_layer_input)": VOCABULARY,
    r"(.*_)?(hidden_size|d_model|n_embd|emb_dim|embedding_dim|embedding_size|lru_width|embed_proj_dim|embed_dim)": 32,
    r"hidden_size_per_layer_input|lambda_dim": 8,
    r"moe_.*intermediate_size|(shared|expert).*(intermediate|hidden)_size|moe_latent_size": 32,
    r"(.*_)?(intermediate_size(_mlp)?|ffn_dim|d_ff|dim_ff|dff|d_inner|n_inner|ffn_hidden_size|feed_forward_size)": 64,
    r"mamba_d_ssm|prompt_mid_dim|adapter_dim": 64,
    r"(.*_)?(key_value_heads|num_kv_heads|linear_num_key_heads)": 2,
    r"index_n_heads": 16,
    r"(.*_)?(attention_heads|n_heads?|num_heads|value_heads|query_groups|mamba_heads)": 4,
    r"qk_head_dim|mamba_d_head|mamba_head_dim|mamba_headdim": 16,
    r"(.*_)?(head_dim|d_kv|dim_head|d_head|attention_head_size|kv_channels)": 8,
    r"(.*_)?(lora_rank|lowrank|adapter_rank|laurel_rank|norm_rank|gate_rank)": 16,
    r"max_(.*_)?position_embeddings|n_positions|n_ctx|max_seq_len|max_(target|source)_positions|context_length": 128,
    r"model_max_length|position_bias_max_distance": 128,
    r"num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_centroids": 4,
    r"num_experts_per_tok(en)?|moe_topk|moe_k|top_k_experts|centroid_intermediate_top_k": 2,
    r"n_shared_experts|(moe_)?num_shared_experts|zero_expert_num|n_group|topk_group|num_expert_group": 1,
    r"first_k_dense_replace|num_dense_layers|moe_layer_start_index|(mamba_)?n_?groups|.*sparse_step": 1,
    r"(.*_)?(sliding_window|window_size|sliding_window_size|attention_window|local_radius|local_attention)": WINDOW,
    r"(attention_|mamba_)?chunk_size|(index_)?block_size|index_topk|keep_window_size": WINDOW,
    r"(.*_)?(state_size|d_state|time_step_rank|dt_rank)": 8,
    r"rotary_dim": 4,
    r"(num|n|encoder|decoder|num_encoder|num_decoder|num_hidden)_layers?|num_blocks": LAYERS,
}
"""Values of integer fields, by patterns of the names that configs give them; the first that fits."""


def build(model_type: str, cls: str, seed: int = 0, **fields: Any) -> PreTrainedModel:
    """Build a tiny random instance of an architecture.

    Args:
        model_type: a key of ``CONFIG_MAPPING``.
        cls: the name of its class in transformers.
        seed: of the weights.
        **fields: config fields that have these values instead of small ones.

    Raises:
        ValueError: the config does not shrink enough.
    """
    return tiny_model(small_config(model_type, **fields), getattr(transformers, cls), seed)


def small_config(model_type: str, **given: Any) -> PreTrainedConfig:
    """Shrink an architecture's default config.

    Args:
        model_type: a key of ``CONFIG_MAPPING``.
        **given: fields that have these values instead; those of a nested config as a dictionary.
    """
    return CONFIG_MAPPING[model_type](**_small(CONFIG_MAPPING[model_type](), given))


def _small(config: PreTrainedConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    default = {name: value for name, value in vars(config).items() if name not in _INHERITED}
    nested = {name: value for name, value in default.items() if isinstance(value, PreTrainedConfig)}
    plain = {name: value for name, value in default.items() if name not in nested}
    fields = {name: _size(name, value) for name, value in plain.items() if _size(name, value) != value}
    fields |= _fewer_layers(config, default)
    if "kv_lora_rank" in default:  # latent attention has as many keys as queries
        fields["num_key_value_heads"] = fields["num_attention_heads"]
    for name, value in nested.items():
        fields[name] = {**_small(value, given.get(name, {})), "model_type": value.model_type}
    if "decoder_start_token_id" in default:
        fields["decoder_start_token_id"] = _start(default)
    return fields | {name: value for name, value in given.items() if name not in nested}


def _start(default: Mapping[str, Any]) -> int:
    """Find the special token that begins a response by default, under its new id."""
    start = default["decoder_start_token_id"]
    return next((new for name, new in _SPECIAL.items() if start == default.get(name)), EOS)


_SPECIAL = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_INHERITED = set(vars(PreTrainedConfig())) - _SPECIAL.keys()


def _size(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not (isinstance(value, int) or _is_unset(name, value) or _is_list(name, value)):
        return value
    for pattern, size in SIZES.items():
        if re.fullmatch(pattern, name):
            return size
    return value


def _is_unset(name: str, value: Any) -> bool:
    return value is None and re.fullmatch(r".*_token_id|head_dim|num_key_value_heads", name) is not None


def _is_list(name: str, value: Any) -> bool:
    """Return True for a list of sizes: several end tokens, or a window for each layer."""
    return isinstance(value, list) and name in ("eos_token_id", "attention_window")


def _fewer_layers(config: PreTrainedConfig, default: Mapping[str, Any]) -> dict[str, Any]:
    """Choose layers of every kind, where a config lists the kind of each."""
    depth = getattr(config, "num_hidden_layers", None) or 0
    every = {name: list(value) for name, value in default.items() if isinstance(value, list | tuple)}
    lists = {name: value for name, value in every.items() if len(value) == depth > LAYERS}
    numbers = [name for name, value in lists.items() if value == list(range(depth))]  # these name layers
    if not lists:
        return {}
    kinds = [[repr(value[i]) for name, value in lists.items() if name not in numbers] for i in range(depth)]
    chosen = {kinds.index(kind) for kind in kinds}
    chosen |= set([i for i in range(depth) if i not in chosen][: max(LAYERS - len(chosen), 0)])
    return {
        **{name: [value[i] for i in sorted(chosen)] for name, value in lists.items()},
        **{name: list(range(len(chosen))) for name in numbers},
        **{name: len(chosen) for name in ("num_hidden_layers", "n_layer") if name in default},
    }


def tiny_model(config: PreTrainedConfig, cls: Any, seed: int = 0) -> PreTrainedModel:
    """Build a seeded model in eval mode, whose logits spread by several units.

    Transformers' own initialisation (deviation 0.02) is so flat that wrong positions hardly show.

    Raises:
        ValueError: the config is not small.
    """
    if not isinstance(config, cls.config_class):
        config = config.get_text_config()
    make = cls._from_config
    with torch.device("meta"):
        count = sum(p.numel() for p in make(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"{count:,} parameters")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = make(config).float().eval()
        with torch.no_grad():
            _spread(model)
    model.generation_config = GenerationConfig(
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=_begins(config)
    )
    return model


def _begins(config: PreTrainedConfig) -> int | None:
    """Find the token that begins a response, which T5Gemma and EncoderDecoderModel do not name."""
    named = getattr(config, "decoder_start_token_id", None)
    return BOS if named is None and config.is_encoder_decoder else named


def _spread(model: PreTrainedModel) -> None:
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    head = model.get_output_embeddings()
    embeddings |= {id(p) for p in head.parameters()} if isinstance(head, nn.Module) else set()
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.dim() > 1:
            scale = 0.5 if id(parameter) in embeddings else parameter.shape[-1] ** -0.5
            parameter.copy_(scale * torch.randn_like(parameter))
        elif name.endswith("bias"):
            parameter.copy_(0.1 * torch.randn_like(parameter))
    found = float(_some_logits(model).std(-1).mean())
    for parameter in (p for p in model.parameters() if id(p) in embeddings):
        parameter.mul_(min(max(2 / found, 1), 3))


def _some_logits(model: PreTrainedModel) -> Tensor:
    ids = torch.randint(EOS + 1, VOCABULARY, (1, 16))
    read = {"input_ids": ids, "decoder_input_ids": ids} if model.config.is_encoder_decoder else {"input_ids": ids}
    logits: Tensor = model(**read).logits
    return logits
