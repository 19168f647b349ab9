"""Classifier as a reward: the probability that ``AutoModelForSequenceClassification`` gives to one of its labels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from textgym.names import suggest
from textgym.numbers import check, count
from textgym.rewards.models.last_token import linear_head, longest_readable, read_logits
from textgym.rewards.models.opening import classifier_config, open_classifier
from textgym.tokenization import encode_content, encode_fields, render_chat, with_special_strings_spaced
from textgym.types import Messages, Prompt, before_last_turn, completion_text

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Encoding: TypeAlias = dict[str, list[int]]
"""A tokenizer's output for one text: ``input_ids``, ``attention_mask``, and for some ``token_type_ids``."""

ScoreKind: TypeAlias = Literal["probability", "logit"]
Reads: TypeAlias = Literal["whole", "completion"]


def label_index(config: PreTrainedConfig, label: str | int) -> int:
    """Return the index of the output that belongs to a label.

    Args:
        config: the classifier's config.
        label: the label's name, with spaces or ``_`` in their place; or its index. An index given as text (``"1"``)
            is accepted only if the labels have no names of their own (``LABEL_0``, ``LABEL_1`` …).

    Raises:
        ValueError: no label or several labels match; the message lists the labels.
    """
    names = label_names(config)
    if isinstance(label, int):
        found = [label] if 0 <= label < len(names) else []
    else:
        found = [i for i, name in enumerate(names) if name == label]
        found = found or [i for i, name in enumerate(names) if name.replace(" ", "_") == label]
        if not found and label.isdecimal() and all(name == f"LABEL_{i}" for i, name in enumerate(names)):
            found = [int(label)] if int(label) < len(names) else []
    if len(found) != 1:
        wrong = "is the name of several labels; give an index instead" if found else "is not a label of this classifier"
        hint = suggest(str(label), names, before="; ", key=str.lower)
        raise ValueError(f"label={label!r} {wrong}, whose labels are: {', '.join(names)}{hint}")
    return found[0]


def label_names(config: PreTrainedConfig) -> list[str]:
    """Return the names of a classifier's outputs, in their order."""
    names = {int(i): str(name) for i, name in (config.id2label or {}).items()}
    return [names.get(i, f"LABEL_{i}") for i in range(int(config.num_labels or 0))]


