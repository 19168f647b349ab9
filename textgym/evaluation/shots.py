"""Few-shot prompts: examples with their references before each prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from textgym.env.mdp import TokenMDP
from textgym.prompts import content_key, encode_prompt
from textgym.types import Messages, Prompt

SEPARATOR = "\n\n"
"""What stands between examples of a text; a response ends there, as a model goes on with an example of its own."""
REFERENCES = ("reference", "references")
"""Columns that hold a good completion, or a list of them, the first of which is shown."""


def reference_of(columns: Mapping[str, Any]) -> str | None:
    """Return the first reference text of a prompt's columns; None without one."""
    for name in REFERENCES:
        value = columns.get(name)
        if isinstance(value, list | tuple):
            value = value[0] if value else None
        if isinstance(value, str) and value:
            return value
    return None


def draw_examples(prompt: Prompt, pool: Sequence[Prompt], shots: int, seed: int) -> list[Prompt]:
    """Draw the examples of a prompt, a function of the seed and the prompt's text alone.

    The prompt itself is never among them, nor a prompt of the same text, and no example stands twice. Fewer shots are
    the first of more.

    Args:
        prompt: the prompt that they are to stand before.
        pool: prompts with references.
        shots: number of examples.
        seed: random seed.

    Raises:
        ValueError: there are fewer examples than shots.
    """
    digest = hashlib.sha256(repr(content_key(prompt.content)).encode()).digest()
    rng = np.random.default_rng([seed, *np.frombuffer(digest, np.uint32).tolist()])
    taken = {_plain(prompt)}
    found: list[Prompt] = []
    for row in rng.permutation(len(pool)).tolist():
        if len(found) == shots:
            break
        if (plain := _plain(pool[row])) not in taken:
            taken.add(plain)
            found.append(pool[row])
    if len(found) < shots:
        raise ValueError(
            f"shots={shots} is more than the {len(found)} examples there are beside the prompt {prompt.text[:80]!r}; "
            "ask for fewer"
        )
    return found


def as_cut(prompt: Prompt, tokenizer: PreTrainedTokenizerBase | None) -> str | Messages:
    """Return what a task's own model reads of a prompt: its text, or the part that is left where tokens were cut.

    Args:
        prompt: the prompt, with the task's tokens.
        tokenizer: the task's; None where nothing was cut.
    """
    content = prompt.content
    if tokenizer is None or not isinstance(content, str) or not prompt.ids:
        return content
    left = str(tokenizer.decode(list(prompt.ids), skip_special_tokens=True)).strip()
    whole = content.strip()
    is_part = 0 < len(left) < len(whole) and (whole.startswith(left) or whole.endswith(left))
    return left if is_part else content


def _plain(prompt: Prompt) -> str:
    """Return a prompt's text without differences of case and white space, in which duplicates may differ."""
    content = prompt.content
    text = content if isinstance(content, str) else "\n".join(f"{m['role']}: {m['content']}" for m in content)
    return " ".join(text.casefold().split())


def with_examples(content: str | Messages, examples: Sequence[Prompt]) -> str | list[dict[str, str]]:
    """Return the content of a prompt behind examples, each followed by its reference.

    Texts are joined by blank lines. In a conversation each example is a turn of the user with the assistant's answer,
    behind the system's message if there is one.
    """
    if isinstance(content, str):
        return SEPARATOR.join([*(_shown(example) for example in examples), content])
    begins = [dict(message) for message in content if message["role"] == "system"][:1]
    turns = [message for example in examples for message in _turns(example)]
    return [*begins, *turns, *(dict(message) for message in content[len(begins) :])]


def _shown(example: Prompt) -> str:
    reference = reference_of(example.columns) or ""
    gap = "" if example.text[-1:].isspace() or reference[:1].isspace() else " "
    return f"{example.content}{gap}{reference}".rstrip()


