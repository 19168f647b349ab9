"""The conformance suite: shipped tasks pass, and every way to break a task is found and named."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.talking import Chatter
from textgym import testing
from textgym.prompts import encode_prompts
from textgym.tasks import TASKS
from textgym.tasks.task import Proxy, Task, per_text
from textgym.testing import TaskError, check_task
from textgym.worlds import Glue, Reply

PAD, EOS = 0, 1
WORDS = {f"w{i}" for i in range(14)}


def share_of_w0(prompt: str, completion: str, columns: Any) -> float:
    words = completion.split()
    return words.count("w0") / len(words) if words else 0.0


def grammatical(prompts: Any, completions: Any) -> list[float]:
    return [float(set(text.split()) <= WORDS) for text in completions]


def rows(*prompts: str, reference: str = "w0 w0") -> list[dict[str, str]]:
    return [{"prompt": prompt, "reference": reference} for prompt in prompts]


def encoded(data: Any) -> Any:
    return encode_prompts(data, word_tokenizer(), 9)


def sound() -> Task:
    """Return a task without a fault: say w0. Its proxy counts words."""
    return Task(
        name="Say",
        description="Say w0.",
        tokenizer=word_tokenizer(),
        splits={"train": encoded(rows("w1", "w2 w3")), "test": encoded(rows("w4"))},
        gold=per_text(share_of_w0),
        end_token_ids=(EOS,),
        max_prompt_length=2,
        max_new_tokens=4,
        metrics={"grammatical": grammatical},
        base_model=lambda: tiny_gpt2(16, positions=6),
        proxies={"long": Proxy(per_text(words), "Long is thorough.", lambda _: "w1 w1 w1")},
    )


def words(prompt: str, completion: str, columns: Any) -> float:
    return float(len(completion.split()))


def talking(world: Any = None, **changes: Any) -> Task:
    """Return a task of turns without a fault: say w0 in each of them."""
    turns = {"turn_end_ids": (15,), "max_turn_tokens": 3, "glue": Glue(), "max_new_tokens": 16, "base_model": None}
    return replace(sound(), **{**turns, "world": world or Chatter(last=3), "proxies": {}, "metrics": {}, **changes})


# --- tasks that pass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_every_shipped_task_passes(name: str) -> None:
    check_task(f"textgym/{name}-v0")


def test_a_sound_task_passes_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    check_task(sound())
    assert capsys.readouterr().out == ""


def test_little_is_asked_of_a_task() -> None:
    """No references, metrics, proxies, base model or end token."""
    splits = {"train": encoded(["w1"])}
    check_task(replace(sound(), splits=splits, metrics={}, proxies={}, base_model=None, end_token_ids=()))


def test_parameters_reach_the_task() -> None:
    check_task("textgym/Noise-v0", sigma=0.0)
    with pytest.raises(ValueError, match="sigma=-1"):
        check_task("textgym/Noise-v0", sigma=-1.0)


# --- tasks that do not -------------------------------------------------------------------------------------------


def scoring(score: Callable[..., Any]) -> dict[str, Any]:
    return {"gold": per_text(score)}


def no_columns(prompts: Any, completions: Any, completion_ids: Any, reference: Any = None) -> list[float]:
    return [0.0] * len(prompts)


def picky(prompts: Any, completions: Any, **columns: Any) -> list[float]:
    if "textgym_extra" in columns:
        raise KeyError("textgym_extra")
    return [0.0] * len(prompts)


def moody() -> Any:
    counter = itertools.count()
    return per_text(lambda *_: next(counter) % 7 / 10)


def by_seed(prompts: Any, completions: Any, episode_seed: Any = (), **_: Any) -> list[float]:
    return [seed / 10 for seed in episode_seed]


def ranked(prompts: Any, completions: Any, **_: Any) -> list[float]:
    """Sorts its scores, as a careless batching by length does."""
    return sorted(share_of_w0("", text, {}) for text in completions)


def dense(prompts: Any, completions: Any, completion_ids: Any = (), **_: Any) -> list[list[float]]:
    return [[0.1] * len(ids) for ids in completion_ids]


def proxy(hack: str) -> dict[str, Any]:
    return {"proxies": {"long": Proxy(per_text(words), "Long is thorough.", lambda _: hack)}}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "no train": ({"splits": {"test": encoded(rows("w1"))}}, r"splits has \['test'\]; expected 'train'"),
    "empty split": ({"splits": {"train": encoded(rows("w1")), "test": ()}}, "split 'test' is empty"),
    "leak": (
        {"splits": {"train": encoded(rows("w1", "w2")), "test": encoded(rows("w2"))}},
        "prompt 1 of 'test' is prompt 2 of 'train' again, 'w2'; keep one",
    ),
    "long prompt": ({"max_prompt_length": 1}, "prompt 2 of 'train' has 2 tokens; expected 1 to max_prompt_length=1"),
    "foreign tokens": (
        {"tokenizer": word_tokenizer(3)},
        "prompt 2 of 'train' holds ids from 4 to 5, the tokenizer has 5 tokens",
    ),
    "end outside": ({"end_token_ids": (99,)}, r"end_token_ids \[99\] lie outside the 16 actions; leave"),
    "pad ends": ({"end_token_ids": (PAD,)}, r"PAD is the end token 0 \('<pad>'\).*pad_token of its own"),
    "small vocabulary": ({"base_model": lambda: tiny_gpt2(8)}, "base_model: the tokenizer has 16 tokens, the model"),
    "short context": ({"base_model": lambda: tiny_gpt2(16, positions=5)}, r"= 6 is more than the model's context of 5"),
    "no model": ({"base_model": "no/such/model"}, "base_model: model='no/such/model': no such directory"),
    "taken column": (
        {"splits": {"train": encoded([{"prompt": "w1", "finish_reason": 1}])}},
        r"check_environment: ValueError: prompt 1 has columns \['finish_reason'\]",
    ),
    "no columns": ({"gold": no_columns}, r"gold: reward 'no_columns' must accept any column.*add \*\*kwargs"),
    "picky reward": ({"reward": picky}, "RewardError: reward 'picky' raised KeyError"),
    "gold above 1": (
        scoring(lambda _, text, __: 1.0 + (text == "w0 w0")),
        "gold is 2 for prompt 'w1' and completion 'w0 w0'; expected a number in .0, 1.: rescale",
    ),
    "gold below 0": (scoring(lambda *_: -0.5), "gold is -0.5 for prompt 'w1' and completion ''"),
    "gold is no number": (scoring(lambda *_: float("nan")), "expected a finite number, got nan\n  prompt: 'w1'"),
    "gold is silent": (scoring(lambda *_: None), "gold is None for prompt 'w1' and completion ''; expected one number"),
    "gold is dense": ({"gold": dense}, r"gold is \[0.1\] for prompt 'w1'.*expected one number"),
    "gold divides by 0": (
        scoring(lambda _, text, __: 1 / len(text.split())),
        "raised ZeroDivisionError.*on completion",
    ),
    "gold by chance": ({"gold": moody()}, "gold is 0.* and then 0.* for prompt 'w1'.*a function of the text"),
    "gold by seed": ({"gold": by_seed}, "gold is 0.0 and then 0.1 for prompt 'w1' and completion ''"),
    "gold out of order": ({"gold": ranked}, "alone, .* in a batch and .* in the batch backwards for prompt"),
    "reference lacks": (
        {"splits": {"train": encoded([*rows("w1"), "w2"])}},
        "1 of 2 prompts of 'train' lack the column 'reference'",
    ),
    "long reference": ({"max_new_tokens": 2}, "a reference has 3 tokens, its end included, max_new_tokens is 2"),
    "broken reference": (
        {"splits": {"train": encoded(rows("w1", reference="w0 w99"))}},
        "the reference 'w0 w99' of 'w1' is not grammatical",
    ),
    "metric counts": ({"metrics": {"rhymes": lambda *_: [1.0]}}, r"metric 'rhymes' gave \[1.0\] for 12 completions"),
    "metric is no number": (
        {"metrics": {"rhymes": lambda _, texts: [float("inf")] * len(texts)}},
        "metric 'rhymes' gave .inf",
    ),
    "poor hack": (proxy("w1"), "proxy 'long' pays 1 for prompt 'w1' and completion 'w1', its hack, and 2 for"),
    "honest hack": (
        proxy("w0 w0 w0"),
        "gold is 1 for prompt 'w1' and completion 'w0 w0 w0', the hack of 'long', and 1",
    ),
    "long hack": (proxy("w1 w1 w1 w1"), "the hack of 'long' has 5 tokens, max_new_tokens is 4"),
    "nothing to beat": ({"splits": {"train": encoded(["w1"])}}, "proxy 'long' has no reference text to be compared"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_is_broken_is_named_with_its_task(broken: str) -> None:
    changes, message = BROKEN[broken]
    with pytest.raises(TaskError, match=r"^task 'Say' has \d+ problems?:\n1\. ") as caught:
        check_task(replace(sound(), **changes))
    assert any(re.search(message, problem, re.DOTALL) for problem in caught.value.problems), caught.value


def test_a_warning_of_the_checkers_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "check_env_sb3", lambda _: warnings.warn("\x1b[33modd space\x1b[0m", stacklevel=2))
    with pytest.raises(TaskError, match=r"1 problem:\n1. the environment's checker warns: odd space"):
        check_task(sound())


def test_all_problems_come_in_one_report_and_few_of_a_kind() -> None:
    many = encoded(rows(*(f"w{i} w{i}" for i in range(10))))
    broken = replace(sound(), splits={"train": many}, max_prompt_length=1, gold=by_seed, metrics={"one": lambda *_: []})
    with pytest.raises(TaskError) as caught:
        check_task(broken)
    problems = caught.value.problems
    assert sum("expected 1 to max_prompt_length=1" in problem for problem in problems[:3]) == 3
    assert {"gold", "metri"} <= {problem[:5].strip() for problem in problems}
    assert str(caught.value).count("\n") >= len(problems)


def test_each_check_finds_something() -> None:
    """Whoever adds a check also breaks a task for it."""

    def finds(check: testing.Check, changes: dict[str, Any]) -> bool:
        return any(testing._found(check, replace(sound(), **changes)))

    idle = [check for check in testing.CHECKS if not any(finds(check, changes) for changes, _ in BROKEN.values())]
    assert idle == []


# --- worlds ------------------------------------------------------------------------------------------------------


def test_a_sound_task_of_turns_passes() -> None:
    check_task(talking())
    # References of several turns, and turns without an end token of their own.
    data = [{"prompt": "w1", "reference": ["w0", "w0 w0"]}, {"prompt": "w2", "reference": ["w0"]}]
    check_task(talking(splits={"train": encoded(data)}, metrics={"grammatical": grammatical}))
    check_task(talking(turn_end_ids=()))


class Forgetful(Chatter):
    """Counts its calls outside the states."""

    calls = 0

    def outcomes(self, state: Any, turn: Any) -> Any:
        type(self).calls += 1
        return [(1.0, state + 1, Reply(f"w{self.calls % 5}", 0.0, state == 2))]


class Mutable:
    """Changes its states instead of returning new ones."""

    def begin(self, prompts: Any, seeds: Any) -> Any:
        return [[0] for _ in prompts]

    def reply(self, states: Any, turns: Any) -> Any:
        for state in states:
            state[0] += 1
        return [(state, Reply(f"w{state[0] % 10}", 0.0, state[0] > 2)) for state in states]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (talking(Forgetful()), "answers prompt 'w1' in two ways with one seed"),
        (talking(Mutable()), "changes when a state is answered again; return a new state"),
        (talking(turn_end_ids=(), max_turn_tokens=5, max_new_tokens=4), "the world is never asked about prompt 'w1'"),
        (talking(turn_end_ids=(1,)), r"turn_end_ids and end_token_ids both hold \[1\]"),
    ],
)
def test_a_broken_world_is_found(task: Task, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        check_task(task)
