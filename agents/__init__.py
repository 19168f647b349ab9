"""textgym.agents: policies, the collect-and-train loop, and the algorithms as declarations on it."""

if __name__ != "textgym.agents":
    raise ImportError("import this package as textgym.agents: under its bare name every class would exist twice")

from textgym.agents.a2c import A2C
from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.best_of_n import BestOfN
from textgym.agents.bridge import SlotVecEnv
from textgym.agents.comparisons import Comparison, encode_comparisons
from textgym.agents.demonstrations import Demonstration, encode_demonstrations, task_demonstrations
from textgym.agents.dpo import DPOSettings, train_dpo
from textgym.agents.expert_iteration import ExpertIteration
from textgym.agents.grpo import GRPO, GSPO
from textgym.agents.nlpo import NLPO
from textgym.agents.policy import LMPolicy
from textgym.agents.ppo import PPO
from textgym.agents.pretraining import Pretraining, encode_texts
from textgym.agents.reference import WITHOUT_ADAPTERS
from textgym.agents.reinforce import Reinforce
from textgym.agents.remax import ReMax
from textgym.agents.rloo import RLOO
from textgym.agents.session import Session
from textgym.agents.sft import SFTReport, fine_tune
from textgym.agents.sft_settings import SFTSettings
from textgym.agents.trpo import TRPO

__all__ = [
    "A2C",
    "GRPO",
    "GSPO",
    "NLPO",
    "PPO",
    "RLOO",
    "TRPO",
    "WITHOUT_ADAPTERS",
    "BestOfN",
    "Comparison",
    "DPOSettings",
    "Demonstration",
    "ExpertIteration",
    "LMPolicy",
    "Pretraining",
    "ReMax",
    "Reinforce",
    "SFTReport",
    "SFTSettings",
    "SequenceAlgorithm",
    "Session",
    "SlotVecEnv",
    "encode_comparisons",
    "encode_demonstrations",
    "encode_texts",
    "fine_tune",
    "task_demonstrations",
    "train_dpo",
]
