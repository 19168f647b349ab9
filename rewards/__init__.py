"""Rewards: functions and models that score text, their composition and training, and the KL divergence."""

if __name__ != "textgym.rewards":
    raise ImportError("import this package as textgym.rewards: under its bare name every class would exist twice")

from textgym.rewards.builtin import distinct, length, repetition
from textgym.rewards.classifier import ClassifierReward
from textgym.rewards.compose import ScoredBatch, WeightedRewards, compose
from textgym.rewards.ensemble import RewardEnsemble, combine_scores, load_reward_model
from textgym.rewards.functions import RewardError, call_reward, reward_name
from textgym.rewards.kl import AdaptiveKL, FixedKL, KLController, exact_kl, k1, k2, k3, shape_rewards
from textgym.rewards.metrics import EvaluateReward
from textgym.rewards.model import RewardModel
from textgym.rewards.preferences import Judgement, read_preferences
from textgym.rewards.rankings import (
    agreement_ceiling,
    label,
    plackett_luce_ranks,
    read_rankings,
    split_rankings,
    write_rankings,
)
from textgym.rewards.resolve import resolve_reward
from textgym.rewards.training import RewardModelReport, binary_loss, kwise_loss, train_reward_model

__all__ = [
    "AdaptiveKL",
    "ClassifierReward",
    "EvaluateReward",
    "FixedKL",
    "Judgement",
    "KLController",
    "RewardEnsemble",
    "RewardError",
    "RewardModel",
    "RewardModelReport",
    "ScoredBatch",
    "WeightedRewards",
    "agreement_ceiling",
    "binary_loss",
    "call_reward",
    "combine_scores",
    "compose",
    "distinct",
    "exact_kl",
    "k1",
    "k2",
    "k3",
    "kwise_loss",
    "label",
    "length",
    "load_reward_model",
    "plackett_luce_ranks",
    "read_preferences",
    "read_rankings",
    "repetition",
    "resolve_reward",
    "reward_name",
    "shape_rewards",
    "split_rankings",
    "train_reward_model",
    "write_rankings",
]
