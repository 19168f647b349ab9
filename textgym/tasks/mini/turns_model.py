"""Build the shared assets of the mini tasks with turns: their tokenizer, and a small GPT-2 that takes all their parts.

    python -m textgym.tasks.mini.turns_model --out DIR [--steps N] [--seed S]

The model imitates careless waiters and careless solvers, who are the starting point of reinforcement learning. It is
trained on what they say; what guests and tools say is only read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from textgym.tasks.mini import calculator, waiter
from textgym.tasks.mini.base_model import IGNORED, SHARPNESS, build_model, build_tokenizer, imitate, sharpen
from textgym.tasks.mini.conversation import Piece

VOCABULARY_TALKS = 5_000
STEPS, BATCH = 4_000, 32
WIDTH, POSITIONS = 96, 160
CHUNK = 32  # batches drawn together and sorted by length, which halves the padding


def corpus(rng: np.random.Generator, n: int, care: float = 0.0) -> list[list[Piece]]:
    """Draw ``n`` dialogues: half with guests, the others solve a problem, with and without the calculator.

    A share ``care`` of them are by scripted speakers; the rest are by careless ones.
    """
    return [_talk(i % 4, rng, care) for i in range(n)]


def _talk(kind: int, rng: np.random.Generator, care: float) -> list[Piece]:
    return waiter.talk(rng, care) if kind < 2 else calculator.talk(rng, care, tool=kind == 2)


def batches(
    tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``steps`` pairs (inputs, targets) of new dialogues, each ``[BATCH, length]``.

    Speakers are scripted at first and become careless gradually, as for the other base model; the copying of words from
    the dialogue must be learned before.
    """
    for first in range(0, steps, CHUNK):
        talks = corpus(rng, CHUNK * BATCH, care=min(max(0.0, 2 - 2.5 * first / steps), 1.0))
        rows = sorted((_encoded(tokenizer, talk) for talk in talks), key=lambda row: len(row[0]))
        for place in rng.permutation(CHUNK)[: steps - first]:
            yield _shifted(rows[place * BATCH : (place + 1) * BATCH], int(tokenizer.eos_token_id))


def _encoded(tokenizer: PreTrainedTokenizerBase, talk: Sequence[Piece]) -> tuple[list[int], list[bool]]:
    """Return the tokens of a dialogue as far as the model reads, and which of them are the policy's own."""
    ids, own = list[int](), list[bool]()
    for piece, (_, is_own) in zip(tokenizer([text for text, _ in talk])["input_ids"], talk, strict=True):
        ids += piece
        own += [is_own] * len(piece)
    return ids[:POSITIONS], own[:POSITIONS]


def _shifted(rows: Sequence[tuple[list[int], list[bool]]], end: int) -> tuple[Tensor, Tensor]:
    """Return each dialogue, and the token that follows each token where that is the policy's own."""
    width = max(len(ids) for ids, _ in rows) - 1
    inputs, targets = [], []
    for ids, own in rows:
        padding = width - len(ids) + 1
        inputs.append([*ids[:-1], *[end] * padding])
        trained = [i if is_own else IGNORED for i, is_own in zip(ids[1:], own[1:], strict=True)]
        targets.append([*trained, *[IGNORED] * padding])
    return torch.tensor(inputs), torch.tensor(targets)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Rebuild the tokenizer and the base model of mini tasks with turns.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of {BATCH} dialogues")
    parser.add_argument("--seed", type=int, default=1, help="of the corpus and of the weights")
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    texts = ("".join(text for text, _ in talk) for talk in corpus(rng, VOCABULARY_TALKS))
    tokenizer = build_tokenizer([*texts, f" error: ValueError: {calculator.NO_NUMBER}"], POSITIONS)
    model = build_model(tokenizer, arguments.seed, WIDTH)
    loss = imitate(model, batches(tokenizer, rng, arguments.steps), arguments.steps)
    sharpen(model, SHARPNESS)
    tokenizer.save_pretrained(arguments.out)
    model.save_pretrained(arguments.out)
    print(f"{model.num_parameters():,} parameters, loss {loss:.4f} nats a token, in {arguments.out}")


if __name__ == "__main__":
    main()
