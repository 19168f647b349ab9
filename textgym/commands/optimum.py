"""``textgym optimum``: the optimum of a task, and the distance of a policy from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textgym.agents.loop.acting import saved_policy
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.commands.configs.optimum import OptimumConfig
from textgym.commands.train import load_variant, parse_reward
from textgym.env.mdp import TokenMDP
from textgym.exact.bracket import Bracket, bracket
from textgym.exact.enumeration import Optimum, PolicyValue, optimum
from textgym.exact.tree import LIMIT
from textgym.intervals import Estimate
from textgym.lm.sampling import Sampling
from textgym.registration import task_mdp
from textgym.runs import model_source


def show_optimum(config: OptimumConfig) -> Optimum | Bracket:
    """Print the optimum beside the reference and the policy.

    Raises:
        ValueError: there is no β, too many responses, or a model does not fit the task.
    """
    task = load_variant(config.task, config.parameters)
    beta = task.beta if config.beta is None else config.beta
    if beta is None:
        raise ValueError(f"task={config.task!r} has no beta of its own; pass --beta, the price of a nat of KL")
    mdp = task_mdp(task, None if config.reward is None else parse_reward(config.reward, task))
    own: dict[str, Any] = {"temperature": config.temperature, "min_new_tokens": config.min_new_tokens}
    policy = None if config.policy is None else saved_policy(model_source(config.policy), mdp, **own)
    given = {name: value for name, value in own.items() if value is not None}
    sampling = Sampling(**given) if policy is None else policy.sampling.shared
    if config.samples is not None:
        return _show_bracket(config, mdp, beta, [] if policy is None else [policy], sampling)
    found = optimum(mdp, beta, reference=config.reference, sampling=sampling, limit=config.limit or LIMIT)
    rows = {"reference": found.reference, "optimum": found.best}
    if policy is not None:
        rows["policy"] = found.evaluate(policy)
    counted = "responses to" if mdp.world is None else "conversations from"
    print(f"{config.task}: {found.n_sequences:,} {counted} {len(mdp.prompts)} prompts, beta {beta:g}\n")
    print(table(rows))
    return found


def _show_bracket(
    config: OptimumConfig, mdp: TokenMDP, beta: float, policies: list[LMPolicy], sampling: Sampling
) -> Bracket:
    assert config.samples is not None
    found = bracket(
        mdp, beta, policies, samples=config.samples, reference=config.reference, sampling=sampling, seed=config.seed
    )
    rows = dict(zip(("reference", "policy"), found.values, strict=False)) | {"optimum": found.estimate}
    print(f"{config.task}: {config.samples:,} samples for each of {len(mdp.prompts)} prompts, beta {beta:g}\n")
    print(interval_table(rows))
    print(f"\nThe optimum is an estimate that rests on {found.effective_samples:.0f} effective samples.")
    return found


def interval_table(rows: Mapping[str, Estimate]) -> str:
    """Return a line for each policy: J and its interval."""
    lines = [f"{'':10}{'J':>12}{'95 % interval':>26}"]
    lines += [f"{name:10}{v.value:12.5f}{f'{v.low:.5f} ... {v.high:.5f}':>26}" for name, v in rows.items()]
    return "\n".join(lines)


def table(rows: dict[str, PolicyValue]) -> str:
    """Return a line for each policy."""
    lines = [f"{'':10}{'J':>12}{'E[R]':>12}{'KL to ref':>12}{'KL to opt':>12}{'score':>9}"]
    lines += [
        f"{name:10}{v.objective:12.5f}{v.reward:12.5f}{v.kl:12.4f}{v.kl_to_optimum:12.4f}{v.score:9.4f}"
        for name, v in rows.items()
    ]
    return "\n".join(lines)
