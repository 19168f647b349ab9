"""Tokenizers: loading, end tokens, encoding and decoding.

The caller's tokenizer is never changed.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from os.path import commonprefix
from pathlib import Path
from typing import Any, TypeGuard

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textgym.files import write_json
from textgym.types import Messages, SpecialTokens

ASSISTANT = "Assistant:"  # begins the assistant's turn if there is no chat template
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def load_tokenizer(directory_or_id: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model directory or hub id.

    Raises:
        ValueError: no tokenizer can be read there.
    """
    check_exists(directory_or_id)
    directory = Path(directory_or_id)
    if directory.is_dir() and not any((directory / name).is_file() for name in TOKENIZER_FILES):
        # transformers would silently make an empty tokenizer from the model's type.
        raise ValueError(
            f"model={str(directory)!r}: there is no tokenizer next to the weights; expected one of "
            f"{', '.join(TOKENIZER_FILES)}. Save it there with tokenizer.save_pretrained(directory)"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            str(directory_or_id), trust_remote_code=False
        )
    except Exception as error:  # tokenizers, json and the hub client each have their own exception types
        raise ValueError(
            f"model={str(directory_or_id)!r}: no tokenizer could be loaded from it ({reason(error)}). Expected "
            "tokenizer.json next to the weights; save it there with tokenizer.save_pretrained(directory)"
        ) from error
    if len(tokenizer) == 0:
        raise ValueError(f"model={str(directory_or_id)!r}: its tokenizer has no tokens")
    return tokenizer


def check_exists(directory_or_id: str | Path) -> None:
    """Reject a source that by its form can only be a directory but is none; hub ids have one slash at most.

    Raises:
        ValueError: there is no such directory.
    """
    path = Path(directory_or_id)
    is_path = (
        isinstance(directory_or_id, Path) or path.is_absolute() or len(path.parts) > 2 or path.parts[:1] == ("..",)
    )
    if is_path and not path.exists():
        raise ValueError(f"model={str(directory_or_id)!r}: no such directory")


def first_line(error: BaseException) -> str:
    """Return the first line of a library's multi-line error message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def reason(error: BaseException) -> str:
    """Explain in one line why transformers could not open a model or a tokenizer."""
    if "trust_remote_code" in str(error):
        return (
            "it needs code of its own, which textgym never runs; expected a model that the installed transformers "
            "knows by itself"
        )
    return first_line(error)


def token_id_set(ids: int | Iterable[int] | None) -> tuple[int, ...]:
    """Return token ids as a sorted tuple; configs write a single id, a list, or None."""
    if ids is None:
        return ()
    return (ids,) if isinstance(ids, int) else tuple(sorted(set(ids)))


def end_token_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any = None) -> tuple[int, ...]:
    """Return every token that ends a response: the tokenizer's, the generation config's and the chat template's.

    Some models end with a token that is not their tokenizer's EOS: ``generation_config.eos_token_id`` lists it, or the
    chat template writes it after the assistant's words (see :func:`turn_end_id`).
    """
    from_model = token_id_set(getattr(generation_config, "eos_token_id", None))
    return tuple(sorted({*from_model, *token_id_set(tokenizer.eos_token_id), *token_id_set(turn_end_id(tokenizer))}))


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the token that the chat template writes after the assistant's words: ``<|im_end|>``, ``<end_of_turn>``.

    The result is None without a template, if the template writes no special token there, or if it renders no
    conversation of a user and an assistant, with or without a system message.
    """
    return _turn_marks(tokenizer)[-1]


def _turn_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, ...]:
    """Return the chat template's tokens next to messages: before and after a user's words, and after the assistant's.

    They need not be marked as special. Tokens farther off may be words of the template, such as ``<think>``.
    """
    # Rendering a conversation whose messages are one known word shows which tokens the template puts around messages.
    word = "textgym"
    before, *between, after = _sample_chat(tokenizer, word).split(word)
    # Only added tokens can be marks of turns: all others are pieces of ordinary text.
    known = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip()}
    find = _any_of(tuple(known)).findall
    nearest = [find(before)[-1:], *(find(text)[:1] for text in (*between, after))]
    return tuple(known[found[0]] if found else None for found in nearest)


