"""The timed work: random GPT-2 models that continue random prompts, all to the same length, for a reward of 0."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from textgym.agents.grpo import GRPO
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import EpisodePlan, collect
from textgym.agents.loop.slots import AdmittingSlots
from textgym.agents.policy.lm_policy import Session
from textgym.agents.ppo import PPO
from textgym.agents.settings import KLEstimator
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.lm.behaviour import Behaviour
from textgym.lm.trunk import make_backbone
from textgym.rewards.models.model import RewardModel
from textgym.rewards.models.training import kwise_loss
from textgym.types import Completion, Episodes, IntArray, Prompt
from textgym.worlds import Glue, KnownWorld, Outcome, Reply

MINIBATCHES = 4
"""Gradient steps of an epoch, for everyone."""
UPDATE_EPOCHS = 4
TURNS = 4
"""Turns of a conversation: half of its new tokens are the policy's, half the replies'."""


@dataclass(frozen=True)
class Size:
    """Sizes of the model and of the episodes; all prompts are played at once."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    prompts: int
    prompt_length: int
    new_tokens: int

    @property
    def name(self) -> str:
        episodes = f"{self.prompts} × ({self.prompt_length} + {self.new_tokens})"
        return f"{self.layers}×{self.width}, V {self.vocabulary}, {episodes}"

    def but(self, **changes: int) -> Size:
        return replace(self, **changes)


SMALL = Size(layers=4, width=128, heads=4, vocabulary=1000, prompts=64, prompt_length=16, new_tokens=48)
LARGE = Size(layers=6, width=384, heads=6, vocabulary=8000, prompts=32, prompt_length=16, new_tokens=64)
TINY = Size(layers=1, width=16, heads=2, vocabulary=50, prompts=8, prompt_length=4, new_tokens=4)


def make_model(size: Size) -> GPT2LMHeadModel:
    """Build a GPT-2 without end tokens and dropout, so that every library does the same work."""
    config = GPT2Config(
        n_layer=size.layers,
        n_embd=size.width,
        n_head=size.heads,
        vocab_size=size.vocabulary,
        n_positions=size.prompt_length + size.new_tokens,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: GPT2LMHeadModel = GPT2LMHeadModel(config).eval()
    return model


def prompt_ids(size: Size) -> IntArray:
    """Return random prompts, ``[prompts, prompt_length]``."""
    ids: IntArray = np.random.default_rng(0).integers(1, size.vocabulary, (size.prompts, size.prompt_length))
    return ids


def zero_reward(completions: list[str], **_: Any) -> list[float]:
    """Return a reward of 0 for each completion."""
    return [0.0] * len(completions)


def make_mdp(size: Size) -> TokenMDP:
    """Build a task of random prompts and a reward of 0."""
    words = {f"w{i}": i for i in range(size.vocabulary)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), pad_token="w0")
    prompts = [Prompt(text := str(tokenizer.decode(ids)), text, tuple(ids)) for ids in prompt_ids(size).tolist()]
    return TokenMDP(tokenizer, prompts, zero_reward, (), size.prompt_length, size.new_tokens)


def throughput_env(size: Size, mdp: TokenMDP | None = None) -> TokenVectorEnv:
    """Build a vector environment with a row for every prompt, already reset; ``mdp`` is by default :func:`make_mdp`."""
    env = TokenVectorEnv(mdp or make_mdp(size), size.prompts, "Disabled")
    env.reset(seed=0)
    return env


class Collection:
    """textgym's collection loop; a call plays every prompt once."""

    def __init__(self, size: Size, mdp: TokenMDP | None = None) -> None:
        self.size = size
        self.slots = AdmittingSlots(throughput_env(size, mdp))
        self.model = make_model(size)
        width = size.prompt_length + size.new_tokens
        self.session = Session(self.model, Behaviour(size.vocabulary), size.prompts, width, size.prompt_length, seed=0)

    def __call__(self) -> Episodes:
        numbers = np.arange(self.size.prompts)
        episodes = collect(self.slots, self.session, EpisodePlan(numbers, numbers))
        assert episodes is not None
        return episodes


