"""Tasks about what a group of responses teaches, and how long ones are weighed: Ties, Brevity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.tasks.diagnostic.build import check, diagnostic, letters
from textgym.tasks.diagnostic.cues import cued, draw_kinds, spread_over
from textgym.tasks.task import Task
from textgym.types import FloatArray

END = "<end>"


def ties(rarity: float = 0.06, horizon: int = 3, seed: int = 0) -> Task:
    """Make a task in which most groups of responses score all alike.

    The prompt names a kind of words and a number n: 1 if the first n words are of that kind, otherwise 0. The
    reference says words of one kind with probability ``rarity``, so that its chance is ``rarity**n`` there and
    ``(1 - rarity)**n`` for the other kind: prompts are too hard or too easy to tell responses apart.
    """
    check(0 < rarity < 1, "rarity", rarity, "a probability between 0 and 1")
    rng = np.random.default_rng(seed)
    kinds = draw_kinds((2, 2), rng)
    names = rng.permutation(["p", "q"]).tolist()
    cues = {f"{name} {n}": {"kind": kind, "n": n} for kind, name in enumerate(names) for n in range(1, horizon + 1)}
    train, held_out = cued(cues, rng)
    return diagnostic(
        "Ties",
        f"Say up to {horizon} words of the kind that the prompt names: all or nothing, and hardly ever in doubt.",
        BeginsWithKind(kinds),
        words=letters(len(kinds)),
        horizon=horizon,
        beta=0.05,
        chances=spread_over(kinds, (rarity, 1 - rarity)),
        prompts=train,
        held_out=held_out,
    )


def brevity(terse: float = 0.2, horizon: int = 5, seed: int = 0) -> Task:
    """Make a task whose answers earn the same in short and in long responses.

    The first word is the answer, and has two forms. The reference ends nine times in ten after the terse one, and
    hardly ever after the wordy one; it says the terse one in a share ``terse`` of answers, and so does the optimum. A
    loss that is divided by each response's length weighs the tokens of short ones more, and drifts to them.
    """
    check(0 < terse < 1, "terse", terse, "a share between 0 and 1")
    rng = np.random.default_rng(seed)
    # Word 0 stands for the beginning as well, since the chain starts from its row; words 1 to 4 are the answers.
    forms = 1 + rng.permutation(4).reshape(2, 2)
    train, held_out = cued({str(i): {"answers": pair.tolist()} for i, pair in enumerate(forms)}, rng)
    return diagnostic(
        "Brevity",
        "Answer with the first word, in its terse or its wordy form: both earn the same, in few words or in many.",
        answers_first,
        words=[*letters(5), END],
        horizon=horizon,
        beta=0.1,
        chances=_habits(forms[:, 0].tolist(), forms[:, 1].tolist(), terse),
        prompts=train,
        held_out=held_out,
        end=END,
    )


def _habits(terse: list[int], wordy: list[int], share: float) -> FloatArray:
    """Return ``[6, 6]`` probabilities of the next word: half of the words are answers, but terse ones are ended."""
    usual = np.zeros(6)
    usual[0], usual[5] = 0.44, 0.06
    usual[terse], usual[wordy] = 0.25 * share, 0.25 * (1 - share)
    rows = np.tile(usual, (6, 1))
    rows[terse] = [*[0.02] * 5, 0.9]
    return rows


# --- scores: values, not closures, so that environments can be pickled ------------------------------------------------


@dataclass(frozen=True)
class BeginsWithKind:
    """Indicator: 1 if the first n words are of the kind that the prompt names, otherwise 0."""

    kinds: tuple[int, ...]

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return float(all(self.kinds[word] == columns["kind"] for word in ids[: columns["n"]]))


def answers_first(ids: list[int], columns: Mapping[str, Any]) -> float:
    """Return 1 if the first word is a form of the answer, otherwise 0."""
    return float(ids[0] in columns["answers"])
