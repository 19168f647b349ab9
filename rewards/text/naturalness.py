"""Naturalness: the probability of a completion under a fixed language model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from textgym.numbers import check, count
from textgym.rewards.text.needs import choice
from textgym.types import Messages, Prompt, before_last_turn

if TYPE_CHECKING:  # these cost seconds to import, which a list of rewards need not wait for
    from transformers import PreTrainedTokenizerBase

    from textgym.lm.trunk import Trunk

TooLong: TypeAlias = Literal["error", "truncate"]


@dataclass(frozen=True)
class Reader:
    """A fixed model, opened: its tokenizer, and its parts that compute log-probabilities."""

    tokenizer: PreTrainedTokenizerBase
    trunk: Trunk
    vocabulary_size: int
    limit: int | None
    """Greatest number of tokens that the model accepts; None for no limit."""

    @classmethod
    def open(cls, directory: Path) -> Reader:
        """Load a causal language model and its tokenizer, on an accelerator if there is one.

        Raises:
            ValueError: they cannot be loaded, or the model is an encoder–decoder.
        """
        import torch

        from textgym.lm.files.loading import context_length, embedding_rows, load_causal_lm
        from textgym.lm.trunk import Trunk
        from textgym.tokenization import load_tokenizer

        device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        tokenizer = load_tokenizer(directory)
        model = load_causal_lm(directory, device)
        return cls(tokenizer, Trunk(model), embedding_rows(model), context_length(model))

    def first_tokens(self, content: str | Messages) -> list[int]:
        """Encode what stands before a completion; a start token where that is nothing.

        Raises:
            ValueError: there is nothing, and the tokenizer has no start token.
        """
        from textgym.tokenization import encode_content

        ids = encode_content(self.tokenizer, content) if content else []
        if ids:
            return ids
        starts = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        start = next((one for one in starts if isinstance(one, int)), None)
        if start is None:
            raise ValueError(
                "naturalness needs a token before the completion, but there is no prompt to read and the model's "
                "tokenizer has neither a start nor an end token; expected one of them"
            )
        return [start]

    def log_probs(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Return the sum of the log-probabilities of each row's second part, given its first; no part is empty."""
        import torch

        from textgym.lm.behaviour import Behaviour

        # The layout of episodes: first parts end in one column, second parts begin in the next.
        before, after = (max(len(row[part]) for row in rows) for part in (0, 1))
        ids = torch.zeros(len(rows), before + after, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, (first, second) in enumerate(rows):
            columns = slice(before - len(first), before + len(second))
            ids[i, columns] = torch.tensor([*first, *second])
            mask[i, columns] = 1
        ids, mask = ids.to(self.trunk.model.device), mask.to(self.trunk.model.device)
        own = mask[:, before:].bool()
        with torch.no_grad():
            states = self.trunk.hidden_states(ids, mask, before)[:, :-1]
            scores = Behaviour(self.vocabulary_size).score(self.trunk.head, states, ids[:, before:], own)
        return [float(total) for total in scores.log_probs.double().sum(1)]


@dataclass(frozen=True)
class Naturalness:
    """Mean log-probability of the completion's tokens under a fixed language model: minus its log-perplexity.

    ``(1/n) Σ log p(token t | prompt, tokens before t)`` in nats, at most 0, over the n tokens that the fixed model's
    own tokenizer makes of the completion's text; the end of the text is not a token of it. With ``alone`` the prompt is
    left out, and the first token follows the start token. Of a conversation the last message is scored, after all
    before it. An empty completion scores ``−log V``, as a model that knows nothing of its V tokens would score any.

    High scores are no guarantee of good text: repetitions are very probable.

    Source: perplexity, Jelinek et al. 1977.
    """

    model: Path
    """Directory of a causal language model with its tokenizer, or an id on the hub."""
    alone: bool = False
    """Score the completion without its prompt."""
    too_long: TooLong = "error"
    """Treatment of texts beyond the model's context: an error, or tokens dropped from the left, with a warning."""
    batch_size: int = 16
    """Texts in one forward pass."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", Path(self.model))
        choice("too_long", self.too_long, TooLong)
        check(self, count, "batch_size")

    @property
    def name(self) -> str:
        return "naturalness"

    @cached_property
    def reader(self) -> Reader:
        """The model, loaded when it is first needed."""
        return Reader.open(self.model)

    @cached_property
    def _same_tokenizer(self) -> bool:
        return False  # set by bind

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> Naturalness:
        """Load the model, and return a copy of this reward for a policy with the given tokenizer."""
        bound = replace(self)
        vars(bound)["reader"] = self.reader
        vars(bound)["_same_tokenizer"] = tokenizer.get_vocab() == self.reader.tokenizer.get_vocab()
        return bound

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check before training that the task's texts fit into the model's context.

        With the policy's own tokenizer the check covers the longest prompt plus ``max_new_tokens``. Otherwise the
        length of a response in the model's tokens is unknown, and only the longest prompt is checked.

        Raises:
            ValueError: a text would not fit; never raised with ``too_long="truncate"``.
        """
        limit = self.reader.limit
        if limit is None or self.too_long == "truncate":
            return
        longest = max(prompts, key=lambda prompt: len(prompt.ids) if self._same_tokenizer else len(prompt.text))
        n_before = len(self.reader.first_tokens("" if self.alone else longest.content))
        n_response = max_new_tokens if self._same_tokenizer else 1
        if n_before + n_response > limit:
            raise ValueError(
                f"the model of {self.name!r} reads at most {limit} tokens, but this task can produce "
                f"{n_before + n_response}: {n_before} before the response and {n_response} of it; shorten them, or "
                "choose too_long=truncate"
            )

    def __call__(self, prompts: Sequence[str | Messages], completions: Sequence[Any], **_: Any) -> list[float]:
        """Score ``N`` completions.

        Raises:
            ValueError: a text is too long, or there is no token to begin with.
        """
        rows = [self._row(*pair) for pair in zip(prompts, completions, strict=True)]
        scores = [-math.log(self.reader.vocabulary_size)] * len(rows)
        # Texts of similar length together waste little computation on padding.
        order = sorted((i for i, row in enumerate(rows) if row[1]), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            for i, total in zip(places, self.reader.log_probs([rows[i] for i in places]), strict=True):
                scores[i] = total / len(rows[i][1])
        return scores

    def _row(self, prompt: str | Messages, completion: Any) -> tuple[list[int], list[int]]:
        """Encode what is read first and what is scored, cut to the model's context."""
        from textgym.tokenization import encode_reply

        content, text = before_last_turn(prompt, completion)
        content = "" if self.alone else content
        first = self.reader.first_tokens(content)
        second = list(encode_reply(self.reader.tokenizer, content, text)) if text else []
        n, limit = len(first) + len(second), self.reader.limit
        if limit is None or n <= limit:
            return first, second
        too_long = f"prompt and completion have {n} tokens, the model of {self.name!r} reads at most {limit}"
        if self.too_long == "error":
            raise ValueError(f"{too_long}; shorten them, or choose too_long=truncate")
        warnings.warn(f"{too_long}: dropped {n - limit} from the left", stacklevel=3)
        kept = [*first, *second][-limit:]
        n_scored = min(len(second), limit - 1)  # the first token that is left has nothing before it
        return kept[: limit - n_scored], kept[limit - n_scored :]
