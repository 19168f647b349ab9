"""Ways to bring a prompt to P tokens, and its encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from transformers import PreTrainedTokenizerBase

from textgym.prompts import cut_left, encode_prompt
from textgym.tasks.real.constructions import Content
from textgym.tokenization import encode_text
from textgym.types import Prompt


@dataclass(frozen=True)
class Encoder:
    """Encoder of prompts for one model.

    Attributes:
        tokenizer: of the model.
        closing: True for an encoder–decoder, which reads the tokens that the tokenizer appends to every text.
    """

    tokenizer: PreTrainedTokenizerBase
    closing: bool

    def __call__(self, content: Content) -> Prompt:
        """Return a prompt of any length, without columns."""
        return encode_prompt({"prompt": content}, self.tokenizer, closing=self.closing)

    def plain(self, text: str) -> list[int]:
        """Return the tokens of a text alone."""
        return encode_text(self.tokenizer, text, add_special_tokens=False)

    @cached_property
    def appended(self) -> int:
        """Number of tokens at the end of each prompt that are not of its text."""
        return len(self("a").ids) - len(replace(self, closing=False)("a").ids)

    @cached_property
    def added(self) -> int:
        """Number of tokens at both ends of each prompt that are not of its text."""
        return len(self("a").ids) - len(self.plain("a"))


Fit: TypeAlias = Callable[[Content, int, Encoder], Prompt | None]
"""``fit(content, P, encode)``: the prompt in at most P tokens; None if it cannot be made so."""


def keep_end(content: Content, limit: int, encode: Encoder) -> Prompt:
    """Keep the last tokens. As published, the text stays whole: a classifier of the review reads all of it."""
    prompt = encode(content)
    return replace(prompt, ids=cut_left(prompt.ids, limit, encode.tokenizer))


def keep_beginning(content: Content, limit: int, encode: Encoder) -> Prompt:
    """Keep the first tokens, and those that the tokenizer appends."""
    prompt = encode(content)
    if len(prompt.ids) <= limit:
        return prompt
    appended = min(encode.appended, limit)
    return replace(prompt, ids=(*prompt.ids[: limit - appended], *prompt.ids[len(prompt.ids) - appended :]))


@dataclass(frozen=True)
class Shortened:
    """Way to shorten the content itself until it fits.

    Attributes:
        shorten: returns the next shorter content; None if there is none.
    """

    shorten: Callable[[Content], Content | None]

    def __call__(self, content: Content, limit: int, encode: Encoder) -> Prompt | None:
        """Return the first content that fits."""
        shorter: Content | None = content
        while shorter is not None:
            prompt = encode(shorter)
            if len(prompt.ids) <= limit:
                return prompt
            shorter = self.shorten(shorter)
        return None


def whole(content: Content, limit: int, encode: Encoder) -> Prompt | None:
    """Return the prompt if it fits as it is."""
    prompt = encode(content)
    return prompt if len(prompt.ids) <= limit else None


def sentences(content: Content, limit: int, encode: Encoder) -> Prompt | None:
    """Keep what follows the first full stop, up to the last one within the limit (Ziegler et al. 2019).

    None without a full stop. One that is merged with other characters into a token, as in ``."``, does not count.

    Raises:
        ValueError: the tokenizer has no token for a full stop.
    """
    assert isinstance(content, str), "a passage is a text"
    stop = encode.tokenizer.get_vocab().get(".")
    if stop is None:
        raise ValueError("the model's tokenizer has no token '.', at which passages are cut; use another model")
    ids = encode.plain(content)
    if stop not in ids:
        return None
    first = ids.index(stop) + 1
    # A passage that ends at its first full stop stays whole.
    kept = (ids[first:] or ids)[: max(0, limit - encode.added)]
    if stop not in kept:
        return None
    last = len(kept) - kept[::-1].index(stop)
    return keep_end(str(encode.tokenizer.decode(kept[:last])), limit, encode)
