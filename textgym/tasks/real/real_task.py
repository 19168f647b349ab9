"""Task on published data: a row of settings, from which prompts, references and splits are made."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from textgym.lm.files.loading import names_encoder_decoder
from textgym.rows import BadRowError
from textgym.tasks.fields import SPLITS, UNLIMITED, model_end_ids
from textgym.tasks.real.constructions import Example
from textgym.tasks.real.data import Row, Source, Table
from textgym.tasks.real.fitting import Encoder, Fit
from textgym.tasks.real.gold import ShelfGold, UnsetGold
from textgym.tasks.task import Task
from textgym.tokenization import load_tokenizer, warn_of_special_strings, words_of
from textgym.types import Prompt, RewardFunction


@dataclass(frozen=True)
class RealTask:
    """Task on published data; calling it makes the task for a model.

    Attributes:
        name: the name in its id.
        description: one sentence: the task of the policy.
        source: the data.
        examples: the published construction of prompts; a row may give several, or none.
        fit: the published way to bring a prompt to P tokens.
        max_prompt_length: ``P``; None for the length of the longest prompt.
        max_new_tokens: ``T``.
        gold: the gold reward, by its name on the shelf; None if it needs a model that the user has to name.
        gold_needed: what to pass as ``gold`` in that case.
        reward: the published reward, under its published name and with its settings.
        metrics: the published metrics, under their published names.
        lead: stands between a prompt and its reference where a causal model continues the prompt.
        held_out: share of ``train`` that becomes ``validation``, if the data have no such split.
        test_size: number of rows of ``test`` that are kept, drawn by the seed; None for all.
    """

    name: str
    description: str
    source: Source
    examples: Callable[[Row], Iterable[Example]] = field(repr=False)
    fit: Fit = field(repr=False)
    max_prompt_length: int | None
    max_new_tokens: int
    gold: str | None
    reward: str
    metrics: tuple[str, ...]
    gold_needed: str = ""
    lead: str = " "
    held_out: float = 0.1
    test_size: int | None = None

    def __call__(
        self,
        model: str | Path,
        folder: str | Path | None = None,
        checksum: str | None = None,
        gold: str | RewardFunction | None = None,
        size: int | None = None,
        seed: int = 0,
        max_prompt_length: int | None = None,
        max_new_tokens: int | None = None,
    ) -> Task:
        """Make the task for a model.

        A prompt has the column ``references``, a list of all its good answers, and ``reference``, the first of them as
        the model should write it; a split without references has neither. Equal prompts are one. One that occurs in
        two splits stays in ``test`` or else in ``validation``.

        Args:
            model: the model that policies start from, with its tokenizer: a directory or a hub id.
            folder: a folder with the rows of each split, in the columns of the hub; by default the hub.
            checksum: checksum of the data; by default the known one, if there is one, and ``"any"`` for none.
            gold: the gold reward, a function or a specification as in ``--reward``; by default the task's own.
            size: greatest number of prompts of each split, drawn by the seed; by default all.
            seed: seed of ``size``, and of splits that are drawn.
            max_prompt_length: ``P``; by default the published one.
            max_new_tokens: ``T``; by default the published one.

        Raises:
            FileNotFoundError: the folder lacks a split.
            ValueError: the data lack columns, or have another checksum; or no row can be used.
        """
        tokenizer = load_tokenizer(model)
        paid = self._gold(gold)
        tables = self.source.open(folder)
        self.source.check(tables, checksum)
        encode = Encoder(tokenizer, names_encoder_decoder(model))
        limit = max_prompt_length or self.max_prompt_length or UNLIMITED
        made = {
            split: self._prompts(split, chosen, left_out, limit, encode)
            for split, (chosen, left_out) in self._chosen(tables, size, seed).items()
        }
        splits = without_repeats(self.name, made)
        longest = max(len(prompt.ids) for prompts in splits.values() for prompt in prompts)
        return Task(
            name=self.name,
            description=self.description,
            tokenizer=tokenizer,
            splits=splits,
            gold=paid,
            end_token_ids=model_end_ids(model, tokenizer),
            max_prompt_length=longest if limit == UNLIMITED else limit,
            max_new_tokens=max_new_tokens or self.max_new_tokens,
            base_model=model,
        )

    def _gold(self, given: str | RewardFunction | None) -> RewardFunction:
        if given is not None:
            chosen = ShelfGold(given)
            _ = chosen.reward  # a mistake in it shows before the data are read
            return chosen
        return UnsetGold(self.name, self.gold_needed) if self.gold is None else ShelfGold(self.gold)

    def _chosen(
        self, tables: Mapping[str, Table], size: int | None, seed: int
    ) -> dict[str, tuple[list[Example], Counter[str]]]:
        """Return the examples of each split, and the reasons for which rows are left out."""
        read = {split: self._read(table) for split, table in tables.items()}
        if "validation" not in read:
            examples, reasons = read["train"]
            held = _drawn(len(examples), max(1, round(self.held_out * len(examples))), [seed])
            read["train"] = ([each for i, each in enumerate(examples) if i not in held], reasons)
            read["validation"] = ([examples[i] for i in sorted(held)], Counter())
        found = {}
        for number, split in enumerate(SPLITS):
            if split in read:
                examples, reasons = read[split]
                most = [n for n in (size, self.test_size if split == "test" else None) if n is not None]
                kept = _drawn(len(examples), min([len(examples), *most]), [seed, number])
                found[split] = ([examples[i] for i in sorted(kept)], reasons)
        return found

    def _read(self, table: Table) -> tuple[list[Example], Counter[str]]:
        """Return the examples of a split, with the references of equal keys gathered, and why rows are left out."""
        reasons: Counter[str] = Counter()
        gathered: dict[str, Example] = {}
        for place, row in table:
            try:
                for example in self.examples(row):
                    key = example.key or example.text
                    before = gathered.get(key, replace(example, references=()))
                    gathered[key] = replace(before, references=_distinct([*before.references, *example.references]))
            except BadRowError as error:
                reasons[f"malformed ({place}: {error})" if not reasons else "malformed"] += 1
        return list(gathered.values()), reasons

    def _prompts(
        self, split: str, examples: Sequence[Example], reasons: Counter[str], limit: int, encode: Encoder
    ) -> list[Prompt]:
        """Encode the examples of a split; warn of rows that are left out.

        Raises:
            ValueError: none is left.
        """
        with_references = any(example.references for example in examples)
        found = []
        for example in examples:
            # Templates are for those tasks alone that are asked in a conversation.
            content = example.messages if example.messages and encode.tokenizer.chat_template else example.text
            if with_references and not example.references:
                reasons["without a reference"] += 1
            elif not example.text.strip():
                reasons["without a prompt"] += 1
            elif (prompt := self.fit(content, limit, encode)) is None:
                reasons[f"not to be brought to {limit} tokens"] += 1
            else:
                found.append(replace(prompt, columns=self._columns(example, encode)))
        source = f"task {self.name}, split {split!r}"
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        if not found:
            raise ValueError(f"{source}: no row is left to use{f': {listed}' if listed else ''}")
        if listed:
            warnings.warn(f"{source}: rows are left out: {listed}", stacklevel=4)
        warn_of_special_strings(encode.tokenizer, [words_of(prompt.content) for prompt in found], source)
        return found

    def _columns(self, example: Example, encode: Encoder) -> dict[str, object]:
        if not example.references:
            return dict(example.columns)
        # A decoder begins a text of its own; a causal model goes on with the prompt, and a chat begins a message.
        continues = not encode.closing and not (example.messages and encode.tokenizer.chat_template)
        reference = (self.lead if continues else "") + example.references[0]
        return {**example.columns, "reference": reference, "references": list(example.references)}


def without_repeats(name: str, splits: Mapping[str, Sequence[Prompt]]) -> dict[str, list[Prompt]]:
    """Return splits in which every prompt occurs once, by its tokens: in ``test``, else ``validation``, else ``train``.

    Different texts with the same tokens, as they may be once they are cut, are one prompt too, with a warning.

    Raises:
        ValueError: no prompt is left in a split.
    """
    texts: dict[tuple[int, ...], str] = {}
    kept: dict[str, list[Prompt]] = {}
    lost = 0
    for split in reversed(SPLITS):
        own: dict[tuple[int, ...], Prompt] = {}
        for prompt in splits.get(split, ()):
            lost += texts.get(prompt.ids, prompt.text) != prompt.text
            if prompt.ids in own:
                own[prompt.ids] = _joined(own[prompt.ids], prompt)
            elif prompt.ids not in texts:
                own[prompt.ids] = prompt
                texts[prompt.ids] = prompt.text
        kept[split] = list(own.values())
        if split in splits and not own:
            raise ValueError(
                f"task {name}: every prompt of the split {split!r} is in a later split, too, if only once it is cut to "
                "max_prompt_length tokens; raise it, or use other data"
            )
    if lost:
        warnings.warn(
            f"task {name}: {lost} prompts have other texts, but the same tokens as another one once they are cut to "
            "max_prompt_length, and are left out; raise it, so that prompts stay apart",
            stacklevel=4,
        )
    return {split: kept[split] for split in SPLITS if split in splits}


def _joined(one: Prompt, other: Prompt) -> Prompt:
    """Return a prompt with the references of an equal one, too."""
    texts = [*one.columns.get("references", ()), *other.columns.get("references", ())]
    return replace(one, columns={**one.columns, "references": list(_distinct(texts))}) if texts else one


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Return texts in order, without blank ones and repetitions."""
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


def _drawn(n: int, k: int, seed: Sequence[int]) -> set[int]:
    """Draw ``k`` of ``n`` numbers."""
    return {int(i) for i in np.random.default_rng(seed).permutation(n)[:k]}
