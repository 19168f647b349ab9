"""One run: RL on a mini task's gold reward, with pretraining text of one weight in every update.

The text is from the corpus that the base model of the mini tasks was trained on, as is the held-out text.
"""

from __future__ import annotations

import time

from gymnasium.vector import AutoresetMode

from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.evaluation import evaluate
from textgym.agents.offline.alignment_tax import PTX, Texts, forgetting, mini_corpus, other_references
from textgym.agents.offline.pretraining import Pretraining
from textgym.benchmarks.entries import TextgymEntry, constructor_settings, find_entry
from textgym.benchmarks.runner.experiment import Job, Result
from textgym.benchmarks.runner.limit_process import limit_process
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.registration import load_task, task_mdp
from textgym.tokenization import trained_end

GAMMA = "ptx_coef"
"""The arm: the weight of the pretraining text's loss per token. 0 is the algorithm as it is."""


def run_alignment_tax(job: Job) -> Result:
    """Train and measure, before and after: gold, metrics and KL of responses, and losses in nats per token."""
    limit_process()
    settings, task = job.settings, load_task(job.task)
    reward = ["gold", *((name, 0.0) for name in task.metrics)]  # weight 0: measured, but not paid
    training, held_out = (task_mdp(task, reward, split) for split in ("train", "validation"))
    algorithm, texts = _algorithm(job, training), _texts(job, training)
    before = _measure(algorithm, held_out, texts, settings["evaluated"])
    started = time.process_time()
    algorithm.learn(settings["tokens"], log_interval=0)
    spent = time.process_time() - started
    after = _measure(algorithm, held_out, texts, settings["evaluated"])
    return {"before": before, "after": after, "tokens": algorithm.num_timesteps, "cpu_seconds": spent}


def ptx_entry(algorithm: str) -> TextgymEntry:
    """Return an entry that can train on text in addition to its reward, by name.

    Raises:
        ValueError: there is none of that name, or it cannot.
    """
    found = find_entry(algorithm)
    if not isinstance(found, TextgymEntry):
        raise ValueError(
            f"algorithm={algorithm!r} cannot train on pretraining text in addition to its reward; expected one of "
            "textgym's, or a subclass of textgym.agents.SequenceAlgorithm"
        )
    return found


def _algorithm(job: Job, mdp: TokenMDP) -> SequenceAlgorithm:
    settings, gamma = job.settings, job.arm[GAMMA]
    pretraining = None
    if gamma:
        learned = mini_corpus(mdp.tokenizer, trained_end(mdp.tokenizer, mdp.end_token_ids), 0, settings["texts"])
        pretraining = Pretraining(learned, gamma, settings["ptx_batch_size"])
    entry = ptx_entry(job.algorithm)
    return entry.kind(
        "LMPolicy",
        TokenVectorEnv(mdp, settings["slots"], AutoresetMode.DISABLED),
        settings["learning_rate"],
        beta=settings["beta"],
        pretraining=pretraining,
        seed=job.seed,
        **constructor_settings(entry, settings["algorithm"]),
    )


def _texts(job: Job, mdp: TokenMDP) -> Texts:
    end = trained_end(mdp.tokenizer, mdp.end_token_ids)
    held_out = mini_corpus(mdp.tokenizer, end, 1, job.settings["held_out"])
    return {PTX: held_out, **other_references(job.task, mdp.tokenizer, end)}


def _measure(algorithm: SequenceAlgorithm, mdp: TokenMDP, texts: Texts, n_episodes: int) -> dict[str, float]:
    report = evaluate(algorithm.policy, algorithm.reference_trunk, mdp, n_episodes, seed=0)
    found = {**report.summary(), **forgetting(algorithm.policy.trunk, texts)}
    return {name: value["mean"] for name, value in found.items()}
