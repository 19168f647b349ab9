"""Memory tasks, in which the response depends on the prompt: Copy and Recall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from textgym.tasks.diagnostic.build import diagnostic, letters, uniform
from textgym.tasks.diagnostic.memory import filler
from textgym.tasks.diagnostic.v1.prompts import Row, either_case, instance_rng, pair_rows
from textgym.tasks.task import Task

BETA = 0.2


def copy_v1(symbols: int = 5, seed: int = 0) -> Task:
    """Make a task in which the prompt's two letters, each one of ``symbols``, are repeated in either case.

    Small letters and capitals are worth the same, and the reference says all with equal probability. So the optimum
    says both, and a policy that always says one of them pays β·log 2 a letter for nothing.
    """
    names = letters(symbols)
    rows = pair_rows(symbols, seed, lambda i, j: {"prompt": f"{names[i]} {names[j]}", "target": [i, j]})
    return diagnostic(
        "Copy-v1",
        "Repeat the two letters of the prompt, in small letters or capitals: the right response differs from prompt to "
        "prompt, and there are several.",
        ShareRepeated(symbols),
        words=either_case(names),
        horizon=2,
        beta=BETA / 2,
        chances=uniform(2 * symbols),
        prompts=rows.train,
        held_out=rows.test,
        weights_seed=seed,
    )


def recall_v1(cues: int = 4, gap: int = 8, variants: int = 8, seed: int = 0) -> Task:
    """Make a task in which the prompt's first letter is said, in either case, after ``gap`` words of filler.

    Each cue has ``variants`` prompts to train on. Half as many are held out, with fillers that no prompt of training
    has.
    """
    held_out = max(variants // 2, 1)
    if variants + held_out > 2**gap:
        raise ValueError(
            f"variants={variants}; expected at most {2**gap * 2 // 3}, so that no two of gap={gap} fillers are alike"
        )
    names = letters(cues)
    drawn = instance_rng(seed, "fillers").choice(2**gap, variants + held_out, replace=False).tolist()

    def row(cue: int, code: int) -> Row:
        return {"prompt": " ".join([names[cue], *filler(code, gap), "?"]), "target": [cue]}

    return diagnostic(
        "Recall-v1",
        f"Say the first letter of the prompt, small or capital, which {gap} words of filler have followed: a memory "
        "far back.",
        ShareRepeated(cues),
        words=either_case(names),
        horizon=1,
        beta=BETA,
        chances=uniform(2 * cues),
        prompts=[row(cue, code) for cue in range(cues) for code in drawn[:variants]],
        held_out=[row(cue, code) for cue in range(cues) for code in drawn[variants:]],
        weights_seed=seed,
    )


# --- scores: values, not closures, so that environments can be pickled ------------------------------------------------


@dataclass(frozen=True)
class ShareRepeated:
    """Share of words that are the row's ``target``, in either case; a capital is ``symbols`` after its small letter."""

    symbols: int

    def __call__(self, ids: list[int], columns: Mapping[str, Any]) -> float:
        return float(np.mean(np.equal(np.mod(ids, self.symbols), columns["target"])))
