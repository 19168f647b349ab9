"""Metrics against references: each equals its package on random texts, and known answers written out by hand."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import nltk
import numpy as np
import pytest
import sacrebleu
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer

from textgym.numbers import SettingError
from textgym.rewards.functions import RewardError, call_reward, check_columns, check_signature, reward_name
from textgym.rewards.text import needs
from textgym.rewards.text.overlap import Bleu, Chrf, ExactMatch, Meteor, Rouge, SacreBleu, Ter, TokenF1
from textgym.rewards.text.wordnet import WordNet

WORDS = [
    "the",
    "a",
    "An",
    "The",
    "cat",
    "cats",
    "Cat",
    "sat",
    "sitting",
    "runs",
    "running",
    "mat",
    "don't",
    "New",
    "York",
]
WORDS += [
    "3",
    "3.5",
    "1,000",
    ".",
    ",",
    "!",
    "(so)",
    '"go"',
    "half-way",
    "Ünïcode",
    "end.\nNew",
    "cat",
    "sat",
    "on",
    "on",
]


def random_pairs(n: int = 200, seed: int = 0) -> list[tuple[str, list[str]]]:
    """Texts with one to three references, made so that most overlap, some are equal and some are empty."""
    rng = np.random.default_rng(seed)

    def text(most: int = 14) -> str:
        return " ".join(rng.choice(WORDS, rng.integers(0, most)))

    def changed(words: list[str]) -> str:
        kept = [str(rng.choice(WORDS)) if rng.random() < 0.3 else word for word in words]
        return " ".join(kept[rng.integers(0, 2) :])

    pairs: list[tuple[str, list[str]]] = []
    for _ in range(n):
        mine = text()
        others = [changed(mine.split(" ")) if rng.random() < 0.7 else text() for _ in range(rng.integers(1, 4))]
        if rng.random() < 0.1:
            others[0] = mine
        pairs.append(("" if rng.random() < 0.05 else mine, others))
    return pairs


PAIRS = random_pairs()


def scores(reward: Any, pairs: list[tuple[str, list[str]]] = PAIRS) -> list[float]:
    """The reward's scores, by the call that the environment makes; a single reference is passed as a text."""
    texts = [text for text, _ in pairs]
    references = [given[0] if len(given) == 1 else given for _, given in pairs]
    found = call_reward(reward, [""] * len(pairs), texts, [[1]] * len(pairs), {"references": references})
    return [float(one) for one in found if isinstance(one, float)]


def test_the_pairs_hold_all_that_is_asked_of_them() -> None:
    texts = [text for text, _ in PAIRS]
    assert len(PAIRS) == 200
    assert {len(given) for _, given in PAIRS} == {1, 2, 3}
    assert "" in texts
    assert any("" in given for _, given in PAIRS)
    assert any(text in given for text, given in PAIRS)
    for kind in (r"[A-Z]", r"[0-9]", r"[.,!]", r"\n"):
        assert sum(re.search(kind, text) is not None for text in texts) > 20


# --- agreement with the packages -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("kind", ["1", "2", "L", "Lsum", "Lmax"])
def test_rouge_is_that_of_rouge_score(kind: Any, stem: bool) -> None:
    entry = "rougeL" if kind == "Lmax" else f"rouge{kind}"
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=stem)
    expected = [max(scorer.score(one, text)[entry].fmeasure for one in given) for text, given in PAIRS]
    assert scores(Rouge(kind, stem=stem)) == expected
    assert len(set(expected)) > 50


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {}),
        ({"smooth": "floor"}, {"smooth_method": "floor"}),
        ({"smooth": "add-k", "lowercase": True}, {"smooth_method": "add-k", "lowercase": True}),
        ({"smooth": "none", "tokenize": "none"}, {"smooth_method": "none", "tokenize": "none"}),
        ({"tokenize": "intl"}, {"tokenize": "intl"}),
        ({"tokenize": "zh"}, {"tokenize": "zh"}),
        ({"tokenize": "char", "effective_order": False}, {"tokenize": "char", "use_effective_order": False}),
    ],
)
def test_bleu_is_that_of_sacrebleu(options: dict[str, Any], theirs: dict[str, Any], caplog: Any) -> None:
    expected = [sacrebleu.sentence_bleu(text, given, **theirs).score / 100 for text, given in PAIRS]
    caplog.clear()
    assert scores(Bleu(**options)) == pytest.approx(expected, abs=1e-12)
    assert caplog.records == []
    assert len(set(expected)) > 40


