"""Compare the expected gradient of every loss with the objective's, by enumeration: the tables of docs/gradients.md.

Usage: python -m scripts.gradient_table [--page docs/gradients.md] [NAME ...]

Prints a line for each loss, or for those named, and writes the page's tables between their marks. All losses take some
minutes.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from textgym.agents.a_star_po import AStarPO
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.slots import admitting_env
from textgym.agents.registry import find_algorithm
from textgym.env.mdp import TokenMDP
from textgym.exact.gradients import Alignment, compare_step, draw_gradients, objective_parts
from textgym.prompts import encode_prompts

BETAS = (0.04, 0.3)
DRAWS = (0, 1, 2)
"""Seeds of policy, reference and reward."""
GROUP = 4
"""Responses to a prompt, for algorithms that compare them."""
HORIZON = 3
WORDS = ("<pad>", "<eos>", "a")

ESTIMATORS = ("exact", "k3-corrected", "k3")
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "One response to a prompt": ("ppo", "nlpo", "a2c", "trpo", "reinforce", "reinforce++", "remax", "a-star-po"),
    "Groups, KL in the reward": ("rloo", "rloo-clipped"),
    "Groups, KL in the loss": (
        *("grpo", "grpo-published", "dr-grpo", "dapo", "gspo", "luspo", "gmpo", "cispo", "dppo", "sapo", "vespo"),
        "maxrl",
    ),
    "Feedback as the advantage": ("coach", "e-coach", "deep-coach"),
    "Imitation": ("expert-iteration", "best-of-n"),
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "ppo gae_lambda=1": {"gae_lambda": 1.0},
    "coach trace_lambda=1": {"trace_lambda": 1.0},
    "grpo kl_in_loss=False": {"kl_in_loss": False},
    "grpo scale_by_std=False": {"scale_by_std": False},
    "grpo normalisation=token": {"normalisation": "token"},
    "grpo normalisation=constant": {"normalisation": "constant"},
    "dr-grpo kl_in_loss=False": {"kl_in_loss": False},
    "rloo kl_in_loss=True": {"kl_in_loss": True},
}
"""Settings of the table of variants, by the name of their row."""
ESTIMATED = ("grpo", "dr-grpo", "dapo", "gspo", "maxrl")
"""Algorithms whose KL is estimated in every way, in the third table."""


class Row(NamedTuple):
    """One loss at one β.

    Attributes:
        name: the algorithm, and its settings other than defaults.
        beta: β.
        draws: the comparison with ∇J in each draw.
        noise: √tr Cov / |E| of the gradient of one draw of responses, in each draw.
    """

    name: str
    beta: float
    draws: tuple[Alignment, ...]
    noise: tuple[float, ...]


def tiny_model(seed: int) -> GPT2LMHeadModel:
    """Return a tiny random model whose distributions differ much from state to state."""
    config = GPT2Config(
        vocab_size=len(WORDS),
        n_positions=8,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: GPT2LMHeadModel = GPT2LMHeadModel(config).eval()
    return model


def task(seed: int) -> TokenMDP:
    """Return a task with one prompt and 15 responses; their scores are at least 0, with a deviation of 1."""
    weights = np.random.default_rng(seed).normal(size=(HORIZON, len(WORDS)))

    def scores(completion_ids: Iterable[Sequence[int]]) -> np.ndarray[Any, Any]:
        return np.array([sum(weights[t, token] for t, token in enumerate(ids)) for ids in completion_ids])

    going = [()] + [ids for n in range(1, HORIZON) for ids in np.ndindex(*[2] * n)]  # 0 goes on with <pad>, 1 with a
    prefixes = [tuple(2 * np.array(ids, int)) for ids in going]
    last = [(*ids, token) for ids in prefixes for token in ((0, 1, 2) if len(ids) == HORIZON - 1 else (1,))]
    every = scores(last)

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        found: list[float] = ((scores(completion_ids) - every.min()) / every.std()).tolist()
        return found

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    return TokenMDP(
        tokenizer=tokenizer,
        prompts=encode_prompts(["a a"], tokenizer, 2),
        reward=reward,
        end_token_ids=(1,),
        max_prompt_length=2,
        max_new_tokens=HORIZON,
    )


def make(name: str, beta: float, seed: int, **settings: Any) -> SequenceAlgorithm:
    """Return an algorithm whose policy and reference are two random models."""
    kind = find_algorithm(name)
    if kind.settings_class().samples_per_prompt > 1:
        settings["samples_per_prompt"] = GROUP
    algorithm = kind(
        "LMPolicy",
        admitting_env(task(seed), 8),
        model=tiny_model(2 * seed),
        reference=tiny_model(2 * seed + 1),
        beta=beta,
        episodes_per_iteration=8,
        minibatch_size=8,
        **settings,
    )
    if isinstance(algorithm, AStarPO):
        algorithm.collect()  # the reference answers the prompt, from which its value is estimated
    return algorithm


def measure(name: str, beta: float, settings: Mapping[str, Any], seeds: Sequence[int] = DRAWS) -> Row:
    """Enumerate one loss at one β, for each draw of models and reward."""
    found, noise = [], []
    for seed in seeds:
        algorithm = make(name.split()[0], beta, seed, **settings)
        gradients = draw_gradients(algorithm)
        found.append(compare_step(gradients.expected(), *objective_parts(algorithm), beta))
        noise.append(gradients.noise())
    return Row(name, beta, tuple(found), tuple(noise))


# --- the tables ------------------------------------------------------------------------------------------------


def losses() -> dict[str, dict[str, Mapping[str, Any]]]:
    """Return the settings of each row, by table and name."""
    return {
        **{family: {name: {} for name in names} for family, names in FAMILIES.items()},
        "Variants": dict(VARIANTS),
        "Estimators of the KL in the loss": {
            f"{name} kl_estimator={estimator}": {"kl_in_loss": True, "kl_estimator": estimator}
            for name in ESTIMATED
            for estimator in ESTIMATORS
        },
    }


def decimals(cosine: float) -> str:
    """Write a cosine with five decimals near 1, with three elsewhere."""
    return f"{cosine:.5f}" if cosine > 0.9995 else f"{cosine:.3f}"


def cells(row: Row) -> list[str]:
    """Return the cells of a row at one β: cosine and its least, length, β'/β, cosine at β', and noise."""
    columns = np.array([[a.cosine, a.length, a.beta / row.beta, a.best_cosine] for a in row.draws])
    cosine, length, price, best = columns.mean(0)
    least = columns[:, 0].min()
    paid = f"{price:.2f}" if np.isfinite(price) else "–"
    shown = f"{decimals(cosine)} ({decimals(least)})"
    return [shown, f"{length:.2f}", paid, decimals(best), f"{np.mean(row.noise):.1f}"]


HEADER = (
    "| loss | "
    + " | ".join(f"β = {beta}: cosine (least) | length | β′/β | cosine at β′ | noise" for beta in BETAS)
    + " |\n"
    + "| --- |"
    + " --- |" * 5 * len(BETAS)
)


def table(rows: Iterable[Sequence[Row]]) -> str:
    """Write a table, given the rows of each loss at every β."""
    lines = [f"| `{one[0].name}` | " + " | ".join(cell for row in one for cell in cells(row)) + " |" for one in rows]
    return "\n".join([HEADER, *lines])


def write(page: Path, tables: Mapping[str, str]) -> None:
    """Replace the table under each heading of the page."""
    text = page.read_text("utf-8")
    for heading, made in tables.items():
        pattern = rf"(### {re.escape(heading)}\n(?:(?!###|\|).*\n)*)(?:\|.*\n)+"
        found = list(re.finditer(pattern, text))
        if len(found) != 1:
            raise ValueError(f"{page} has {len(found)} tables under the heading '### {heading}'; expected 1")
        text = f"{text[: found[0].end(1)]}{made}\n{text[found[0].end() :]}"
    page.write_text(text, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", type=Path, help="page whose tables are replaced")
    parser.add_argument("names", nargs="*", help="names of losses; default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tables = {}
    for heading, settings in losses().items():
        chosen = {name: given for name, given in settings.items() if name in arguments.names or not arguments.names}
        rows = []
        for name, given in chosen.items():
            rows.append([measure(name, beta, given) for beta in BETAS])
            print(table(rows[-1:]).splitlines()[-1], flush=True)
        tables[heading] = table(rows)
    if arguments.page is not None:
        write(arguments.page, tables)


if __name__ == "__main__":
    main()
