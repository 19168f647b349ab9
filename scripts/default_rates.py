"""Measure what a learning rate does to language models in ten iterations of PPO: the table of docs/rates.md.

Usage: python scripts/default_rates.py OUT LEXICON MODEL PROMPTS [MODEL PROMPTS ...] [--rates 1e-4 ...]
    [--target-kls 0 ...] [--warmups 0 ...] [--rewards length ...] [--seeds 0 ...]

LEXICON has a word, a tab and its valence a line (VADER's). A MODEL is a directory with its tokenizer, PROMPTS are JSON
Lines with the field 'prompt'. OUT is a file of JSON Lines, one a run; runs that it already holds are skipped, so the
same command continues where it was cut off. Without a MODEL the table of the runs in OUT is printed.

A run begins as ``textgym train`` does (128 responses of up to 48 tokens an iteration, minibatches of 32, four epochs,
β = 0.05, a rate that would reach 0 after 200,000 tokens) and stops after ten iterations. It is *destroyed* where the KL
to the model at the start is above 30 nats a response, or where that model's log-probability of a token of the
responses fell by more than 2 nats.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import warnings
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from textgym.agents import PPO
from textgym.agents.loop.evaluation import evaluate
from textgym.agents.loop.slots import admitting_env
from textgym.env.mdp import TokenMDP
from textgym.files import json_lines
from textgym.lm.files.loading import load_lm
from textgym.lm.guards import TrainingWarning
from textgym.prompts import encode_prompts
from textgym.rows import read_rows
from textgym.tokenization import end_token_ids, load_tokenizer

ITERATIONS = 10
TOKENS = 200_000
MAX_PROMPT, NEW_TOKENS = 16, 48
EVALUATED = 128
KL_DESTROYED = 30.0  # nats per response
FALL_DESTROYED = 2.0  # nats per token, of the first model's log-probability of what is written


def length(completions: list[str], **_: Any) -> list[float]:
    """Return the characters of each completion, in units of 50."""
    return [len(text) / 50 for text in completions]


def letter(completions: list[str], **_: Any) -> list[float]:
    """Count the letter e in each completion."""
    return [float(text.count("e")) for text in completions]


def sentiment(lexicon: Path) -> Callable[..., list[float]]:
    """Return a reward by VADER's normalised sum of word valences, in (-1, 1)."""
    lines = lexicon.read_text(encoding="utf-8").splitlines()
    valence = {word: float(value) for word, value, *_ in (line.split("\t") for line in lines)}

    def reward(completions: list[str], **_: Any) -> list[float]:
        sums = [sum(valence.get(word, 0.0) for word in re.findall(r"[a-z']+", text.lower())) for text in completions]
        return [total / (total**2 + 15) ** 0.5 for total in sums]

    return reward


class StopAfter(BaseCallback):
    """A callback that ends training after some iterations, and records the log of each."""

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations
        self.rows: list[dict[str, float]] = []

    def _on_rollout_start(self) -> None:
        if self.model.metrics:  # type: ignore[attr-defined]
            self.rows.append(dict(self.model.metrics))  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        return len(self.rows) < self.iterations


def run(model: str, prompts: Path, reward: Callable[..., list[float]], seed: int, **settings: Any) -> dict[str, Any]:
    """Train for ten iterations, and return the measurements before, during and after."""
    torch.set_num_threads(1)
    begun = time.process_time()
    tokenizer, lm = load_tokenizer(model), load_lm(model)
    mdp = TokenMDP(
        tokenizer=tokenizer,
        prompts=encode_prompts(read_rows(prompts), tokenizer, MAX_PROMPT, "drop"),
        reward=reward,
        end_token_ids=end_token_ids(tokenizer, lm.generation_config),
        max_prompt_length=MAX_PROMPT,
        max_new_tokens=NEW_TOKENS,
    )
    algorithm = PPO("LMPolicy", admitting_env(mdp, 128), model=lm, seed=seed, device="cpu", **settings)
    before = measured(algorithm, mdp)
    stop = StopAfter(ITERATIONS)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingWarning)
        algorithm.learn(TOKENS, stop)
    kept = ("rollout/score", "rollout/score_sem", "rollout/kl", "rollout/length")
    kept += ("train/approx_kl", "train/clip_fraction", "train/entropy", "train/n_updates", "train/learning_rate")
    return {
        "parameters": sum(p.numel() for p in lm.parameters()),
        "before": before,
        "after": measured(algorithm, mdp),
        "curve": [{name: row[name] for name in kept} for row in stop.rows],
        "warnings": [str(one.message) for one in caught if issubclass(one.category, TrainingWarning)],
        "cpu_seconds": time.process_time() - begun,
    }


