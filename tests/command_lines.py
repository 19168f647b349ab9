"""Random command lines: flags as the settings have them, with values that are right, wrong or hostile."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
import traceback
import types
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, Union, get_args, get_origin, get_type_hints
from unittest.mock import patch

import tyro

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.labelling.label_questions import answer, question
from tests.rl4lms_files import rl4lms_file
from textgym.agents.registry import ALGORITHMS
from textgym.cli import COMMANDS, main
from textgym.commands.flags import CHOOSING
from textgym.labelling.store import LabelStore

ESCAPE = "\x1b[2J\x1b]0;title\x07\x9b2J\u202e"
DEEP = "[" * 100_000
REWARDS = f"""
calls = 0
def fives(completions, **_): return [float(t.split().count('w5')) for t in completions]
def nothing(): return 0
def raises(completions, **_): raise ValueError({ESCAPE!r})
def nan(completions, **_): return [float('nan')] * len(completions)
def huge(completions, **_): return [10**400] * len(completions)
def short(completions, **_): return []
def halved(completions, **_): return ['\\ud800'] * len(completions)
number = 3
"""


def place(directory: Path) -> None:
    """A user's folder: a tiny model, data for every command, rewards, and files that are none of it."""
    tiny_gpt2(positions=32, n_embd=8, n_layer=1, n_head=1).save_pretrained(directory / "model")
    word_tokenizer().save_pretrained(directory / "model")
    rows = {
        "prompts.jsonl": [{"prompt": f"w{i} w{i + 1}"} for i in range(6)],
        "data.jsonl": [{"prompt": f"w{i} w{i + 1}", "completion": f"w5 w{i}"} for i in range(10)],
        "pairs.jsonl": [{"prompt": f"w{i} w{i + 1}", "chosen": f"w{i} w7", "rejected": f"w{i} w3"} for i in range(10)],
        "feedback.jsonl": [
            {"prompt": f"w{i}", "completion": " w5 w7", "tokens": [" w5", " w7"], "shown": [0, 1], "events": [[1.5, i]]}
            for i in range(10)
        ],
        "hostile.jsonl": [{"prompt": f"w{i} {ESCAPE}", "completion": ESCAPE, ESCAPE: i} for i in range(4)],
        "types.jsonl": [{"prompt": 3, "completion": None, "chosen": {}, "rejected": [1]}] * 3,
    }
    for name, each in rows.items():
        (directory / name).write_text("".join(json.dumps(row) + "\n" for row in each))
    (directory / "deep.jsonl").write_text(f'{{"prompt": {DEEP}\n')
    (directory / "digits.jsonl").write_text(f'{{"prompt": "w1", "x": {"9" * 5000}}}\n')
    (directory / "half.jsonl").write_text('{"prompt": "w1 \\ud800", "completion": "w1 \\ud800"}\n' * 3)
    (directory / "latin.jsonl").write_bytes(b'{"prompt": "w1 \xe9"}\n')
    (directory / "empty.jsonl").write_text("")
    (directory / "damaged.parquet").write_text("PAR1")
    (directory / "rewards.py").write_text(REWARDS)
    (directory / "rl4lms.yml").write_text(json.dumps(rl4lms_file("imdb-ppo")))
    with LabelStore(directory / "answers.sqlite") as store:
        store.add([question(ESCAPE, 2)])
        store.record(answer(question(ESCAPE, 2)))
    (directory / "broken.py").write_text("def f(:\n")
    (directory / "folder").mkdir()
    (directory / "folder" / "file.txt").write_text("somebody's\n")
    (directory / ESCAPE).write_text("a file\n")
    shutil.copytree(directory / "model", directory / "damaged")
    (directory / "damaged" / "config.json").write_text(DEEP)
    shutil.copytree(directory / "model", directory / "pickled")
    (directory / "pickled" / "model.safetensors").rename(directory / "pickled" / "pytorch_model.bin")


