"""The quality of labels, against numbers of the literature, counts by hand and exact expectations."""

from __future__ import annotations

import json
import sys
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binomtest

from tests.labelling.label_questions import answer, question
from textgym.intervals import Estimate
from textgym.labelling.quality import agreement, first_shown, krippendorff_alpha, label_quality, pair_signs, rank_matrix
from textgym.reports.bench import terminal_table
from textgym.reports.labels import label_findings, label_record
from textgym.rewards.labels.labelling import agreement_ceiling, plackett_luce_ranks

NONE = float("nan")
CLASSICAL = [  # Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section D
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
    [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
]


@pytest.mark.parametrize(("level", "alpha"), [("ordinal", 0.815), ("nominal", 0.743), ("interval", 0.849)])
def test_alpha_of_the_classical_matrix(level: str, alpha: float) -> None:
    assert krippendorff_alpha(CLASSICAL, level) == pytest.approx(alpha, abs=5e-4)  # type: ignore[arg-type]


def test_alpha_is_none_where_nothing_can_be_compared() -> None:
    assert krippendorff_alpha([[1, 2, NONE], [NONE, NONE, 3]]) is None
    assert krippendorff_alpha([[2, 2], [2, 2]]) is None
    assert krippendorff_alpha(np.zeros((0, 0))) is None


def test_alpha_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "krippendorff", None)
    with pytest.raises(ImportError, match=r"textgym\[label\]"):
        krippendorff_alpha(CLASSICAL)


def test_ranks_become_one_unit_for_each_completion() -> None:
    p, q = question("p", 3), question("q", 2)
    answers = [
        answer(p, "ben", ranks=(2, 0, 0)),
        answer(q, "anna", ranks=(1, 0), order=(1, 0)),
        answer(p, "anna", ranks=(0, 1, 2)),
        answer(p, "anna", ranks=(2, 1, 0), repeat=1),
        answer(q, "ben", skipped="no"),
    ]
    expected = [[0, 1, 2, 1, 0], [2, 0, 0, NONE, NONE]]
    np.testing.assert_array_equal(rank_matrix(answers), expected)


def test_one_order_has_one_alpha_however_its_ranks_are_numbered() -> None:
    p = question("p", 4)
    dense, standard = answer(p, "anna", ranks=(1, 0, 0, 2)), answer(p, "ben", ranks=(2, 0, 0, 3))
    np.testing.assert_array_equal(rank_matrix([dense, standard]), [[2, 0, 0, 3]] * 2)
    assert krippendorff_alpha(rank_matrix([dense, standard])) == 1


def test_signs_of_pairs_by_hand() -> None:
    # pairs 01, 02, 12: alike, alike, tied by the second
    np.testing.assert_array_equal(pair_signs([0, 1, 2], [0, 2, 2]), [1, 1, 0])
    np.testing.assert_array_equal(pair_signs([0, 1, 2], [2, 1, 0]), [-1, -1, -1])


def test_agreement_by_hand() -> None:
    """Anna and ben agree on 2 of 3 pairs of p and tie one of q; ben repeats p, with one of three pairs turned."""
    p, q = question("p", 3, gold=[0.0, 0.5, 1.0]), question("q", 2)
    answers = [
        answer(p, "anna", ranks=(0, 1, 2), seconds=2.0, flags={"true": (True, False, False)}),
        answer(p, "ben", ranks=(0, 2, 1), seconds=4.0, scores=(7, None, 4)),
        answer(q, "anna", ranks=(0, 1), seconds=4.0),
        answer(q, "ben", ranks=(0, 0), seconds=9.0),
        answer(p, "ben", ranks=(0, 1, 2), seconds=5.0, repeat=1),
        answer(q, "cleo", skipped="no idea", seconds=1.0),
    ]
    found = label_quality(answers, [p, q])
    assert (found.answers, found.questions, found.skipped, found.seconds) == (6, 2, {"no idea": 1}, 4.0)
    pair = found.between["anna", "ben"]
    assert pair.share is not None
    assert (pair.share.value, pair.pairs, pair.ties, pair.questions) == (pytest.approx(2 / 3), 3, 1, 1)
    assert found.between_people == pair
    assert found.between["anna", "cleo"].share is None
    oneself = found.with_oneself
    assert oneself.share is not None
    assert (oneself.share.value, oneself.pairs) == (pytest.approx(2 / 3), 3)
    assert found.labellers["ben"].with_oneself == oneself
    assert found.labellers["anna"].with_oneself.share is None
    assert found.with_gold.share is not None
    assert (found.with_gold.share.value, found.with_gold.pairs) == (pytest.approx(1 / 9), 9)
    assert (found.labellers["ben"].seconds, found.labellers["cleo"].skipped) == (5.0, 1)
    assert (found.flags, found.scores) == ({"true": pytest.approx(1 / 3)}, 5.5)


