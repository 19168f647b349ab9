"""Tokenizers: loading, end tokens, and text from tokens. The caller's tokenizer is never mutated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from os.path import commonprefix
from pathlib import Path
from typing import Any, TypeGuard

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textgym.types import Messages

ASSISTANT = "Assistant:"  # begins the assistant's turn in a conversation without a chat template
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def load_tokenizer(directory_or_id: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory or hub id.

    Raises:
        ValueError: nothing there can be read as a tokenizer.
    """
    check_exists(directory_or_id)
    directory = Path(directory_or_id)
    if directory.is_dir() and not any((directory / name).is_file() for name in TOKENIZER_FILES):
        # transformers would make an empty tokenizer from the model's type, without a word.
        raise ValueError(
            f"model={str(directory)!r}: no tokenizer stands beside the weights; expected one of "
            f"{', '.join(TOKENIZER_FILES)}. Save it there with tokenizer.save_pretrained(directory)"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(directory_or_id))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"model={str(directory_or_id)!r}: no tokenizer could be loaded from it ({first_line(error)}). Expected "
            "tokenizer.json beside the weights; save it there with tokenizer.save_pretrained(directory)"
        ) from error
    if len(tokenizer) == 0:
        raise ValueError(f"model={str(directory_or_id)!r}: its tokenizer has no tokens")
    return tokenizer


def check_exists(directory_or_id: str | Path) -> None:
    """ValueError for what can only be a directory, by its form, and is none; hub ids hold one slash at most."""
    path = Path(directory_or_id)
    is_path = (
        isinstance(directory_or_id, Path) or path.is_absolute() or len(path.parts) > 2 or path.parts[:1] == ("..",)
    )
    if is_path and not path.exists():
        raise ValueError(f"model={str(directory_or_id)!r}: no such directory")


def first_line(error: BaseException) -> str:
    """The gist of a library's many-line error."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def token_id_set(ids: int | Iterable[int] | None) -> tuple[int, ...]:
    """One id, several or none, as configs write them, as a sorted tuple."""
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(sorted(set(ids)))


def end_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> tuple[int, ...]:
    """Every token that ends a response: the tokenizer's and the generation config's, which may differ.

    Some models end with a token that is not their tokenizer's EOS; ``generation_config.eos_token_id`` lists it.
    """
    from_model = token_id_set(getattr(generation_config, "eos_token_id", None))
    return tuple(sorted({*from_model, *token_id_set(tokenizer.eos_token_id)}))


def trained_end(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> int:
    """The end token that a text to imitate closes with: the tokenizer's, if a response ends with it.

    Raises:
        ValueError: there is no end token.
    """
    if not end_ids:
        raise ValueError("the model and its tokenizer name no end token; set tokenizer.eos_token")
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id in end_ids else end_ids[0])


def filler_id(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int], vocabulary_size: int) -> int:
    """The id that stands where no token is: PAD if the tokenizer has one of its own, else any but an end token.

    It is only looks: the attention mask alone says where a token stands, so a policy may also sample it.
    """
    pad = tokenizer.pad_token_id
    if isinstance(pad, int) and pad not in end_ids and pad < vocabulary_size:
        return pad
    return next((i for i in range(vocabulary_size) if i not in end_ids), 0)


def is_conversation(value: Any) -> TypeGuard[Messages]:
    """Whether a field of a data row is a list of messages, each with a role and a text."""
    return isinstance(value, list | tuple) and all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in value
    )


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """A conversation as text that ends where the assistant's turn begins.

    Uses the tokenizer's chat template; plain ``Human: … Assistant:`` turns where it has none.

    Raises:
        ValueError: the template refuses the conversation, for instance as its roles do not alternate.
    """
    if tokenizer.chat_template:
        copied = [dict(m) for m in messages]
        try:
            return str(tokenizer.apply_chat_template(copied, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            raise ValueError(f"the tokenizer's chat template refuses the conversation: {first_line(error)}") from error
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    turns = [f"{names.get(m['role'], m['role'])}: {m['content']}" for m in messages]
    return "\n\n".join([*turns, ASSISTANT])


def chat_renderer(tokenizer: PreTrainedTokenizerBase) -> Callable[[Messages], str]:
    """:func:`render_chat`, for texts that the tokenizer encodes later as it does any other.

    A beginning that the template writes, and that the tokenizer adds to every text by itself, is left to the tokenizer.
    """
    start = tokenizer.bos_token if tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id] else None
    return lambda messages: render_chat(tokenizer, messages).removeprefix(start or "")


def reply_text(prompt: str, messages: Messages) -> str:
    """The assistant's one message as the text that follows a rendered conversation.

    After the plain ``Assistant:`` it begins with a space, as in the data of Bai et al. 2022 (arXiv:2204.05862); a chat
    template has written what stands between.

    Raises:
        ValueError: there is another number of messages, or another role.
    """
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages) or "none"
        raise ValueError(f"expected a text or one message of the assistant, got messages of: {roles}")
    text = messages[0]["content"]
    return f" {text}" if prompt.endswith(ASSISTANT) and text and not text[0].isspace() else text


def decode_response(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], end_ids: Sequence[int]) -> str:
    """A response as text, without the token that ended it."""
    body = ids[:-1] if len(ids) and ids[-1] in end_ids else ids
    return str(tokenizer.decode(list(body), skip_special_tokens=True))


def token_strings(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """Each token as the text that it adds to those before it, for display.

    Tokens of an unfinished multi-byte character show as the replacement sign, or as nothing.

    Args:
        tokenizer: decodes.
        ids: the tokens to show.
        before: tokens that stand before them, such as the prompt's; they decide whether a word begins with a space.
    """
    texts = [str(tokenizer.decode([*before, *ids[:i]])) for i in range(len(ids) + 1)]
    common = [commonprefix(pair) for pair in pairwise(texts)]  # noqa: RUF071 - of texts, not of paths
    return [text[len(start) :] for start, text in zip(common, texts[1:], strict=True)]
