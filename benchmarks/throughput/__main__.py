"""Prints the table: ``python -m textgym.benchmarks.throughput [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from textgym.benchmarks.throughput.score import (
    Measure,
    collection_speed,
    frozen_speed,
    growth,
    iteration_speed,
    layer_shares,
    ranking_speed,
    table,
)
from textgym.benchmarks.throughput.task import LARGE, SMALL, TINY

PACKAGES = ("numpy", "torch", "transformers", "gymnasium", "stable_baselines3")


def measures(quick: bool) -> Iterator[Measure]:
    """All of them; ``quick`` shows on tiny models that they run, and says nothing about speed."""
    if quick:
        yield collection_speed(TINY, 1, None)
        yield from layer_shares(TINY, 1, None)
        yield growth(TINY, (2, 4, 8), 1, None)
        yield iteration_speed(TINY, 1, 2, None)
        yield frozen_speed(TINY, 1, None)
        yield ranking_speed(TINY, 3, 1, None)
        return
    yield collection_speed(SMALL, 15, 1.1)
    yield collection_speed(LARGE, 7, 1.0)
    yield from layer_shares(SMALL, 7, 0.10)
    yield from layer_shares(LARGE, 3, 0.10)
    yield growth(SMALL, (32, 64, 128, 256), 5, 1.2)
    yield iteration_speed(SMALL, 3, 8, 25)
    yield iteration_speed(LARGE, 2, 16, 25)
    yield frozen_speed(SMALL, 5, 1.1)
    yield frozen_speed(LARGE, 3, 1.1)
    yield ranking_speed(SMALL, 6, 5, 2.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m textgym.benchmarks.throughput", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny models, once each: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # generate() suspects padding where there is none
    done = list(tqdm(measures(arguments.quick), desc="throughput", unit="measure", disable=None))
    print(table(done))
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": 1}
        versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        found = {"machine": machine, "versions": versions, "measures": [asdict(m) | {"met": m.met} for m in done]}
        arguments.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
