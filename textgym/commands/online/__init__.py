"""``textgym online``: people are asked, a reward model learns from them, and a policy from it, all at the same time.

Three roles talk through the run's directory alone, each with its own files:

- the learner writes questions into ``labels.sqlite``, and ``schedule.jsonl``: which iteration took which reward model;
- the labeller (people on a page, or a reward in their place) writes answers into ``labels.sqlite``;
- the reward trainer writes ``reward/v0001``, …, and then the name of the newest into ``reward/CURRENT``.
"""

from textgym.commands.configs.online import OnlineConfig
from textgym.commands.online.command import online

__all__ = ["OnlineConfig", "online"]
