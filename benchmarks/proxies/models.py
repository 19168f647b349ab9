"""Learned proxies of a task's gold reward: labelled samples, and reward models of several sizes.

A preference fixes a reward model up to its origin only, and how far its scores spread depends on how long it was
trained. So each proxy is standardised, to mean 0 and standard deviation 1 on the base model's own responses, as Gao et
al. (2022) and Coste et al. (2023) do: one β then costs the same in all of them, and an ensemble's members agree in
scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase

from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import Responses, sample_responses
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.agents.settings import require
from textgym.benchmarks.runner.limits import Limit, at_least, not_negative, positive
from textgym.env.mdp import TokenMDP
from textgym.lm.files.loading import load_causal_lm
from textgym.registration import task_mdp
from textgym.rewards.labels.labelling import plackett_luce_ranks
from textgym.rewards.labels.pairs import pair_accuracy, pair_margins
from textgym.rewards.models.ensemble import RewardEnsemble
from textgym.rewards.models.last_token import linear_head
from textgym.rewards.models.model import RewardModel
from textgym.rewards.models.settings import FitSettings
from textgym.rewards.models.training import encode_preferences, fit
from textgym.tasks.task import Task
from textgym.types import FloatArray, Messages, Ranking

FRESH = {"tiny": (1, 16), "fresh": (2, 128)}
"""Layers and width of the trunks that begin untrained."""
SIZES = (*FRESH, "base")
"""Reward models: two that know nothing but their labels, and one on the trunk of the task's base model."""


@dataclass(frozen=True)
class ProxySettings:
    """Settings of a proxy's training.

    Attributes:
        completions: K, ranked together.
        temperature: the labeller's noise, in units of the gold reward.
        reward_learning_rate: peak learning rate of the reward model.
        reward_batch_size: rankings in a step.
        min_epochs, max_epochs: passes over the labels; few labels get more of them, see :func:`label_epochs`.
    """

    LIMITS: ClassVar[Mapping[str, Limit]] = {
        "completions": at_least(2),  # a ranking compares them
        "temperature": not_negative,
        "reward_learning_rate": positive,
        **dict.fromkeys(("reward_batch_size", "min_epochs", "max_epochs"), at_least(1)),
    }

    completions: int = 4
    temperature: float = 0.1
    reward_learning_rate: float = 2e-3
    reward_batch_size: int = 8
    min_epochs: int = 2
    max_epochs: int = 16


@dataclass(frozen=True)
class Labels:
    """Rankings by a noisy labeller of the gold reward, and the ``responses`` that were ranked."""

    rankings: Sequence[Ranking]
    responses: Responses


def require_prompts(name: str, count: int, task: Task, split: str) -> None:
    """Raise ValueError, naming the setting, if a split of a task has fewer prompts."""
    held = len(task.prompts(split))
    require(0 < count <= held, name, count, f"1 to {held}, one for each {split} prompt of {task.name}")


def label_responses(task: Task, count: int, settings: ProxySettings, seed: int) -> Labels:
    """Return ``count`` rankings of the base model's responses to prompts drawn at random.

    Of one seed, a smaller count is the beginning of a larger one.

    Raises:
        ValueError: the task has fewer prompts.
    """
    require_prompts("labels", count, task, "train")
    mdp = task_mdp(task, "gold")
    order = np.random.default_rng(seed).permutation(len(mdp.prompts))[:count]
    responses = sample_responses(_base_policy(mdp), mdp, order, settings.completions, seed)
    ranks = plackett_luce_ranks(responses.rewards, settings.temperature, np.random.default_rng([seed, 1]))
    rows = zip(responses.prompts, responses.completions, ranks.tolist(), strict=True)
    return Labels([Ranking(prompt, tuple(texts), tuple(own)) for prompt, texts, own in rows], responses)


def base_responses(task: Task, prompts: int, k: int, seed: int) -> Responses:
    """Sample ``k`` responses of the base model to each of some validation prompts, with gold rewards.

    Raises:
        ValueError: the task has fewer prompts.
    """
    require_prompts("prompts", prompts, task, "validation")
    mdp = task_mdp(task, "gold", "validation")
    rng = np.random.default_rng([seed, 2])
    chosen = rng.permutation(len(mdp.prompts))[:prompts]
    return sample_responses(_base_policy(mdp), mdp, chosen, k, int(rng.integers(2**31)))


