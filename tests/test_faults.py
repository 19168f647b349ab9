"""Whatever happens at whichever file operation: the run goes on, to the same bits, and nothing is left over."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults import ERRORS, SIGNALS, STATUS, Outcome, leftovers, result, run
from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.agents.registry import ALGORITHMS

REWARD = "def sevens(completions, **_): return [float(t.split().count('w5')) for t in completions]\n"
RL = (
    "train --model model --prompts prompts.jsonl --reward rewards.py:sevens --max-new-tokens 4 --eval-episodes 4 "
    "--minibatch-size 4 --checkpoint-every 1 --out run"
)
EPOCHS = "--eval-episodes 4 --max-new-tokens 4 --epochs 3 --batch-size 4 --out run"
LOOP = (
    "pipeline --model model --prompts prompts.jsonl --validation prompts.jsonl --max-new-tokens 4 --eval-episodes 4 "
    "--out run "
    "--sft.demonstrations demonstrations.jsonl --sft.epochs 1 --sft.batch-size 4 --labels.labeller rewards.py:sevens "
    "--labels.prompts 6 --labels.completions 4 --labels.temperature 1 --reward-model.batch-size 2 "
    "--reward-model.heldout 0.34 --train.total-timesteps 60 --train.episodes-per-iteration 8 --train.minibatch-size 4 "
    "--train.checkpoint-every 1"
)
COMMANDS = {
    "sft": f"sft --model model --data demonstrations.jsonl --reward rewards.py:sevens {EPOCHS}",
    "dpo": f"dpo --model model --data pairs.jsonl {EPOCHS}",
    "reward-model": "reward-model --model model --data pairs.jsonl --epochs 2 --batch-size 4 --heldout 0.25 --out run",
    "pipeline": LOOP,
}


def training(algorithm: str) -> str:
    """Return the command that trains for three iterations; best-of-n needs 16 responses to a prompt."""
    size, tokens = (16, 170) if algorithm == "best-of-n" else (8, 80)
    teacher = " --reference model" if algorithm == "distill" else ""
    return f"{RL} --algorithm {algorithm}{teacher} --episodes-per-iteration {size} --total-timesteps {tokens}"


KEEPING = f"{training('reinforce')} --eval-every 2 --keep-last 1 --keep-best score --stop-patience 9"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder."""
    place = tmp_path_factory.mktemp("place")
    tiny_gpt2(n_layer=1, n_embd=16).save_pretrained(place / "model")
    word_tokenizer().save_pretrained(place / "model")
    rows = {
        "prompts": [{"prompt": f"w{i} w{i + 1}"} for i in range(6)],
        "demonstrations": [{"prompt": f"w{i} w{i + 1}", "completion": f"w5 w{i}"} for i in range(10)],
        "pairs": [{"prompt": f"w{i} w{i + 1}", "chosen": f"w{i} w7", "rejected": f"w{i} w3"} for i in range(12)],
    }
    for name, content in rows.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    (place / "rewards.py").write_text(REWARD)
    return place


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> dict[str, tuple[Outcome, dict[str, object]]]:
    """Run that nothing disturbs, by their command; filled as they are asked for."""
    return {}


def reference(
    place: Path, undisturbed: dict[str, tuple[Outcome, dict[str, object]]], command: str
) -> tuple[Outcome, dict[str, object]]:
    if command not in undisturbed:
        shutil.rmtree(place / "run", ignore_errors=True)
        outcome = run(place, command.split())
        assert outcome.status == 0, outcome.text
        assert not leftovers(place / "run")
        undisturbed[command] = outcome, result(place / "run")
    return undisturbed[command]


def spread(count: int, among: int) -> Iterator[int]:
    """Yield ``count`` numbers that are spread over 1 … ``among``."""
    yield from (round(1 + i * (among - 1) / max(1, count - 1)) for i in range(count))


def disturb(place: Path, command: str, fault: str, at: int, expected: dict[str, object]) -> None:
    """Let a fault come, and see that the run then goes on to the same end."""
    shutil.rmtree(place / "run", ignore_errors=True)
    met = run(place, command.split(), fault, at)
    where = f"{fault} at operation {at}, {met.operations[-1] if met.operations else 'none'}"
    assert len(met.operations) >= at, f"{where}: not reached"
    assert met.status == STATUS[fault], f"{where}: status {met.status}, {met.text}"
    again = run(place, [*command.split(), "--resume"])
    assert again.status == 0, f"{where}; then --resume: {again.text}"
    found = result(place / "run")
    assert sorted(found) == sorted(expected), where
    assert [name for name in expected if found[name] != expected[name]] == [], where
    assert leftovers(place / "run") == [], where


Undisturbed = dict[str, tuple[Outcome, dict[str, object]]]
SHORT: Sequence[tuple[str, str, int]] = [
    (training("ppo"), "SIGKILL", 10),
    (training("nlpo"), "SIGKILL", 3),
    (training("rloo"), "SIGTERM", 4),
    (training("rloo"), "SIGINT", 4),
    (training("rloo"), "full", 3),
    (training("rloo"), "read-only", 2),
    (KEEPING, "SIGKILL", 4),
    *((command, "SIGKILL", 3) for command in COMMANDS.values()),
    (COMMANDS["sft"], "SIGTERM", 2),
]


@pytest.mark.parametrize(("command", "fault", "count"), SHORT)
def test_goes_on_after_a_fault(place: Path, undisturbed: Undisturbed, command: str, fault: str, count: int) -> None:
    outcome, expected = reference(place, undisturbed, command)
    for at in spread(count, len(outcome.operations)):
        disturb(place, command, fault, at, expected)


EVERYWHERE = ("ppo", "sft", "dpo", "reward-model")
"""Commands that meet every signal at every operation. The others write the same files; they meet SIGKILL at every
operation, and the other signals at every fifth, each beginning at another one. So do all with the faults of disks."""


NAMES = [*ALGORITHMS, *COMMANDS, "keeping"]


@pytest.mark.long
@pytest.mark.parametrize("fault", [*SIGNALS, *ERRORS])
@pytest.mark.parametrize("name", NAMES)
def test_goes_on_after_a_fault_at_every_operation(place: Path, undisturbed: Undisturbed, name: str, fault: str) -> None:
    command = KEEPING if name == "keeping" else COMMANDS[name] if name in COMMANDS else training(name)
    outcome, expected = reference(place, undisturbed, command)
    everywhere = fault == "SIGKILL" or (fault in SIGNALS and name in EVERYWHERE)
    first, step = (1, 1) if everywhere else (1 + NAMES.index(name) % 5, 5)
    points = range(first, len(outcome.operations) + 1, step)
    for at in points:
        disturb(place, command, fault, at, expected)
    print(f"{name}, {fault}: {len(points)} of {len(outcome.operations)} operations")


@pytest.mark.long
@pytest.mark.parametrize("name", ALGORITHMS)
def test_goes_on_after_kills_at_random_moments(place: Path, undisturbed: Undisturbed, name: str) -> None:
    """Runs that are killed at random moments of the clock until they are through, with twenty kills or more."""
    command = training(name)
    _, expected = reference(place, undisturbed, command)
    moments, kills = random.Random(name), 0
    while kills < 20:
        shutil.rmtree(place / "run", ignore_errors=True)
        flags: list[str] = []
        while (met := run(place, [*command.split(), *flags], seconds=moments.uniform(0.05, 1.5))).status == -9:
            kills, flags = kills + 1, ["--resume"]
        assert met.status == 0, met.text
        assert result(place / "run") == expected
        assert leftovers(place / "run") == []
    print(f"{name}: {kills} kills")
