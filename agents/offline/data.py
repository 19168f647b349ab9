"""Demonstrations: prompts with completions as tokens, and batches that train on completions alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from textgym.prompts import cut_left, encode_prompt, encode_prompts
from textgym.rewards.labels.preferences import Judgement, best_completion, parse_preference, preference_layout
from textgym.rows import BadRowError, Place, Screening, TooLongError, in_file_order, placed
from textgym.tasks.task import Task
from textgym.tokenization import (
    chat_renderer,
    encode_content,
    encode_reply,
    is_conversation,
    reply_end_id,
    reply_text,
    warn_of_special_strings,
    words_of,
)
from textgym.types import Prompt, SpecialTokens

UNTRAINED = -100  # the label that transformers' losses ignore
RowLayout: TypeAlias = Literal["completion", "messages", "pair", "ranking", "label", "text"]
"""Kind of a data row, determined by its columns; see :func:`encode_demonstrations`."""


@dataclass(frozen=True)
class Demonstration:
    """A prompt and a completion to imitate, as tokens.

    Attributes:
        prompt: the initial state.
        response_ids: the completion's tokens, the end token included.
        running: True for running text, whose first token is the prompt.
    """

    prompt: Prompt
    response_ids: tuple[int, ...]
    running: bool = False

    @property
    def n_tokens(self) -> int:
        """Number of tokens in prompt and response."""
        return len(self.prompt.ids) + len(self.response_ids)


def encode_demonstrations(
    rows: Sequence[Mapping[str, Any]] | Mapping[Place, Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None = None,
    source: str = "demonstrations",
    special_tokens: SpecialTokens = "text",
    screening: Screening | None = None,
    closing: bool = False,
) -> tuple[Demonstration, ...]:
    """Encode data rows as demonstrations; an end token is appended to each completion.

    The columns of a row determine its layout; further columns become columns of its prompt.

    - ``prompt`` (a text or a conversation) and ``completion`` (a text or the assistant's one message).
    - ``messages``: a conversation whose last turn is the completion.
    - Comparisons, as :func:`textgym.rewards.labels.preferences.read_preferences` reads them: the chosen or best ranked
      completion is imitated. Rows of ``prompt, completion, label`` are imitated if the label is true, and skipped if
      it is false.
    - ``text``: running text, all of whose tokens except the first are trained; not for encoder–decoders, as it has no
      prompt that an encoder could read.

    Args:
        rows: the data; or rows by their places, as :func:`textgym.rows.read_placed_rows` returns them.
        tokenizer: the tokenizer of the model to train.
        end_token_id: ends each response, except in conversations whose chat template ends turns with another token.
        max_length: the model's context in tokens, or None. For longer rows see :func:`fitted_prompt`.
        source: name of the data in errors.
        special_tokens: as in :func:`textgym.prompts.encode_prompts`.
        screening: policy for unusable rows, and its counts; without it they raise.
        closing: True for an encoder–decoder: prompts are closed as in :func:`textgym.prompts.encode_prompts`, and
            prompt and completion may have ``max_length`` tokens each.

    Raises:
        ValueError: no rows, or an unusable row. Rows are counted from 1.
    """
    screening = screening or Screening()
    given = placed(rows, source)
    if not given:
        raise ValueError(f"{source} is empty; expected at least one demonstration")
    shown: dict[Place, Demonstration] = {}
    asked: dict[Place, list[str]] = {}
    said: dict[Place, list[str]] = {}
    for place, row in given.items():
        with screening.row(place):
            if row_layout(row) == "text":
                if closing:
                    raise BadRowError("running text, without a prompt; an encoder–decoder needs one for its encoder")
                shown[place] = _running(row, tokenizer, end_token_id, max_length, special_tokens)
                said[place] = [row["text"]]
            elif (fields := demonstration_fields(row, tokenizer)) is not None:
                prompt = encode_prompt(fields, tokenizer, special_tokens, closing)
                text = row_completion(prompt.columns, "completion", prompt.text)
                reply = reply_ids(prompt, text, tokenizer, end_token_id, special_tokens, closing)
                shown[place] = fitted(prompt, reply, max_length, tokenizer, screening, closing)
                asked[place], said[place] = words_of(prompt.content), [text]
    if special_tokens == "text":
        warn_of_special_strings(tokenizer, in_file_order(asked), source)
        warn_of_special_strings(tokenizer, in_file_order(said), f"{source}, completions")
    screening.require_some(shown, source)
    return tuple(shown.values())


def task_demonstrations(
    task: Task,
    split: str,
    end_token_id: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_length: int | None = None,
    closing: bool = False,
) -> tuple[Demonstration, ...]:
    """Return the reference texts of a split as demonstrations.

    Args:
        task: the task.
        split: name of its split.
        end_token_id: ends each response.
        tokenizer: encodes the texts; None for the task's.
        max_length: the model's context in tokens, or None.
        closing: as in :func:`encode_demonstrations`.

    Raises:
        ValueError: a prompt has no reference, or the row is unusable.
    """
    source = f"task {task.name}, split {split!r}"
    prompts = task.prompts(split)
    require_references(task, split)
    columns = [prompt.columns for prompt in prompts]
    if tokenizer is not None:
        rows = [{"prompt": prompt.content, **prompt.columns} for prompt in prompts]
        prompts = encode_prompts(rows, tokenizer, max_length=10**9, source=source, closing=closing)
    reader = tokenizer or task.tokenizer
    return demonstrate(prompts, columns, "reference", reader, end_token_id, max_length, source, closing)


def require_references(task: Task, split: str = "train") -> None:
    """Check that some prompt of a split has a reference text; the diagnostic tasks have none.

    Raises:
        ValueError: no prompt has one.
    """
    if not any("reference" in prompt.columns for prompt in task.prompts(split)):
        raise ValueError(
            f"task {task.name}, split {split!r}: its prompts have no reference texts to imitate; pass your own "
            "demonstrations"
        )


def row_layout(row: Mapping[str, Any]) -> RowLayout:
    """Return the layout of a row of demonstrations by its columns; ``"completion"`` if they match no other.

    Null columns count as missing, as in tables whose rows have several layouts.
    """
    filled = {name for name, value in row.items() if value is not None}
    if "completion" in filled:
        return "label" if isinstance(row.get("label"), bool) else "completion"
    if "messages" in filled:
        return "messages"
    preferred = preference_layout({name: row[name] for name in filled})
    return preferred or ("text" if "text" in row and "prompt" not in filled else "completion")


def demonstration_fields(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any] | None:
    """Convert a row of any layout with a prompt to ``prompt``, ``completion`` and other columns; None to skip the row.

    Args:
        row: see :func:`encode_demonstrations`.
        tokenizer: its chat template renders conversations.

    Raises:
        BadRowError: the messages do not end with the assistant's reply, or the row is not a valid preference.
    """
    layout = row_layout(row)
    if layout == "messages":
        return _from_messages(row)
    if layout == "completion":
        return dict(row)
    said = parse_preference(row, chat_renderer(tokenizer))
    if isinstance(said, Judgement):
        return {**row, "completion": said.completion} if said.good else None
    others = {name: value for name, value in row.items() if name not in ("chosen", "rejected", "completions", "ranks")}
    return {**others, "prompt": said.prompt, "completion": best_completion(said)}


def _from_messages(row: Mapping[str, Any]) -> dict[str, Any]:
    messages = row["messages"]
    if not is_conversation(messages) or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise BadRowError(
            f"messages is {messages!r:.200}; expected at least two messages with 'role' and 'content', the last of "
            "them the assistant's"
        )
    others = {name: value for name, value in row.items() if name != "messages"}
    return {**others, "prompt": list(messages[:-1]), "completion": list(messages[-1:])}


def row_completion(row: Mapping[str, Any], field: str, prompt: str) -> str:
    """Return a row's completion as the text to append to its prompt.

    Raises:
        BadRowError: the field is missing or blank.
    """
    if field not in row:
        raise BadRowError(f"no field {field!r}; got the fields {sorted(row)}")
    text = row[field]
    if is_conversation(text):
        try:
            text = reply_text(prompt, text)
        except ValueError as error:
            raise BadRowError(f"{field}: {error}") from error
    if not isinstance(text, str) or not text.strip():
        raise BadRowError(f"{field} is {text!r:.200}; expected a text that is not empty")
    return text


def demonstrate(
    prompts: Sequence[Prompt],
    rows: Sequence[Mapping[str, Any]],
    field: str,
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None = None,
    source: str = "demonstrations",
    closing: bool = False,
) -> tuple[Demonstration, ...]:
    """Encode the completions in a field of the rows of encoded prompts; see :func:`encode_demonstrations`.

    Raises:
        ValueError: a row is unusable. Rows are counted from 1.
    """
    screening, shown, said = Screening(), [], []
    for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True), start=1):
        with screening.row(Place(source, number)):
            said.append([row_completion(row, field, prompt.text)])
            reply = reply_ids(prompt, said[-1][0], tokenizer, end_token_id, closing=closing)
            shown.append(fitted(prompt, reply, max_length, tokenizer, screening, closing))
    warn_of_special_strings(tokenizer, said, f"{source}, {field}s")
    return tuple(shown)


def reply_ids(
    prompt: Prompt,
    completion: str,
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    special_tokens: SpecialTokens = "text",
    closing: bool = False,
) -> tuple[int, ...]:
    """Return the tokens of a completion, its end token included; ``closing`` is that of an encoder–decoder.

    Raises:
        BadRowError: the completion has no tokens.
    """
    ids = encode_reply(tokenizer, prompt.content, completion, special_tokens, closing)
    if not ids:
        raise BadRowError(f"completion {completion!r:.200} has no tokens; expected at least one")
    end = reply_end_id(tokenizer, prompt.content, end_token_id)
    return ids if ids[-1] == end else (*ids, end)


def fitted(
    prompt: Prompt,
    reply: tuple[int, ...],
    max_length: int | None,
    tokenizer: PreTrainedTokenizerBase,
    screening: Screening,
    closing: bool,
) -> Demonstration:
    """Return a prompt and its reply as a demonstration that fits into a context, together or, with ``closing``, apart.

    Raises:
        TooLongError: they do not fit; see :func:`fitted_prompt`.
    """
    if not closing or max_length is None:
        return Demonstration(fitted_prompt(prompt, len(reply), max_length, tokenizer, screening), reply)
    if len(reply) + 1 > max_length:
        raise TooLongError(
            f"completion and end token have {len(reply) - 1} + 1 tokens, which the decoder reads after a start token, "
            f"more than the model's context of {max_length}; shorten the row, or set truncation to 'drop'"
        )
    return Demonstration(fitted_prompt(prompt, 0, max_length, tokenizer, screening), reply)


def fitted_prompt(
    prompt: Prompt, reply: int, max_length: int | None, tokenizer: PreTrainedTokenizerBase, screening: Screening
) -> Prompt:
    """Return a prompt that fits into a context together with a reply.

    Under ``truncation="left"`` it loses tokens from its beginning, except a start token; the reply is never shortened.

    Args:
        prompt: a prompt of any length.
        reply: number of tokens of the completion and its end; of the longest completion, if several share the prompt; 0
            if the prompt has the context for itself.
        max_length: the model's context in tokens, or None.
        tokenizer: defines the start token.
        screening: policy for rows that are too long, and the count of shortened ones.

    Raises:
        TooLongError: they do not fit, and prompts may not be shortened, or the reply leaves no room for the prompt.
    """
    if max_length is None or len(prompt.ids) + reply <= max_length:
        return prompt
    room = max_length - reply
    if screening.truncation != "left" or room < 1:
        fix = "leave it out" if screening.truncation == "left" else "set truncation to 'left' or 'drop'"
        what = f"prompt, completion and end token have {len(prompt.ids)} + {reply - 1} + 1"
        raise TooLongError(
            f"{what if reply else f'the prompt has {len(prompt.ids)}'} tokens, more than the model's context of "
            f"{max_length}; shorten the row, or {fix}"
        )
    screening.shortened += 1
    return replace(prompt, ids=cut_left(prompt.ids, room, tokenizer))


def _running(
    row: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    end_token_id: int,
    max_length: int | None,
    special_tokens: SpecialTokens,
) -> Demonstration:
    text = row["text"]
    if not isinstance(text, str) or not text.strip():
        raise BadRowError(f"text is {text!r:.200}; expected a text that is not empty")
    ids = encode_content(tokenizer, text, special_tokens=special_tokens)
    ids = ids if ids[-1:] == [end_token_id] else [*ids, end_token_id]
    if len(ids) < 2:
        raise BadRowError(f"text {text!r:.200} has no tokens; expected at least one")
    if max_length is not None and len(ids) > max_length:
        raise TooLongError(
            f"text and end token have {len(ids)} tokens, more than the model's context of {max_length}; shorten it, or "
            "set truncation to 'drop'"
        )
    begin = str(tokenizer.decode(ids[:1]))
    return Demonstration(Prompt(begin, begin, (ids[0],), dict(row)), tuple(ids[1:]), running=True)


def collate(demonstrations: Sequence[Demonstration]) -> dict[str, Tensor]:
    """Return a batch for a causal model: ``input_ids``, ``attention_mask`` and ``labels``, ``[n, w]`` each.

    Rows are padded on the right, so that a causal model never attends to padding and positions count from 0. Labels are
    in the columns of their tokens, as transformers expects; prompts and padding are not trained.
    """
    input_ids, attention_mask = _padded([(*shown.prompt.ids, *shown.response_ids) for shown in demonstrations])
    labels = input_ids.masked_fill(attention_mask == 0, UNTRAINED)
    for row, shown in enumerate(demonstrations):
        labels[row, : len(shown.prompt.ids)] = UNTRAINED
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def collate_apart(demonstrations: Sequence[Demonstration], start: int) -> dict[str, Tensor]:
    """Return a batch for an encoder–decoder: prompts ``[n, w]`` for the encoder, responses ``[n, v + 1]`` to write.

    The decoder reads the token ``start`` and the response. Labels are in the columns of their tokens, as in
    :func:`collate`, so that none belongs to the start. Rows are padded on the right.
    """
    prompts, asked = _padded([shown.prompt.ids for shown in demonstrations])
    responses, written = _padded([(start, *shown.response_ids) for shown in demonstrations])
    labels = responses.masked_fill(written == 0, UNTRAINED)
    labels[:, 0] = UNTRAINED
    return {
        "input_ids": prompts,
        "attention_mask": asked,
        "decoder_input_ids": responses,
        "decoder_attention_mask": written,
        "labels": labels,
    }


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return rows of tokens padded on the right, and their mask, ``[n, w]`` each."""
    mask = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    ids = torch.zeros_like(mask)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def next_token_loss(logits: Tensor, labels: Tensor, n_trained: Tensor | int | None = None) -> Tensor:
    """Return the mean of −log p of the trained tokens, each predicted from the position before it.

    It is computed here, since the loss of some models compares logits and labels of the same position (BART's decoder).

    Args:
        logits: ``[n, w, V]``.
        labels: ``[n, w]`` tokens in their own columns; -100 for untrained positions.
        n_trained: divisor of the sum; None for the number of trained tokens.
    """
    targets = nn.functional.pad(labels, (0, 1), value=UNTRAINED)[:, 1:].reshape(-1)
    flat = logits.float().reshape(-1, logits.shape[-1])
    if n_trained is None:
        return nn.functional.cross_entropy(flat, targets, ignore_index=UNTRAINED)
    return nn.functional.cross_entropy(flat, targets, ignore_index=UNTRAINED, reduction="sum") / n_trained