@dataclass(frozen=True, eq=False)
class ClassifierReward:
    """Reward function that scores a text by one label of a classifier.

    The text is tokenized as transformers tokenizes a single text: with the special tokens of the classifier's own
    tokenizer. Strings such as ``</s>`` in prompts and completions are read as text, so that a policy cannot steer the
    classifier with them.

    The score is the label's probability: of a softmax over all labels, or of the label's own sigmoid if
    ``config.problem_type`` is ``"multi_label_classification"``. ``score="logit"`` gives the log-odds
    ``log p − log(1 − p)``, which do not saturate where the classifier is confident. The raw logit of one label of a
    softmax is not offered: adding a constant to all logits changes no probability, so it has no meaning by itself.

    Attributes:
        model: the classifier, in eval mode.
        tokenizer: its own tokenizer.
        label: the label that is rewarded: see :func:`label_index`.
        score: ``"probability"``, in [0, 1], or ``"logit"``, unbounded.
        reads: ``"whole"``, prompt and completion as one text, or the ``"completion"`` alone.
        too_long: treatment of a text beyond the classifier's context: ``"error"``, or ``"truncate"``, which drops
            tokens from the left, with a warning.
        batch_size: texts in one forward pass.
        same_tokenizer: True if the policy uses the same tokenizer, so that lengths are known beforehand; set by
            :meth:`bind`.
        name: the name in logs; by default the label's name.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    label: str | int
    score: ScoreKind = "probability"
    reads: Reads = "whole"
    too_long: Literal["error", "truncate"] = "error"
    batch_size: int = 16
    same_tokenizer: bool = False
    name: str = ""

    def __post_init__(self) -> None:
        for setting, value, known in (
            ("score", self.score, get_args(ScoreKind)),
            ("reads", self.reads, get_args(Reads)),
            ("too_long", self.too_long, ("error", "truncate")),
        ):
            if value not in known:
                raise ValueError(f"{setting}={value!r} is not one of {', '.join(map(repr, known))}")
        check(self, count, "batch_size")
        config = self.model.config
        index = label_index(config, self.label)
        if config.problem_type == "regression" or (config.num_labels == 1 and not self._is_multi_label):
            raise ValueError(
                f"this {type(self.model).__name__} has {config.num_labels} outputs that are not probabilities of "
                "labels; a model with one output is a reward model: rm:DIR, or RewardModel.load(DIR)"
            )
        object.__setattr__(self, "name", self.name or label_names(config)[index])
        self.model.eval()

    @classmethod
    def load(
        cls,
        directory: str | Path,
        label: str | int,
        *,
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        **settings: Any,
    ) -> ClassifierReward:
        """Open a saved classifier.

        Args:
            directory: a local directory with model and tokenizer, or an id on the hub.
            label: see :func:`label_index`.
            device: ``"auto"`` uses an accelerator if there is one.
            dtype: dtype of the weights.
            **settings: ``score``, ``reads``, ``too_long``, ``batch_size``, ``name``.

        Raises:
            FileNotFoundError: nothing can be loaded from ``directory``.
            ValueError: the classifier has no such label (checked before its weights are read), or no head.
        """
        config = classifier_config(directory, "classifier")
        try:
            if config is not None:
                label_index(config, label)
        except ValueError as error:
            raise ValueError(f"{str(directory)!r}: {error}") from error
        return cls(*open_classifier(directory, "classifier", device, dtype), label, **settings)

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> ClassifierReward:
        """Return a copy of this reward for a policy with the given tokenizer."""
        return replace(self, same_tokenizer=tokenizer.get_vocab() == self.tokenizer.get_vocab())

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Check before training that the task's texts fit into the classifier's context.

        With a shared tokenizer the check covers the longest prompt plus ``max_new_tokens``. Otherwise the length of a
        response in the classifier's tokens is unknown, and only the longest prompt is checked.

        Raises:
            ValueError: a text would not fit; never raised with ``too_long="truncate"``.
        """
        limit = self._limit
        if limit is None or self.too_long == "truncate":
            return
        n_response = max_new_tokens if self.same_tokenizer else 0
        longest = max(prompts, key=lambda prompt: len(prompt.ids) if self.same_tokenizer else len(prompt.text))
        n_prompt = len(self._tokens(longest.content, "")["input_ids"])
        if n_prompt + n_response > limit:
            what = "the prompt" if self.reads == "whole" else "the completion"
            raise ValueError(
                f"the classifier for {self.name!r} reads at most {limit} tokens, but {what} of this task can have "
                f"{n_prompt + n_response}: {n_prompt} before the response and {n_response} of it; shorten them, or "
                'load it with too_long="truncate" (clf:DIR,label=…,too_long=truncate)'
            )

    def __call__(self, prompts: list[str | Messages], completions: list[Any], **_: Any) -> list[float]:
        """Score ``N`` completions.

        Args:
            prompts: ``N`` texts, or conversations, which :func:`textgym.tokenization.render_chat` renders.
            completions: ``N`` texts, or lists of the assistant's message.

        Returns:
            ``N`` scores.
        """
        encoded = [self._fitted(self._tokens(*row)) for row in zip(prompts, completions, strict=True)]
        # Batching texts of similar length wastes little computation on padding.
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]["input_ids"]))
        scores = [0.0] * len(encoded)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            with torch.no_grad():
                logits = self._logits([encoded[i] for i in rows])
            for i, score in zip(rows, self._scores(logits).tolist(), strict=True):
                scores[i] = score
        return scores

    @cached_property
    def _limit(self) -> int | None:
        return longest_readable(self.model)

    @property
    def _is_multi_label(self) -> bool:
        return bool(self.model.config.problem_type == "multi_label_classification")

    def _scores(self, logits: Tensor) -> Tensor:
        """Compute ``[N]`` scores from ``[N, labels]`` logits."""
        index = label_index(self.model.config, self.label)
        log_odds = logits[:, index]
        if not self._is_multi_label:
            # Of a softmax, log p − log(1 − p) is the logit less the log-sum-exp of all others. Computing it so, rather
            # than from p, keeps it finite where p rounds to 0 or 1.
            others = [i for i in range(logits.shape[1]) if i != index]
            log_odds = log_odds - logits[:, others].logsumexp(1)
        return log_odds if self.score == "logit" else log_odds.sigmoid()

    def _logits(self, encoded: Sequence[Encoding]) -> Tensor:
        """Return ``[N, labels]`` float32 logits; each row equals the logits of its text alone."""
        if linear_head(self.model) is not None:  # a decoder: which position it reads depends on its PAD
            return read_logits(self.model, [text["input_ids"] for text in encoded])
        # Without a PAD token texts cannot be padded to one length, so each gets a forward pass of its own.
        if self.tokenizer.pad_token_id is None and len(encoded) > 1:
            return torch.cat([self._logits([text]) for text in encoded])
        batch: Any = (
            {name: torch.tensor([text[name] for text in encoded]) for name in encoded[0]}
            if self.tokenizer.pad_token_id is None
            else self.tokenizer.pad(list(encoded), return_tensors="pt")
        )
        logits: Tensor = self.model(**{name: values.to(self.model.device) for name, values in batch.items()}).logits
        return logits.float()

    def _tokens(self, prompt: str | Messages, completion: Any) -> Encoding:
        """Tokenize as transformers does for a single text, except that written special tokens stay text."""
        readable = partial(with_special_strings_spaced, self.tokenizer)
        text = completion_text(completion)
        if self.reads == "whole":
            prompt, text = before_last_turn(prompt, completion)
        if self.reads == "whole" and not isinstance(prompt, str) and self.tokenizer.chat_template:
            messages = [{**message, "content": readable(message["content"])} for message in prompt]
            ids = encode_content(self.tokenizer, messages, readable(text))  # the template writes the special tokens
            # Templated ids do not come from a tokenizer call, so the other fields of its output are made here.
            fields = {"attention_mask": 1, "token_type_ids": 0}
            given = {
                name: [value] * len(ids) for name, value in fields.items() if name in self.tokenizer.model_input_names
            }
            return {"input_ids": ids, **given, "special_tokens_mask": [0] * len(ids)}
        if self.reads == "whole":
            text = (prompt if isinstance(prompt, str) else render_chat(self.tokenizer, prompt)) + text
        return encode_fields(self.tokenizer, readable(text), return_special_tokens_mask=True)

    def _fitted(self, encoded: Encoding) -> Encoding:
        """Cut an encoding to the model's context; special tokens at the beginning stay."""
        special = encoded.pop("special_tokens_mask")
        length, limit = len(special), self._limit
        if not length:
            raise ValueError("there is nothing to read: the text is empty, and the tokenizer adds no special tokens")
        if limit is None or length <= limit:
            return encoded
        too_long = f"the text has {length} tokens, the classifier reads at most {limit}"
        if self.too_long == "error":
            raise ValueError(f'{too_long}; shorten it, or load it with too_long="truncate"')
        warnings.warn(f"{too_long}: dropped {length - limit} from the left", stacklevel=3)
        # Encoders such as BERT read their score at the first token ([CLS]), so cutting from the left must spare it.
        first = next((i for i, added in enumerate(special) if not added), 0)
        return {name: [*values[:first], *values[first + length - limit :]] for name, values in encoded.items()}
