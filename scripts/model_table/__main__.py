"""Try the architectures, each in a process of its own, and write the page.

Usage: ``python -m scripts.model_table [--rows FILE] [--page FILE] [model_type ...]``
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from textgym.files import read_json_lines

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import torch

from scripts.model_table.configurations import Configuration, configurations
from scripts.model_table.measure import CRASH, attempt, measure, verdict
from scripts.model_table.page import page
from scripts.model_table.tiny import build


def tried(one: Configuration) -> dict[str, Any]:
    """Build a configuration and measure it."""
    begun = time.time()
    found: dict[str, Any] = {}
    model = attempt("build", found, lambda: build(one.model_type, one.cls, **one.fields))
    if model is not None:
        found |= measure(model)
    return {**found, "verdict": verdict(found), "seconds": round(time.time() - begun, 1)}


def _child(one: Configuration, pipe: Connection) -> None:
    logging.disable(logging.WARNING)
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
        pipe.send(tried(one))


def tried_apart(one: Configuration, seconds: float = 120) -> dict[str, Any]:
    """Try a configuration in a process that may die or hang; returns its row."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=_child, args=(one, theirs))
    child.start()
    theirs.close()
    try:
        found = ours.recv() if ours.poll(seconds) else _crash(f"nothing after {seconds:.0f} seconds")
    except EOFError:
        found = _crash("the process died")
    finally:
        child.kill()
        child.join()
    return {"model_type": one.model_type, "class": one.cls, "varies": one.varies, **found}


def _crash(message: str) -> dict[str, Any]:
    return {"verdict": CRASH, "learn_error": {"message": message, "in_words": False}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.model_table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=Path, help="write the results to this file, as JSON lines")
    parser.add_argument("--page", type=Path, help="write the table to this file, such as docs/models.md")
    parser.add_argument("--reuse", type=Path, help="make the table of an earlier run's --rows instead of trying anew")
    parser.add_argument("model_types", nargs="*", help="architectures to try; all by default")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = _read(given.reuse) if given.reuse else _try(given.model_types)
    print(*(f"{count} {what}" for what, count in Counter(row["verdict"] for row in rows).most_common()), sep=", ")
    if given.rows:
        given.rows.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    if given.page:
        given.page.write_text(page(rows))


def _read(file: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_json_lines(file)]


def _try(model_types: list[str]) -> list[dict[str, Any]]:
    rows = []
    for one in configurations():
        if not model_types or one.model_type in model_types:
            rows.append(tried_apart(one))
            print(json.dumps(rows[-1]) if model_types else _line(rows[-1]), flush=True)
    return rows


def _line(row: dict[str, Any]) -> str:
    return f"{row['verdict']:23} {row['model_type']} {row['class']} {row['varies']}"


if __name__ == "__main__":
    main()
