"""The algorithms by the names that commands and experiments use."""

from __future__ import annotations

from collections.abc import Mapping

from textgym.agents.a_star_po import AStarPO
from textgym.agents.best_of_n import BestOfN, ExpertIteration
from textgym.agents.coach import COACH, ECOACH, DeepCOACH
from textgym.agents.dapo import DAPO
from textgym.agents.distillation import Distillation
from textgym.agents.group_ratios import CISPO, DPPO, GMPO, GSPO, LUSPO, SAPO, VESPO
from textgym.agents.grpo import GRPO, RLOO, ClippedRLOO, DrGRPO, MaxRL, PublishedGRPO
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.nlpo import NLPO
from textgym.agents.ppo import A2C, PPO
from textgym.agents.reinforce import Reinforce, ReinforcePlusPlus, ReMax
from textgym.agents.settings import find_settings
from textgym.agents.trpo import TRPO

ALGORITHMS: Mapping[str, type[SequenceAlgorithm]] = {
    "ppo": PPO,
    "nlpo": NLPO,
    "a2c": A2C,
    "trpo": TRPO,
    "reinforce": Reinforce,
    "coach": COACH,
    "e-coach": ECOACH,
    "deep-coach": DeepCOACH,
    "rloo": RLOO,
    "rloo-clipped": ClippedRLOO,
    "grpo": GRPO,
    "grpo-published": PublishedGRPO,
    "dr-grpo": DrGRPO,
    "dapo": DAPO,
    "gspo": GSPO,
    "luspo": LUSPO,
    "gmpo": GMPO,
    "cispo": CISPO,
    "dppo": DPPO,
    "sapo": SAPO,
    "vespo": VESPO,
    "maxrl": MaxRL,
    "reinforce++": ReinforcePlusPlus,
    "remax": ReMax,
    "a-star-po": AStarPO,
    "best-of-n": BestOfN,
    "expert-iteration": ExpertIteration,
    "distill": Distillation,
}


def find_algorithm(name: str) -> type[SequenceAlgorithm]:
    """Return an algorithm by name.

    Raises:
        ValueError: there is none; the nearest is named.
    """
    find_settings(name)  # whose message names the nearest
    return ALGORITHMS[name]
