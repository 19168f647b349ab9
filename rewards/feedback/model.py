"""TAMER's Ĥ(s, a), a model of a person's feedback on each token, as a dense reward.

Ĥ is a reward model (``AutoModelForSequenceClassification`` with one output) that is read at every token instead of at
the last one: the score at a token, which has seen the prompt, the tokens before it and itself, is Ĥ of choosing it
there. Deep TAMER has a head with one output for each action instead. For tokens that head would begin without any
knowledge of them, and learn a row for each from the few that people ever comment on; a head with one output shares what
it learned between tokens of similar states, and its directories are reward models like all others. The price is paid by
greedy acting, which needs a pass for each candidate token: see :class:`textgym.agents.GreedyIn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from textgym.rewards.models.ensemble import CHECKPOINT
from textgym.rewards.models.last_token import read_every_score
from textgym.rewards.models.model import READS_FEEDBACK, RewardModel
from textgym.tokenization import special_ids
from textgym.types import Messages, Prompt

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class FeedbackModel:
    """Dense reward that pays each token the feedback that a person is expected to give on it: Ĥ(s_t, a_t).

    Sums of Ĥ grow with the number of texts that are liked: TAMER itself acts greedily in Ĥ and looks no further ahead.
    A text that was shown as one, such as a word, is paid once, in equal parts at its tokens.

    Attributes:
        model: the reward model that is read at every token.
        name: the name in logs.

    Source: Knox and Stone 2009 (K-CAP); Warnell 2018, Deep TAMER (arXiv 1709.10163).
    """

    model: RewardModel
    name: str = "tamer"
    single_turn: ClassVar[bool] = True

    @classmethod
    def load(cls, directory: str | Path, **settings: Any) -> FeedbackModel:
        """Open a saved model of feedback, or the run that trained it.

        Args:
            directory: its directory.
            **settings: ``device``, ``dtype``, ``batch_size``; see :meth:`textgym.rewards.RewardModel.load`.

        Raises:
            FileNotFoundError: nothing can be loaded from ``directory``.
            ValueError: it is a reward model of whole texts.
        """
        checkpoint = Path(directory) / CHECKPOINT
        model = RewardModel.load(checkpoint if checkpoint.is_dir() else directory, **settings)
        if not hasattr(model.model.config, READS_FEEDBACK):
            raise ValueError(
                f"{str(directory)!r} is a reward model of whole texts, and its score at other tokens has no meaning; "
                f"use it as rm:{directory}"
            )
        return cls(model)

    @property
    def knows_ends(self) -> bool:
        """True if people were shown that a response had ended; otherwise Ĥ of an end token is 0."""
        return bool(getattr(self.model.model.config, READS_FEEDBACK, False))

    def save(self, directory: str | Path) -> None:
        """Write a directory; see :meth:`textgym.rewards.RewardModel.save`."""
        self.model.save(directory)

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> FeedbackModel:
        """Return a copy for a policy with the given tokenizer.

        Raises:
            ValueError: it is not the tokenizer of this model, whose tokens are those that are judged.
        """
        bound = self.model.bind(tokenizer)
        if not bound.same_tokenizer:
            raise ValueError(
                f"{self.name} scores tokens, and the policy has another tokenizer ({len(tokenizer)} tokens, "
                f"expected the {len(self.model.tokenizer)} of the model of feedback); train it from the policy's model"
            )
        return replace(self, model=bound)

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check that the longest prompt with ``max_new_tokens`` fits into the model's context; no end token is added.

        Raises:
            ValueError: it does not fit.
        """
        limit, longest = self.model.limit, max(len(prompt.ids) for prompt in prompts)
        if limit is not None and longest + max_new_tokens > limit:
            raise ValueError(
                f"{self.name} reads at most {limit} tokens, but this task can produce {longest + max_new_tokens}: a "
                f"prompt of {longest} and a response of {max_new_tokens}; shorten one of them"
            )

    def __call__(
        self,
        prompts: list[str | Messages],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        prompt_ids: list[list[int]],
        finish_reason: list[str | None] | None = None,
        **_: Any,
    ) -> list[list[float]]:
        """Return for each of ``N`` completions one number for each token.

        A special token that ended a response is read as the model's own end; ``finish_reason`` is ``"length"`` for a
        response that was cut off, whose last token is like all others. Without this column all have ended.
        """
        special = special_ids(self.model.tokenizer)
        reasons = [None] * len(prompts) if finish_reason is None else finish_reason
        ends = [
            reason != "length" and ids[-1:] != [] and ids[-1] in special
            for reason, ids in zip(reasons, completion_ids, strict=True)
        ]
        rows = zip(prompts, prompt_ids, completion_ids, ends, strict=True)
        scores = self.predict([self._read(prompt, [*before, *ids], end) for prompt, before, ids, end in rows])
        found = []
        for before, ids, own, end in zip(prompt_ids, completion_ids, scores, ends, strict=True):
            paid = own[len(before) : len(before) + len(ids)]
            if end and not self.knows_ends:
                paid[-1] = 0.0
            found.append(paid)
        return found

    def predict(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Return Ĥ of every token of ``N`` sequences; at a prompt's tokens it has no meaning.

        Raises:
            ValueError: a sequence is empty, or longer than the model reads.
        """
        longest, limit = max(map(len, sequences), default=0), self.model.limit
        if limit is not None and longest > limit:
            raise ValueError(f"prompt and response have {longest} tokens, {self.name} reads at most {limit}")
        # Batching sequences of similar length wastes little computation on padding.
        order, size = sorted(range(len(sequences)), key=lambda i: len(sequences[i])), self.model.batch_size
        found: list[list[float]] = [[] for _ in sequences]
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            with torch.no_grad():
                scores = read_every_score(self.model.model, [sequences[i] for i in rows])
            for i, own in zip(rows, scores, strict=True):
                found[i] = own.tolist()
        return found

    def judge(
        self,
        prompts: Sequence[str | Messages],
        begun: Sequence[Sequence[int]],
        candidates: Sequence[Sequence[int]],
        end_token_ids: Sequence[int],
    ) -> list[list[float]]:
        """Return what the reward pays for each candidate for the next token, in one pass of the model for each.

        Args:
            prompts: ``N`` prompts.
            begun: ``N`` lists of the tokens up to now, the prompt's included.
            candidates: ``N`` lists of tokens.
            end_token_ids: tokens that end a response.
        """
        ends = special_ids(self.model.tokenizer).intersection(end_token_ids)
        rows = zip(prompts, begun, candidates, strict=True)
        scores = iter(
            self.predict([self._read(p, [*ids, token], token in ends) for p, ids, own in rows for token in own])
        )
        judged = [[next(scores)[-1] for _ in own] for own in candidates]
        unknown = set() if self.knows_ends else ends
        return [
            [0.0 if token in unknown else value for token, value in zip(own, values, strict=True)]
            for own, values in zip(candidates, judged, strict=True)
        ]

    def _read(self, prompt: str | Messages, ids: list[int], ended: bool) -> list[int]:
        """Return prompt and response as the model learned to read them: another special end token is its own."""
        return self.model.closed(ids, prompt) if ended else ids
