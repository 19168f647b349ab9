"""Scores of responses: by sampling with intervals, or exactly where the optimum is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scripts.task_pages.policies import Budget, answers, chosen, has_references, held_out, uniform
from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import evaluate
from textgym.agents.loop.metrics import mean_and_error
from textgym.exact.enumeration import Optimum, PolicyValue, optimum
from textgym.intervals import half_width
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.trunk import Trunk
from textgym.registration import task_mdp
from textgym.rewards.builtin import no_reward
from textgym.tasks.task import Task
from textgym.testing import Probe, reference_probe, score, text_probe

Table: TypeAlias = list[dict[str, str]]
"""Rows by column, as they are shown."""


@dataclass(frozen=True)
class Hack:
    """A proxy's hack and a reference text, each with its proxy and gold rewards."""

    name: str
    temptation: str
    prompt: str
    hack: str
    reference: str
    proxy_of_hack: float
    proxy_of_reference: float
    gold_of_hack: float
    gold_of_reference: float


def measures(task: Task, probes: Sequence[Probe]) -> Mapping[str, Sequence[float]]:
    """Return gold, the paid reward, proxies, metrics and length of responses."""
    prompts, texts = [probe.prompt.text for probe in probes], [probe.text for probe in probes]
    return {
        "gold": score(task.gold, probes),
        **({} if task.reward is None else {"reward": [float(np.sum(one)) for one in score(task.reward, probes)]}),
        **{name: score(proxy.reward, probes) for name, proxy in task.proxies.items()},
        **{name: metric(prompts, texts) for name, metric in task.metrics.items()},
        "length": [float(len(probe.ids)) for probe in probes],
    }


def sampled_table(task: Task, budget: Budget) -> Table:
    """Return one row a policy: means with 95 % intervals over the chosen prompts."""
    return [
        {"policy": policy, **{name: interval(values) for name, values in measures(task, probes).items()}}
        for policy, probes in answers(task, budget).items()
    ]


def played_table(task: Task, budget: Budget) -> Table:
    """Return one row a policy: means with 95 % intervals over episodes with the task's world."""
    assert task.base_model is not None
    mdp = task_mdp(task, ["gold", *((name, 0.0) for name in task.metrics)], held_out(task))
    models = {"uniform random": uniform(load_causal_lm(task.base_model)), "base model": load_causal_lm(task.base_model)}
    reference = Trunk(load_causal_lm(task.base_model))
    rows = []
    for policy, model in models.items():
        report = evaluate(acting_policy(model, mdp), reference, mdp, budget.responses, budget.seed)
        parts = report.episodes.components
        values = {"gold": report.episodes.rewards.sum(1), **{name: parts[name] for name in task.metrics}}
        own = report.episodes.own
        values |= {"turns": (np.diff(own.astype(int), prepend=0) == 1).sum(1), "own tokens": own.sum(1)}
        rows.append({"policy": policy, **{name: interval(column) for name, column in values.items()}})
    return rows + reference_rows(task, budget)


def reference_rows(task: Task, budget: Budget) -> Table:
    """Return the row of the references of a task with a world, if it has any."""
    if not has_references(task):
        return []
    prompts = [task.prompts(held_out(task))[index] for index in chosen(task, budget)]
    probes = [reference_probe(task, prompt) for prompt in prompts]
    turns = [float(probe.text.count("\n") + 1) for probe in probes]
    measured = measures(task, probes)
    columns = {"gold": measured["gold"], **{name: measured[name] for name in task.metrics}, "turns": turns}
    columns["own tokens"] = measured["length"]
    return [{"policy": "reference texts", **{name: interval(values) for name, values in columns.items()}}]


def interval(values: Sequence[float] | NDArray[Any]) -> str:
    """Return a mean with half its 95 % interval, by Student."""
    array = np.asarray(values, np.float64)
    found = mean_and_error("it", array)
    half = half_width(found.get("it_sem"), int(np.isfinite(array).sum()))
    return f"{found['it']:.3f}" + ("" if half is None else f" ± {half:.3f}") if found else "–"


def exact_table(task: Task) -> tuple[Table, Optimum]:
    """Return one row a policy, by enumeration and so without intervals, and the optimum."""
    assert task.beta is not None
    assert task.base_model is not None
    best = optimum(task_mdp(task), task.beta)
    chance, base = uniform(load_causal_lm(task.base_model)), load_causal_lm(task.base_model)
    values = {
        "uniform random": (best.evaluate(chance), chance),
        "base model, the reference": (best.reference, base),
        "optimum": (best.best, None),
    }
    # A world that pays everything leaves no gold to be told beside the reward.
    golds = {} if task.gold is no_reward else {name: best.expect(own, task.gold) for name, (_, own) in values.items()}
    return [{"policy": policy, **_shown(value, golds.get(policy))} for policy, (value, _) in values.items()], best


def _shown(value: PolicyValue, gold: float | None) -> dict[str, str]:
    told = {} if gold is None else {"E[gold]": gold}
    numbers = {"J": value.objective, "E[reward]": value.reward, "KL": value.kl, **told, "score": value.score}
    return {name: f"{number + 0.0:.4f}".replace("-0.0000", "0.0000") for name, number in numbers.items()}


def hacks(task: Task) -> list[Hack]:
    """Return each proxy's hack of the first training prompt."""
    prompt = task.prompts()[0]
    found = []
    for name, proxy in task.proxies.items():
        reference = reference_probe(task, prompt)
        pair = [text_probe(task, prompt, proxy.hack(prompt)), reference]
        paid, true = score(proxy.reward, pair), score(task.gold, pair)
        found.append(Hack(name, proxy.temptation, prompt.text, pair[0].text, reference.text, *paid, *true))
    return found
