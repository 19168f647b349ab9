"""Responses of simple policies: random, the base model before and after imitation, and the references."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from transformers import PreTrainedModel

from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import play
from textgym.agents.offline.data import Demonstration
from textgym.agents.offline.sft import fine_tune
from textgym.agents.offline.sft_settings import SFTSettings
from textgym.env.rendering import Frame
from textgym.env.vector import TokenVectorEnv
from textgym.lm.files.loading import load_causal_lm
from textgym.registration import task_mdp
from textgym.tasks.task import Task
from textgym.testing import Probe, random_probe, reference_probe
from textgym.types import Prompt

IMITATION = SFTSettings(epochs=1, learning_rate=1e-3)
"""One pass over some references: this row is to say what imitation is worth, not how far it goes."""


@dataclass(frozen=True)
class Budget:
    """Sizes of the samples and of the imitated data.

    Attributes:
        responses: of each policy.
        references: that are imitated.
        seed: of everything random.
    """

    responses: int = 256
    references: int = 4096
    seed: int = 0


@dataclass(frozen=True)
class Episode:
    """A finished episode and the policy that played it."""

    policy: str
    frame: Frame


def held_out(task: Task) -> str:
    """Return the split that is scored: the test prompts, where there are any."""
    return "test" if "test" in task.splits else "train"


def chosen(task: Task, budget: Budget) -> list[int]:
    """Return the held-out prompts to answer, the same for every policy."""
    order = np.random.default_rng(budget.seed).permutation(len(task.prompts(held_out(task))))
    found: list[int] = order[: budget.responses].tolist()
    return found


def has_references(task: Task) -> bool:
    """Return True if every prompt has a reference text."""
    return all("reference" in prompt.columns for prompts in task.splits.values() for prompt in prompts)


def answers(task: Task, budget: Budget) -> dict[str, list[Probe]]:
    """Return responses to the chosen prompts, by policy."""
    rng = np.random.default_rng(budget.seed)
    prompts = [task.prompts(held_out(task))[index] for index in chosen(task, budget)]
    found = {"uniform random": [random_probe(task, prompt, rng) for prompt in prompts]}
    if task.base_model is not None:
        found["base model"] = sampled(task, load_causal_lm(task.base_model), budget)
    if has_references(task):
        if task.base_model is not None and budget.references:
            model, n = imitating(task, budget)
            found[f"base model after one pass over {n:,} references"] = sampled(task, model, budget)
        found["reference texts"] = [reference_probe(task, prompt) for prompt in prompts]
    return found


def sampled(task: Task, model: PreTrainedModel, budget: Budget) -> list[Probe]:
    """Sample a model's responses to the chosen prompts."""
    mdp = task_mdp(task, split=held_out(task))
    episodes = play(acting_policy(model, task_mdp(task)), mdp, np.array(chosen(task, budget)), budget.seed)
    probes = []
    for row, index in enumerate(episodes.prompt_index.tolist()):
        ids = episodes.actions[row, : episodes.lengths[row]].tolist()
        prompt, text = mdp.prompts[index], mdp.completion(mdp.prompts[index], ids)
        probes.append(Probe(prompt, tuple(ids), text, "stop" if episodes.stopped[row] else "length"))
    return probes


def imitating(task: Task, budget: Budget) -> tuple[PreTrainedModel, int]:
    """Fine-tune the base model on references of the training prompts; return it and their number."""
    assert task.base_model is not None
    model = load_causal_lm(task.base_model)
    shown = [demonstration(task, prompt) for prompt in task.prompts()[: budget.references]]
    others = task.splits.get("validation", task.prompts())
    judged = [demonstration(task, prompt) for prompt in others[:32]]
    fine_tune(model, shown, validation=judged, settings=IMITATION, seed=budget.seed, progress=False)
    return model, len(shown)


def demonstration(task: Task, prompt: Prompt) -> Demonstration:
    """Return a prompt with its reference text as a demonstration."""
    return Demonstration(prompt, reference_probe(task, prompt).ids)


def first_episode(task: Task, budget: Budget) -> Episode:
    """Play the base model, or a random policy without one, on the first chosen prompt."""
    mdp = task_mdp(task, split=held_out(task))
    index = chosen(task, budget)[0]
    prompt = mdp.prompts[index]
    if task.base_model is None:
        policy, ids = "A uniform random policy", random_probe(task, prompt, np.random.default_rng(budget.seed)).ids
    else:
        acting = acting_policy(load_causal_lm(task.base_model), task_mdp(task))
        episodes = play(acting, mdp, np.array([index]), budget.seed)
        policy, ids = "The base model", tuple(episodes.actions[0, episodes.own[0]].tolist())
    env = TokenVectorEnv(mdp, 1, AutoresetMode.DISABLED)
    # As episode 0, in which a world says again what it said above.
    env.reset(seed=budget.seed, options={"prompt_index": np.array([index]), "episode": np.array([0])})
    for action in ids:
        env.step(np.array([action]))
    return Episode(policy, env.frame(0))


@torch.no_grad()
def uniform(model: PreTrainedModel) -> PreTrainedModel:
    """Set the output head of a model to zeros, which makes all tokens equally likely, and return the model."""
    head = model.get_output_embeddings()
    for parameter in head.parameters():
        parameter.zero_()
    return model
