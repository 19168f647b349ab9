"""A frozen language model as the other side: a simulated user, or an opponent.

The roles are swapped: to the world's model the policy is the user, and what the world says is the assistant's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym.lm.agreement import make_decoder
from textgym.lm.behaviour import Behaviour, draw
from textgym.lm.files.loading import (
    ModelSource,
    check_fits,
    context_length,
    frozen_copy,
    load_causal_lm,
    require_causal,
)
from textgym.lm.sampling import Sampling
from textgym.numbers import MOST_TOKENS, count, shown
from textgym.tokenization import decode_response, encode_content, end_token_ids, load_tokenizer
from textgym.types import Completion, FloatArray, IntArray, MaskArray, Prompt
from textgym.worlds.glue import Glue, template_glue
from textgym.worlds.world import Reply, turn_generator

LONGEST = 1024
"""Default of ``max_length``, for models whose context is longer."""
_SWAPPED = {"user": "assistant", "assistant": "user"}
_PLAIN = Glue("\n\nHuman: ", "\n\nAssistant:")
"""What stands around the policy's turn without a chat template; see :func:`textgym.tokenization.render_chat`."""


def policy(
    model: ModelSource | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    sampling: Sampling | None = None,
    max_tokens: int = 48,
    max_length: int | None = None,
    persona: str | None = None,
) -> PolicyWorld:
    """Return a world whose replies are sampled from a language model.

    The model reads the prompt as its own first words, and the policy's turns as a user's; system messages of the prompt
    are the policy's alone. A reply ends at the model's end token or after ``max_tokens``. Equal seeds and turns give
    equal replies, in every batch. All turns that end in one step are answered in one batch. Keys and values are cached
    within a reply; the conversation before it is read once per reply.

    Args:
        model: a directory, a hub id, a function that builds a model, or a model, which is copied.
        tokenizer: the model's tokenizer; by default the one in its directory. Texts pass between policy and world, so
            it may differ from the policy's.
        sampling: temperature, top-k, top-p and minimum length of replies.
        max_tokens: greatest number of tokens of a reply.
        max_length: greatest number of tokens of a conversation for the world's model; by default its context, but at
            most 1024. A conversation that leaves no room for a further reply ends the episode.
        persona: the column of the prompts that holds the system message of the world's model.

    Raises:
        ValueError: the model is no causal one, does not fit its tokenizer or ``max_length``, or has no tokenizer; or
            its chat template changes earlier messages, see :func:`textgym.worlds.template_glue`.
    """
    count("max_tokens", max_tokens, most=MOST_TOKENS)
    if isinstance(model, PreTrainedModel):
        # The caller may go on to train the model; a world must stay as it is.
        loaded = frozen_copy(require_causal(model, "a world"))
    else:
        loaded = load_causal_lm(model)
    if tokenizer is None:
        if isinstance(model, PreTrainedModel) or callable(model):
            raise ValueError("tokenizer=None; expected the model's tokenizer, as the model does not come from a folder")
        tokenizer = load_tokenizer(model)
    if max_length is None:
        max_length = min(context_length(loaded) or LONGEST, LONGEST)
    if count("max_length", max_length, most=MOST_TOKENS) <= max_tokens:
        raise ValueError(f"max_length={max_length} leaves no room beside max_tokens={max_tokens}; expected more tokens")
    return PolicyWorld(loaded, tokenizer, sampling or Sampling(), max_tokens, max_length, persona)


