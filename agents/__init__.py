"""textgym.agents: policies, the collect-and-train loop, and the algorithms as declarations on it."""

if __name__ != "textgym.agents":
    raise ImportError("import this package as textgym.agents: under its bare name every class would exist twice")

from textgym.agents.bridge import SlotVecEnv
from textgym.agents.policy import LMPolicy
from textgym.agents.ppo import PPO
from textgym.agents.session import Session

__all__ = ["PPO", "LMPolicy", "Session", "SlotVecEnv"]
