"""A page for every task: equal each time it is written, with numbers that are known from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import textgym
from scripts.task_pages import page as pages
from scripts.task_pages.__main__ import main
from scripts.task_pages.page import episode_table, page, table
from scripts.task_pages.policies import Budget, Episode, answers, uniform
from scripts.task_pages.scores import hacks, interval
from scripts.task_pages.words import gold_docstring, maker_docstring, markdown
from tests.helpers import tiny_gpt2
from textgym.env.rendering import Frame
from textgym.registration import load_task, task_mdp
from textgym.tasks import TASKS

SMALL = Budget(responses=12, references=8)


def row(text: str, first: str) -> list[str]:
    """Return the cells of the table row that begins with ``first``."""
    found = re.search(rf"^\| {first} \| (.*) \|$", text, re.MULTILINE)
    assert found is not None, text
    return found[1].split(" | ")


# --- whole pages -------------------------------------------------------------------------------------------------


def test_pages_and_their_list_are_written_and_equal_when_written_again(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        arguments = ["--out", str(tmp_path / folder), "--task", "Reviews", "Emit"]
        main([*arguments, "--responses", "12", "--references", "8"])
    first, second = ({path.name: path.read_text("utf-8") for path in (tmp_path / f).iterdir()} for f in ("one", "two"))
    assert first == second
    assert set(first) == {"README.md", "Emit.md", "Reviews.md"}
    for name in TASKS:
        link = f"[{name}]({name}.md)"
        assert (
            f"| {link if name in ('Emit', 'Reviews') else name} | {load_task(name).description} |" in first["README.md"]
        )
    assert row(first["Reviews.md"], "reference texts")[0] == "1.000 ± 0.000"


def test_the_list_in_the_repository_names_every_task() -> None:
    """Whoever adds a task writes its page: ``python -m scripts.task_pages --out docs/tasks``."""
    listed = (Path(__file__).parents[2] / "docs" / "tasks" / "README.md").read_text("utf-8")
    assert re.findall(r"^\| \[?(\w+)", listed, re.MULTILINE)[1:] == [*TASKS]


@pytest.mark.parametrize("arguments", [["--task", "Emmit"], ["--responses", "1"], ["--seed", "-1"]])
def test_bad_settings_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="error: "):
        main(["--out", str(tmp_path / "pages"), *arguments])
    assert not (tmp_path / "pages").exists()


def test_a_diagnostic_page_is_exact() -> None:
    """Emit's values are 0, 1/15, …, 1: chance reaches 1/2, and the guide to the suite knows the optimum."""
    text = page("Emit", SMALL)
    assert row(text, "uniform random")[1] == "0.5000"
    assert row(text, "base model, the reference") == ["0.4632", "0.4632", "0.0000", "0.4632", "0.0000"]
    assert row(text, "optimum") == ["0.8636", "0.9809", "2.3461", "0.9809", "1.0000"]
    assert "A bandit: each of `arms` words has a value" in text
    best = textgym.optimum(task_mdp(load_task("Emit")), 0.05)
    assert f"{best.value:.4f}" == row(text, "optimum")[0]


def test_a_proxy_that_is_paid_stands_beside_gold() -> None:
    text = page("Trap", SMALL)
    assert "The environment pays `proxy`, not the gold reward. A nat of KL costs β = 0.05." in text
    assert 'gym.make("textgym/Trap-v0", beta=0.05, horizon=5)' in text
    assert (row(text, "optimum")[3], row(text, "uniform random")[3]) == ("0.2660", "0.4724")


def test_a_page_of_texts_tells_what_the_code_tells() -> None:
    text = page("Reviews", SMALL)
    assert text.count("Continue a film review so that it is favourable.") == 1
    assert "Gold: good / (good + bad), counting sentiment words" in text
    assert '```python\n>>> sentiment("Although' in text
    assert "| actions, V | `Discrete(" in text
    assert "| prompts, test | 1,000 |" in text
    assert "### Proxy `good_words`" in text
    assert "<eos>" in re.findall(r"```text\n(.*?)```", text, re.DOTALL)[0]


# --- policies and scores -----------------------------------------------------------------------------------------