@dataclass(frozen=True)
class Heard:
    """State of an episode.

    Attributes:
        seed: ``episode_seed``.
        turn: number of turns answered so far.
        ids: all tokens so far, as the world's model reads them; its own words come last.
    """

    seed: int
    turn: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class PolicyWorld:
    """World of a language model; see :func:`policy`."""

    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    sampling: Sampling
    max_tokens: int
    max_length: int
    persona: str | None = None
    behaviour: Behaviour = field(init=False, repr=False)
    glue: Glue = field(init=False, repr=False)

    role = "user"

    def __post_init__(self) -> None:
        check_fits(self.model, self.tokenizer, len(self.tokenizer), self.max_length)
        ends = tuple(i for i in end_token_ids(self.tokenizer, self.model.generation_config) if i < len(self.tokenizer))
        object.__setattr__(self, "behaviour", Behaviour(len(self.tokenizer), ends, self.sampling))
        glue = template_glue(self.tokenizer, ends) if self.tokenizer.chat_template else _PLAIN
        object.__setattr__(self, "glue", glue)
        make_decoder(self.model, 1, self.max_length, self._most_read)  # checks the model, once for each kind

    @property
    def _most_read(self) -> int:
        """Greatest number of tokens before a reply."""
        return self.max_length - self.max_tokens

    def begin(self, prompts: list[Prompt], seeds: list[int]) -> list[Heard]:
        return [Heard(seed, 0, self._opening(prompt)) for prompt, seed in zip(prompts, seeds, strict=True)]

    def reply(self, states: list[Heard], turns: list[Completion]) -> list[tuple[Heard, Reply]]:
        asked = [self._asked(state, turn) for state, turn in zip(states, turns, strict=True)]
        fits = [row for row, ids in enumerate(asked) if len(ids) <= self._most_read]
        uniforms = [turn_generator(states[row].seed, states[row].turn).random(self.max_tokens) for row in fits]
        said = dict(zip(fits, self._say([asked[row] for row in fits], uniforms), strict=True))
        answers = []
        for row, (state, before) in enumerate(zip(states, asked, strict=True)):
            reply = Reply(self._text(before, said[row])) if row in said else Reply("", done=True)
            ids = (*before, *said.get(row, ()))
            answers.append((replace(state, turn=state.turn + 1, ids=ids), reply))
        return answers

    def _opening(self, prompt: Prompt) -> tuple[int, ...]:
        """Encode what precedes the policy's first turn: the persona, and the prompt with swapped roles."""
        content = prompt.content
        talk = [{"role": "user", "content": content}] if isinstance(content, str) else content
        if talk[-1]["role"] != "user":
            raise ValueError(
                f"the prompt ends with a message of role {talk[-1]['role']!r}; expected 'user', whom the world's model "
                "plays"
            )
        messages = [{**m, "role": _SWAPPED[m["role"]]} for m in talk if m["role"] in _SWAPPED]
        if self.persona is not None:
            text = prompt.columns.get(self.persona)
            if not isinstance(text, str):
                raise ValueError(f"persona={self.persona!r}: the prompt's column holds {shown(text)}; expected a text")
            messages.insert(0, {"role": "system", "content": text})
        ids = tuple(encode_content(self.tokenizer, messages))
        if len(ids) >= self._most_read:
            raise ValueError(
                f"the prompt has {len(ids)} tokens for the world's model, max_length={self.max_length} with max_tokens="
                f"{self.max_tokens} leaves {self._most_read} for a conversation; raise max_length"
            )
        return ids

    def _asked(self, state: Heard, turn: Completion) -> tuple[int, ...]:
        """Return the tokens before a reply; those so far are not encoded again."""
        closed = state.ids[-1] in self.behaviour.end_ids
        return (*state.ids, *self.glue.around(self.tokenizer, turn.text.strip(), closed))

    def _say(self, asked: list[tuple[int, ...]], uniforms: list[FloatArray]) -> list[tuple[int, ...]]:
        """Sample replies.

        Args:
            asked: tokens before each of ``n`` replies.
            uniforms: ``[max_tokens]`` random numbers in [0, 1) for each of them.

        Returns:
            The tokens of each reply, its end token included.
        """
        if not asked:
            return []
        first, chances = self._most_read, torch.from_numpy(np.stack(uniforms))
        ids: IntArray = np.zeros((len(asked), self.max_length), np.int64)
        mask: MaskArray = np.zeros(ids.shape, np.int8)
        for row, before in enumerate(asked):
            ids[row, first - len(before) : first] = before
            mask[row, first - len(before) : first] = 1
        decoder = make_decoder(self.model, len(asked), self.max_length, first)
        going = np.arange(len(asked))
        for column in range(first, self.max_length):
            logits = decoder.logits(ids, mask, going)
            elapsed = torch.full((len(going),), column - first, device=logits.device)
            own = chances[going, column - first].to(logits.device)
            tokens, log_probs = draw(self.behaviour.logits(logits, elapsed), own)
            if log_probs.isnan().any():
                raise ValueError("the logits of the world's model are NaN")
            ids[going, column], mask[going, column] = tokens.cpu().numpy(), 1
            going = going[~np.isin(ids[going, column], self.behaviour.end_ids)]
            if not len(going):
                break
        return [tuple(row[first:][seen[first:] > 0].tolist()) for row, seen in zip(ids, mask, strict=True)]

    def _text(self, before: tuple[int, ...], ids: tuple[int, ...]) -> str:
        ends = self.behaviour.end_ids
        return decode_response(self.tokenizer, before, ids, ends, skip_special_tokens=True).strip()
