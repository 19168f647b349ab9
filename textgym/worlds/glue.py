"""Tokens around a world's reply: what a chat template writes between two turns of the policy.

What stands in an observation is never tokenised again. Only new text is encoded, once, as it continues the tokens
before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from textgym.tokenization import encode_following, first_line
from textgym.types import SpecialTokens

Piece: TypeAlias = str | tuple[int, ...]
"""A text, whose special tokens are parsed; or token ids."""

WORDS = ("alpha", "beta", "gamma", "delta", "omega")
"""Contents of the messages that a template is tried with."""


@dataclass(frozen=True)
class Glue:
    """Text or token ids around a reply.

    Attributes:
        before: stands between the policy's turn and the reply.
        after: stands between the reply and the policy's next turn.
        closing: stands before ``before`` after a turn that has no turn-end token, as ``max_turn_tokens`` ended it.
    """

    before: Piece = ""
    after: Piece = ""
    closing: Piece = ""

    def around(self, tokenizer: PreTrainedTokenizerBase, says: Piece, closed: bool = True) -> tuple[int, ...]:
        """Encode a reply with its glue.

        Special tokens that the glue writes become tokens. Strings of special tokens in a reply stay text.

        Args:
            tokenizer: the task's tokenizer.
            says: the reply: a text or token ids.
            closed: True if the policy's turn ended with a turn-end token.
        """
        pieces: list[tuple[Piece, SpecialTokens]] = [(self.before, "parse"), (says, "text"), (self.after, "parse")]
        if not closed:
            pieces.insert(0, (self.closing, "parse"))
        ids: list[int] = []
        texts: list[tuple[str, SpecialTokens]] = []
        for piece, special_tokens in pieces:
            if isinstance(piece, str):
                texts.append((piece, special_tokens))  # neighbouring texts are encoded as one
            else:
                ids += [*encode_following(tokenizer, texts), *piece]
                texts = []
        return (*ids, *encode_following(tokenizer, texts))


def template_glue(tokenizer: PreTrainedTokenizerBase, turn_end_ids: tuple[int, ...] = (), role: str = "user") -> Glue:
    """Return the glue of a tokenizer's chat template.

    The template renders conversations of k and of k + 1 messages. What the second has more than the first, without the
    new message's words, is the glue.

    Args:
        tokenizer: has a chat template.
        turn_end_ids: tokens that end the policy's turn. If the template writes one of them first, it is ``closing``.
        role: the role of the world's messages.

    Raises:
        ValueError: there is no template, it rejects such a conversation, or it changes earlier messages when one is
            added; the message asks for an explicit ``Glue``.
    """
    if not tokenizer.chat_template:
        raise ValueError(f"glue: the tokenizer has no chat template; {_EXPLICIT}")
    user, *others = WORDS
    first, second = (_rendered_glue(tokenizer, user, talk, role) for talk in (others[:2], others))
    if first != second:
        raise ValueError(
            f"glue: the chat template writes {first!r} around the first reply and {second!r} around the second; "
            f"{_EXPLICIT}"
        )
    before, after = first
    for end in (str(tokenizer.decode([i])) for i in turn_end_ids):  # not the token's name: a line feed's is Ċ
        if end and before.startswith(end):
            return Glue(before.removeprefix(end), after, closing=end)
    return Glue(before, after)


_EXPLICIT = "pass glue=Glue(before, after) with the texts between a turn and a reply, and between a reply and a turn"


def _rendered_glue(tokenizer: PreTrainedTokenizerBase, prompt: str, talk: list[str], role: str) -> tuple[str, str]:
    """Return the texts before and after the last of ``talk``, words of the assistant and of the world in turn."""
    messages = [{"role": "user", "content": prompt}]
    messages += [{"role": (("assistant", role))[i % 2], "content": word} for i, word in enumerate(talk)]
    said, word = talk[-2:]
    # As the policy saw it: the conversation up to its turn, its prompt for a turn, and the words it sampled.
    shown = _render(tokenizer, messages[:-2], role) + said
    longer = _render(tokenizer, messages, role)
    if not longer.startswith(shown):
        raise ValueError(
            f"glue: the chat template does not keep earlier messages as they were shown: {shown[-200:]!r} is no prefix "
            f"of {longer[-400:]!r}; {_EXPLICIT}"
        )
    before, found, after = longer.removeprefix(shown).partition(word)
    if not found:
        raise ValueError(f"glue: the chat template leaves out messages of role {role!r}; {_EXPLICIT}")
    return before, after


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], role: str) -> str:
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template is a program: it may raise anything
        raise ValueError(
            f"glue: the chat template refuses messages of role {role!r}: {first_line(error)}; {_EXPLICIT}"
        ) from error