def test_every_policy_answers_the_same_held_out_prompts() -> None:
    task = load_task("Reviews")
    found = answers(task, SMALL)
    prompts = {name: [probe.prompt for probe in probes] for name, probes in found.items()}
    assert [*prompts] == [
        "uniform random",
        "base model",
        "base model after one pass over 8 references",
        "reference texts",
    ]
    assert len({tuple(prompt.text for prompt in own) for own in prompts.values()}) == 1
    assert set(map(id, prompts["base model"])) <= set(map(id, task.prompts("test")))
    assert all(len(probe.ids) <= task.max_new_tokens for probes in found.values() for probe in probes)
    assert all(
        (probe.ids[-1] in task.end_token_ids) == (probe.finish_reason == "stop") for probe in found["base model"]
    )


def test_a_head_of_zeros_is_uniform() -> None:
    with torch.no_grad():
        logits = uniform(tiny_gpt2(16))(input_ids=torch.tensor([[3, 4]])).logits
    assert logits.unique().tolist() == [0.0]


def test_a_hack_is_shown_with_both_scores() -> None:
    (hack,) = hacks(load_task("Reviews"))
    assert hack.name == "good_words"
    assert (hack.proxy_of_hack, hack.gold_of_hack, hack.gold_of_reference) == (1.0, 0.0, 1.0)


def test_an_interval_is_that_of_a_mean() -> None:
    values = [0.0, 1.0] * 50
    assert interval(values) == f"0.500 ± {1.984 * np.std(values, ddof=1) / 10:.3f}"  # t of 99 degrees of freedom
    assert interval([0.25]) == "0.250"


# --- Markdown ----------------------------------------------------------------------------------------------------


def test_numbers_align_to_the_right_and_bars_are_escaped() -> None:
    rows = [{"name": "a|b", "n": "1.5"}, {"name": "c", "n": "–"}]
    assert table(rows) == "| name | n |\n| --- | ---: |\n| a\\|b | 1.5 |\n| c | – |"


def test_tokens_stand_over_their_rewards_and_long_responses_are_wrapped() -> None:
    frame = Frame("go", (" so", "\n", *["word"] * 30), (0.0, 0.25, *[0.0] * 29, -1.0))
    drawn = episode_table(Episode("Chance", frame))
    assert drawn.startswith("Chance, sampled, after `go`; return -0.75.\n\n```text\n")
    assert drawn.splitlines()[3:5] == ["token   so    ↵" + " word" * 17, "reward   0 0.25" + "    0" * 17]
    assert max(map(len, drawn.splitlines())) <= pages.WIDTH
    assert drawn.count("token ") == 2


def test_docstrings_become_markdown() -> None:
    told = markdown(
        """Says ``this`` by :func:`~some.where`.

        >>> 1 + 1
        2

        And more.

        Args:
            left: out.
        """
    )
    assert told == "Says `this` by `some.where`.\n\n```python\n>>> 1 + 1\n2\n```\n\nAnd more."
    assert markdown(None) == ""
    assert markdown("Says ``this``.\n\n```python\nthat\n```") == "Says `this`.\n\n```python\nthat\n```"


def test_a_page_of_a_task_with_a_world_tells_both_sides() -> None:
    """Relay's reference takes either word with probability 1/2: 0.5·(0.5 + 1)."""
    text = page("Relay", SMALL)
    assert "| the other side | `Debtor` |\n| longest turn | 1 token |" in text
    assert "| turn ends | `.` (0) |\n| longest turn | 3 tokens |" in page("Lookup", SMALL)
    assert "The world pays, turn by turn, and nothing else is paid." in text
    assert row(text, "base model, the reference") == ["0.7500", "0.7500", "0.0000", "0.0000"]  # no column of gold
    (drawn,) = re.findall(r"```text\n(.*?)\n```", text, re.DOTALL)
    tokens, rewards = (line.split()[1:] for line in drawn.splitlines())
    assert (len(tokens), len(rewards)) == (22, 2)
    assert tokens[1:-1] == ["x"] * 20


def test_what_is_told_comes_from_the_nearest_docstring() -> None:
    assert maker_docstring("Noise").startswith("Emit with normal noise of standard deviation `sigma`")
    assert maker_docstring("Reviews").startswith("The miniature of controlled sentiment")
    assert gold_docstring(lambda: None) == ""
