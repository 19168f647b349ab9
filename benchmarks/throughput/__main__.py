"""Print the table: ``python -m textgym.benchmarks.throughput [--quick] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from tqdm import tqdm

from textgym.benchmarks.throughput.score import measure_table
from textgym.benchmarks.throughput.sweep import all_measures

_PACKAGES = ("numpy", "torch", "transformers", "gymnasium", "stable_baselines3")


def _main() -> None:
    """Measure, print the table, and write the numbers where that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m textgym.benchmarks.throughput", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny models, once each: does it run?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # generate() suspects padding where there is none
    done = list(tqdm(all_measures(arguments.quick), desc="throughput", unit="measure", disable=None))
    print(measure_table(done))
    if arguments.json:
        machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": 1}
        versions = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
        found = {"machine": machine, "versions": versions, "measures": [asdict(m) | {"met": m.met} for m in done]}
        arguments.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    _main()
