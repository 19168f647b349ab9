"""The algorithms by the names that commands and experiments use."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from textgym.agents.best_of_n import BestOfN, ExpertIteration
from textgym.agents.grpo import GRPO, GSPO, RLOO
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.nlpo import NLPO
from textgym.agents.ppo import A2C, PPO
from textgym.agents.reinforce import Reinforce, ReMax
from textgym.agents.trpo import TRPO

ALGORITHMS: Mapping[str, type[SequenceAlgorithm]] = {
    "ppo": PPO,
    "nlpo": NLPO,
    "a2c": A2C,
    "trpo": TRPO,
    "reinforce": Reinforce,
    "rloo": RLOO,
    "grpo": GRPO,
    "gspo": GSPO,
    "remax": ReMax,
    "best-of-n": BestOfN,
    "expert-iteration": ExpertIteration,
}


def find_algorithm(name: str) -> type[SequenceAlgorithm]:
    """Return an algorithm by name.

    Raises:
        ValueError: there is none; the nearest is named.
    """
    if name not in ALGORITHMS:
        near = difflib.get_close_matches(name, ALGORITHMS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"algorithm={name!r} is unknown; {hint}Known: {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]