def test_bleu_of_one_and_two_words_is_counted_by_hand() -> None:
    """3 of 4 words and 1 of 3 pairs, no penalty: √(3/4 · 1/3)."""
    given = [("the cat sat down", ["a cat sat there the"]), ("the cat sat down", ["sat cat the up down so"])]
    expected = [math.sqrt(3 / 4 * 1 / 3) * math.exp(1 - 5 / 4), math.sqrt(1 * 1 / (2 * 3)) * math.exp(1 - 6 / 4)]
    assert scores(Bleu(ngrams=2), given) == pytest.approx(expected, abs=1e-12)


def test_sacrebleu_is_the_corpus_metric_of_one_text() -> None:
    expected = [sacrebleu.corpus_bleu([text], [[one] for one in given]).score / 100 for text, given in PAIRS]
    assert scores(SacreBleu()) == pytest.approx(expected, abs=1e-12)
    short = [("the cat", ["the cat"]), ("the cat sat down", ["the cat sat down"])]
    assert scores(SacreBleu(), short) == [0.0, 1.0]
    assert scores(Bleu(), short) == [1.0, 1.0]


@pytest.mark.parametrize("order", [0, 2])
def test_chrf_is_that_of_sacrebleu(order: int) -> None:
    expected = [sacrebleu.sentence_chrf(text, given, word_order=order).score / 100 for text, given in PAIRS]
    assert scores(Chrf(order)) == pytest.approx(expected, abs=1e-12)
    assert reward_name(Chrf(order)) == ("chrf++" if order else "chrf")


def test_ter_is_minus_that_of_sacrebleu() -> None:
    expected = [-sacrebleu.sentence_ter(text, given).score / 100 for text, given in PAIRS]
    assert scores(Ter()) == pytest.approx(expected, abs=1e-12)
    assert min(expected) < -1


class NoSynonyms:
    """A WordNet without a word in it."""

    @staticmethod
    def synsets(_: str) -> list[Any]:
        return []


@pytest.mark.parametrize("weights", [{}, {"alpha": 0.5, "beta": 1.0, "gamma": 0.2}])
def test_meteor_is_that_of_nltk(weights: dict[str, float]) -> None:
    def tokens(text: str) -> list[str]:
        return nltk.word_tokenize(text, preserve_line=True)

    expected = [
        max(single_meteor_score(tokens(one), tokens(text), wordnet=NoSynonyms(), **weights) for one in given)
        for text, given in PAIRS
    ]
    assert scores(Meteor(**weights)) == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) > 50


def test_meteor_is_the_formula_of_its_paper() -> None:
    """All 3 words match, in 2 chunks; then 2 of 3 (one by its stem) and 2 of 4, in one chunk."""
    given = [("sat the cat", ["the cat sat"]), ("the cats slept", ["The cat sat down"])]
    first = (1 - 0.5 * (2 / 3) ** 3) * 1
    p, r = 2 / 3, 2 / 4
    second = (1 - 0.5 * (1 / 2) ** 3) * 10 * p * r / (r + 9 * p)
    assert scores(Meteor(), given) == pytest.approx([first, second], abs=1e-12)


