"""Small worlds with known replies, for tests of turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.helpers import word_tokenizer
from textgym.env.mdp import TokenMDP
from textgym.prompts import encode_prompts
from textgym.types import Completion, Prompt
from textgym.worlds import Glue, KnownWorld, Outcome, Reply, State

TURN_END = 15  # "w13"
PROMPTS = ("w0 w1", "w2", "w3 w4 w5", "w6 w7 w8 w9")


@dataclass(frozen=True)
class Chatter(KnownWorld):
    """Answers a turn with one, two or five words, by chance; pays the number of words in the turn, over 10.

    The state counts the turns; the reply to turn number ``last`` ends the episode.
    """

    last: int = 99

    def start(self, prompt: Prompt) -> State:
        return 0

    def outcomes(self, state: State, turn: Completion) -> Sequence[Outcome]:
        paid, done = len(turn.text.split()) / 10, state + 1 == self.last
        says = ["w1", "w2 w3", "w4 w5 w6 w7 w8"]
        return [
            (chance, state + 1, Reply(text, paid, done)) for chance, text in zip([0.5, 0.3, 0.2], says, strict=True)
        ]


@dataclass(frozen=True)
class Silent(KnownWorld):
    """Hears every turn, and says nothing."""

    def start(self, prompt: Prompt) -> State:
        return 0

    def outcomes(self, state: State, turn: Completion) -> Sequence[Outcome]:
        return [(1.0, state + 1, Reply(""))]


def count_even(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Return the share of even tokens among the policy's own."""
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


def talking_mdp(world: Any = None, reward: Any = count_even, **changes: Any) -> TokenMDP:
    """Return a task of 16 words whose turns end with w13 or after four tokens, and episodes with <eos>."""
    tokenizer = word_tokenizer()
    settings = {
        "end_token_ids": (1,),
        "max_prompt_length": 4,
        "max_new_tokens": 24,
        "turn_end_ids": (TURN_END,),
        "max_turn_tokens": 4,
        "glue": Glue("w10 ", " w11"),
    }
    prompts = encode_prompts(PROMPTS, tokenizer, 4)
    return TokenMDP(tokenizer, prompts, reward, world=world or Chatter(), **{**settings, **changes})