def test_wins_of_the_first_place_have_the_binomial_interval_for_pairs() -> None:
    asked = [question(f"q{i}", 2) for i in range(40)]
    first_wins = [i % 4 > 0 for i in range(40)]
    answers = [
        answer(q, order=(1, 0), ranks=(1, 0) if won else (0, 1)) for q, won in zip(asked, first_wins, strict=True)
    ]
    found = first_shown([*answers, answer(question("tied", 2), ranks=(0, 0))])
    assert found.share is not None
    assert (found.share.value, found.pairs, found.ties) == (0.75, 40, 1)
    exact = binomtest(30, 40).proportion_ci(0.95, "exact")
    assert found.share.low == pytest.approx(exact.low, abs=5e-3)
    assert found.share.high == pytest.approx(exact.high, abs=5e-3)


def test_the_first_place_is_compared_with_each_other_one() -> None:
    found = first_shown([answer(question("p", 4), order=(2, 0, 1, 3), ranks=(1, 0, 1, 3))])
    assert found.share is not None
    assert (found.share.value, found.pairs, found.ties) == (0.5, 2, 1)  # loses to 1, ties with 0, beats 3


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_two_simulated_labellers_agree_as_often_as_theory_says(temperature: float) -> None:
    """Two independent Plackett–Luce labellers order a pair alike with p² + (1 − p)², p = σ((s_i − s_j)/temperature)."""
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(1500, 4))
    ranks = [plackett_luce_ranks(scores, temperature, rng).tolist() for _ in range(2)]
    found = agreement((f"q{i}", ranks[0][i], ranks[1][i]) for i in range(len(scores)))
    gaps = np.array([scores[:, i] - scores[:, j] for i, j in combinations(range(4), 2)])
    p = 1 / (1 + np.exp(-gaps / temperature))
    expected = float((p**2 + (1 - p) ** 2).mean())
    assert found.share is not None
    half = (found.share.high - found.share.low) / 2
    assert half < 0.015
    assert abs(found.share.value - expected) < 1.7 * half  # 3.3 standard errors
    # With the scores themselves each agrees as often as agreement_ceiling says.
    with_gold = agreement((f"q{i}", ranks[0][i], (-scores[i]).tolist()) for i in range(len(scores)))
    assert with_gold.share is not None
    assert abs(with_gold.share.value - agreement_ceiling(scores, temperature)) < 1.7 * half


def test_alpha_is_1_for_equal_rankings_and_about_0_for_random_ones() -> None:
    rng = np.random.default_rng(3)
    asked = [question(f"q{i}", 4) for i in range(200)]

    def random() -> tuple[int, ...]:
        return tuple(rng.permutation(4).tolist())

    same = [answer(q, name, ranks=ranks) for q in asked for ranks in [random()] for name in ("anna", "ben")]
    assert label_quality(same).alpha == pytest.approx(1)
    free = [answer(q, name, ranks=random()) for q in asked for name in ("anna", "ben")]
    assert label_quality(free).alpha == pytest.approx(0, abs=0.1)


def test_findings_and_record_hold_the_numbers() -> None:
    p = question("p", 3)
    answers = [answer(p, "anna", ranks=(0, 1, 2)), answer(p, "ben", ranks=(0, 2, 1))]
    found = label_findings(label_quality(answers))
    assert found.headline == "2 answers of 2 people to 1 questions, 0 skipped; two people order 67 % of pairs alike."
    table = found.tables[2]
    assert table.columns == ("", "anna", "ben")
    cell = table.rows[0][2]
    assert isinstance(cell, Estimate)
    assert cell.value == pytest.approx(2 / 3)
    assert table.rows[1][1] == cell or np.isnan(cell.low)
    assert "Labeller × labeller" in terminal_table(table)
    record = json.loads(json.dumps(label_record(label_quality(answers)), allow_nan=False))
    assert record["between"][0]["labellers"] == ["anna", "ben"]
    assert record["between_people"]["pairs"] == 3


def test_no_answers_have_no_quality() -> None:
    found = label_quality([])
    assert (found.answers, found.seconds, found.alpha, found.between_people.share) == (0, None, None, None)
