"""Demonstrations: prompts with completions to imitate, as tokens and as batches that train on the completion alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from textgym.prompts import BadRowError, encode_prompts, leaving_out
from textgym.tasks.task import Task
from textgym.tokenization import encode_reply, is_conversation, reply_end_id, reply_text, warn_of_special_strings
from textgym.types import Prompt, SpecialTokens

UNTRAINED = -100  # the label that transformers' losses leave out


@dataclass(frozen=True)
class Demonstration:
    """What a good writer answered.

    Attributes:
        prompt: the initial state.
        response_ids: the completion's tokens, the end token included.
    """

    prompt: Prompt
    response_ids: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Length of prompt and response together."""
        return len(self.prompt.ids) + len(self.response_ids)


def encode_demonstrations(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None = None,
    source: str = "demonstrations",
    special_tokens: SpecialTokens = "text",
    skipped: list[str] | None = None,
) -> tuple[Demonstration, ...]:
    """Data rows as demonstrations; an end token is appended to each completion.

    Args:
        rows: with the fields ``prompt`` (a text or a conversation) and ``completion`` (a text or the assistant's one
            message), or with ``messages``, a conversation whose last turn is the completion; others become columns.
        tokenizer: of the model that is to learn.
        end_token_id: ends each response, but those of conversations whose chat template ends turns by another token.
        max_length: tokens that the model can read, or None.
        source: what an error calls the data.
        special_tokens: as in :func:`textgym.prompts.encode_prompts`.
        skipped: collects what is wrong with rows that cannot be learned from, which are then left out; without it
            they are errors.

    Raises:
        ValueError: no rows, or a row that cannot be learned from. Rows are counted from 1.
    """
    places = [f"{source}, row {number}" for number in range(1, len(rows) + 1)]
    rows = [prompt_and_completion(row, where) for row, where in zip(rows, places, strict=True)]
    prompts = encode_prompts(rows, tokenizer, max_length=10**9, source=source, special_tokens=special_tokens)
    return demonstrate(
        prompts, rows, "completion", tokenizer, end_token_id, max_length, source, special_tokens, skipped
    )


def task_demonstrations(
    task: Task,
    split: str,
    end_token_id: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    closing: bool = False,
) -> tuple[Demonstration, ...]:
    """The reference texts of a split; in another tokenizer than the task's, if one is given.

    ``closing`` is as in :func:`textgym.prompts.encode_prompts`.

    Raises:
        ValueError: a prompt has no reference, or cannot be learned from.
    """
    source = f"task {task.name}, split {split!r}"
    prompts = task.prompts(split)
    require_references(task, split)
    columns = [prompt.columns for prompt in prompts]
    if tokenizer is not None:
        rows = [{"prompt": prompt.content, **prompt.columns} for prompt in prompts]
        prompts = encode_prompts(rows, tokenizer, max_length=10**9, source=source, closing=closing)
    return demonstrate(prompts, columns, "reference", tokenizer or task.tokenizer, end_token_id, max_length, source)


def require_references(task: Task, split: str = "train") -> None:
    """ValueError where no prompt of a split has a reference text, as in the diagnostic tasks."""
    if not any("reference" in prompt.columns for prompt in task.prompts(split)):
        raise ValueError(
            f"task {task.name}, split {split!r}: its prompts have no reference texts to imitate; give demonstrations "
            "of your own"
        )


