"""The exact optimum of a small task's KL-regularised objective, by enumeration, and the regret of a policy."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from transformers import PreTrainedModel

from textgym.env.mdp import TokenMDP
from textgym.env.vector import find_attribute
from textgym.env.wrappers import ActingPolicy
from textgym.exact.growth import check_known
from textgym.exact.models import TreeArrays, tree_log_probs
from textgym.exact.soft import expectation, log_ratios, soft_optimum
from textgym.exact.tree import LIMIT, Tree, n_sequences, prefix_tree, score_tree
from textgym.lm.files.loading import ModelSource, check_fits, load_causal_lm, require_causal
from textgym.lm.sampling import Sampling
from textgym.rewards.specs.resolve import resolve_reward
from textgym.types import FloatArray

Policy: TypeAlias = "PreTrainedModel | ActingPolicy"
"""A causal model, or an ``LMPolicy``, whose own top-k and top-p apply."""


@dataclass(frozen=True)
class PolicyValue:
    """The exact value of a policy; means over the prompts and the world's replies, KL in nats per response.

    Attributes:
        objective: J(π) = E[R] − β·KL(π‖π_ref).
        reward: E[R].
        kl: KL(π‖π_ref).
        kl_to_optimum: KL(π‖π*); β times it is the regret J* − J(π).
        score: (J(π) − J(π_ref)) / (J* − J(π_ref)): 0 for the reference, 1 at the optimum; nan where they are one.
        by_prompt: ``[n_prompts]`` J(π) after each prompt.
    """

    objective: float
    reward: float
    kl: float
    kl_to_optimum: float
    score: float
    by_prompt: FloatArray


@dataclass(frozen=True)
class Optimum:
    """The optimum of E[R] − β·KL(π‖π_ref) over all policies, by enumeration.

    Attributes:
        mdp: the task.
        beta: β.
        sampling: temperature and minimum length of π and π_ref alike.
        tree: every response with its reward.
        ref_log_probs: log π_ref, ``[n, V]`` for each level of the tree.
        log_probs: log π*, likewise.
        prompt_values: ``[n_prompts]`` V* of each prompt.
    """

    mdp: TokenMDP
    beta: float
    sampling: Sampling
    tree: Tree
    ref_log_probs: TreeArrays
    log_probs: TreeArrays
    prompt_values: FloatArray

    @property
    def value(self) -> float:
        """J*, with every prompt equally likely, as ``reset`` draws them."""
        return float(self.prompt_values.mean())

    @property
    def n_sequences(self) -> int:
        """The number of responses that are possible; those to another reply of the world count as others."""
        return n_sequences(self.tree, self.ref_log_probs)

    @property
    def reference(self) -> PolicyValue:
        """The value of the reference; its score is 0."""
        return self._measure(self.ref_log_probs)

    @property
    def best(self) -> PolicyValue:
        """The value of π*: J*, and its reward and KL."""
        return self._measure(self.log_probs)

    def evaluate(self, policy: Policy) -> PolicyValue:
        """Return the value of a policy, without sampling.

        Raises:
            ValueError: the policy's temperature or minimum length is another than the optimum's, or it plays a task of
                other sizes.
        """
        return self._measure(self.policy_log_probs(policy))

    def expect(self, policy: Policy | None, reward: Any) -> float:
        """Return E_π of another reward, such as gold: a callable, or a list as environments take it.

        It replaces the task's reward; what a world pays for turns is added to either. ``policy=None`` means π*.
        """
        tree = score_tree(self.tree, self._paying(reward))
        log_probs = self.log_probs if policy is None else self.policy_log_probs(policy)
        return float(expectation(tree, log_probs, [level.reward for level in tree]).mean())

    def policy_log_probs(self, policy: Policy) -> TreeArrays:
        """Return log π, ``[n, V]`` for each level of the tree."""
        model, sampling = _model_and_sampling(policy, self.sampling)
        if sampling.shared != self.sampling:
            raise ValueError(
                f"the policy samples with {sampling.shared}, the optimum is that of {self.sampling}; pass "
                "sampling=policy.sampling.shared to optimum()"
            )
        _check_sizes(policy, self.mdp)
        check_fits(model, self.mdp.tokenizer, self.mdp.n_actions, self.mdp.width)
        return tree_log_probs(self.tree, self.mdp, model, sampling, getattr(policy, "mask", None))

    def next_token_probs(self, prompt_index: int, response: tuple[int, ...] = ()) -> FloatArray:
        """Return π*(·| prompt, response so far), ``[V]``.

        Args:
            prompt_index: number of the prompt.
            response: the tokens after the prompt as an observation shows them, the world's included.

        Raises:
            ValueError: the response has ended before, the task or its world forbids it, or it stops within a reply.
        """
        for level, log_probs in zip(self.tree, self.log_probs, strict=True):
            states = level.states
            for row in np.flatnonzero((states.prompt == prompt_index) & (states.lengths == len(response))).tolist():
                if states.response(row) == list(response):
                    probs: FloatArray = np.exp(log_probs[row])
                    return probs
        raise ValueError(
            f"response={response}: after prompt {prompt_index} it is forbidden, has ended, or stops within a reply; "
            "expected a live prefix"
        )

    def _paying(self, reward: Any) -> TokenMDP:
        return replace(self.mdp, reward=resolve_reward(reward, {}), missing_end_score=None)

    def _measure(self, log_probs: TreeArrays) -> PolicyValue:
        reward = expectation(self.tree, log_probs, [level.reward for level in self.tree])
        kl = expectation(self.tree, log_probs, log_ratios(log_probs, self.ref_log_probs))
        regret = expectation(self.tree, log_probs, log_ratios(log_probs, self.log_probs))
        by_prompt = reward - self.beta * kl
        objective = float(by_prompt.mean())
        base = float(expectation(self.tree, self.ref_log_probs, [level.reward for level in self.tree]).mean())
        # Room between reference and optimum; the score is undefined where there is none.
        room = self.value - base
        score = (objective - base) / room if room > 1e-12 else math.nan
        return PolicyValue(objective, float(reward.mean()), float(kl.mean()), float(regret.mean()), score, by_prompt)


def optimum(
    env: Any,
    beta: float,
    *,
    reference: ModelSource | PreTrainedModel | None = None,
    sampling: Sampling | None = None,
    limit: int = LIMIT,
) -> Optimum:
    """Compute the optimum of a task over all policies, by enumerating every response.

    Works for any causal model and reward. A dense reward counts as its sum; a stochastic one must declare
    ``expected``, a function of its own signature that returns E[R | y]. Masks, stop rules, several prompts and
    ``missing_end_score`` are those of the task.

    A task's world must be a :class:`textgym.worlds.KnownWorld`. Its outcomes are enumerated and enter as their mean, as
    ``textgym.exact.soft`` explains. The policy knows the tokens that it has seen, not the world's state.

    Args:
        env: an environment, a vector environment, a :class:`textgym.env.mdp.TokenMDP`, or an id.
        beta: β > 0, the price of a nat.
        reference: π_ref, by default the task's base model.
        sampling: temperature and minimum length of policy and reference.
        limit: responses that are enumerated at most.

    Raises:
        ValueError: β is not above 0, there are more than ``limit`` responses, there is no reference, a reward is
            stochastic and does not declare ``expected``, or the world does not know its ``outcomes`` or tells prompts
            of the same tokens apart.
        textgym.worlds.WorldError: a mistake in the world.
    """
    check_beta(beta)
    mdp = find_mdp(env)
    check_known(mdp)
    model = find_reference(mdp, reference)
    shared = (sampling or Sampling()).shared
    tree = prefix_tree(mdp, limit)
    ref_log_probs = tree_log_probs(tree, mdp, model, shared)
    found = soft_optimum(tree, ref_log_probs, beta)
    return Optimum(mdp, beta, shared, tree, ref_log_probs, found.log_probs, found.values[0])


def find_mdp(env: Any) -> TokenMDP:
    """Return the token MDP of an environment, of an id, or the MDP itself."""
    if isinstance(env, TokenMDP):
        return env
    made = gym.make(env) if isinstance(env, str) else env
    mdp: TokenMDP = find_attribute(made, "mdp")
    return mdp


def find_reference(mdp: TokenMDP, reference: ModelSource | PreTrainedModel | None) -> PreTrainedModel:
    """Return the reference, checked against the task's sizes."""
    source = mdp.base_model if reference is None else reference
    if source is None:
        raise ValueError("reference is None and the task has no base model; pass reference=DIRECTORY_OR_MODEL")
    model = source if isinstance(source, PreTrainedModel) else load_causal_lm(source)
    require_causal(model, "the exact optimum")
    check_fits(model, mdp.tokenizer, mdp.n_actions, mdp.width)
    return model


def _model_and_sampling(policy: Policy, shared: Sampling) -> tuple[PreTrainedModel, Sampling]:
    model, sampling = (policy, shared) if isinstance(policy, PreTrainedModel) else (policy.lm, policy.sampling)
    return require_causal(model, "its exact objective"), sampling


def _check_sizes(policy: Policy, mdp: TokenMDP) -> None:
    """Raise ValueError if a policy was made for a task of other sizes; a bare model has no sizes of a task."""
    names = ("prompt_length", "width", "n_actions")
    own = tuple(getattr(policy, name, None) for name in names)
    task = (mdp.max_prompt_length, mdp.width, mdp.n_actions)
    if None not in own and own != task:
        there, here = (f"P={p}, T={w - p}, V={v}" for p, w, v in (own, task))  # type: ignore[operator]
        raise ValueError(f"the policy plays a task of {there}; the optimum is that of {here}")


def check_beta(beta: float) -> None:
    """Raise ValueError unless β is finite and above 0."""
    if not (math.isfinite(beta) and beta > 0):
        raise ValueError(f"beta={beta}; expected a finite number above 0: without the KL there is no soft optimum")