def measured(algorithm: PPO, mdp: TokenMDP) -> dict[str, float]:
    """Measure score and its deviation, KL per response, length, and the first model's log-probability per token."""
    report = evaluate(algorithm.policy, algorithm.reference_trunk, mdp, EVALUATED, seed=0)
    reference = algorithm.score(report.episodes).ref_log_probs
    scores = report.episodes.rewards.sum(1)
    return {
        "score": float(scores.mean()),
        "deviation": float(scores.std()),
        "kl": float(report.kl.sum(1).mean()),
        "length": float(report.episodes.lengths.mean()),
        "reference_log_prob": float(reference[report.episodes.valid].mean()),
    }


def destroyed(result: dict[str, Any]) -> bool:
    """Return True if ten iterations destroyed a model."""
    fall = result["before"]["reference_log_prob"] - result["after"]["reference_log_prob"]
    return bool(result["after"]["kl"] > KL_DESTROYED or fall > FALL_DESTROYED)


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Return a line for each model and setting: worst and mean over rewards and seeds."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        settings = row["settings"]
        key = (row["model"], settings["learning_rate"], settings["target_kl"], settings["warmup_iterations"])
        groups.setdefault(key, []).append(row["result"])
    lines = [
        "| model | rate | target_kl | warm-up | runs | destroyed | KL: median | worst | log-prob per token: worst fall "
        "| rise of the score, deviations: median | least |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (model, rate, target, warmup), results in sorted(groups.items(), key=lambda group: group[0]):
        kls = [one["after"]["kl"] for one in results]
        falls = [one["before"]["reference_log_prob"] - one["after"]["reference_log_prob"] for one in results]
        rises = [(one["after"]["score"] - one["before"]["score"]) / one["before"]["deviation"] for one in results]
        median, least = np.median(rises), min(rises)
        numbers = f"{np.median(kls):.1f} | {max(kls):.1f} | {max(falls):.2f} | {median:.2f} | {least:.2f}"
        bound = f"{target:g}" if target else "none"
        lines.append(
            f"| {model} | {rate:g} | {bound} | {warmup} | {len(results)} | {sum(map(destroyed, results))} | {numbers} |"
        )
    return "\n".join(lines)


def read_results(out: Path) -> list[dict[str, Any]]:
    """Return the runs that stand in a file; a last line that was cut off is left out."""
    lines = json_lines(out.read_text(encoding="utf-8"), str(out)) if out.exists() else ()
    return [line.value for line in lines if not line.torn]


def main() -> None:
    """Run the missing settings, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("lexicon", type=Path, nargs="?")
    parser.add_argument("models", nargs="*", metavar="MODEL PROMPTS")
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4])
    parser.add_argument("--target-kls", type=float, nargs="+", default=[0.0])
    parser.add_argument("--warmups", type=int, nargs="+", default=[0])
    parser.add_argument("--rewards", nargs="+", default=["length", "sentiment", "letter"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    told = parser.parse_args()
    done = {json.dumps(row["job"]) for row in read_results(told.out)}
    pairs = list(zip(told.models[::2], told.models[1::2], strict=True))
    grid = product(told.rates, told.target_kls, told.warmups, pairs, told.rewards, told.seeds)
    for rate, target, warmup, (model, prompts), reward, seed in grid:
        settings = {"learning_rate": rate, "target_kl": target, "warmup_iterations": warmup}
        job = [Path(model).name, reward, seed, settings]
        if json.dumps(job) in done:
            continue
        chosen = {"length": length, "letter": letter, "sentiment": sentiment(told.lexicon)}[reward]
        result = run(model, Path(prompts), chosen, seed, **settings)
        row = {"job": job, "model": job[0], "reward": reward, "seed": seed, "settings": settings, "result": result}
        with told.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        kl, score = result["after"]["kl"], result["after"]["score"] - result["before"]["score"]
        print(job, f"KL {kl:.1f}, score {score:+.2f}, {result['cpu_seconds']:.0f} CPU-s", flush=True)
    print(table(read_results(told.out)))


if __name__ == "__main__":
    main()