def prompt_and_completion(row: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A row of ``messages`` as one of ``prompt`` and ``completion``, any other row as it is.

    Raises:
        ValueError: the messages do not end with the assistant's answer to something.
    """
    if "messages" not in row or "completion" in row:
        return row
    messages = row["messages"]
    if not is_conversation(messages) or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise ValueError(
            f"{where}: messages is {messages!r:.200}; expected at least two messages with 'role' and 'content', the "
            "last one the assistant's"
        )
    others = {name: value for name, value in row.items() if name != "messages"}
    return {**others, "prompt": list(messages[:-1]), "completion": list(messages[-1:])}


def row_completion(row: Mapping[str, Any], field: str, where: str, prompt: str) -> str:
    """Returns what a row's completion adds to the text of its prompt.

    Raises:
        BadRowError: it is blank.
        ValueError: there is none.
    """
    if field not in row:
        raise ValueError(f"{where}: no field {field!r}; got the fields {sorted(row)}")
    text = row[field]
    if is_conversation(text):
        try:
            text = reply_text(prompt, text)
        except ValueError as error:
            raise ValueError(f"{where}: {field}: {error}") from error
    if not isinstance(text, str):
        raise ValueError(f"{where}: {field} is {text!r}; expected a text that is not empty")
    if not text.strip():
        raise BadRowError(f"{where}: {field} is {text!r}; expected a text that is not empty")
    return text


def demonstrate(
    prompts: Sequence[Prompt],
    rows: Sequence[Mapping[str, Any]],
    field: str,
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None = None,
    source: str = "demonstrations",
    special_tokens: SpecialTokens = "text",
    skipped: list[str] | None = None,
) -> tuple[Demonstration, ...]:
    """Encoded prompts with the completions in a field of their rows; see :func:`encode_demonstrations`."""
    shown: list[Demonstration] = []
    texts: list[list[str]] = [[] for _ in rows]
    for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True), start=1):
        where = f"{source}, row {number}"
        with leaving_out(skipped):
            text = row_completion(row, field, where, prompt.text)
            texts[number - 1].append(text)
            shown.append(demonstrate_one(prompt, text, tokenizer, end_token_id, max_length, where, special_tokens))
    if not shown:
        raise ValueError(f"{source}: no row is left to learn from. {skipped[0] if skipped else ''}")
    if special_tokens == "text":
        warn_of_special_strings(tokenizer, texts, f"{source}, {field}s")
    return tuple(shown)


def demonstrate_one(
    prompt: Prompt,
    completion: str,
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None,
    where: str,
    special_tokens: SpecialTokens = "text",
) -> Demonstration:
    """One of :func:`demonstrate`; ``where`` is what an error calls the row."""
    ids = encode_reply(tokenizer, prompt.content, completion, special_tokens)
    if not ids:
        raise BadRowError(f"{where}: completion {completion!r} has no tokens; expected at least one")
    end = reply_end_id(tokenizer, prompt.content, end_token_id)
    shown = Demonstration(prompt, ids if ids[-1] == end else (*ids, end))
    if max_length is not None and shown.n_tokens > max_length:
        raise BadRowError(
            f"{where}: prompt, completion and end token have {len(prompt.ids)} + {len(ids)} + 1 tokens, more than "
            f"the model's context of {max_length}; shorten the row or leave it out"
        )
    return shown


def collate(demonstrations: Sequence[Demonstration]) -> dict[str, Tensor]:
    """A batch for a causal model: ``input_ids``, ``attention_mask`` and ``labels``, ``[n, w]`` each.

    Rows are padded on the right, where a causal model does not look and where positions count from 0 by themselves.
    What fills them is any token: mask and labels leave it out. Labels stand in the columns of their tokens, as
    transformers expects; prompts are not trained.
    """
    width = max(shown.n_tokens for shown in demonstrations)
    size = (len(demonstrations), width)
    input_ids = torch.zeros(size, dtype=torch.long)
    attention_mask = torch.zeros(size, dtype=torch.long)
    labels = torch.full(size, UNTRAINED)
    for row, shown in enumerate(demonstrations):
        begin, end = len(shown.prompt.ids), shown.n_tokens
        input_ids[row, :end] = torch.tensor([*shown.prompt.ids, *shown.response_ids])
        attention_mask[row, :end] = 1
        labels[row, begin:end] = torch.tensor(shown.response_ids)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def next_token_loss(logits: Tensor, labels: Tensor, n_trained: Tensor | int | None = None) -> Tensor:
    """Returns the mean of −log p of the trained tokens, each predicted from the position before it.

    Computed here, as some models' own loss compares logits and labels of the same position (BART's decoder).

    Args:
        logits: ``[n, w, V]``.
        labels: ``[n, w]`` tokens in their own columns; -100 where none is trained.
        n_trained: divides the sum; None for the number of trained tokens.
    """
    targets = nn.functional.pad(labels, (0, 1), value=UNTRAINED)[:, 1:].reshape(-1)
    flat = logits.float().reshape(-1, logits.shape[-1])
    if n_trained is None:
        return nn.functional.cross_entropy(flat, targets, ignore_index=UNTRAINED)
    return nn.functional.cross_entropy(flat, targets, ignore_index=UNTRAINED, reduction="sum") / n_trained
