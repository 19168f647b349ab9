"""Memory tasks, in which the response depends on the prompt: Copy, Recall."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from textgym.tasks.diagnostic.build import diagnostic, letters, uniform
from textgym.tasks.task import Task

FILLERS = ("x", "y")


def copy(symbols: int = 4, length: int = 2) -> Task:
    """Make a task in which ``length`` words, each one of ``symbols``, are to be repeated."""
    words = letters(symbols)
    return diagnostic(
        "Copy",
        f"Repeat the {length} words of the prompt: the best response differs from prompt to prompt.",
        _share_repeated,
        words=words,
        horizon=length,
        beta=0.05,
        chances=uniform(symbols),
        prompts=[
            {"prompt": " ".join(words[i] for i in target), "target": list(target)}
            for target in product(range(symbols), repeat=length)
        ],
    )


def recall(cues: int = 4, gap: int = 8, variants: int = 8, seed: int = 0) -> Task:
    """Make a task in which the prompt's first word is to be said after ``gap`` words of filler."""
    if variants > 2**gap:
        raise ValueError(f"variants={variants}; expected at most 2**gap = {2**gap}, so that no two prompts are alike")
    rng = np.random.default_rng(seed)
    words = letters(cues)
    rows: list[dict[str, Any]] = [
        {"prompt": " ".join([words[cue], *filler(code, gap), "?"]), "cue": cue}
        for cue in range(cues)
        for code in rng.choice(2**gap, variants, replace=False)
    ]
    return diagnostic(
        "Recall",
        f"Say the first word of the prompt, which {gap} words of filler have followed: a memory far back.",
        _says_the_cue,
        words=words,
        horizon=1,
        beta=0.05,
        chances=uniform(cues),
        prompts=rows,
    )


def filler(code: int, gap: int) -> list[str]:
    """Return ``gap`` words of filler that spell a number in binary, the lowest bit first."""
    return [FILLERS[code >> place & 1] for place in range(gap)]


def _share_repeated(ids: list[int], columns: Mapping[str, Any]) -> float:
    return float(np.mean(np.equal(ids, columns["target"])))


def _says_the_cue(ids: list[int], columns: Mapping[str, Any]) -> float:
    return float(ids[0] == columns["cue"])