def _sample_chat(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    """Render a user's and an assistant's turn of one word, after a system message if the template needs one."""
    talk = [{"role": "user", "content": word}, {"role": "assistant", "content": word}]
    for turns in (talk, [{"role": "system", "content": "Talk."}, *talk]) if tokenizer.chat_template else ():
        with suppress(Exception):  # a template is a program: it may raise anything
            text = str(tokenizer.apply_chat_template(turns, tokenize=False))
            if word in text:
                return text
    return word


def write_turn_end(directory: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the end of the assistant's turn to a saved model's generation config, so that other tools stop there."""
    path, turn_end = directory / "generation_config.json", turn_end_id(tokenizer)
    if turn_end is None or not path.is_file():
        return
    config = json.loads(path.read_text(encoding="utf-8"))
    ends = token_id_set(config.get("eos_token_id"))
    if turn_end not in ends:
        write_json(path, {**config, "eos_token_id": sorted({*ends, *end_token_ids(tokenizer)})})


def reply_end_id(tokenizer: PreTrainedTokenizerBase, content: str | Messages, otherwise: int) -> int:
    """Return the end token of a training completion: in a conversation, the one that ends the assistant's turn."""
    turn_end = None if isinstance(content, str) else turn_end_id(tokenizer)
    return otherwise if turn_end is None else turn_end


def trained_end(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int]) -> int:
    """Return the end token of a training text: the tokenizer's, if a response ends with it.

    Raises:
        ValueError: there is no end token.
    """
    if not end_ids:
        raise ValueError("the model and its tokenizer name no end token; set tokenizer.eos_token")
    return int(tokenizer.eos_token_id if tokenizer.eos_token_id in end_ids else end_ids[0])


def filler_id(tokenizer: PreTrainedTokenizerBase, end_ids: Sequence[int], vocabulary_size: int) -> int:
    """Return the id that fills padding: PAD if the tokenizer has a separate one, otherwise any id but an end token.

    The choice is cosmetic: the attention mask alone defines padding, so a policy may also sample this id.
    """
    pad = tokenizer.pad_token_id
    if isinstance(pad, int) and pad not in end_ids and pad < vocabulary_size:
        return pad
    return next((i for i in range(vocabulary_size) if i not in end_ids), 0)


def is_conversation(value: Any) -> TypeGuard[Messages]:
    """Return True if a field of a data row is a list of messages, each with a role and a text."""
    return isinstance(value, list | tuple) and all(
        isinstance(message, Mapping)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in value
    )


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """Render a conversation as text that ends where the assistant's next words begin.

    Uses the tokenizer's chat template, or plain ``Human: … Assistant:`` turns without one. If the last message is the
    assistant's, its turn is left open, to be continued.

    Raises:
        ValueError: the template rejects the conversation, for instance because its roles do not alternate.
    """
    goes_on = bool(messages) and messages[-1]["role"] == "assistant"
    if tokenizer.chat_template:
        copied, turn = [dict(m) for m in messages], "continue_final_message" if goes_on else "add_generation_prompt"
        settings: dict[str, Any] = {"tokenize": False, turn: True}
        try:
            return str(tokenizer.apply_chat_template(copied, **settings))
        except Exception as error:  # a template is a program: it may raise anything
            raise ValueError(f"the tokenizer's chat template refuses the conversation: {first_line(error)}") from error
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    turns = [f"{names.get(m['role'], m['role'])}: {m['content']}" for m in messages]
    return "\n\n".join(turns if goes_on else [*turns, ASSISTANT])


def chat_renderer(tokenizer: PreTrainedTokenizerBase) -> Callable[[Messages], str]:
    """Bind :func:`render_chat` to one tokenizer."""
    return partial(render_chat, tokenizer)


def reply_text(prompt: str, messages: Messages) -> str:
    """Return the assistant's one message as the text that follows a rendered conversation.

    After the plain ``Assistant:`` the text begins with a space, as in the data of Bai et al. 2022 (arXiv:2204.05862). A
    chat template has already written its own separator.

    Raises:
        ValueError: there is not exactly one message, or its role is not the assistant's.
    """
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in messages) or "none"
        raise ValueError(f"expected a text or one message of the assistant, got messages of: {roles}")
    text = messages[0]["content"]
    return f" {text}" if prompt.endswith(ASSISTANT) and text and not text[0].isspace() else text