@dataclass(frozen=True)
class Talker(KnownWorld):
    """Other side that says random tokens, as many as the policy in a turn."""

    vocabulary: int
    length: int

    def start(self, prompt: Prompt) -> int:
        return int(prompt.ids[0])

    def outcomes(self, state: int, turn: Completion) -> list[Outcome]:
        ids = np.random.default_rng(state).integers(1, self.vocabulary, self.length).tolist()
        return [(1.0, state + 1, Reply(tuple(ids)))]


def conversations(size: Size) -> Collection:
    """Return the collection of conversations: turns, each with a reply of its length, and one more token."""
    length = size.new_tokens // (2 * TURNS)
    mdp = replace(
        make_mdp(size.but(new_tokens=size.new_tokens + 1)),
        world=Talker(size.vocabulary, length),
        max_turn_tokens=length,
        glue=Glue(),
    )
    return Collection(size.but(new_tokens=size.new_tokens + 1), mdp)


class Iteration:
    """A whole iteration of textgym, by default PPO's: collection, scores of policy and reference, four epochs."""

    def __init__(self, size: Size, kind: type[SequenceAlgorithm] = PPO, **settings: Any) -> None:
        self.tokens = size.prompts * size.new_tokens
        self.algorithm = kind(
            "LMPolicy",
            throughput_env(size),
            model=make_model(size),
            episodes_per_iteration=size.prompts,
            minibatch_size=size.prompts // MINIBATCHES,
            n_epochs=UPDATE_EPOCHS,
            seed=0,
            device="cpu",
            **settings,
        )

    def __call__(self) -> None:
        self.algorithm.learn(self.tokens)


class Update:
    """Scores and epochs of an algorithm over the same episodes."""

    def __init__(self, size: Size, kind: type[SequenceAlgorithm] = PPO, **settings: Any) -> None:
        self.algorithm = Iteration(size, kind, **settings).algorithm
        episodes = self.algorithm.collect()  # in the groups that the algorithm compares
        assert episodes is not None
        self.episodes = episodes

    def __call__(self) -> None:
        scored = self.algorithm.score(self.episodes)
        estimated = self.algorithm.advantages(scored)
        self.algorithm.update(scored, estimated)


def kl_update(size: Size, kl_estimator: KLEstimator) -> Update:
    """Return GRPO's update with this KL in the loss; at rate 0, so that each call finds the policy that sampled."""
    return Update(size, GRPO, learning_rate=0.0, kl_estimator=kl_estimator)


class FrozenUpdate(Update):
    """The same with two thirds of the layers frozen.

    Args:
        size: model and episodes.
        shares: True if the frozen layers' activations are computed once and kept.
    """

    def __init__(self, size: Size, shares: bool) -> None:
        self.frozen = max(1, 2 * size.layers // 3)
        super().__init__(size, policy_kwargs={"freeze_layers": self.frozen, "untie_head": True})
        if not shares:
            for trunk in (self.algorithm.policy.trunk, self.algorithm.reference_trunk):
                trunk.backbone = make_backbone(trunk.model)


class RankingStep:
    """One gradient of the reward model's loss over rankings of K completions.

    Args:
        size: model and texts.
        k: the completions of a prompt.
        once: True if each completion is encoded once; False if it is encoded in each of its pairs.
    """

    def __init__(self, size: Size, k: int, once: bool) -> None:
        n, rng = size.prompts // MINIBATCHES, np.random.default_rng(0)
        texts = rng.integers(1, size.vocabulary, (n, k, size.prompt_length + size.new_tokens))
        # Ranks are 0, 1, … in the order of the texts, so every pair has its better text first.
        ranked = texts if once else texts[:, list(combinations(range(k), 2))].reshape(-1, 2, texts.shape[2])
        self.sequences: list[list[int]] = ranked.reshape(-1, texts.shape[2]).tolist()
        self.ranks = torch.arange(ranked.shape[1]).expand(ranked.shape[:2])
        self.model = RewardModel.from_causal_lm(make_model(size), make_mdp(size).tokenizer, torch.Generator())

    def __call__(self) -> float:
        loss = kwise_loss(self.model.raw_scores(self.sequences).view(self.ranks.shape), self.ranks)
        loss.backward()
        return float(loss.detach())
