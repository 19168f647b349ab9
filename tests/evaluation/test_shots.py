"""Few-shot prompts: who draws what, and what reward and policy see of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers import byte_tokenizer, tiny_gpt2
from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import play
from textgym.env.mdp import TokenMDP
from textgym.evaluation.decoders import answers_of
from textgym.evaluation.shots import (
    FewShotMDP,
    as_cut,
    check_room,
    draw_examples,
    few_shot_prompts,
    reference_of,
    with_examples,
)
from textgym.prompts import encode_prompts
from textgym.types import Prompt

TOKENIZER = byte_tokenizer()


def asked(*texts: str) -> tuple[Prompt, ...]:
    return encode_prompts([{"prompt": text, "reference": f" of {text}"} for text in texts], TOKENIZER, 100)


POOL = asked(*(f"p{i}" for i in range(12)))


def drawn(prompt: Prompt, shots: int, seed: int = 0, pool: tuple[Prompt, ...] = POOL) -> list[str]:
    return [example.text for example in draw_examples(prompt, pool, shots, seed)]


def test_examples_depend_on_seed_and_prompt_alone() -> None:
    assert drawn(POOL[0], 5) == drawn(POOL[0], 5)
    assert drawn(POOL[0], 5) != drawn(POOL[0], 5, seed=1)
    assert len({tuple(drawn(prompt, 5)) for prompt in POOL}) == 12
    alone, among = (few_shot_prompts(p, POOL, 2, 0, TOKENIZER) for p in (POOL[3:4], POOL))
    assert alone[0] == among[3]


def test_fewer_shots_are_the_first_of_more() -> None:
    assert drawn(POOL[0], 5)[:2] == drawn(POOL[0], 2)


def test_the_prompt_itself_and_its_copies_are_never_shown() -> None:
    pool = (*POOL, *asked("P0", " p0", "p0  "))
    for seed in range(20):
        found = drawn(POOL[0], 11, seed, pool)
        assert sorted(found) == sorted(p.text for p in POOL[1:])
    with pytest.raises(ValueError, match="shots=12 is more than the 11 examples there are beside the prompt 'p0'"):
        drawn(POOL[0], 12, 0, pool)


def test_an_example_stands_once_although_the_data_hold_it_twice() -> None:
    assert sorted(drawn(POOL[0], 11, 0, (*POOL, *POOL))) == sorted(p.text for p in POOL[1:])


def test_texts_and_conversations_by_hand() -> None:
    assert with_examples("Q?", asked("A:", "B:")) == "A: of A:\n\nB: of B:\n\nQ?"
    bare = Prompt("A:", "A:", (1,), {"references": ["yes", "no"]})
    assert with_examples("Q?", [bare]) == "A: yes\n\nQ?"  # a space stands between prompt and reference
    system = {"role": "system", "content": "Be brief."}
    chat = [system, {"role": "user", "content": "Hello"}]
    shown = Prompt(chat, "", (1,), {"reference": "Hi"})
    assert with_examples([system, {"role": "user", "content": "Bye"}], [shown]) == [
        system,
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ]


def test_references_are_found_in_either_column() -> None:
    assert reference_of({"reference": "a"}) == "a"
    assert reference_of({"references": ["b", "c"]}) == "b"
    assert [reference_of(row) for row in ({}, {"reference": None}, {"references": []}, {"reference": 3})] == [None] * 4
    with pytest.raises(ValueError, match="shots=1 needs examples with a column 'reference' or 'references'"):
        few_shot_prompts(POOL[:1], encode_prompts(["x"], TOKENIZER, 9), 1, 0, TOKENIZER)


def test_no_room_is_told_in_tokens() -> None:
    check_room(asked("p1", "p2"), 5, 7, 1)
    with pytest.raises(ValueError, match=r"up to 2 tokens; with max_new_tokens=5 they need 7, and .* holds 6"):
        check_room(asked("p1", "p2"), 5, 6, 1)


def test_policy_sees_examples_and_reward_the_prompt_alone() -> None:
    seen: list[Any] = []

    def reward(prompts: list[Any], completions: list[str], **_: Any) -> list[float]:
        seen.extend(zip(prompts, completions, strict=True))
        return [0.0] * len(prompts)

    prompts = few_shot_prompts(POOL[:2], POOL, 2, 0, TOKENIZER)
    assert str(TOKENIZER.decode(list(prompts[0].ids))) == with_examples("p0", draw_examples(POOL[0], POOL, 2, 0))
    # Only "\n" can be sampled, so every response is the separator.
    line = TOKENIZER("\n")["input_ids"][0]
    mdp = TokenMDP(TOKENIZER, prompts, reward, (), 40, 6, allowed=lambda ids, _: only(len(ids), line))
    policy = acting_policy(tiny_gpt2(256), mdp)
    whole = answers_of(mdp, play(policy, mdp, np.arange(2), 0))
    assert (whole.texts, whole.ended.tolist(), whole.lengths.tolist()) == (["\n" * 6] * 2, [False] * 2, [6, 6])
    found = answers_of(FewShotMDP.of(mdp), play(policy, FewShotMDP.of(mdp), np.arange(2), 0))
    assert (found.texts, found.ended.tolist(), found.lengths.tolist()) == (["", ""], [True, True], [2, 2])
    assert seen == [("p0", "\n" * 6), ("p1", "\n" * 6), ("p0", ""), ("p1", "")]


def only(rows: int, token: int) -> np.ndarray:
    found = np.zeros((rows, 256), bool)
    found[:, token] = True
    return found


def test_all_wordings_of_a_question_get_its_examples_and_never_the_question() -> None:
    wordings = asked("what is p0", "p0 again")
    found = few_shot_prompts(wordings, POOL, 3, 0, TOKENIZER, origins=[POOL[0], POOL[0]])
    examples = [prompt.text.rpartition("\n\n")[0] for prompt in found]
    assert examples[0] == examples[1]
    assert "p0" not in examples[0].replace("p0 again", "")
    assert [prompt.text.rpartition("\n\n")[2] for prompt in found] == ["what is p0", "p0 again"]


def test_a_prompt_that_a_task_has_cut_is_cut_behind_examples_too() -> None:
    whole = asked("one two three four")[0]
    cut = replace(whole, ids=tuple(TOKENIZER("three four")["input_ids"]))
    (found,) = few_shot_prompts([cut], POOL, 1, 0, TOKENIZER, cut_by=TOKENIZER)
    assert found.text.rpartition("\n\n")[2] == "three four"
    assert found.content == "one two three four", "the reward reads all of it"
    assert as_cut(whole, TOKENIZER) == "one two three four"
    assert as_cut(cut, None) == "one two three four"