def _base_policy(mdp: TokenMDP) -> LMPolicy:
    if mdp.base_model is None:
        raise ValueError("the task has no base model; expected one of the tasks that ship with it")
    return acting_policy(load_causal_lm(mdp.base_model), mdp)


def label_epochs(labels: int, settings: ProxySettings) -> int:
    """Return the number of passes over the labels: more for few labels, so that about 1,024 rankings are seen."""
    return int(np.clip(1024 // labels, settings.min_epochs, settings.max_epochs))


def learn_proxy(
    task: Task, rankings: Sequence[Ranking], standard: Responses, size: str, settings: ProxySettings, seed: int
) -> RewardModel:
    """Train a reward model, and standardise its scores.

    Args:
        task: with the tokenizer, and the base model that the largest size begins as.
        rankings: the training data.
        standard: responses on which its scores get mean 0 and standard deviation 1.
        size: one of :data:`SIZES`.
        settings: settings of the training.
        seed: random seed of its weights and of the order of the rankings.

    Raises:
        ValueError: the size is unknown.
    """
    generator = torch.Generator().manual_seed(seed)
    trunk = reward_trunk(task, size, seed)
    model = RewardModel.from_causal_lm(trunk, task.tokenizer, generator, batch_size=64)
    fitted = FitSettings(
        settings.reward_learning_rate, label_epochs(len(rankings), settings), settings.reward_batch_size
    )
    fit(model, encode_preferences(model, rankings, "rankings"), fitted, generator, progress=False)
    standardise(model, standard)
    return model


def reward_trunk(task: Task, size: str, seed: int) -> PreTrainedModel:
    """Return the initial trunk of a reward model of a size."""
    if size not in SIZES:
        raise ValueError(f"size={size!r} is not one of {', '.join(SIZES)}")
    if size in FRESH:
        return fresh_gpt2(task.tokenizer, task.max_prompt_length + task.max_new_tokens, *FRESH[size], seed=seed)
    if task.base_model is None:
        raise ValueError(f"size={size!r} begins as the base model, and {task.name} has none")
    return load_causal_lm(task.base_model)


def fresh_gpt2(
    tokenizer: PreTrainedTokenizerBase, positions: int, layers: int, width: int, seed: int
) -> GPT2LMHeadModel:
    """Return an untrained GPT-2 without dropout; the global random state stays as it was."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=positions + 1,  # an end token may follow a response of full length
        n_embd=width,
        n_layer=layers,
        n_head=max(2, width // 32),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    # transformers initialises weights from the global generator.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def standardise(model: RewardModel, responses: Responses) -> None:
    """Shift and scale the head so that the scores of these responses have mean 0 and standard deviation 1."""
    head = linear_head(model.model)
    assert head is not None, "from_causal_lm gives its models a linear head"
    model.set_offset(0.0)
    scores = proxy_scores(model, responses)
    with torch.no_grad():
        head.weight.div_(scores.std())
    model.set_offset(float(scores.mean() / scores.std()))


def proxy_scores(model: RewardModel | RewardEnsemble, responses: Responses) -> FloatArray:
    """Return the scores of responses, ``[N, K]``."""
    k = responses.rewards.shape[1]
    prompts: list[str | Messages] = [prompt for prompt in responses.prompts for _ in range(k)]
    texts = [text for own in responses.completions for text in own]
    reasons = ["stop" if stopped else "length" for stopped in responses.stopped.ravel()]
    # Token ids are not needed: the reward model tokenizes the texts itself.
    scores = model(prompts, texts, completion_ids=[[]] * len(texts), finish_reason=reasons)
    return np.asarray(scores, np.float64).reshape(-1, k)


def agreement(scores: FloatArray, gold: FloatArray) -> float:
    """Return the share of pairs, unequal in gold, that the scores order as gold does; both ``[N, K]``."""
    margins = [pair_margins(own, -true)[0] for own, true in zip(scores, gold, strict=True)]
    return pair_accuracy(np.concatenate(margins)) or 0.0