FILES = (
    *("prompts.jsonl", "data.jsonl", "pairs.jsonl", "feedback.jsonl", "hostile.jsonl", "types.jsonl", "deep.jsonl"),
    "digits.jsonl",
    *("half.jsonl", "latin.jsonl", "empty.jsonl", "damaged.parquet", "folder", "nowhere.jsonl", "x" * 260),
    *("prompts.jsonl/x", ESCAPE, "", "/dev/null", "model", "rewards.py", "."),
)
PLACES = ("run", "run", "run", "a/b/run", "model", "prompts.jsonl", "prompts.jsonl/x", "x" * 260, ESCAPE, "folder", "")
NUMBERS = ("0", "-1", "2.5", "nan", "inf", "-inf", "1e300", "1e400", "9" * 30, "9" * 5000, "", " ", "x", ESCAPE, "None")
WORDS = ("", " ", "x", ESCAPE, "x" * 300, "..", "/", "a:b", ":", ",", "None", "model", "textgym/Emit-v0", "\ud800")
MODELS = ("model", "model", "model", "damaged", "pickled", "folder", "nowhere", "a/b", "prompts.jsonl", *WORDS)
JUDGES = (
    *("rewards.py:fives", "rewards.py:fives", "rewards.py:nothing", "rewards.py:raises", "rewards.py:nan"),
    *(
        "rewards.py:huge",
        "rewards.py:short",
        "rewards.py:number",
        "rewards.py:halved",
        "rewards.py:none",
        "broken.py:f",
    ),
    *("nowhere.py:f", "rm:model", "rm:nowhere", "rm:damaged", "rm:pickled", "clf:model,label=LABEL_0", "clf:model"),
    *("length", "length,nan", "length,1e400", "lenght", "os:getcwd", "gold", "length,0.5 rewards.py:fives,-1", *WORDS),
)
TASKS = ("textgym/Emit-v0", "Emit", "textgym/Nothing-v0", "nomodule:x", "Reviws", *WORDS)
BY_NAME: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("model", "policy", "reference", "teacher", "value", "against", "fixed-model"), MODELS),
    **dict.fromkeys(("reward", "gold", "labeller", "metrics"), JUDGES),
    "task": TASKS,
    "algorithm": (*ALGORITHMS, "grop", *WORDS),
    "pretraining": ("data.jsonl", "task", "mini", *WORDS),
    "prompt": ("w1 w2", "w3", *WORDS),
    "experiment": ("nothing", *WORDS),
}
GOOD: dict[str, tuple[str, ...]] = {
    "rewards": ("length",),
    "generate": ("--model", "model", "--prompt", "w1 w2", "--max-new-tokens", "3"),
    "train": (
        *("--model", "model", "--prompts", "prompts.jsonl", "--reward", "rewards.py:fives", "--out", "run"),
        *("--algorithm", "rloo", "--max-new-tokens", "3", "--total-timesteps", "20", "--eval-episodes", "4"),
        *("--episodes-per-iteration", "8", "--minibatch-size", "4"),
    ),
    "sft": (
        *("--model", "model", "--data", "data.jsonl", "--out", "run", "--epochs", "1", "--batch-size", "4"),
        *("--eval-episodes", "4", "--max-new-tokens", "3"),
    ),
    "dpo": (
        *("--model", "model", "--data", "pairs.jsonl", "--out", "run", "--epochs", "1", "--batch-size", "4"),
        *("--eval-episodes", "4", "--max-new-tokens", "3"),
    ),
    "kto": (
        *("--model", "model", "--data", "pairs.jsonl", "--out", "run", "--epochs", "1", "--batch-size", "4"),
        *("--eval-episodes", "4", "--max-new-tokens", "3"),
    ),
    "distill": (
        *("--model", "model", "--teacher", "model", "--prompts", "prompts.jsonl", "--out", "run"),
        *("--max-new-tokens", "3", "--total-timesteps", "20", "--eval-episodes", "4"),
        *("--episodes-per-iteration", "8", "--minibatch-size", "4"),
    ),
    "online": (
        *("--model", "model", "--prompts", "prompts.jsonl", "--labeller", "rewards.py:fives", "--out", "run"),
        *("--algorithm", "rloo", "--max-new-tokens", "3", "--total-timesteps", "20", "--eval-episodes", "4"),
        *("--episodes-per-iteration", "8", "--minibatch-size", "4", "--labels.count", "4"),
        *("--labels.completions", "2", "--reward-model.epochs", "1", "--reward-model.ensemble", "2"),
    ),
    "reward-model": ("--model", "model", "--data", "pairs.jsonl", "--out", "run", "--batch-size", "4"),
    "tamer": ("--model", "model", "--data", "feedback.jsonl", "--out", "run", "--batch-size", "4"),
    "pipeline": (
        *("--model", "model", "--prompts", "prompts.jsonl", "--validation", "prompts.jsonl", "--out", "run"),
        *("--labels.labeller", "rewards.py:fives", "--labels.prompts", "4", "--eval-episodes", "4"),
        *("--sft.demonstrations", "data.jsonl", "--sft.epochs", "1", "--sft.batch-size", "4", "--max-new-tokens", "3"),
        *("--train.algorithm", "rloo", "--train.total-timesteps", "20", "--train.episodes-per-iteration", "8"),
        *("--train.minibatch-size", "4"),
    ),
    "evaluate": ("model", "--task", "textgym/Emit-v0", "--split", "train", "--samples", "4"),
    "play": ("textgym/Emit-v0",),
    "migrate": ("rl4lms", "rl4lms.yml"),
    "label": ("export", "answers.sqlite", "--out", "run.jsonl"),
    "optimum": ("--task", "textgym/Emit-v0", "--limit", "2000"),
    "demo": ("--out", "run", "--task", "textgym/Nothing-v0"),
    "bench": ("run", "nothing", "--out", "run.jsonl"),
    "compare": ("folder", "nowhere", "--out", "run"),
}
"""A command line for each command that ends within a second: all are good but those of demo, bench and compare."""