# --- tokens from text --------------------------------------------------------------------------------------


def encode_content(
    tokenizer: PreTrainedTokenizerBase,
    content: str | Messages,
    completion: str = "",
    *,
    special_tokens: SpecialTokens = "text",
    closing: bool = False,
) -> list[int]:
    """Encode a prompt, or a prompt and its completion, as one text.

    Special tokens that a chat template writes become tokens. Strings of special tokens in user text, messages included,
    stay text unless ``special_tokens="parse"``.

    Args:
        tokenizer: adds its own special tokens, except where a chat template writes them.
        content: a text or a conversation.
        completion: the text that follows it.
        special_tokens: treatment of strings of special tokens.
        closing: keep the tokens that the tokenizer appends to every text, as an encoder expects. A causal model would
            continue after an end token.

    Raises:
        ValueError: the chat template rejects the conversation.
    """
    if not isinstance(content, str) and tokenizer.chat_template:
        return _encode_templated(tokenizer, content, completion, special_tokens)
    text = (content if isinstance(content, str) else render_chat(tokenizer, content)) + completion
    ids = encode_text(tokenizer, text, special_tokens)
    if ids[:2] == [tokenizer.bos_token_id] * 2 and special_tokens == "parse":
        ids = ids[1:]  # the tokenizer adds BOS to a text that was rendered elsewhere and begins with it already
    return ids if closing else ids[: len(ids) - _appended(tokenizer, text, ids, special_tokens)]


def encode_reply(
    tokenizer: PreTrainedTokenizerBase,
    content: str | Messages,
    completion: str,
    special_tokens: SpecialTokens = "text",
    closing: bool = False,
) -> tuple[int, ...]:
    """Encode a completion as it continues a prompt.

    Some tokenizers put a space before every text, so prompt and completion are encoded together. If that merges
    characters of the two into one token, a policy could not have written it so, and the completion is encoded by
    itself.

    Args:
        tokenizer: the policy's.
        content: a text or a conversation.
        completion: the text that follows it.
        special_tokens: treatment of strings of special tokens.
        closing: True for an encoder–decoder, whose decoder begins a text of its own (see :func:`encode_content`).
    """
    if closing:
        return tuple(encode_text(tokenizer, completion, special_tokens, add_special_tokens=False))
    before = encode_content(tokenizer, content, special_tokens=special_tokens)
    together = encode_content(tokenizer, content, completion, special_tokens=special_tokens)
    if together[: len(before)] == before:
        return tuple(together[len(before) :])
    # The boundary was merged into one token; see above.
    return tuple(encode_text(tokenizer, completion, special_tokens, add_special_tokens=False))


def encode_text(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    special_tokens: SpecialTokens = "text",
    add_special_tokens: bool = True,
) -> list[int]:
    """Encode a text; ``add_special_tokens`` refers to those that the tokenizer adds to every text."""
    return list(encode_fields(tokenizer, text, special_tokens, add_special_tokens=add_special_tokens)["input_ids"])