def squad_answer(text: str) -> str:
    """SQuAD's normalisation, step by step: lower case, punctuation, articles, white space."""
    kept = "".join(letter for letter in text.lower() if letter not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return " ".join(word for word in re.sub(r"\b(a|an|the)\b", " ", kept).split())


def squad_f1(text: str, reference: str) -> float:
    mine, other = squad_answer(text).split(), squad_answer(reference).split()
    if not mine or not other:
        return float(mine == other)
    same = sum((Counter(mine) & Counter(other)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(mine), same / len(other)
    return 2 * precision * recall / (precision + recall)


def test_exact_match_and_token_f1_are_those_of_squad() -> None:
    exact = [max(float(squad_answer(text) == squad_answer(one)) for one in given) for text, given in PAIRS]
    assert scores(ExactMatch()) == exact
    assert set(exact) == {0.0, 1.0}
    overlap = [max(squad_f1(text, one) for one in given) for text, given in PAIRS]
    assert scores(TokenF1()) == pytest.approx(overlap, abs=1e-12)
    assert len(set(overlap)) > 50


# --- known answers -------------------------------------------------------------------------------------------------

ALL = [
    *(Rouge(kind) for kind in ("1", "2", "L", "Lsum", "Lmax")),
    Bleu(),
    SacreBleu(),
    Chrf(),
    Chrf(2),
    Ter(),
    Meteor(),
]
ALL += [ExactMatch(), TokenF1()]
SENTENCE = "A dog catches the ball, then runs 3 times."


@pytest.mark.parametrize("reward", ALL, ids=reward_name)
def test_a_reference_scores_best_and_an_empty_text_worst(reward: Any) -> None:
    others = ["No word in common here", "and a second one: so what"]
    best, empty, unlike = scores(
        reward, [(SENTENCE, [others[0], SENTENCE]), ("", [SENTENCE]), ("Zzz qqq xxx", [SENTENCE])]
    )
    words = len(nltk.word_tokenize(SENTENCE, preserve_line=True))
    top, floor = {"ter": (0.0, -1.0), "meteor": (1 - 0.5 / words**3, 0.0)}.get(reward_name(reward), (1.0, 0.0))
    assert (best, empty) == (pytest.approx(top, abs=1e-12), floor)
    assert unlike == pytest.approx(floor, abs=0.05)
    assert best <= 1


@pytest.mark.parametrize("reward", ALL, ids=reward_name)
def test_the_range_is_the_one_that_is_said(reward: Any) -> None:
    found = scores(reward)
    assert len(found) == len(PAIRS)
    assert (max(found) <= 0.0) if reward_name(reward) == "ter" else (min(found) >= 0.0 and max(found) <= 1.0)


def test_rouge_of_a_few_words_is_counted_by_hand() -> None:
    """Common: 3 of 4 and 3 of 5 words; 1 of 3 and 1 of 4 pairs; "cat sat" in order."""
    pair = [("the cat sat down", ["Cat sat, the mat: so"])]
    assert scores(Rouge("1"), pair) == [pytest.approx(2 * 3 / 9)]
    assert scores(Rouge("2"), pair) == [pytest.approx(2 * 1 / 7)]
    assert scores(Rouge("L"), pair) == [pytest.approx(2 * 2 / 9)]
    lines = [("the cat\nsat down", ["sat down\nthe cat"])]
    assert scores(Rouge("Lsum"), lines) == [1.0]
    assert scores(Rouge("L"), lines) == [0.5]


def test_ter_shifts_a_phrase_in_one_edit() -> None:
    assert scores(Ter(), [("d a b c", ["a b c d"]), ("a b x", ["A b c d e"])]) == [-1 / 4, -3 / 5]


def test_names_in_logs() -> None:
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum", "rougeLmax", "bleu", "sacrebleu", "chrf", "chrf++", "ter"]
    assert [reward_name(one) for one in ALL] == [*names, "meteor", "exact_match", "token_f1"]
    for one in ALL:
        check_signature(one)
        assert hash(one) == hash(type(one)(**vars(one)))


# --- WordNet -------------------------------------------------------------------------------------------------------


def write_wordnet(folder: Path) -> Path:
    """A WordNet of two nouns' meanings, one of a verb and one of an adjective, in the format of wndb(5WN)."""
    folder.mkdir()
    meanings = {
        "noun": ["car 0 auto 1 motor_car 0", "ox 0"],
        "verb": ["buy 0 purchase 0"],
        "adj": ["big 0 large(p) 0"],
        "adv": [],
    }
    for part, lines in meanings.items():
        data, index = ["  1 A licence.  "], {}
        for place, words in enumerate(lines):
            names = words.split()[::2]
            data.append(f"{place:08} 01 {part[0]} {len(names):02x} {words} 001 @ 00000009 n 0000 | a gloss; auto  ")
            for name in names:
                index[name.removesuffix("(p)")] = f"{part[0]} 1 1 @ 1 0 {place:08}"
        (folder / f"data.{part}").write_text("\n".join(data) + "\n")
        (folder / f"index.{part}").write_text("  1 A licence.  \n" + "".join(f"{k} {v}  \n" for k, v in index.items()))
        (folder / f"{part}.exc").write_text("oxen ox\n" if part == "noun" else "")
    return folder


def test_words_and_their_base_forms_are_found_in_wordnet(tmp_path: Path) -> None:
    wordnet = WordNet(write_wordnet(tmp_path / "wordnet"))
    found = {
        word: [name.name() for synset in wordnet.synsets(word) for name in synset.lemmas()]
        for word in ("Car", "autos", "purchasing", "buying", "bought", "larger", "biger", "oxen", "gloss", "a")
    }
    car, buy, big = ["car", "auto", "motor_car"], ["buy", "purchase"], ["big", "large"]
    assert found == {
        "Car": car,
        "autos": car,
        "purchasing": buy,
        "buying": buy,
        "bought": [],
        "larger": big,
        "biger": big,
        "oxen": ["ox"],
        "gloss": [],
        "a": [],
    }
    assert WordNet(None).synsets("car") == []


def test_meteor_matches_synonyms_of_a_wordnet_folder(tmp_path: Path) -> None:
    folder = str(write_wordnet(tmp_path / "wordnet"))
    pairs = [("the car stops", ["the auto stops"]), ("the bus stops", ["the auto stops"])]
    without = (1 - 0.5 * (2 / 2) ** 3) * 2 / 3
    assert scores(Meteor(), pairs) == pytest.approx([without, without])
    assert scores(Meteor(wordnet=folder), pairs) == pytest.approx([1 - 0.5 / 3**3, without])


def test_a_folder_that_is_no_wordnet(tmp_path: Path) -> None:
    folder = write_wordnet(tmp_path / "wordnet")
    (folder / "adj.exc").unlink()
    (folder / "data.adv").unlink()
    with pytest.raises(FileNotFoundError, match=r"wordnet='.*wordnet' lacks data\.adv, adj\.exc; expected a folder"):
        Meteor(wordnet=str(folder))


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reward", ALL, ids=reward_name)
def test_data_without_references_are_refused_before_training(reward: Any) -> None:
    with pytest.raises(ValueError, match=f"reward '{re.escape(reward_name(reward))}' requires 'references', which the"):
        check_columns(reward, ["summary"])
    check_columns(type(reward)(**{**vars(reward), "references": "summary"}), ["summary"])


def test_another_column_of_references() -> None:
    found = call_reward(
        ExactMatch(references="answer"), ["", ""], ["Yes.", "no"], [[1], [1]], {"answer": ["yes", "yes"]}
    )
    assert found == [1.0, 0.0]


def test_completions_that_are_conversations() -> None:
    reply = [[{"role": "assistant", "content": "Yes."}]]
    assert call_reward(ExactMatch(), [[]], reply, [[1]], {"references": ["yes"]}) == [1.0]


@pytest.mark.parametrize("row", [None, [], 3, ["a", None], {"a": "b"}])
def test_a_row_without_a_reference_is_an_error(row: Any) -> None:
    with pytest.raises(RewardError, match=r"column 'references' holds .*; expected a text, or a list of at least one"):
        call_reward(Rouge(), ["p", "q"], ["a", "b"], [[1], [1]], {"references": ["a", row]})


def test_a_missing_column_at_the_call() -> None:
    with pytest.raises(ValueError, match="'rougeL' reads the column 'references', got the columns summary; add it"):
        Rouge()(completions=["a"], prompts=["p"], completion_ids=[[1]], summary=["a"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rouge("3"), r"kind='3'; expected one of '1', '2', 'L', 'Lsum', 'Lmax'"),
        (lambda: Rouge("lsum"), r"kind='lsum'; expected .*; did you mean 'Lsum'\?"),
        (lambda: Rouge(references=" "), r"references=' ' is empty"),
        (lambda: Bleu("exponential"), r"smooth='exponential'; expected one of 'exp', 'floor', 'add-k', 'none'"),
        (lambda: Bleu(tokenize="flores200"), r"tokenize='flores200'; expected one of '13a'"),
        (lambda: Bleu(ngrams=0), r"ngrams=0; expected a whole number, at least 1"),
        (lambda: Chrf(-1), r"word_order=-1; expected a whole number, at least 0"),
        (lambda: Meteor(alpha=1.5), r"alpha=1\.5; expected a finite number, .*at most 1"),
        (lambda: Meteor(beta=-1), r"beta=-1; expected a finite number, at least 0"),
    ],
)
def test_bad_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda _: None)
    for make, package in ((Rouge, "rouge-score"), (Bleu, "sacrebleu"), (Ter, "sacrebleu"), (Meteor, "nltk")):
        with pytest.raises(
            ImportError, match=rf"the package {package} is not installed; pip install 'textgym\[metrics\]'"
        ):
            make()
    assert ExactMatch() != TokenF1()  # these two need no package