def _turns(example: Prompt) -> list[dict[str, str]]:
    content: Any = example.content
    asked = [{"role": "user", "content": content}] if isinstance(content, str) else [dict(m) for m in content]
    reference = (reference_of(example.columns) or "").strip()
    return [*(m for m in asked if m["role"] != "system"), {"role": "assistant", "content": reference}]


def few_shot_prompts(
    prompts: Sequence[Prompt],
    pool: Sequence[Prompt],
    shots: int,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    closing: bool = False,
    *,
    origins: Sequence[Prompt] | None = None,
    cut_by: PreTrainedTokenizerBase | None = None,
) -> tuple[Prompt, ...]:
    """Return prompts whose tokens begin with examples; rewards still see the prompts alone.

    Args:
        prompts: the prompts to ask.
        pool: prompts to draw examples from; those without a reference are left out.
        shots: number of examples before each prompt, at least 1.
        seed: seed of the draw, with each prompt's text.
        tokenizer: of the model that is to read them.
        closing: as in :func:`textgym.prompts.encode_prompts`.
        origins: of other wordings, the question of each: all of its wordings get its examples. Default: themselves.
        cut_by: the task's tokenizer, whose tokens of a long prompt may have been cut: see :func:`as_cut`.

    Raises:
        ValueError: no prompt of the pool has a reference, or there are fewer examples than shots.
    """
    shown = [prompt for prompt in pool if reference_of(prompt.columns) is not None]
    if not shown:
        raise ValueError(
            f"shots={shots} needs examples with a column {' or '.join(map(repr, REFERENCES))}, and none of the "
            f"{len(pool)} prompts has one; pass --shots 0"
        )
    found = []
    for prompt, origin in zip(prompts, prompts if origins is None else origins, strict=True):
        examples = [replace(one, content=as_cut(one, cut_by)) for one in draw_examples(origin, shown, shots, seed)]
        whole = with_examples(as_cut(prompt, cut_by), examples)
        asked = encode_prompt({"prompt": whole}, tokenizer, closing=closing)
        found.append(Prompt(prompt.content, asked.text, asked.ids, prompt.columns))
    return tuple(found)


def check_room(prompts: Sequence[Prompt], max_new_tokens: int, context: int | None, shots: int) -> None:
    """Check that prompts with examples leave room for a response in the model's context.

    Raises:
        ValueError: they do not; the message names the numbers of tokens.
    """
    longest = max(len(prompt.ids) for prompt in prompts)
    if context is not None and longest + max_new_tokens > context:
        what = f"shots={shots} makes prompts of up to" if shots else "prompts have up to"
        raise ValueError(
            f"{what} {longest} tokens; with max_new_tokens={max_new_tokens} they need {longest + max_new_tokens}, and "
            f"the model's context holds {context}; ask for {'fewer shots or ' if shots else ''}shorter responses"
        )


@dataclass(frozen=True)
class FewShotMDP(TokenMDP):
    """Token MDP whose responses to texts end at the separator of the examples, which is no part of a completion."""

    @staticmethod
    def of(mdp: TokenMDP) -> FewShotMDP:
        """Return a token MDP whose prompts are few-shot prompts."""
        given = {field.name: getattr(mdp, field.name) for field in fields(TokenMDP)}
        texts = all(isinstance(prompt.content, str) for prompt in mdp.prompts)
        return FewShotMDP(**{**given, "stop": EndOfExample(mdp.tokenizer) if texts else mdp.stop})

    def completion(self, prompt: Prompt, ids: Sequence[int]) -> str:
        """Return the text that a response adds to its prompt, up to the separator."""
        text = super().completion(prompt, ids)
        return text.partition(SEPARATOR)[0] if isinstance(prompt.content, str) else text


@dataclass(frozen=True)
class EndOfExample:
    """Rule that ends a response with the separator of examples."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, ids: Sequence[int]) -> bool:
        return SEPARATOR in str(self.tokenizer.decode(list(ids)))