@dataclass(frozen=True)
class Flag:
    """A flag of a command: its name without dashes, and the types that its value may have."""

    name: str
    types: tuple[Any, ...]


def flags_of(kind: Any, part: str = "") -> Iterator[Flag]:
    """All flags that tyro makes of a dataclass of settings."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        bare, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        named = [mark.name for mark in marks if getattr(mark, "name", None) is not None]
        flag = part + (named or [name.replace("_", "-")])[0]
        if is_dataclass(bare):
            yield from flags_of(bare, part if named else f"{flag}.")
        elif not {tyro.conf.Positional, tyro.conf.Fixed} & set(marks):
            union = get_origin(bare) in (Union, types.UnionType)
            yield Flag(flag, get_args(bare) if union else (bare,))


ACTIONS = {"bench": 0, "label": 1}  # run and export; label's first one serves without an end


def settings_classes(command: str) -> list[Any]:
    """Return the dataclasses that a command's settings may have; of those with actions that of the one in ``GOOD``."""
    if command in ACTIONS:
        return [get_args(get_type_hints(COMMANDS[command][0])["action"])[ACTIONS[command]]]
    if command in CHOOSING:
        return [CHOOSING[command][1](algorithm) for algorithm in ALGORITHMS]
    return [COMMANDS[command][0]]


def _weight(flag: Flag) -> int:
    """Files, models and rewards can be wrong in more ways than numbers."""
    return 4 if Path in flag.types or flag.name.rpartition(".")[2] in BY_NAME else 1


FLAGS = {
    command: tuple(dict.fromkeys(flag for kind in settings_classes(command) for flag in flags_of(kind)))
    for command in COMMANDS
}


WEIGHTS = {command: [_weight(flag) for flag in flags] for command, flags in FLAGS.items()}
COUNTS = (0, 1, 1, 1, 1, 2, 3, 5)
"""Numbers of flags beside those of a good command line; mostly one, as the first that is wrong hides the others."""


def value_of(flag: Flag, draw: random.Random) -> list[str]:
    """Return the words that stand behind a flag: none, one or several."""
    name = flag.name.rpartition(".")[2]
    if bool in flag.types and len(flag.types) == 1:
        return []
    if Path in flag.types:
        return [draw.choice(PLACES if name == "out" else FILES)]
    if name in BY_NAME:
        return [draw.choice(BY_NAME[name]) for _ in range(draw.choice((1, 1, 1, 2)))]
    choices = [word for kind in flag.types if get_origin(kind) is Literal for word in get_args(kind)]
    if choices:
        return [draw.choice((*choices, *WORDS))]
    if int in flag.types or float in flag.types:
        right = ("1", "2", "4") if int in flag.types else ("0.1", "0.5", "1")
        return [draw.choice((*right, *NUMBERS))]
    return [draw.choice((*WORDS, *NUMBERS)) for _ in range(draw.choice((0, 1, 2, 3)))]