def encode_fields(
    tokenizer: PreTrainedTokenizerBase, text: str, special_tokens: SpecialTokens = "text", **settings: bool
) -> dict[str, list[int]]:
    """Encode a text into all fields of the tokenizer: ``input_ids``, ``attention_mask``, and others on request."""
    if special_tokens == "parse" or special_string(tokenizer, text) is None:
        return _tokenized(tokenizer, text, **settings)
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    before = getattr(backend, "encode_special_tokens", None)
    try:
        return _tokenized(tokenizer, text, split_special_tokens=True, **settings)
    finally:
        if before is not None:
            backend.encode_special_tokens = before  # split_special_tokens changes the tokenizer itself


def _tokenized(tokenizer: PreTrainedTokenizerBase, text: str, **settings: bool) -> dict[str, list[int]]:
    """Call the tokenizer.

    Raises:
        ValueError: the text holds half a surrogate pair, which no encoding can represent.
    """
    try:
        return dict(tokenizer(text, **settings))
    except (TypeError, UnicodeEncodeError) as error:  # fast tokenizers raise TypeError
        half = re.search("[\ud800-\udfff]", text)
        if half is None:
            raise
        raise ValueError(
            f"a text holds half a surrogate pair ({half[0]!a}), which is not a character: {text[:80]!a}"
        ) from error


def special_string(tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """Return the first string in a text that the tokenizer reads as a special token, or None."""
    found = _special(tokenizer).pattern.search(text)
    return None if found is None else found[0]


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return all special tokens: those with a role such as EOS, those added as special, and the chat template's own."""
    return {*tokenizer.all_special_ids, *_special(tokenizer).ids}


def warn_of_special_strings(tokenizer: PreTrainedTokenizerBase, rows: Iterable[Sequence[str]], source: str) -> None:
    """Warn, once, that strings of special tokens in the texts of some rows are read as text.

    Raises:
        ValueError: the tokenizer makes a special token of such a string even when it reads text.
    """
    strings = [(number, found) for number, row in enumerate(rows, start=1) for found in _strings(tokenizer, row)]
    # Tested once per string rather than per row, as each test encodes the string.
    never_text = {found for found in {found for _, found in strings} if _is_never_text(tokenizer, found)}
    for number, found in strings:
        if found in never_text:
            raise ValueError(
                f"{source}, row {number}: the text holds {found!r}, which this tokenizer makes its special token even "
                "when it reads text; change the text, or set special_tokens='parse' (--special-tokens parse)"
            )
    if strings:
        number, found = strings[0]
        others = len({row for row, _ in strings}) - 1
        more = f", and so do {others} more rows" if others else ""
        warnings.warn(
            f"{source}, row {number}: the text holds {found!r}{more}. It is read as text, not as the special token; "
            "for prompts that a chat template has rendered set special_tokens='parse' (--special-tokens parse)",
            stacklevel=3,
        )


def with_special_strings_spaced(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Insert a space into strings that the tokenizer reads as special tokens even in text: ``< /s>`` for ``</s>``."""
    held = tuple(found for found in _strings(tokenizer, [text]) if _is_never_text(tokenizer, found))
    return _any_of(held).sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


def _is_never_text(tokenizer: PreTrainedTokenizerBase, special: str) -> bool:
    """Return True if the tokenizer makes its special token of this string even when it reads text."""
    ids = encode_text(tokenizer, special, add_special_tokens=False)
    # Characters that the tokenizer does not know may also become a special token (UNK), but then the ids do not decode
    # to the string.
    return tokenizer.convert_tokens_to_ids(special) in ids and str(tokenizer.decode(ids)).strip() == special.strip()


def words_of(content: str | Messages) -> list[str]:
    """Return a user's texts: the prompt itself, or the contents of its messages."""
    return [content] if isinstance(content, str) else [message["content"] for message in content]


def _encode_templated(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, completion: str, special_tokens: SpecialTokens
) -> list[int]:
    """Encode a rendered conversation: the template's special tokens become tokens, those in user text stay text."""
    written = [*(value for message in messages for value in message.values() if isinstance(value, str)), completion]
    held = _strings(tokenizer, written) if special_tokens == "text" else []
    if not held:
        text = render_chat(tokenizer, messages) + completion
        return list(_tokenized(tokenizer, text, add_special_tokens=False)["input_ids"])
    # In the rendered text, special tokens of the template and equal strings of users look the same. So each string of a
    # user is replaced by a character of Unicode's private use area before rendering, and put back afterwards.
    mark, unmarked = _marks(held, written)
    marked = [{key: mark(value) if isinstance(value, str) else value for key, value in m.items()} for m in messages]
    return _encode_marked(tokenizer, render_chat(tokenizer, marked) + mark(completion), unmarked)


def encode_following(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, SpecialTokens]]) -> list[int]:
    """Encode texts that follow other tokens, as one text without the tokenizer's own start and end tokens.

    Strings of special tokens become tokens where a text comes with ``"parse"``, and stay text where it comes with
    ``"text"``.
    """
    if not any(text for text, _ in texts):
        return []
    users = [text for text, special_tokens in texts if special_tokens == "text"]
    mark, unmarked = _marks(_strings(tokenizer, users), [text for text, _ in texts])
    joined = "".join(mark(text) if special_tokens == "text" else text for text, special_tokens in texts)
    return _encode_marked(tokenizer, joined, unmarked, begins=False)


