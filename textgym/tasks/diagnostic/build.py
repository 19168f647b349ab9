"""From a few words, a chain and a score to a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from textgym.prompts import encode_prompts
from textgym.tasks.diagnostic.model import markov_gpt2
from textgym.tasks.task import Task
from textgym.types import FloatArray, RewardFunction

ResponseScore: TypeAlias = Callable[[list[int], Mapping[str, Any]], "float | list[float]"]
"""``score(response_ids, columns)``: of one response; a list has one number per token."""

PAD = "<pad>"
CONTEXT = 32
"""Positions of the reference, beyond what most tasks need: room for prompts and horizons of one's own."""


def diagnostic(
    name: str,
    description: str,
    gold: ResponseScore,
    *,
    words: Sequence[str],
    horizon: int,
    beta: float,
    chances: FloatArray,
    prompts: Sequence[str | Mapping[str, Any]] = ("go",),
    end: str | None = None,
    reward: RewardFunction | None = None,
) -> Task:
    """Return a diagnostic task.

    Args:
        name: as in its id.
        description: one sentence: what is asked, and what is hard about it.
        gold: the true score, in [0, 1].
        words: the V actions, in the order of their ids; further words of the prompts are no actions.
        horizon: ``T``.
        beta: the price of a nat at which it is scored.
        chances: the reference: ``[V]`` probabilities of the next word, or ``[V, V]`` given the last one (after a
            word that is no action, the first row).
        prompts: texts, or rows with a field ``prompt``.
        end: the word that ends a response, if one does.
        reward: what is paid, where that is not the gold score.
    """
    texts = [row if isinstance(row, str) else str(row["prompt"]) for row in prompts]
    others = sorted({word for text in texts for word in text.split()} - set(words))
    tokenizer = word_tokenizer([*words, *others, PAD], end)
    longest = max(len(text.split()) for text in texts)
    encoded = encode_prompts(prompts, tokenizer, longest)
    return Task(
        name=name,
        description=description,
        tokenizer=tokenizer,
        splits={"train": encoded},
        gold=ResponseReward("gold", gold),
        end_token_ids=() if end is None else (list(words).index(end),),
        max_prompt_length=longest,
        max_new_tokens=horizon,
        base_model=partial(markov_gpt2, chain(chances, len(tokenizer)), max(CONTEXT, longest + horizon)),
        reward=reward,
        vocabulary_size=len(words),
        beta=beta,
    )


def word_tokenizer(words: Sequence[str], end: str | None) -> PreTrainedTokenizerFast:
    """Every word is a token, with its place as id."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=PAD))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=end, padding_side="left", clean_up_tokenization_spaces=False
    )


def chain(chances: FloatArray, n_tokens: int) -> FloatArray:
    """``[n_tokens, V]`` log-probabilities after each token, from those of :func:`diagnostic`."""
    n_actions = chances.shape[-1]
    rows = np.broadcast_to(chances, (n_actions, n_actions))
    after_others = np.broadcast_to(rows[:1], (n_tokens - n_actions, n_actions))
    log_probs: FloatArray = np.log(np.concatenate([rows, after_others]))
    return log_probs


@dataclass(frozen=True)
class ResponseReward:
    """A score of one response, under the signature of a reward.

    Attributes:
        name: what it is logged as.
        score: of one response; an object or a function of a module, so that environments can be pickled.
    """

    name: str
    score: ResponseScore

    def __call__(
        self, prompts: list[Any], completions: list[Any], *, completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Any]:
        """One score for each completion."""
        rows = ({key: values[i] for key, values in columns.items()} for i in range(len(completion_ids)))
        return [self.score(ids, row) for ids, row in zip(completion_ids, rows, strict=True)]


def uniform(n: int) -> FloatArray:
    """``[n]`` equal chances."""
    return np.full(n, 1 / n)


def letters(n: int) -> list[str]:
    """``n`` short words: a, b, … for up to 26, else w0, w1, …"""
    return list("abcdefghijklmnopqrstuvwxyz"[:n]) if n <= 26 else [f"w{i}" for i in range(n)]
