"""The algorithms by the names that commands and experiments use."""

from __future__ import annotations

from collections.abc import Mapping

from textgym.agents.a2c import A2C
from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.best_of_n import BestOfN
from textgym.agents.expert_iteration import ExpertIteration
from textgym.agents.grpo import GRPO, GSPO
from textgym.agents.nlpo import NLPO
from textgym.agents.ppo import PPO
from textgym.agents.reinforce import Reinforce
from textgym.agents.remax import ReMax
from textgym.agents.rloo import RLOO
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
