"""A classifier as a reward: how sure an ``AutoModelForSequenceClassification`` is of one of its labels."""

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
from textgym.rewards.opening import classifier_config, open_classifier
from textgym.rewards.reading import linear_head, longest_readable, read_logits
from textgym.tokenization import encode_content, encode_fields, render_chat, with_special_strings_spaced
from textgym.types import Messages, Prompt, completion_text

if TYPE_CHECKING:  # a model class costs seconds to import
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Encoding: TypeAlias = dict[str, list[int]]
"""A tokenizer's output for one text: ``input_ids``, ``attention_mask``, and for some ``token_type_ids``."""

ScoreKind: TypeAlias = Literal["probability", "logit"]
Reads: TypeAlias = Literal["whole", "completion"]


def label_index(config: PreTrainedConfig, label: str | int) -> int:
    """Return the output that stands for a label.

    Args:
        config: a classifier's.
        label: its name, spaces written as they are or as ``_``; or its index, which as a text (``"1"``) counts only
            where labels have no names of their own (``LABEL_0``, ``LABEL_1`` …).

    Raises:
        ValueError: there is no such label, or several; the message lists the labels.
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
        wrong = "is the name of several labels; give an index instead" if found else "is no label of this classifier"
        hint = suggest(str(label), names, before="; ", key=str.lower)
        raise ValueError(f"label={label!r} {wrong}, whose labels are: {', '.join(names)}{hint}")
    return found[0]


def label_names(config: PreTrainedConfig) -> list[str]:
    """Return the names of a classifier's outputs, in their order."""
    names = {int(i): str(name) for i, name in (config.id2label or {}).items()}
    return [names.get(i, f"LABEL_{i}") for i in range(int(config.num_labels or 0))]


@dataclass(frozen=True, eq=False)
class ClassifierReward:
    """A reward function that asks a classifier for one of its labels.

    The text is read as transformers reads a single text: with the special tokens of the classifier's own tokenizer.
    Strings such as ``</s>`` in prompts and completions are text, so that no policy steers the classifier with them.
    The score is the label's probability: of a softmax over all labels, or the label's own sigmoid where
    ``config.problem_type`` is ``"multi_label_classification"``. ``score="logit"`` gives the log-odds
    ``log p − log(1 − p)``, which do not flatten where the classifier is sure. The raw logit of one label of a softmax
    is not offered: it has no meaning by itself, as adding a constant to all logits changes no probability.

    Attributes:
        model: the classifier, in eval mode.
        tokenizer: its own tokenizer.
        label: the label that is rewarded: see :func:`label_index`.
        score: ``"probability"``, in [0, 1], or ``"logit"``, unbounded.
        reads: ``"whole"``, prompt and completion as one text, or the ``"completion"`` alone.
        too_long: what to do with a text beyond the classifier's context: ``"error"``, or ``"truncate"``, which drops
            tokens from the left, with a warning.
        batch_size: texts in one forward pass.
        same_tokenizer: whether the policy's tokenizer is this one, so that lengths are known beforehand; :meth:`bind`
            finds out.
        name: under which it is logged; by default the label's name.
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
                f"this {type(self.model).__name__} has {config.num_labels} outputs that are no probabilities of "
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
            device: ``"auto"`` takes an accelerator where there is one.
            dtype: of the weights.
            **settings: ``score``, ``reads``, ``too_long``, ``batch_size``, ``name``.

        Raises:
            FileNotFoundError: nothing can be loaded from there.
            ValueError: it has no such label (found before its weights are read), or no classifying head.
        """
        config = classifier_config(directory, "classifier")
        try:
            if config is not None:
                label_index(config, label)
        except ValueError as error:
            raise ValueError(f"{str(directory)!r}: {error}") from error
        return cls(*open_classifier(directory, "classifier", device, dtype), label, **settings)

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> ClassifierReward:
        """Return the same classifier for a policy with this tokenizer."""
        return replace(self, same_tokenizer=tokenizer.get_vocab() == self.tokenizer.get_vocab())

    def check_lengths(
        self, prompts: Sequence[Prompt], max_new_tokens: int, end_token_ids: Sequence[int], stops: bool
    ) -> None:
        """Refuse a task whose texts are longer than the classifier reads, as far as that is known beforehand.

        With the policy's own tokenizer that is the longest prompt and ``max_new_tokens``, otherwise the longest prompt
        alone.

        Raises:
            ValueError: see above; never where ``too_long="truncate"``.
        """
        limit = self._limit
        if limit is None or self.too_long == "truncate":
            return
        written = max_new_tokens if self.same_tokenizer else 0
        longest = max(prompts, key=lambda prompt: len(prompt.ids) if self.same_tokenizer else len(prompt.text))
        asked = len(self._tokens(longest.content, "")["input_ids"])
        if asked + written > limit:
            what = "the prompt" if self.reads == "whole" else "the completion"
            raise ValueError(
                f"the classifier for {self.name!r} reads at most {limit} tokens, but {what} of this task can have "
                f"{asked + written}: {asked} before the response and {written} of it; shorten them, or load it with "
                'too_long="truncate" (clf:DIR,label=…,too_long=truncate)'
            )

    def __call__(self, prompts: list[str | Messages], completions: list[Any], **_: Any) -> list[float]:
        """``N`` scores of ``N`` completions.

        Args:
            prompts: ``N`` texts, or conversations, which :func:`textgym.tokenization.render_chat` renders.
            completions: ``N`` texts, or lists of the assistant's message.
        """
        encoded = [self._fitted(self._tokens(*row)) for row in zip(prompts, completions, strict=True)]
        # Neighbours of like length waste no work on padding.
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
        """``[N]`` scores from ``[N, labels]`` logits."""
        index = label_index(self.model.config, self.label)
        log_odds = logits[:, index]
        if not self._is_multi_label:
            others = [i for i in range(logits.shape[1]) if i != index]
            log_odds = log_odds - logits[:, others].logsumexp(1)
        return log_odds if self.score == "logit" else log_odds.sigmoid()

    def _logits(self, encoded: Sequence[Encoding]) -> Tensor:
        """``[N, labels]`` float32, each row as that of its text alone."""
        if linear_head(self.model) is not None:  # a decoder: which position it reads depends on its PAD
            return read_logits(self.model, [text["input_ids"] for text in encoded])
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
        """As transformers reads a single text, but strings of special tokens are text: none can steer it."""
        said, readable = completion_text(completion), partial(with_special_strings_spaced, self.tokenizer)
        if self.reads == "whole" and not isinstance(prompt, str) and self.tokenizer.chat_template:
            asked = [{**message, "content": readable(message["content"])} for message in prompt]
            ids = encode_content(self.tokenizer, asked, readable(said))  # its template writes the special tokens
            fields = {"attention_mask": 1, "token_type_ids": 0}
            given = {
                name: [value] * len(ids) for name, value in fields.items() if name in self.tokenizer.model_input_names
            }
            return {"input_ids": ids, **given, "special_tokens_mask": [0] * len(ids)}
        if self.reads == "whole":
            said = (prompt if isinstance(prompt, str) else render_chat(self.tokenizer, prompt)) + said
        return encode_fields(self.tokenizer, readable(said), return_special_tokens_mask=True)

    def _fitted(self, encoded: Encoding) -> Encoding:
        """Cuts an encoding to what the model can read: special tokens at the beginning stay."""
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
        first = next((i for i, added in enumerate(special) if not added), 0)
        return {name: [*values[:first], *values[first + length - limit :]] for name, values in encoded.items()}
