"""``textgym pipeline``: demonstrations, rankings, a reward model and reinforcement, as often as asked."""

from textgym.commands.pipeline.command import pipeline
from textgym.commands.pipeline.config import PipelineConfig

__all__ = ["PipelineConfig", "pipeline"]
