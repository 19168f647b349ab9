"""Compare a model in textgym with plain transformers calls: one unpadded row at a time, without a cache."""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gymnasium.vector import AutoresetMode
from stable_baselines3.common.logger import KVWriter, Logger
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from scripts.model_table.play import (
    P,
    T,
    acting_log_probs,
    episodes,
    greedy_acting,
    greedy_generate,
    greedy_plain,
    greedy_uncached,
    of_tokens,
    prefix_log_probs,
    training_log_probs,
    whole_log_probs,
    with_padding_token,
)
from scripts.model_table.tiny import BOS, EOS, PAD, VOCABULARY
from textgym.agents import PPO
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.lm.agreement import SlowActingWarning
from textgym.prompts import encode_prompts

NOISE = 1e-3
"""Log-probabilities in float32 that differ by no more than this are equal; rounding gives 1e-4 at most."""

ENDS = tuple(range(EOS, EOS + 32))
"""Tokens that end a response in training: many, so that rows begin anew at different times."""

RIGHT, SLOWER, REFUSED, WRONG, CRASH, NOT_BUILT = (
    *("right", "right, without a cache", "refused", "SILENTLY WRONG", "crash", "not built"),
)
GREEDY = 16
"""Tokens that are compared."""


def measure(model: PreTrainedModel) -> dict[str, Any]:
    """Compare a model's computations, then train it.

    Returns:
        Largest differences to plain passes over every prefix, in nats: ``whole`` of plain passes over whole episodes,
        ``acting``, ``training``; ``gap`` between acting and training; ``padding`` of both where the padding token is
        among the words. ``greedy``, ``generate`` and ``generate_uncached``: whether the tokens of acting and of
        transformers' ``generate``, with its cache and without, are those of plain passes. ``ratio_error`` and ``kl``
        of the first iteration. ``slow``: why it acts without a cache; ``warnings``: the others. ``NAME_error`` where
        something raised.
    """
    found: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        attempt("plain", found, lambda: _measure(model, found))
    slow = [str(one.message).partition(": ")[2] for one in told if one.category is SlowActingWarning]
    others = {f"{one.category.__name__}: {one.message}" for one in told if one.category is not SlowActingWarning}
    return found | ({"slow": slow[0]} if slow else {}) | {"warnings": sorted(others)}


def _measure(model: PreTrainedModel, found: dict[str, Any]) -> None:
    played = episodes()
    right = [prefix_log_probs(model, one) for one in played]
    found["spread"] = float(sum(one.std(-1).mean() for one in right) / len(right))
    found["whole"] = _largest([whole_log_probs(model, one) for one in played], right)
    found |= attempt("acting", found, lambda: _compare(model, played, right)) or {}
    padded = with_padding_token(played)
    truth = [prefix_log_probs(model, one) for one in padded]
    found["padding"] = attempt("padding", found, lambda: max(_compare(model, padded, truth).values()))
    prompt = played[2].prompt
    plain = greedy_plain(model, prompt, GREEDY)
    greedy = {"greedy": greedy_acting, "generate": greedy_generate, "generate_uncached": greedy_uncached}
    for name, write in greedy.items():
        tokens = attempt(name, found, partial(write, model, prompt, GREEDY))
        found[name] = tokens is not None and _same(tokens, *plain)
    found |= attempt("learn", found, lambda: learn(model)) or {}


def _compare(model: PreTrainedModel, played: list[Any], right: list[Tensor]) -> dict[str, float]:
    training, acting = training_log_probs(model, played), acting_log_probs(model, played)
    tokens, acted = ([of_tokens(*pair) for pair in zip(full, played, strict=True)] for full in (right, acting))
    return {
        "acting": _largest(acting, right),
        "training": _largest(training, tokens),
        "gap": _largest(acted, training),
    }


def _largest(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    pairs = zip(some, others, strict=True)
    return max(float((a - b).abs().nan_to_num(nan=math.inf).max()) for a, b in pairs)


def _same(tokens: list[int], plain: list[int], leads: list[float]) -> bool:
    """Return True if the tokens are the plain ones, up to the first choice between equals."""
    different = [t for t, (ours, right) in enumerate(zip(tokens, plain, strict=True)) if ours != right]
    return not different or leads[different[0]] < NOISE


def attempt(name: str, found: dict[str, Any], what: Callable[[], Any]) -> Any:
    """Return what a function does, or None after noting in ``found`` what it raised."""
    try:
        return what()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        ours = "site-packages" not in where and any(f"/{part}/" in where for part in ("textgym", "agents"))
        found[f"{name}_error"] = {
            "message": f"{type(error).__name__}: {' '.join(str(error).split())}",
            "in_words": ours and isinstance(error, ValueError | TypeError | NotImplementedError),
        }
        return None


# --- training --------------------------------------------------------------------------------------------------------


def learn(model: PreTrainedModel) -> dict[str, float]:
    """Train one iteration of PPO.

    Returns:
        The first minibatch's ratio error, and the KL to the model before it was trained, which is the policy still.
    """
    settings: dict[str, Any] = {"episodes_per_iteration": 8, "minibatch_size": 8, "n_epochs": 1, "device": "cpu"}
    algorithm = PPO(env=task(), model=model, learning_rate=1e-3, seed=0, **settings)
    rows = _Rows()
    algorithm.set_logger(Logger(None, [rows]))
    algorithm.learn(64)
    first = rows.rows[0]
    return {"ratio_error": float(first["train/first_minibatch_ratio_error"]), "kl": float(first["rollout/kl"])}


class _Rows(KVWriter):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


def task(n_rows: int = 4) -> TokenVectorEnv:
    """Build prompts of two lengths, in fewer rows than an iteration has episodes; even tokens are rewarded."""

    def even(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(i % 2 == 0 for i in ids) / max(len(ids), 1) for ids in completion_ids]

    tokenizer = word_tokenizer()
    mdp = TokenMDP(
        tokenizer=tokenizer,
        prompts=encode_prompts(("w5 w80 w11 w200 w7 w7", "w9 w300"), tokenizer, P),
        reward=even,
        end_token_ids=ENDS,
        max_prompt_length=P,
        max_new_tokens=T,
    )
    return TokenVectorEnv(mdp, n_rows, AutoresetMode.DISABLED)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer of words ``w3 … w511``, whose ids are their numbers."""
    vocabulary = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS, **{f"w{i}": i for i in range(EOS + 1, VOCABULARY)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


# --- verdict ---------------------------------------------------------------------------------------------------------


def verdict(found: dict[str, Any]) -> str:
    """Return the verdict on a configuration, from the result of :func:`measure`."""
    if "plain_error" in found or "build_error" in found:
        return NOT_BUILT
    if "learn_error" in found:
        return REFUSED if found["learn_error"]["in_words"] else CRASH
    if any(f"{name}_error" in found for name in ("acting", "padding", "greedy")):
        return CRASH
    differences = [found[name] for name in ("acting", "training", "gap", "padding", "ratio_error", "kl")]
    if not found["greedy"] or not all(abs(value) < NOISE for value in differences):
        return WRONG
    return SLOWER if "slow" in found else RIGHT
