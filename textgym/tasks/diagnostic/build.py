"""Construction of diagnostic tasks from words, a Markov chain and a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from textgym.prompts import encode_prompts
from textgym.rewards.builtin import no_reward
from textgym.tasks.diagnostic.model import markov_gpt2
from textgym.tasks.task import Task
from textgym.types import FloatArray, RewardFunction
from textgym.worlds.glue import Glue
from textgym.worlds.world import World

ResponseScore: TypeAlias = Callable[[list[int], Mapping[str, Any]], "float | list[float]"]
"""``score(response_ids, columns)``: the score of one response; a list has one number per token."""

PAD = "<pad>"
CONTEXT = 32
"""Positions of the reference: more than most tasks need, for your own prompts and horizons."""


def diagnostic(
    name: str,
    description: str,
    gold: ResponseScore | None = None,
    *,
    words: Sequence[str],
    horizon: int,
    beta: float,
    chances: FloatArray,
    prompts: Sequence[str | Mapping[str, Any]] = ("go",),
    held_out: Sequence[str | Mapping[str, Any]] = (),
    end: str | None = None,
    reward: RewardFunction | None = None,
    world: World | None = None,
    replies: Sequence[str] = (),
    turn_end: str | None = None,
    turn_tokens: int | None = None,
    weights_seed: int = 0,
) -> Task:
    """Make a diagnostic task.

    Args:
        name: the name in its id.
        description: one sentence: the task, and its difficulty.
        gold: the true score, in [0, 1]; None if the world pays everything.
        words: the V actions, in the order of their ids; other words of the prompts are no actions.
        horizon: ``T``.
        beta: the KL coefficient at which the task is scored.
        chances: the reference: ``[V]`` probabilities of the next word, or ``[V, V]`` given the last one (after a word
            that is no action, the first row).
        prompts: texts, or rows with a field ``prompt``.
        held_out: likewise, for a split ``test``; without any there is none.
        end: the word that ends a response, if any.
        reward: the reward of environments, if it is not the gold score.
        world: the other side, if there are turns; nothing stands around its replies.
        replies: the words of its replies that are in no prompt and are no actions.
        turn_end: the word that ends a turn, if any.
        turn_tokens: greatest number of tokens in a turn.
        weights_seed: seed of the reference's embeddings and weights.
    """
    rows = {"train": prompts, "test": held_out} if held_out else {"train": prompts}
    texts = [row if isinstance(row, str) else str(row["prompt"]) for split in rows.values() for row in split]
    others = sorted({word for text in [*texts, *replies] for word in text.split()} - set(words))
    tokenizer = word_tokenizer([*words, *others, PAD], end)
    longest = max(len(text.split()) for text in texts)
    paid_by_world: Any = no_reward
    return Task(
        name=name,
        description=description,
        tokenizer=tokenizer,
        splits={split: encode_prompts(given, tokenizer, longest) for split, given in rows.items()},
        gold=paid_by_world if gold is None else ResponseReward("gold", gold),
        end_token_ids=_id_of(end, words),
        max_prompt_length=longest,
        max_new_tokens=horizon,
        base_model=partial(markov_gpt2, chain(chances, len(tokenizer)), max(CONTEXT, longest + horizon), weights_seed),
        reward=reward,
        vocabulary_size=len(words),
        beta=beta,
        world=world,
        turn_end_ids=_id_of(turn_end, words),
        max_turn_tokens=turn_tokens,
        glue=None if world is None else Glue(),
    )


def _id_of(word: str | None, words: Sequence[str]) -> tuple[int, ...]:
    return () if word is None else (words.index(word),)


def word_tokenizer(words: Sequence[str], end: str | None) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token per word; ids are the words' indices."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=PAD))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, eos_token=end, padding_side="left", clean_up_tokenization_spaces=False
    )


def chain(chances: FloatArray, n_tokens: int) -> FloatArray:
    """Return ``[n_tokens, V]`` log-probabilities after each token, from the ``chances`` of :func:`diagnostic`."""
    n_actions = chances.shape[-1]
    rows = np.broadcast_to(chances, (n_actions, n_actions))
    # Tokens that are no actions occur in prompts only; after them the chain starts from its first row.
    after_others = np.broadcast_to(rows[:1], (n_tokens - n_actions, n_actions))
    log_probs: FloatArray = np.log(np.concatenate([rows, after_others]))
    return log_probs


@dataclass(frozen=True)
class ResponseReward:
    """Adapter from a score of one response to the signature of a reward.

    Attributes:
        name: the name in logs.
        score: the score; an object or a module-level function, so that environments can be pickled.
    """

    name: str
    score: ResponseScore

    def __call__(
        self, prompts: list[Any], completions: list[Any], *, completion_ids: list[list[int]], **columns: list[Any]
    ) -> list[Any]:
        """Return one score for each completion."""
        rows = ({key: values[i] for key, values in columns.items()} for i in range(len(completion_ids)))
        return [self.score(ids, row) for ids, row in zip(completion_ids, rows, strict=True)]


def uniform(n: int) -> FloatArray:
    """Return ``[n]`` equal probabilities."""
    return np.full(n, 1 / n)


def letters(n: int) -> list[str]:
    """Return ``n`` short words: a, b, … for up to 26, otherwise w0, w1, and so on."""
    return list("abcdefghijklmnopqrstuvwxyz"[:n]) if n <= 26 else [f"w{i}" for i in range(n)]


def check(holds: bool, name: str, got: object, expected: str) -> None:
    """Raise ValueError about a parameter of a task, unless ``holds``."""
    if not holds:
        raise ValueError(f"{name}={got}; expected {expected}")
