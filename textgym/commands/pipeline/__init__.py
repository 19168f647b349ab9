"""``textgym pipeline``: demonstrations, rankings, a reward model and reinforcement, as often as asked."""

from textgym.commands.configs.pipeline import PipelineConfig
from textgym.commands.pipeline.command import pipeline

__all__ = ["PipelineConfig", "pipeline"]
