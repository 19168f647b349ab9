"""Learned reward: any ``AutoModelForSequenceClassification(num_labels=1)`` directory.

Everywhere in this package a reward model reads the prompt, the completion and, if the text ended (rather than being cut
at the length limit), the end token of the model's own tokenizer; in a conversation, the token that ends the assistant's
turn in its chat template. The score is taken at the position where transformers takes it for a single sequence: the
last token that is not ``config.pad_token_id``. In models made here PAD is never the end token, so that position is the
end token. A model from elsewhere whose PAD *is* its end token was trained with the score just before it, and is read
there.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from textgym.files import replaced_directory
from textgym.lm.files.bars import without_bars
from textgym.numbers import check, count
from textgym.rewards.models.last_token import linear_head, longest_readable, read_logits
from textgym.rewards.models.opening import open_classifier
from textgym.tokenization import encode_content, reply_end_id, special_ids
from textgym.types import Messages, Prompt, SpecialTokens, before_last_turn

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OFFSET_KEY = "textgym_reward_offset"
SPECIAL_TOKENS_KEY = "textgym_special_tokens"
READS_FEEDBACK = "textgym_feedback"
"""Key of models that predict feedback on each token; True if the end of responses was shown to people, too."""


@dataclass(frozen=True, eq=False)
class RewardModel:
    """Reward function that scores text with a sequence classifier of one output.

    Attributes:
        model: the classifier, in eval mode.
        tokenizer: its own tokenizer.
        batch_size: sequences in one forward pass.
        same_tokenizer: True if the policy uses the same tokenizer: token ids then pass through, otherwise the text is
            encoded again. Set by :meth:`bind`.
        too_long: treatment of a sequence beyond the model's context: ``"error"``, or ``"truncate"``, which drops tokens
            from the left, with a warning.
        name: the name in logs.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 16
    same_tokenizer: bool = False
    too_long: Literal["error", "truncate"] = "error"
    name: str = "reward_model"

    def __post_init__(self) -> None:
        check(self, count, "batch_size")
        if self.too_long not in ("error", "truncate"):
            raise ValueError(f"too_long: expected 'error' or 'truncate', got {self.too_long!r}")
        if self.model.config.num_labels != 1:
            raise ValueError(_several_labels(self.model))
        self.model.eval()

    @classmethod
    def load(
        cls,
        directory: str | Path,
        *,
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> RewardModel:
        """Open a saved reward model, of ours or from elsewhere.

        Args:
            directory: a local directory with model and tokenizer, or an id on the hub. Adapters (of peft, TRL …) are
                merged into the weights of the model that they name.
            device: ``"auto"`` uses an accelerator if there is one.
            dtype: dtype of the weights.
            **settings: ``batch_size``, ``same_tokenizer``, ``too_long``, ``name``.

        Raises:
            FileNotFoundError: nothing can be loaded from ``directory``.
            ValueError: the model has more than one label or no scoring head; or the directory holds adapters whose
                model is missing, or that do not fit it.
        """
        return cls(*open_classifier(directory, "reward model", device, dtype), **settings)

    @classmethod
    def from_causal_lm(
        cls,
        source: PreTrainedModel | str | Path,
        tokenizer: PreTrainedTokenizerBase,
        generator: torch.Generator,
        **settings: Any,
    ) -> RewardModel:
        """Make a reward model from a copy of a language model's trunk and a fresh head ``N(0, 1/(d+1))``.

        Args:
            source: a causal language model, or the directory of one. Adapters are merged into the weights of the copy.
            tokenizer: that model's tokenizer; it is not changed.
            generator: draws the head. Global random state is neither read nor changed.
            **settings: ``batch_size``, ``same_tokenizer``, ``too_long``, ``name``.

        Raises:
            ValueError: the model is an encoder–decoder, or has no decoder-style classifier in transformers; or its
                adapters cannot be merged into its weights.

        Source: head of Stiennon et al. 2020, arXiv:2009.01325, appendix B.1 (standard deviation 1/√(d+1)).
        """
        from transformers import AutoModelForSequenceClassification

        from textgym.lm.files.loading import load_causal_lm, require_causal
        from textgym.lm.parts.lora import merged, unwrapped

        lm = load_causal_lm(source) if isinstance(source, str | Path) else unwrapped(source)
        lm = merged(require_causal(lm, "a reward model"))
        config = copy.deepcopy(lm.config)
        config.num_labels = 1
        # transformers scores the last token that is not PAD. If PAD were the end token, the end token would be skipped.
        config.pad_token_id = None if tokenizer.pad_token_id == tokenizer.eos_token_id else tokenizer.pad_token_id
        setattr(config, OFFSET_KEY, 0.0)
        # ``from_config`` initialises all weights at random, from torch's global generator.
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForSequenceClassification.from_config(config)
        head = linear_head(model)
        if head is None:
            raise ValueError(f"{type(model).__name__} has no linear head named score that reads the last token")
        model.base_model.load_state_dict(lm.base_model.state_dict())
        nn.init.normal_(head.weight, std=1 / math.sqrt(head.in_features + 1), generator=generator)
        return cls(model.to(device=lm.device, dtype=lm.dtype), tokenizer, **settings)

    @property
    def offset(self) -> float:
        """Value subtracted from every score, so that demonstrations score 0 on average; kept in the model's config."""
        return float(getattr(self.model.config, OFFSET_KEY, 0.0))

    def set_offset(self, offset: float) -> None:
        """Set :attr:`offset`; :meth:`save` keeps it."""
        setattr(self.model.config, OFFSET_KEY, float(offset))

    @property
    def special_tokens(self) -> SpecialTokens:
        """Treatment of special-token strings in prompts and completions; kept in the model's config."""
        kept: SpecialTokens = getattr(self.model.config, SPECIAL_TOKENS_KEY, "text")
        return kept

    def set_special_tokens(self, special_tokens: SpecialTokens) -> None:
        """Set :attr:`special_tokens`, before training; :meth:`save` keeps it."""
        setattr(self.model.config, SPECIAL_TOKENS_KEY, special_tokens)

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
        """Return a copy for a policy with the given tokenizer; token ids pass through if the vocabularies are equal."""
        return replace(self, same_tokenizer=tokenizer.get_vocab() == self.tokenizer.get_vocab())

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check before training that the task's texts fit into the model's context.

        With a shared tokenizer the check covers the longest prompt plus ``max_new_tokens``, plus the model's own end
        token if a response may end by a token or rule that is kept. Otherwise only the longest prompt is checked.

        Raises:
            ValueError: a text would not fit; never raised with ``too_long="truncate"``.
        """
        limit = self.limit
        if limit is None or self.too_long == "truncate":
            return
        if not self.same_tokenizer:
            longest = max(prompts, key=lambda prompt: len(prompt.text.strip()))
            if not longest.text.strip():
                return
            try:
                self.encode(longest.content, "")
            except ValueError as error:
                raise ValueError(
                    f"{self.name}: prompt {longest.text[:80]!r}, even with no response: {error}"
                ) from error
            return
        longest_prompt = max(len(prompt.ids) for prompt in prompts)
        # A special end token of the policy is replaced by the model's own. An ordinary token (a full stop, say) and
        # text that a stop rule ended are kept, so the model's end token comes in addition: see closed.
        kept = stops or any(i not in self.tokenizer.all_special_ids for i in end_token_ids)
        end = int(kept and self.tokenizer.eos_token_id is not None)
        if longest_prompt + max_new_tokens + end > limit:
            parts = f"a prompt of {longest_prompt} and a response of {max_new_tokens}" + " and an end token" * end
            raise ValueError(
                f"{self.name} reads at most {limit} tokens, but this task can produce "
                f"{longest_prompt + max_new_tokens + end}: "
                f'{parts}; shorten one of them, or load it with too_long="truncate" (rm:DIR,too_long=truncate)'
            )

    def __call__(
        self,
        prompts: list[str | Messages],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        prompt_ids: list[list[int]] | None = None,
        finish_reason: list[str] | None = None,
        response_ids: list[list[int]] | None = None,
        **_: Any,
    ) -> list[float]:
        """Score ``N`` completions.

        Args:
            prompts: ``N`` texts, or conversations, which :func:`textgym.tokenization.render_chat` renders.
            completions: ``N`` texts, or the messages that follow.
            completion_ids: ``N`` lists of sampled tokens; used if the tokenizers are the same and ``prompt_ids`` is
                given.
            prompt_ids: ``N`` lists of prompt tokens, without padding.
            finish_reason: ``"length"`` for a text that was cut off. Without this column every text counts as ended, and
                ids are taken unchanged.
            response_ids: in tasks with a world, ``N`` lists of all tokens that follow the prompts; they are then read
                in place of ``completion_ids``.

        Returns:
            ``N`` scores, less the offset.
        """
        ended = [reason != "length" for reason in finish_reason or [""] * len(prompts)]
        if self.same_tokenizer and prompt_ids is not None:
            # Without ``finish_reason`` the ids may already be closed, so no end token is added to them.
            closed = ended if finish_reason is not None else [False] * len(prompts)
            replies = completion_ids if response_ids is None else response_ids
            ids = zip(prompts, prompt_ids, replies, closed, strict=True)
            sequences = [[*start, *(self.closed(reply, p) if end else reply)] for p, start, reply, end in ids]
            rows = zip(prompts, completions, ended, completion_ids, sequences, strict=True)
            # A response with a special token inside is encoded again from its text, as in training: see _reads_ids. A
            # conversation is never encoded again: the template has written special tokens between its turns.
            read = [
                self._fitted(s) if response_ids is not None or self._reads_ids(reply) else self.encode(*row)
                for *row, reply, s in rows
            ]
            return self.score_ids(read)
        return self.score_ids([self.encode(*row) for row in zip(prompts, completions, ended, strict=True)])

    def score(self, prompts: Sequence[str | Messages], completions: Sequence[str | Messages]) -> list[float]:
        """Return ``N`` scores, less the offset, of texts that ended."""
        return self.score_ids([self.encode(p, c) for p, c in zip(prompts, completions, strict=True)])

    def encode(self, prompt: str | Messages, completion: str | Messages, ended: bool = True) -> list[int]:
        """Return the tokens that the model reads: those of :meth:`tokens`, if they fit.

        Raises:
            ValueError: there is nothing to read, the sequence is too long, or the chat template rejects the
                conversation.
        """
        return self._fitted(self.tokens(prompt, completion, ended))

    def tokens(self, prompt: str | Messages, completion: str | Messages, ended: bool = True) -> list[int]:
        """Tokenize prompt and completion as one text, of any length.

        Tokens that the tokenizer appends to every text are kept for an encoder only. For a decoder they would mark a
        text that was cut off as ended.

        Raises:
            ValueError: the chat template rejects the conversation.
        """
        before, words = before_last_turn(prompt, completion)
        ids = encode_content(
            self.tokenizer,
            before,
            words,
            special_tokens=self.special_tokens,
            closing=linear_head(self.model) is None,
        )
        return self.closed(ids, prompt) if ended else ids

    def score_ids(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Return ``N`` scores, less the offset, of token sequences, which are read unchanged."""
        # Batching sequences of similar length wastes little computation on padding.
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        scores = [0.0] * len(sequences)
        for rows in _chunks(order, self.batch_size):
            with torch.no_grad():
                raw = self.raw_scores([sequences[i] for i in rows]).tolist()
            for i, score in zip(rows, raw, strict=True):
                scores[i] = score - self.offset
        return scores

    def raw_scores(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Return ``[N]`` differentiable scores before the offset, as ``read_logits`` reads them."""
        return read_logits(self.model, sequences)[:, 0]

    def save(self, directory: str | Path) -> None:
        """Write a directory that ``from_pretrained`` opens, completely or not at all.

        Raises:
            FileExistsError: ``directory`` holds something other than a saved model.
        """
        target = Path(directory)
        _require_replaceable(target)
        with replaced_directory(target) as scratch, without_bars():
            self.model.save_pretrained(scratch)
            self.tokenizer.save_pretrained(scratch)

    def _reads_ids(self, ids: list[int]) -> bool:
        """Return True if sampled ids equal the encoding of their text, as the model was trained.

        If special-token strings were text in training, a sampled special token inside a response must be encoded again.
        The last token may be the end of the response; padding and the start token are not part of its text.
        """
        if getattr(self.model.config, SPECIAL_TOKENS_KEY, None) != "text":
            return True
        written = special_ids(self.tokenizer) - {self.tokenizer.pad_token_id, self.tokenizer.bos_token_id}
        return not written.intersection(ids[:-1])

    def closed(self, ids: list[int], prompt: str | Messages) -> list[int]:
        """Close the sequence with the model's own end token, whichever special token or stop rule ended the text."""
        own = self.tokenizer.eos_token_id
        end = own if own is None else reply_end_id(self.tokenizer, prompt, own)
        if end is None or ids[-1:] == [end]:
            return ids
        # Another model's end token is replaced; an ordinary last token belongs to the text and is kept.
        special = ids and ids[-1] in special_ids(self.tokenizer)
        return [*(ids[:-1] if special else ids), end]

    @cached_property
    def limit(self) -> int | None:
        """Greatest number of tokens that the model accepts; None for no limit."""
        return longest_readable(self.model)

    def _fitted(self, ids: list[int]) -> list[int]:
        if not ids:
            raise ValueError("prompt and completion are empty, and the tokenizer has no end token to read")
        # Kept from the right: the score is read at the last token.
        limit = self.limit
        if limit is None or len(ids) <= limit:
            return ids
        too_long = f"prompt and completion have {len(ids)} tokens, the reward model reads at most {limit}"
        if self.too_long == "error":
            raise ValueError(f'{too_long}; shorten them, or load it with too_long="truncate"')
        warnings.warn(f"{too_long}: dropped {len(ids) - limit} from the left", stacklevel=3)
        return ids[-limit:]


def _several_labels(model: PreTrainedModel) -> str:
    names = [str(name) for _, name in sorted((model.config.id2label or {}).items())]
    last, place = (names or ["LABEL"])[-1].replace(" ", "_"), model.name_or_path or "DIR"
    return (
        f"expected a model with one output (num_labels=1), this {type(model).__name__} has {model.config.num_labels}: "
        f"{', '.join(names)}. Name the label that is rewarded: clf:{place},label={last}, or in Python "
        f"ClassifierReward.load({place!r}, label={last!r})"
    )


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _require_replaceable(target: Path) -> None:
    """Check that ``save`` may replace the directory: it must hold a saved model and nothing else."""
    if not target.exists():
        return
    # A file in place of the directory counts as one foreign entry.
    entries = list(target.iterdir()) if target.is_dir() else [target / "?"]
    if entries and not ((target / "config.json").is_file() and all(e.is_file() for e in entries)):
        raise FileExistsError(f"{target} exists and is not a saved reward model: choose another directory")