def _marks(held: Sequence[str], written: Sequence[str]) -> tuple[Callable[[str], str], dict[int, str]]:
    """Return a function that replaces strings of special tokens by characters no text holds, and the way back."""
    letters = (letter for letter in map(chr, range(0xE000, 0xF900)) if not any(letter in text for text in written))
    marks = dict(zip(held, letters, strict=False))
    mark = partial(_any_of(tuple(held)).sub, lambda found: marks[found[0]])
    return mark, {ord(letter): text for text, letter in marks.items()}


def _encode_marked(
    tokenizer: PreTrainedTokenizerBase, text: str, unmarked: Mapping[int, str], begins: bool = True
) -> list[int]:
    """Encode a text whose special tokens become tokens; strings that were replaced by marks stay text."""
    ids: list[int] = []
    for piece, token in _between(text, _special(tokenizer)):
        ids += _encode_following(tokenizer, piece.translate(unmarked), first=begins and not ids)
        ids += [] if token is None else encode_text(tokenizer, token, "parse", add_special_tokens=False)
    return ids


def _between(text: str, special: _Special) -> Iterable[tuple[str, str | None]]:
    """Yield pieces of a text, each with the special token after it; some tokens absorb adjacent white space."""
    begin = 0
    for found in special.pattern.finditer(text):
        token, piece = special.tokens[found[0]], text[begin : found.start()]
        yield piece.rstrip() if token.lstrip else piece, found[0]
        begin = found.end()
        if token.rstrip:
            begin += len(text[begin:]) - len(text[begin:].lstrip())
    yield text[begin:], None


def _encode_following(tokenizer: PreTrainedTokenizerBase, text: str, first: bool) -> list[int]:
    """Encode a text that follows a special token; some tokenizers put a space before a text only at the beginning."""
    if not text:
        return []
    encode = partial(encode_text, tokenizer, add_special_tokens=False)
    own = next(iter(_special(tokenizer).tokens), None)
    # Does the tokenizer treat "a" after a special token like "a" at the beginning? If not (SentencePiece's dummy
    # prefix), encode the text behind a line feed, and cut that off.
    if first or (own is not None and encode("a") == encode(own + "a", "parse")[1:]):
        return encode(text)
    line, together = encode("\n"), encode("\n" + text)
    return together[len(line) :] if together[: len(line)] == line else encode(text)


def _appended(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int], special_tokens: SpecialTokens) -> int:
    """Count the tokens that the tokenizer has appended to a text."""
    if not tokenizer.num_special_tokens_to_add():
        return 0
    own = encode_text(tokenizer, text, special_tokens, add_special_tokens=False)
    # Compared with the encoding without special tokens: what follows its occurrence was appended.
    starts = range(len(ids) - len(own) + 1)
    return next((len(ids) - start - len(own) for start in starts if own and ids[start : start + len(own)] == own), 0)


