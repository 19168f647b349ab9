"""Labelling samples: what is asked, what noise does to the order, and what people's files may hold."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from textgym.rewards import RewardError
from textgym.rewards.compose import compose
from textgym.rewards.labels.labelling import (
    TIED,
    TOO_FEW,
    Question,
    label_by_reward,
    question_scores,
    questions,
    read_answers,
    write_questions,
)
from textgym.types import Prompt, Ranking


def length(completions, **kwargs):
    return [float(len(text.split())) for text in completions]


def wanted(prompts, completions, wish, **kwargs):
    """How often a prompt's own column ``wish`` occurs."""
    return [float(text.split().count(word)) for text, word in zip(completions, wish, strict=True)]


def broken(prompts, completions, **kwargs):
    return [1 / ("dull" not in text) for text in completions]


def asked(*completions: str, prompt: str = "the cat", **columns) -> Question:
    return Question(completions, Prompt(prompt, prompt, (), columns))


def test_equal_texts_are_merged_and_empty_ones_dropped():
    kept, dropped = questions(
        [["a", "b", "a"], ["a", "a", "a"], ["", " ", "a"], ["b", "", "a"]],
        [Prompt(text, text, ()) for text in "pqrs"],
    )
    assert kept == (asked("a", "b", prompt="p"), asked("b", "a", prompt="s"))
    assert dropped == {TOO_FEW: 2}
    assert questions([["a", "b"]], [Prompt("p", "p", ())])[1] == {}


def test_scores_order_the_completions_and_equal_scores_tie(tokenizer):
    three = asked("sat", "sat on mat", "sat on", prompt="the cat")
    tied = asked("sat", "ran", prompt="the dog")
    half = asked("sat on", "ran on", "flew", prompt="a bird")
    found = label_by_reward(compose(length), [three, tied, half], tokenizer, 0, np.random.default_rng(0))
    assert found.rankings == (
        Ranking("the cat", three.completions, (2, 0, 1)),
        Ranking("a bird", half.completions, (0, 0, 2)),
    )
    assert found.dropped == {TIED: 1}
    assert found.ceiling is None


def test_a_reward_receives_the_columns_of_its_prompt(tokenizer):
    rows = [asked("good dog", "bad dog", wish="bad"), asked("good dog", "bad dog", wish="good")]
    found = label_by_reward(compose(wanted), rows, tokenizer, 0, np.random.default_rng(0))
    assert [ranking.ranks for ranking in found.rankings] == [(1, 0), (0, 1)]


def test_a_dense_reward_receives_the_tokens_of_prompts(tokenizer):
    """Those of the prompt where it has some; one that a store gave back is encoded."""

    def known(prompt_ids, completion_ids, **kwargs):
        return [[float(i in before) for i in ids] for before, ids in zip(prompt_ids, completion_ids, strict=True)]

    texts = ("the cat sat", "a cat")
    ids = tuple(tokenizer("a cat on").input_ids)
    given, stored = (
        Question(texts, Prompt("the cat", "the cat", ids)),
        Question(texts, Prompt("the cat", "the cat", ())),
    )
    assert [own.tolist() for own in question_scores(compose(known), [given, stored], tokenizer)] == [[1, 2], [2, 1]]


def test_a_reward_receives_a_conversation_and_the_ranking_keeps_it(tokenizer):
    def echo(prompts, completions, **kwargs):
        return [float(said[0]["content"] == asked[-1]["content"]) for asked, said in zip(prompts, completions)]  # noqa: B905

    content = [{"role": "user", "content": "the cat"}]
    question = Question(("dog", "the cat"), Prompt(content, "<user>the cat", ()))
    found = label_by_reward(compose(echo), [question], tokenizer, 0, np.random.default_rng(0))
    assert found.rankings == (Ranking(content, ("dog", "the cat"), (1, 0)),)


def test_noise_is_that_of_bradley_and_terry(tokenizer):
    temperature = 2.0
    pair, wide = asked("sat", "sat on mat"), asked("sat", "sat on", "sat on mat .")
    found = label_by_reward(compose(length), [pair] * 3000 + [wide], tokenizer, temperature, np.random.default_rng(1))
    right = np.mean([ranking.ranks == (1, 0) for ranking in found.rankings[:3000]])
    expected = 1 / (1 + math.exp(-2 / temperature))  # a difference of two words
    assert right == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 3000))
    gaps = [2] * 3000 + [1, 3, 2]  # of every pair
    assert found.ceiling == pytest.approx(np.mean([1 / (1 + math.exp(-gap / temperature)) for gap in gaps]))


def test_an_error_in_a_rule_names_prompt_and_completion(tokenizer):
    with pytest.raises(RewardError, match=r"(?s)broken.*the cat.*very dull"):
        label_by_reward(compose(broken), [asked("good", "very dull")], tokenizer, 0, np.random.default_rng(0))


ASKED = [asked("sat", "ran", prompt="the cat"), asked("sat", "ran", "flew", prompt="the bird")]


def fill(path: Path, *ranks: object) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [json.dumps({**row, "ranks": own}) for row, own in zip(rows, ranks, strict=True)]
    path.write_text("\n".join(lines), encoding="utf-8")


def test_people_fill_in_a_file(tmp_path):
    path = tmp_path / "to_label.jsonl"
    write_questions(path, ASKED)
    assert read_answers(path, ASKED) is None
    fill(path, [1, 0], [0, 0, 1])
    found = read_answers(path, ASKED)
    assert found is not None
    assert found.rankings == (
        Ranking("the cat", ("sat", "ran"), (1, 0)),
        Ranking("the bird", ("sat", "ran", "flew"), (0, 0, 1)),
    )
    fill(path, [1, 0], [2, 2, 2])
    tied = read_answers(path, ASKED)
    assert tied is not None
    assert (len(tied.rankings), tied.dropped) == (1, {TIED: 1})


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (([0, 1], None), "row 2: ranks is null"),
        (([0, 1], [0, 1]), "row 2: 2 ranks for 3 completions"),
        (([0, "1"], [0, 1, 2]), "row 1: ranks is .0, '1'.; expected a list of integers"),
        (([0, 1], 3), "row 2: ranks is 3"),
    ],
)
def test_what_people_got_wrong_is_named(tmp_path, ranks, message):
    path = tmp_path / "to_label.jsonl"
    write_questions(path, ASKED)
    fill(path, *ranks)
    with pytest.raises(ValueError, match=rf"to_label\.jsonl, {message}"):
        read_answers(path, ASKED)


def test_other_questions_are_not_answered(tmp_path):
    path = tmp_path / "to_label.jsonl"
    write_questions(path, ASKED)
    fill(path, [0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="row 2: prompt or completions differ from what was asked"):
        read_answers(path, [ASKED[0], asked("ran", "sat", "flew", prompt="the bird")])
    with pytest.raises(ValueError, match="has 2 rows; expected the 1"):
        read_answers(path, ASKED[:1])
