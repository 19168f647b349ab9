"""A task's page, and the list of all pages."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence

from scripts.task_pages.policies import Budget, Episode, first_episode, held_out
from scripts.task_pages.scores import Hack, exact_table, hacks, played_table, sampled_table
from scripts.task_pages.words import gold_docstring, maker_docstring
from textgym.env.rendering import show_token
from textgym.exact.enumeration import Optimum
from textgym.registration import load_task, task_maker
from textgym.rewards.builtin import no_reward
from textgym.rewards.functions import reward_name
from textgym.tasks.task import Task
from textgym.testing import n_actions

WIDTH = 100
"""Columns of an episode's table, in letters."""


def page(name: str, budget: Budget) -> str:
    """Return the page of a task, by its name.

    Raises:
        ValueError: there is no such task.
    """
    task = load_task(name)
    parts = [
        f"# {task.name}",
        task.description,
        maker_docstring(name),
        call(name),
        f"## Sizes\n\n{sizes(task)}",
        f"## {'Reward' if task.gold is no_reward else 'Reward and gold'}\n\n{pays(task)}",
        *(hack_section(hack) for hack in hacks(task)),
        f"## An episode\n\n{episode_table(first_episode(task, budget))}",
        f"## Scores\n\n{scores(task, budget)}",
        f"*Written by `python -m scripts.task_pages`, seed {budget.seed}.*",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def sizes(task: Task) -> str:
    """Return a table of the task's spaces."""
    ends = named_tokens(task, task.end_token_ids)
    without = "none: every response has T tokens" if task.world is None else "none: the other side ends a conversation"
    width = task.max_prompt_length + task.max_new_tokens
    return table(
        [
            {"what": "actions, V", "value": f"`Discrete({n_actions(task)})`"},
            {"what": "longest prompt, P", "value": tokens(task.max_prompt_length)},
            {"what": "longest response, T", "value": tokens(task.max_new_tokens)},
            {"what": "observation", "value": f"`input_ids` and `attention_mask`, `[{width}]` each"},
            {"what": "end tokens", "value": ends or without},
            *turn_sizes(task),
            *({"what": f"prompts, {split}", "value": f"{len(own):,}"} for split, own in task.splits.items()),
        ]
    )


def turn_sizes(task: Task) -> list[dict[str, str]]:
    """Return rows about the turns of a task with a world, in which T is that of all turns and replies."""
    if task.world is None:
        return []
    longest = [] if task.max_turn_tokens is None else [("longest turn", tokens(task.max_turn_tokens))]
    ends = [("turn ends", named_tokens(task, task.turn_end_ids))] if task.turn_end_ids else []
    rows = [("the other side", f"`{type(task.world).__name__}`"), *ends, *longest]
    return [{"what": what, "value": value} for what, value in rows]


def named_tokens(task: Task, ids: Sequence[int]) -> str:
    """Return tokens as text, with their ids."""
    return ", ".join(f"`{task.tokenizer.convert_ids_to_tokens(i)}` ({i})" for i in ids)


def tokens(n: int) -> str:
    """Return a number of tokens in words."""
    return f"{n} token" if n == 1 else f"{n} tokens"


def call(name: str) -> str:
    """Return the call that makes an environment of the task, with its settings."""
    parameters = inspect.signature(task_maker(name)).parameters.values()
    # Texts in double quotes, as the formatter writes them.
    defaults = {one.name: one.default for one in parameters}
    own = "".join(f", {n}={json.dumps(d) if isinstance(d, str) else repr(d)}" for n, d in defaults.items())
    return f'```python\ngym.make("textgym/{name}-v0"{own})\n```'


def pays(task: Task) -> str:
    """Return a description of the paid reward and of gold."""
    if task.gold is no_reward:
        return f"The world pays, turn by turn, and nothing else is paid. A nat of KL costs β = {task.beta:g}."
    paid = "the gold reward" if task.reward is None else f"`{reward_name(task.reward)}`, not the gold reward"
    beta = "" if task.beta is None else f" A nat of KL costs β = {task.beta:g}."
    docstring = gold_docstring(task.gold)
    return f"The environment pays {paid}.{beta}" + (f"\n\nGold: {docstring}" if docstring else "")


def hack_section(hack: Hack) -> str:
    """Return a section about a proxy and its hack."""
    rows = [
        {
            "completion": text(hack.reference),
            hack.name: f"{hack.proxy_of_reference:g}",
            "gold": f"{hack.gold_of_reference:g}",
        },
        {"completion": text(hack.hack), hack.name: f"{hack.proxy_of_hack:g}", "gold": f"{hack.gold_of_hack:g}"},
    ]
    return (
        f"### Proxy `{hack.name}`\n\n{hack.temptation} To {text(hack.prompt)}, a reference text and a hack:\n\n"
        f"{table(rows)}"
    )


def episode_table(episode: Episode) -> str:
    """Return tokens over their rewards, in lines that fit on a page."""
    frame = episode.frame
    lines = [("token ", "reward")]
    for place, token in enumerate(map(show_token, frame.tokens)):
        # Tokens of the other side have no reward.
        pair = (token.replace("\n", ""), f"{frame.rewards[place]:.3g}" if frame.is_own(place) else "")
        width = max(map(len, pair))
        if len(lines[-1][0]) + 1 + width > WIDTH:
            lines.append(("token ", "reward"))
        above, below = (f"{line} {part:>{width}}" for line, part in zip(lines[-1], pair, strict=True))
        lines[-1] = (above, below)
    drawn = "\n\n".join("\n".join(line.rstrip() for line in pair) for pair in lines)
    total = f"return {sum(frame.rewards):.3g}"
    prompt = text(frame.prompt.replace("\n", "↵"))
    return f"{episode.policy}, sampled, after {prompt}; {total}.\n\n```text\n{drawn}\n```"


def scores(task: Task, budget: Budget) -> str:
    """Return a table of the scores of simple policies, and of the optimum."""
    if task.beta is not None and task.base_model is not None:
        rows, best = exact_table(task)
        return f"{table(rows)}\n\n{exact_words(best)}"
    rows = sampled_table(task, budget) if task.world is None else played_table(task, budget)
    reached = rows[-1] if rows[-1]["policy"] == "reference texts" else None
    ceiling = "No response has more gold than 1" + (
        f"; the reference texts reach {reached['gold']}." if reached else "."
    )
    split = held_out(task)
    n = min(budget.responses, len(task.prompts(split)))
    return f"{table(rows)}\n\nMeans over {n} prompts of the split `{split}`, ± Student's 95 % interval. {ceiling}"


def exact_words(best: Optimum) -> str:
    """Return an explanation of an exact table's numbers."""
    return (
        f"Exact, by enumeration of {best.n_sequences:,} responses: J = E[reward] − β·KL to the base model, in nats a "
        "response; the score is 0 for the base model and 1 at the optimum."
    )


def index(tasks: Sequence[str], written: Iterable[str]) -> str:
    """Return the list of all tasks, with links to the pages that there are."""
    pages = set(written)
    rows = []
    for name in tasks:
        task = load_task(name)
        prompts = " + ".join(f"{len(own):,}" for own in task.splits.values())
        rows.append(
            {
                "task": f"[{name}]({name}.md)" if name in pages else name,
                "what it asks": task.description,
                "V": f"{n_actions(task):,}",
                "P": str(task.max_prompt_length),
                "T": str(task.max_new_tokens),
                "prompts": prompts,
                "proxies": ", ".join(f"`{proxy}`" for proxy in task.proxies) or "–",
            }
        )
    return (
        "# Tasks\n\nAn id is `textgym/NAME-v0`. V: tokens to choose from; P and T: the longest prompt and response, in "
        "tokens; prompts for training, validation and test. How to write your own: [tasks.md](../tasks.md).\n\n"
        f"{table(rows)}\n"
    )


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return a Markdown table; the first column is text, the others align to the right if they are numbers."""
    names = list(rows[0])
    numeric = {name: all(row[name][:1] in set("0123456789-–") for row in rows) for name in names}
    rule = ["---:" if numeric[name] else "---" for name in names]
    lines = [names, rule, *([cell(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: str) -> str:
    """Escape a text for a cell of a Markdown table."""
    return value.replace("|", "\\|").replace("\n", " ")


def text(value: str) -> str:
    """Return a text as Markdown code."""
    return f"`` {value} ``" if "`" in value else f"`{value}`"
