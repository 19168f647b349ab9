"""Parts of mini tasks with turns: their model, and dialogues of scripted speakers.

Each turn is a line. These tasks share a tokenizer and a base model of their own, both in ``assets/turns``;
``turns_model.py`` rebuilds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textgym.types import Completion, Prompt
from textgym.worlds.glue import Glue
from textgym.worlds.world import World, role_of

TURNS_MODEL = Path(__file__).parent / "assets" / "turns"
LINE_END = "\n"

Piece: TypeAlias = tuple[str, bool]
"""Part of a dialogue, and True if the policy writes it."""
Speaker: TypeAlias = Callable[[Sequence[str]], str]
"""Policy written as a function: from the prompt and all replies so far to the next turn, without its end."""


@lru_cache(maxsize=1)
def turns_tokenizer() -> PreTrainedTokenizerBase:
    """Load the tokenizer of the mini tasks with turns, once; do not change it."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(TURNS_MODEL, trust_remote_code=False)
    return tokenizer


def line_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends a line, and so a turn."""
    (end,) = tokenizer(LINE_END)["input_ids"]
    return int(end)


def converse(world: World, prompt: Prompt, speak: Speaker, seed: int) -> list[dict[str, str]]:
    """Return the messages of an episode, which the world must end.

    Args:
        world: the other side.
        prompt: the prompt.
        speak: the policy.
        seed: ``episode_seed``.
    """
    (state,) = world.begin([prompt], [seed])
    said, messages, done = [prompt.text], list[dict[str, str]](), False
    while not done:
        turn = speak(said)
        ((state, reply),) = world.reply([state], [Completion(turn, (), "stop")])
        assert isinstance(reply.says, str), "these worlds reply in texts"
        said.append(reply.says)
        role = role_of(world)
        messages += [{"role": "assistant", "content": turn}, {"role": role, "content": reply.says}]
        done = reply.done
    return messages


def pieces(prompt: str, messages: Sequence[Mapping[str, str]], glue: Glue) -> list[Piece]:
    """Return a dialogue as an observation holds it, up to the policy's last turn.

    Args:
        prompt: the prompt.
        messages: of the policy and of the world in turn.
        glue: two texts around a reply.
    """
    found = [(prompt, False)]
    for message in messages:
        own = message["role"] == "assistant"
        found.append((message["content"] + LINE_END if own else f"{glue.before}{message['content']}{glue.after}", own))
    return found if found[-1][1] else found[:-1]
