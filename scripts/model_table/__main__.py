"""``python -m scripts.model_table``: tries the architectures, each in a process of its own."""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import torch
import transformers

from scripts.model_table.configurations import Configuration, configurations
from scripts.model_table.measure import measure, verdict
from scripts.model_table.tiny import small_config, tiny_model


def tried(one: Configuration) -> dict[str, Any]:
    """A configuration's row."""
    begun = time.time()
    found: dict[str, Any] = {"model_type": one.model_type, "class": one.cls, "varies": one.varies}
    try:
        model = tiny_model(small_config(one.model_type, **one.fields), getattr(transformers, one.cls))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {' '.join(str(error).split())} @{where.filename.split('site-packages/')[-1]}:{where.lineno}"
        found |= {"build_error": message}
    else:
        found |= measure(model)
    return {**found, "verdict": verdict(found), "seconds": round(time.time() - begun, 2)}


def _child(one: Configuration, pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    pipe.send(tried(one))


def apart(one: Configuration, seconds: float = 60) -> dict[str, Any]:
    """A configuration's row, from a process that may die or hang."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(one, theirs))
    child.start()
    theirs.close()
    try:
        if ours.poll(seconds):
            return ours.recv()
        reason = f"nothing after {seconds:.0f} seconds"
    except EOFError:
        reason = "the process died"
    finally:
        child.kill()
        child.join()
    return {
        "model_type": one.model_type,
        "class": one.cls,
        "varies": one.varies,
        "verdict": "crash",
        "build_error": reason,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=Path)
    parser.add_argument("only", nargs="*")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with open(given.rows or os.devnull, "w") as file:
        for one in configurations():
            if given.only and one.model_type not in given.only:
                continue
            row = apart(one)
            print(json.dumps(row), file=file, flush=True)
            short = {k: (f"{v:.1e}" if isinstance(v, float) and k != "seconds" else v) for k, v in row.items()}
            print(
                json.dumps(short) if given.only else f"{row['verdict']:15} {one.model_type} {one.cls} {one.varies}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
