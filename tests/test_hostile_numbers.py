"""Numbers without meaning are refused where they are given, by the name of the setting."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch

from tests.helpers import make_ppo, make_task_mdp
from textgym.agents import ALGORITHMS
from textgym.agents.dpo import DPOSettings
from textgym.agents.pretraining import Pretraining
from textgym.agents.sft_settings import SFTSettings
from textgym.lm.sampling import Sampling
from textgym.rewards.compose import compose
from textgym.rewards.kl import AdaptiveKL, FixedKL
from textgym.rewards.training import FitSettings
from textgym.vector import TokenVectorEnv
