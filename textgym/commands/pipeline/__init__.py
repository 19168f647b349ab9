"""``textgym pipeline``: supervised fine-tuning, then rounds of rankings, reward model and reinforcement learning."""

from textgym.commands.configs.pipeline import PipelineConfig
from textgym.commands.pipeline.command import pipeline

__all__ = ["PipelineConfig", "pipeline"]