def command_line(draw: random.Random, directory: Path) -> list[str]:
    """Return a command with flags; some of them in a YAML file, which is written."""
    command = draw.choice(list(COMMANDS))
    argv = [command, *GOOD[command]]
    settings: dict[str, Any] = {}
    flags = {flag.name: flag for flag in draw.choices(FLAGS[command], WEIGHTS[command], k=draw.choice(COUNTS))}
    for flag in flags.values():
        words = value_of(flag, draw)
        if draw.random() < 0.2:
            settings[flag.name.replace("-", "_")] = draw.choice(
                (words[0] if words else True, words, None, {"a": words})
            )
        else:
            argv += [f"--{flag.name}", *words]
    if draw.random() < 0.1:
        del argv[draw.randrange(len(argv))]
    if draw.random() < 0.05:
        argv.insert(draw.randrange(len(argv) + 1), draw.choice((*WORDS, "--" + ESCAPE, "--help", "--config")))
    if settings or draw.random() < 0.05:
        (directory / "given.yaml").write_text(yaml_text(settings, draw), encoding="utf-8", errors="replace")
        argv += ["--config", draw.choice(("given.yaml", "given.yaml", "given.yaml", *FILES))]
    return argv


def yaml_text(settings: dict[str, Any], draw: random.Random) -> str:
    """JSON is YAML, too; now and then a text that is hostile to a reader of YAML."""
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))
    merged = "a: &a {k: 1}\n" + "".join(
        f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in pairwise("abcdefghi")
    )
    others = (
        bomb,
        merged,
        "a: &a [*a]",
        DEEP,
        "{",
        "x: \x00",
        "seed: !!python/object/apply:os.getcwd []",
        "[1]",
        "3: 4",
    )
    others += ("? [a]\n: b", "seed: 2024-99-99", f"seed: {'9' * 5000}", '"\\x1b[2J": 1', "seed: .nan", "out: 1")
    return draw.choice(others) if draw.random() < 0.25 else json.dumps(settings)


@dataclass
class Tally:
    """Results of many command lines: how often each status, and what went wrong."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def standing(directory: Path) -> set[str]:
    """All files and directories below one."""
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if "__pycache__" not in p.parts}


def run(argv: list[str]) -> tuple[Any, str]:
    """Run ``textgym`` in this process: its status, or a traceback, and what it printed."""
    text = io.StringIO()
    path = list(sys.path)
    try:
        with (
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(text),
            patch("sys.stdin", io.StringIO(f"{ESCAPE}\nw1\n\n")),  # of a player
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            main(argv)
        status: Any = 0
    except SystemExit as end:
        status = 0 if end.code is None else end.code
    except BaseException:
        status = traceback.format_exc()[-1500:]
    finally:
        sys.path[:] = path
    return status, text.getvalue()


def run_many(count: int, seed: int, directory: Path, told: TextIO | None = None) -> Tally:
    """Run so many random command lines, each in the same folder; what one leaves there is removed.

    Args:
        count: of the command lines.
        seed: of the command lines.
        directory: empty.
        told: where faults are written as they come, and counts now and then.
    """
    place(directory)
    tally, before, faults = Tally(), standing(directory), 0
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        argv = command_line(draw, directory)
        with contextlib.chdir(directory):
            status, text = run(argv)
        left = standing(directory) - before - {"given.yaml"}
        shown = f"{number}: {' '.join(arg[:40] for arg in argv)!a}"
        if status not in (0, 1, 2):
            tally.faults.append(f"{shown}\n{status}")
        else:
            tally.statuses[argv[0] if argv and argv[0] in COMMANDS else "none", status] += 1
        began = "run/iteration-1/labels" in left  # of a pipeline: a later stage had nothing to learn from
        if status == 2 and left and not began:
            tally.faults.append(f"{shown}\nstatus 2, and left {sorted(left)[:5]}: {text[-300:]!a}")
        if any(mark in text for mark in ("\x1b[2J", "\x1b]", "\x9b", "\u202e")):
            tally.faults.append(f"{shown}\nprinted an escape: {text[-300:]!a}")
        if before - standing(directory):
            tally.faults.append(f"{shown}\nremoved {sorted(before - standing(directory))[:5]}")
            break
        if told is not None and (tally.faults[faults:] or number % 50 == 49):
            print(*tally.faults[faults:], number, sorted(tally.statuses.items()), sep="\n", file=told, flush=True)
        faults = len(tally.faults)
        for name in sorted(left):
            target = directory / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)
    return tally


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        found = run_many(int(sys.argv[1]), int(sys.argv[2]), Path(scratch), told=sys.stdout)
    print(len(found.faults), "faults")
