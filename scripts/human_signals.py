"""Compare ways to learn from a person on Reviews: gold against the number of human signals.

Usage: python -m scripts.human_signals [OUT.jsonl]

A simulated person likes praise and dislikes criticism in film reviews. The three ways to learn from them:

- tamer: reviews of the base model appear at two tokens a second; the person presses + where a judgement is praise and −
  where it is not, 0.2 to 2 s later, and misses three in ten. Ĥ learns from the presses, and PPO from Ĥ.
- coach: the same presses, on reviews of the policy as it learns.
- rankings: the person ranks four reviews of the base model to each prompt, with noise; a reward model learns from the
  rankings, and PPO from the reward model.

A signal is a press, or one text that was put into its place: a ranking of four counts as four. Each run appends a row
to OUT and is not repeated where that row stands; the table of all rows follows. All runs take some ten minutes of one
core.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from textgym.agents import COACH, PPO, SequenceAlgorithm, evaluate, sample_responses
from textgym.agents.loop.evaluation import play
from textgym.env.mdp import TokenMDP
from textgym.files import append_line, json_line, read_json_lines
from textgym.intervals import SampleMean
from textgym.registration import load_task, task_mdp
from textgym.rewards import (
    RewardModel,
    ShownResponse,
    SimulatedTrainer,
    Watched,
    plackett_luce_ranks,
    train_feedback_model,
    train_reward_model,
)
from textgym.rewards.combination import OneReward
from textgym.rewards.feedback.delays import Uniform
from textgym.rewards.feedback.settings import FeedbackSettings
from textgym.rewards.functions import Batch
from textgym.tasks.mini.reviews import judgements
from textgym.tokenization import token_strings
from textgym.types import Ranking, Score

TASK = "textgym/Reviews-v0"
SIGNALS = (64, 256, 1024)
SEEDS = (0, 1, 2)
DELAY = Uniform(0.2, 2.0)
TRAINER = SimulatedTrainer(DELAY, response_rate=0.7)
TOKENS_PER_SECOND = 2.0
RANKED = 4
LABEL_TEMPERATURE = 0.1
"""Two texts whose gold differs by 0.1 are ranked with odds of e : 1."""
BUDGET = 8_000
"""Tokens of PPO; COACH learns until it has had its signals."""
RL: dict[str, Any] = {"learning_rate": 1e-3, "beta": 0.3}
EVALUATED = 256
OUT = Path("benchmarks/results/people/human_signals.jsonl")


# --- the person --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Praise:
    """Dense reward: at each token, the praise less the criticism that it adds to the review."""

    tokenizer: Any = None
    single_turn = True

    def bind(self, tokenizer: Any) -> Praise:
        return replace(self, tokenizer=tokenizer)

    def __call__(self, completion_ids: list[list[int]], prompt_ids: list[list[int]], **_: Any) -> list[list[float]]:
        return [self.of(ids, before) for ids, before in zip(completion_ids, prompt_ids, strict=True)]

    def of(self, ids: Sequence[int], before: Sequence[int]) -> list[float]:
        texts = token_strings(self.tokenizer, ids, before)
        good, bad = np.array([judgements("".join(texts[:n])) for n in range(len(texts) + 1)]).T
        return [float(after - now) for now, after in pairwise(good - bad)]


@dataclass(frozen=True)
class Presses(OneReward):
    """Number of times that the person presses a key at a response."""

    watched: Watched

    @property
    def name(self) -> str:
        return "presses"

    def combined(self, scores: Sequence[Sequence[Score]], batch: Batch) -> list[Score]:
        values = zip(scores[0], batch.columns["episode_seed"], strict=True)
        return [float(len(self.watched.events(own, int(seed)))) for own, seed in values if isinstance(own, list)]


def watch(mdp: TokenMDP, policy: Any, signals: int, seed: int) -> tuple[list[ShownResponse], int]:
    """Show reviews of the policy until there are enough signals; return them, and the tokens that were read."""
    praise, generator = Praise(mdp.tokenizer), np.random.default_rng([seed, 1])
    order = np.random.default_rng([seed, 2]).permutation(len(mdp.prompts))
    found: list[ShownResponse] = []
    given = read = 0
    while given < signals:
        asked = order[len(found) : len(found) + 64]
        if not len(asked):
            raise ValueError(
                f"signals={signals}: reviews to all {len(order)} prompts gave {given}; expected fewer signals"
            )
        # The seed is the same for each batch, so the i-th review of every batch is drawn with the same random numbers,
        # to another prompt: batches are not independent. Another seed would change the published rows.
        episodes = play(policy, mdp, asked, seed)
        for i, own in enumerate(episodes.own):
            if given >= signals:
                break
            prompt, ids = mdp.prompts[int(episodes.prompt_index[i])], episodes.actions[i, own].tolist()
            said = ids[:-1] if ids[-1] in mdp.end_token_ids else ids
            texts = token_strings(mdp.tokenizer, said, prompt.ids)
            shown = np.arange(len(said)) / TOKENS_PER_SECOND
            events = TRAINER.watch(praise.of(said, prompt.ids), shown, generator)
            found.append(ShownResponse(prompt.content, "".join(texts), tuple(texts), tuple(shown.tolist()), events))
            given, read = given + len(events), read + len(said)
    return found, read


# --- three ways to learn -------------------------------------------------------------------------------------------


class Learned(NamedTuple):
    """A policy that learned from a person, the signals that it took, and the tokens that the person read.

    The tokens of coach include the end of each review, those of the other ways do not.
    """

    algorithm: SequenceAlgorithm
    signals: int
    read: int


def learn_by_ppo(reward: Any, seed: int) -> SequenceAlgorithm:
    env = gym.make_vec(TASK, num_envs=128, reward=reward)
    return PPO("LMPolicy", env, seed=seed, **RL).learn(BUDGET, log_interval=0)


def fresh(base: PPO, mdp: TokenMDP, seed: int) -> RewardModel:
    return RewardModel.from_causal_lm(base.policy.lm, mdp.tokenizer, torch.Generator().manual_seed(seed))


def tamer(signals: int, seed: int) -> Learned:
    mdp, base = task_mdp(load_task(TASK)), PPO("LMPolicy", TASK, seed=seed)
    responses, read = watch(mdp, base.policy, signals, seed)
    feedback, report = train_feedback_model(
        fresh(base, mdp, seed),
        responses,
        generator=torch.Generator().manual_seed(seed),
        delay=DELAY,
        settings=FeedbackSettings(learning_rate=1e-3, epochs=4, heldout=0),
        progress=False,
    )
    return Learned(learn_by_ppo(feedback, seed), report.events + report.without_credit, read)


def rankings(signals: int, seed: int) -> Learned:
    mdp, base = task_mdp(load_task(TASK)), PPO("LMPolicy", TASK, seed=seed)
    prompts = np.random.default_rng([seed, 2]).permutation(len(mdp.prompts))[: signals // RANKED]
    written = sample_responses(base.policy, mdp, prompts, RANKED, seed)
    ranks = plackett_luce_ranks(written.rewards, LABEL_TEMPERATURE, np.random.default_rng([seed, 1])).tolist()
    answers = [
        Ranking(prompt, tuple(texts), tuple(row))
        for prompt, texts, row in zip(written.prompts, written.completions, ranks, strict=True)
    ]
    model = fresh(base, mdp, seed)
    generator = torch.Generator().manual_seed(seed)
    train_reward_model(
        model, answers, learning_rate=1e-3, epochs=4, heldout=answers[:1], generator=generator, progress=False
    )
    read = sum(len(mdp.tokenizer(text).input_ids) for texts in written.completions for text in texts)
    return Learned(learn_by_ppo(model, seed), signals, read)


def coach(signals: int, seed: int) -> Learned:
    praise = Praise()
    watched = Watched(praise, TRAINER, tokens_per_second=TOKENS_PER_SECOND)
    env = gym.make_vec(TASK, num_envs=16, reward=[(watched, 1.0), (Presses(praise, watched), 0.0)])
    algorithm = COACH("LMPolicy", env, seed=seed, episodes_per_iteration=16, minibatch_size=16, **RL)
    given = read = 0
    while given < signals:
        episodes = algorithm.collect()
        assert episodes is not None
        algorithm.train(episodes, 1 - given / signals)
        given += int(episodes.components["presses"].sum())
        read += int(episodes.lengths.sum())
    return Learned(algorithm, given, read)


def nothing(_signals: int, seed: int) -> Learned:
    return Learned(PPO("LMPolicy", TASK, seed=seed), 0, 0)


WAYS: Mapping[str, Callable[[int, int], Learned]] = {
    "base model": nothing,
    "tamer": tamer,
    "coach": coach,
    "rankings": rankings,
}
JOBS = [("base model", 0, 0), *((way, n, seed) for seed, n, way in product(SEEDS, SIGNALS, list(WAYS)[1:]))]
"""Way, signals and seed of each run."""


def run(way: str, signals: int, seed: int) -> dict[str, Any]:
    """Learn once; return a row of results."""
    started = time.process_time()
    learned = WAYS[way](signals, seed)
    test = task_mdp(load_task(TASK), split="test")
    algorithm = learned.algorithm
    found = evaluate(algorithm.policy, algorithm.reference_trunk, test, EVALUATED, seed=0).summary()
    return {
        "way": way,
        "signals": signals,
        "seed": seed,
        "given": learned.signals,
        "read": learned.read,
        "gold": found["score"]["mean"],
        "kl": found["kl"]["mean"],
        "cpu_seconds": round(time.process_time() - started, 1),
    }


# --- the table -----------------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> str:
    """Return a mean over seeds with Student's 95 % interval."""
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    mean = SampleMean(float(np.mean(values)), error, len(values))
    return f"{mean.mean:.3f}" if mean.half is None else f"{mean.mean:.3f} ± {mean.half:.3f}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write gold by number of signals, with the tokens that the person read and the KL of the policy."""
    lines = ["| signals | way | gold | KL, nats | tokens read | seeds |", "| ---: | --- | ---: | ---: | ---: | ---: |"]
    for signals, way in product((0, *SIGNALS), WAYS):
        own = [row for row in rows if (row["signals"], row["way"]) == (signals, way)]
        if own:
            kl, read = (float(np.mean([row[name] for row in own])) for name in ("kl", "read"))
            gold = interval([row["gold"] for row in own])
            lines.append(f"| {signals} | {way} | {gold} | {kl:.1f} | {read:,.0f} | {len(own)} |")
    return "\n".join(lines)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    rows = [row for _, row in read_json_lines(out)] if out.exists() else []
    done = {(row["way"], row["signals"], row["seed"]) for row in rows}
    for job in JOBS:
        if job not in done:
            rows.append(run(*job))
            append_line(out, json_line(rows[-1]))
            print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
