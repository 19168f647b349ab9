"""Make a task

A task is prompts, a gold reward in [0, 1] and sizes. Registered under an id, it works everywhere: in `gym.make` and
`gym.make_vec`, in every algorithm, and in the commands (`textgym train --task my_tasks:acme/Appointments-v0`).

    python examples/106_own_task.py

This one asks for appointments to be kept: somebody asks for something on some day, and the reply should agree and name
the day. The prompts are made from lists, and further fields of a row (here `day`) are columns that the gold reward
receives. The tokenizer and the base model are those of a task in the package; any causal model and its tokenizer would
do. A task whose prompts stand in a JSON Lines file is even shorter: `textgym.jsonl_task(path, gold=…, model=…)`.

`textgym.testing.check_task` looks for everything that is known to go wrong with tasks: prompts in two splits, a gold
reward that leaves [0, 1] or depends on chance, prompts that are too long, and more. Run it before you train.

Expected output:

```text
Task('Appointments', V=1321, P=32, T=24, prompts={train: 280, test: 56})
Dialogue: Julia: Can you bring the letter to my brother on Monday? Nina:

Before training: gold 0.100 ± 0.025, KL 0.0
  Dialogue: Simon: Can you bring the book to my brother on Friday? Nina:
    → Does your brother know the hall?
  Dialogue: Clara: Can you bring the map to my aunt on Friday? Nina:
    → The map is old but it still works.
  Dialogue: Clara: Can you bring the book to my brother on Friday? Nina:
    → The book is old but it still works.

After training: gold 0.982 ± 0.012, KL 6.1
  Dialogue: Simon: Can you bring the book to my brother on Friday? Nina:
    → Gladly, I would love to see your daughter on Friday.
  Dialogue: Clara: Can you bring the map to my aunt on Friday? Nina:
    → Yes, we can do that on Friday.
  Dialogue: Clara: Can you bring the book to my brother on Friday? Nina:
    → Yes, we can do that on Friday.
```

The test split has names and things that no training prompt has. The policy has learned to look at the prompt for the
day, not to say a favourite one.

Next: [107](107_stock_sb3.py) trains with stable-baselines3's own algorithms.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import gymnasium as gym

import textgym
from textgym.agents import PPO, evaluate
from textgym.prompts import encode_prompts
from textgym.testing import check_task

ID = "acme/Appointments-v0"
TOTAL_TIMESTEPS = 30_000
EVALUATION_EPISODES = 256

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
CONSENT = ("Yes", "Sure", "Gladly", "Of course", "With pleasure")
SPEAKERS = {"train": ("Marco", "Thomas", "Alice", "Julia"), "test": ("Clara", "Simon")}
THINGS = {"train": ("apple", "coin", "letter", "hat", "bell"), "test": ("map", "book")}


def keeps_appointment(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    """Pay half for a reply that agrees, and half for one that names the day that was asked for, and no other."""
    agrees = completion.strip().startswith(CONSENT)
    named = [day for day in DAYS if day in completion]
    return 0.5 * agrees + 0.5 * (named == [columns["day"]])


def appointments(max_new_tokens: int = 24) -> textgym.Task:
    """Return the task; parameters of this function are settings of ``gym.make``."""
    shipped = textgym.load_task("textgym/Dialogue-v0")  # for its tokenizer and base model
    return textgym.Task(
        name="Appointments",
        description="Agree to a request, and name the day.",
        tokenizer=shipped.tokenizer,
        base_model=shipped.base_model,
        splits={split: encode_prompts(requests(split), shipped.tokenizer, max_length=32) for split in SPEAKERS},
        gold=textgym.per_text(keeps_appointment),
        end_token_ids=shipped.end_token_ids,
        max_prompt_length=32,
        max_new_tokens=max_new_tokens,
    )


def requests(split: str) -> list[dict[str, str]]:
    """Return the rows of a split: a prompt, and what the gold reward must know of it."""
    return [
        {"prompt": f"Dialogue: {speaker}: Can you bring the {thing} to my {whom} on {day}? Nina:", "day": day}
        for speaker, thing, whom, day in product(SPEAKERS[split], THINGS[split], ("brother", "aunt"), DAYS)
    ]


textgym.register_task(ID, appointments)


def main() -> dict[str, float]:
    """Check the task, play it, and train on it."""
    # 1. Is it sound? An exception would list all that is wrong.
    check_task(ID)
    print(textgym.load_task(ID))

    # 2. It is an environment like any other.
    env = gym.make(ID, max_new_tokens=12)
    _, info = env.reset(seed=0)
    print(info["prompt"])

    # 3. Train, and look at prompts that training never saw. Few responses are paid at first, so that the first steps
    # would be too large: `target_kl` ends the update of an iteration before the policy has moved too far.
    model = PPO("LMPolicy", ID, learning_rate=1e-3, target_kl=0.02, seed=0)
    before = show(model, "Before training")
    model.learn(TOTAL_TIMESTEPS)
    after = show(model, "After training")
    return {"before": before, "after": after}


def show(model: PPO, title: str) -> float:
    """Print a policy's mean gold score on the test split with some of its replies, and return the mean."""
    mdp = gym.make(ID, split="test").unwrapped.mdp
    report = evaluate(model.policy, model.reference_trunk, mdp, EVALUATION_EPISODES, seed=0)
    summary = report.summary()
    gold, kl = summary["gold"], summary["kl"]
    print(f"\n{title}: gold {gold['mean']:.3f} ± {2 * gold['sem']:.3f}, KL {kl['mean']:.1f}")
    for row in range(3):
        prompt = mdp.prompts[report.episodes.prompt_index[row]]
        tokens = report.episodes.actions[row, : report.episodes.lengths[row]]
        print(f"  {prompt.text}\n    →{mdp.completion(prompt, tokens.tolist())}")
    return gold["mean"]


if __name__ == "__main__":
    main()