def _strings(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> list[str]:
    """Return all strings of special tokens in some texts, each once."""
    pattern = _special(tokenizer).pattern
    return list(dict.fromkeys(found for text in texts for found in pattern.findall(text)))


@dataclass(frozen=True)
class _Special:
    """A tokenizer's special tokens by their strings, their ids, and a pattern that finds them in a text."""

    tokens: Mapping[str, Any]
    ids: frozenset[int]
    pattern: re.Pattern[str]


def _special(tokenizer: PreTrainedTokenizerBase) -> _Special:
    named = tuple(tokenizer.all_special_tokens)
    # Name, size and template change when a caller adds tokens, which must not return a stale cache entry.
    return _read_special(tokenizer, named, len(tokenizer), str(tokenizer.chat_template))


@lru_cache(maxsize=8)
def _read_special(tokenizer: PreTrainedTokenizerBase, named: tuple[str, ...], *_: Any) -> _Special:
    """Collect the special tokens of a tokenizer; cached, as this takes as long as encoding a text.

    The arguments beyond the tokenizer are part of the cache's key: they change when its tokens or its template do.
    """
    added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content}
    marks = _turn_marks(tokenizer)
    found = {i: token for i, token in added.items() if token.special or token.content in named or i in marks}
    tokens = {token.content: token for token in found.values()}
    return _Special(tokens, frozenset(found), _any_of(tuple(tokens)))


@lru_cache(maxsize=64)
def _any_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    """Compile a pattern that matches any of some texts, the longest first; without texts it matches nothing."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


# --- text from tokens --------------------------------------------------------------------------------------


def decode_response(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    ids: Sequence[int],
    end_ids: Sequence[int],
    skip_special_tokens: bool = False,
) -> str:
    """Decode a response to the text that it adds to its prompt: ``" Lily"`` after ``"a girl named"``.

    The token that ended it is left out, and so are padding and the tokenizer's start token; other special tokens are
    kept. After a prompt with an end token, as an encoder reads it, a response is decoded as a separate text.

    Args:
        tokenizer: the tokenizer.
        prompt_ids: the prompt's tokens.
        ids: the response's tokens.
        end_ids: tokens that end a response.
        skip_special_tokens: leave out all special tokens.
    """
    body = ids[:-1] if len(ids) and ids[-1] in end_ids else ids
    unwritten = {tokenizer.pad_token_id, tokenizer.bos_token_id}
    if skip_special_tokens:
        unwritten |= special_ids(tokenizer)
    # An encoder's prompt ends with EOS; the decoder starts a new text after it.
    before = [] if list(prompt_ids[-1:]) == [tokenizer.eos_token_id] else list(prompt_ids)
    # Decoded behind the prompt: by itself, a response would lose its first space, or a character whose bytes are split
    # between the two. The common prefix, rather than the prompt's length, as a decoder may change the prompt's end.
    prompt = str(tokenizer.decode(before))
    whole = str(tokenizer.decode([*before, *(i for i in body if i not in unwritten)]))
    return whole[len(commonprefix([prompt, whole])) :]  # noqa: RUF071 - of texts, not of paths


def token_strings(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """Return the text that each token adds to those before it, for display.

    Tokens of an unfinished multi-byte character show as the replacement sign, or as nothing.

    Args:
        tokenizer: the tokenizer.
        ids: the tokens to show.
        before: tokens that precede them, such as the prompt's; they decide whether a word begins with a space.
    """
    texts = [str(tokenizer.decode([*before, *ids[:i]])) for i in range(len(ids) + 1)]
    common = [commonprefix(pair) for pair in pairwise(texts)]  # noqa: RUF071 - of texts, not of paths
    return [text[len(start) :] for start, text in zip(common, texts[1:], strict=True)]
