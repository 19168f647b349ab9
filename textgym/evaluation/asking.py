"""Prompts of a task as a model reads them: its own tokens, examples before them, other wordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from textgym.env.mdp import TokenMDP
from textgym.evaluation.shots import FewShotMDP, as_cut, check_room, few_shot_prompts
from textgym.lm.files.loading import check_fits, context_length, is_encoder_decoder, load_lm
from textgym.prompts import content_key, encode_prompt
from textgym.registration import task_mdp
from textgym.rows import read_placed_rows
from textgym.tasks.task import Task
from textgym.tokenization import end_token_ids, is_conversation, load_tokenizer
from textgym.types import Messages, Prompt

PARAPHRASES = "paraphrases"
"""Field of a file of paraphrases that lists the other wordings of a prompt."""


@dataclass(frozen=True)
class Reader:
    """A model with its tokenizer.

    Attributes:
        source: the directory or hub id that it was loaded from.
        model: the model.
        tokenizer: its tokenizer.
    """

    source: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @staticmethod
    def load(source: str) -> Reader:
        """Load a model and its tokenizer."""
        return Reader(source, load_lm(source), load_tokenizer(source))

    def has_tokens_of(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Return True if both tokenizers have the same tokens under the same ids."""
        return bool(self.tokenizer.get_vocab() == tokenizer.get_vocab())

    @property
    def closing(self) -> bool:
        """True if its prompts keep the tokens that the tokenizer appends, as an encoder needs them."""
        return is_encoder_decoder(self.model)


@dataclass(frozen=True)
class Questions:
    """Prompts to ask, and how.

    Attributes:
        task: the task.
        reward: a reward of it, as :func:`textgym.registration.task_mdp` takes it.
        pool: prompts whose references may be shown as examples.
        seed: seed of the examples.
        overrides: settings of the token MDP, such as ``max_new_tokens``.
    """

    task: Task
    reward: Any
    pool: Sequence[Prompt]
    seed: int
    overrides: Mapping[str, Any]

    def mdp(
        self, reader: Reader, prompts: Sequence[Prompt], shots: int, origins: Sequence[Prompt] | None = None
    ) -> TokenMDP:
        """Return a token MDP of the prompts as a model reads them.

        A model with the task's tokens reads the prompts as they are; another one reads their texts anew, and its
        responses end with its own end tokens. Rewards see the prompts without examples. Of other wordings ``origins``
        are the questions.

        Raises:
            ValueError: a prompt cannot be encoded, or prompts and responses do not fit into the model; there are too
                few examples; or the task has a world, and the model other tokens, or examples are asked for.
        """
        task, own = self.task, reader.has_tokens_of(self.task.tokenizer)
        if task.world is not None and (shots or not own):
            needed = "takes no examples; pass --shots 0" if own else "needs a model with its own tokens"
            raise ValueError(f"task {task.name} has a world, so it {needed}")
        if shots:
            how = (self.pool, shots, self.seed, reader.tokenizer, reader.closing)
            asked = few_shot_prompts(prompts, *how, origins=origins, cut_by=task.tokenizer)
        else:
            asked = tuple(p if own and p.ids else encoded(p, reader, task.tokenizer) for p in prompts)
        settings = dict(self.overrides)
        if not own:
            ends = end_token_ids(reader.tokenizer, reader.model.generation_config)
            settings |= {"tokenizer": reader.tokenizer, "end_token_ids": ends, "vocabulary_size": None}
        longest = max(len(prompt.ids) for prompt in asked)
        horizon = settings.get("max_new_tokens", task.max_new_tokens)
        if not reader.closing:  # an encoder reads prompts, a decoder responses
            check_room(asked, horizon, context_length(reader.model), shots)
        mdp = task_mdp(task, self.reward, prompts=asked, max_prompt_length=longest, **settings)
        check_fits(reader.model, mdp.tokenizer, mdp.n_actions, mdp.width, mdp.max_prompt_length)
        return FewShotMDP.of(mdp) if shots else mdp


def encoded(prompt: Prompt, reader: Reader, cut_by: PreTrainedTokenizerBase) -> Prompt:
    """Return a prompt in a model's tokens; of a prompt whose tokens the task has cut, what was left."""
    asked = encode_prompt({"prompt": as_cut(prompt, cut_by)}, reader.tokenizer, closing=reader.closing)
    return Prompt(prompt.content, asked.text, asked.ids, prompt.columns)


def drawn(prompts: Sequence[Prompt], limit: int, seed: int) -> list[Prompt]:
    """Draw at most ``limit`` prompts in random order; the first ones are those of any greater limit."""
    order = np.random.default_rng(seed).permutation(len(prompts))[:limit]
    return [prompts[int(i)] for i in order]


# --- other wordings --------------------------------------------------------------------------------------------


def wordings(prompts: Sequence[Prompt], source: str) -> tuple[list[Prompt], list[int], list[int]]:
    """Return the wordings of each prompt that has paraphrases, itself the first; its number; and the wording's.

    Args:
        prompts: the prompts.
        source: a column of theirs that lists the other wordings, or a file of rows with ``prompt`` and ``paraphrases``.

    Raises:
        ValueError: neither is there, no prompt has another wording, or one is no text.
    """
    listed = _listed(prompts, source)
    found: list[Prompt] = []
    questions: list[int] = []
    numbers: list[int] = []
    for question, (prompt, others) in enumerate(zip(prompts, listed, strict=True)):
        if not others:
            continue
        # Other wordings have no tokens yet: a model reads them as its tokenizer does.
        asked = [prompt, *(Prompt(other, "", (), prompt.columns) for other in others)]
        found += asked
        questions += [question] * len(asked)
        numbers += range(len(asked))
    if not found:
        raise ValueError(f"paraphrases={source!r} has other wordings of none of the {len(prompts)} prompts asked")
    return found, questions, numbers


def _listed(prompts: Sequence[Prompt], source: str) -> list[list[str | Messages]]:
    if Path(source).is_file():
        rows = read_placed_rows(source)
        for place, row in rows.items():
            if missing := [name for name in ("prompt", PARAPHRASES) if name not in row]:
                raise ValueError(f"{place}: no field {missing[0]!r}; got the fields {sorted(row)}")
        by_content = {_key(row["prompt"]): _texts(row[PARAPHRASES], str(place)) for place, row in rows.items()}
        return [by_content.get(content_key(prompt.content), []) for prompt in prompts]
    if not any(source in prompt.columns for prompt in prompts):
        columns = sorted({name for prompt in prompts for name in prompt.columns})
        raise ValueError(
            f"paraphrases={source!r} is neither a file nor a column of the task; its columns are "
            f"{', '.join(columns) or 'none'}"
        )
    return [_texts(prompt.columns.get(source) or [], f"column {source!r}") for prompt in prompts]


def _key(content: Any) -> Any:
    return content_key(content) if isinstance(content, str) or is_conversation(content) else None


def _texts(value: Any, place: str) -> list[str | Messages]:
    if not isinstance(value, list | tuple) or not all(v and (isinstance(v, str) or is_conversation(v)) for v in value):
        raise ValueError(f"{place}: paraphrases are {value!r:.200}; expected a list of texts or of conversations")
    return list(value)
