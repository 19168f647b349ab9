"""Rewards of a text's shape: counts by hand, their relations to the named rewards, and refused options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from textgym.numbers import SettingError
from textgym.rewards import distinct, repetition
from textgym.rewards.functions import RewardError, call_reward, check_columns, check_signature, reward_name
from textgym.rewards.text.shape import DistinctN, Keywords, LengthBudget, Regex, RepeatedN


def scores(reward, texts, ids=None, **columns):
    ids = [[1]] * len(texts) if ids is None else ids
    return call_reward(reward, ["p"] * len(texts), texts, ids, columns)


def random_texts(n=50):
    rng = np.random.default_rng(1)
    return ["", *(" ".join(rng.choice(["a", "b", "C", "d."], rng.integers(1, 9))) for _ in range(n))]


def test_distinct_and_repeated_ngrams():
    text = "a b a b a c"  # pairs: ab ba ab ba ac; triples: aba bab aba bac; 4-grams: abab baba abac
    assert scores(DistinctN(), [text, "a", "", "a b"]) == [3 / 5, 0.0, 0.0, 1.0]
    assert scores(DistinctN(3), [text, "a b", "a b c"]) == [3 / 4, 0.0, 1.0]
    assert scores(RepeatedN(3), [text, "a b", "", "x x x x x"]) == [-1 / 4, 0.0, 0.0, pytest.approx(-2 / 3)]
    assert scores(RepeatedN(), [text]) == [0.0]


def test_they_continue_the_named_rewards():
    texts = random_texts()
    assert scores(DistinctN(1), texts) == scores(distinct, texts)
    assert scores(RepeatedN(2), texts) == scores(repetition, texts)
    assert len(set(scores(RepeatedN(2), texts))) > 5


def test_a_budget_of_words():
    texts = ["a b c d", "a b c d e", "", "a b c d e f g h", " ".join("abcdefghijkl")]
    assert scores(LengthBudget(4), texts) == [0.0, -0.25, 0.0, -1.0, -2.0]
    assert scores(LengthBudget(4, least=2), [*texts, "a"]) == [0.0, -0.25, -0.5, -1.0, -2.0, -0.25]


def test_a_budget_of_tokens_counts_what_was_sampled():
    ids = [[5] * n for n in (9, 10, 11, 20)]
    assert scores(LengthBudget(10, unit="tokens"), ["a b c"] * 4, ids) == [0.0, 0.0, -0.1, -1.0]


def test_a_pattern_is_found_or_is_the_whole():
    texts = ["Answer: 42", "42", " 42\n", "42 it is", "4 2", ""]
    assert scores(Regex(r"\d\d"), texts) == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert scores(Regex(r"\d\d", whole=True), texts) == [0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert scores(Regex("(?i)ANSWER"), texts) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert scores(Regex(""), texts) == [1.0] * 6
    assert scores(Regex("a|ab", whole=True), ["ab"]) == [1.0]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a(b", r"pattern='a\(b' is not a regular expression: missing \), unterminated subpattern at position 1; put"),
        ("*", r"nothing to repeat at position 0"),
        (r"ok[z-a]", r"bad character range z-a at position 3"),
    ],
)
def test_a_bad_pattern_says_where(pattern, message):
    with pytest.raises(SettingError, match=message):
        Regex(pattern)


def test_keywords_that_a_text_covers():
    concepts = [["dog", "catch", "ball"], ["New York"], "runs", ["dog", "dog", "cat"]]
    texts = ["A DOG, a ball and catching.", "york new York!", "he ran", "one dog"]
    assert scores(Keywords(), texts, concepts=concepts) == [2 / 3, 1.0, 0.0, 2 / 3]
    assert scores(Keywords(), ["", "York. New"], concepts=[["a", "b"], ["New York"]]) == [0.0, 0.0]
    assert scores(Keywords(), ["bald", "hot-dog"], concepts=[["ball"], ["dog"]]) == [0.0, 1.0]


def test_keywords_by_their_stems():
    concepts = [["dog", "catch", "ball"], ["running shoes"], ["run"]]
    texts = ["Dogs catching balls", "He runs, shoe", "ran"]
    assert scores(Keywords(stem=True), texts, concepts=concepts) == [1.0, 1.0, 0.0]
    assert scores(Keywords(), texts, concepts=concepts) == [0.0, 0.0, 0.0]


def test_keywords_of_another_column():
    reward = Keywords("words")
    check_columns(reward, ["words"])
    assert scores(reward, ["a b"], words=[["b"]]) == [1.0]
    with pytest.raises(ValueError, match="reward 'keywords' requires 'concepts', which the data does not have"):
        check_columns(Keywords(), ["words"])


def test_keywords_that_cannot_be_covered():
    with pytest.raises(RewardError, match=r"column 'concepts' holds the keyword '!\?'; expected letters or digits"):
        scores(Keywords(), ["a"], concepts=[["a", "!?"]])
    with pytest.raises(RewardError, match=r"column 'concepts' holds \[\]; expected a text, or a list"):
        scores(Keywords(), ["a"], concepts=[[]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DistinctN(0), "n=0; expected a whole number, at least 1"),
        (lambda: RepeatedN(2.5), r"n=2\.5; expected a whole number"),
        (lambda: LengthBudget(0), "most=0; expected a whole number, at least 1"),
        (lambda: LengthBudget(5, least=6), "least=6 is more than most=5"),
        (lambda: LengthBudget(5, unit="word"), "unit='word'; expected one of 'words', 'tokens'; did you mean 'words'"),
        (lambda: Keywords(""), "concepts='' is empty"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(SettingError, match=message):
        make()


def test_names_in_logs_and_signatures():
    made = [DistinctN(3), RepeatedN(), LengthBudget(9), Regex("a"), Keywords()]
    assert [reward_name(one) for one in made] == ["distinct-3", "repeated-4", "length-budget", "regex", "keywords"]
    for one in made:
        check_signature(one)
        assert one == replace(one)


def test_conversations_are_read_by_the_assistants_words():
    reply = [{"role": "user", "content": "b b"}, {"role": "assistant", "content": "a b a b"}]
    made = [DistinctN(), RepeatedN(2), LengthBudget(2), Regex("a b a"), Keywords()]
    found = [scores(one, [reply], concepts=[["b"]]) for one in made]
    assert found == [[pytest.approx(2 / 3)], [pytest.approx(-1 / 3)], [-1.0], [1.0], [1.0]]
