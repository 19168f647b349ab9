"""The algorithms by the names that commands and experiments use."""

from __future__ import annotations

from collections.abc import Mapping

from textgym.agents.best_of_n import BestOfN, ExpertIteration
from textgym.agents.grpo import GRPO, GSPO, RLOO
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.nlpo import NLPO
from textgym.agents.ppo import A2C, PPO
from textgym.agents.reinforce import Reinforce, ReMax
from textgym.agents.settings import find_settings
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
    find_settings(name)  # whose message names the nearest
    return ALGORITHMS[name]
