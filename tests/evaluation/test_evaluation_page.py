"""The tables of an evaluation."""

from __future__ import annotations

import numpy as np

from tests.helpers import word_mdp
from textgym.evaluation.decoders import Answers
from textgym.evaluation.measured import Measured
from textgym.evaluation.page import Duel, Result, findings, labels, measure_table, sample_rows, short_names, shown
from textgym.evaluation.paired import win_rate
from textgym.reports.formatting import NBSP

MDP = word_mdp()


def result(model: str, shots: int, **values: Measured) -> Result:
    answers = Answers(
        prompts=[MDP.prompts[0], MDP.prompts[0], MDP.prompts[1]],
        questions=np.array([0, 0, 1]),
        texts=["first", "second", "third"],
        lengths=np.array([1, 2, 3]),
        ended=np.array([True, False, True]),
        scores=np.array([1.0, 0.25, -2.0]),
        components={"parts": np.array([1.0, np.nan, 2.0])},
    )
    return Result(model, shots, answers, {"score": Measured(0.5312, 0.4912, 0.5712, 2, ""), **values})


def test_a_value_has_as_many_places_as_its_interval_supports() -> None:
    assert shown(Measured(0.5312, 0.4912, 0.5712, 9, "")) == "0.53 (0.49 … 0.57)"
    assert shown(Measured(0.5312, 0.5182, 0.5442, 9, "")) == "0.531 (0.518 … 0.544)"
    assert shown(Measured(12.3456, None, None, 1, "")) == "12.3"
    assert shown(Measured(None, None, None, 1, "")) == shown(None) == "–"
    assert shown(Measured(0.5, 0.25, 0.75, 9, ""), as_percent=True) == f"50.0{NBSP}% (25.0 … 75.0)"


def test_models_have_the_shortest_names_that_differ() -> None:
    assert short_names(["runs/a/policy", "runs/b/sft"]) == {"runs/a/policy": "policy", "runs/b/sft": "sft"}
    assert short_names(["runs/a/policy", "runs/b/policy"]) == {"runs/a/policy": "a/policy", "runs/b/policy": "b/policy"}
    assert short_names(["runs/a/checkpoint"]) == {"runs/a/checkpoint": "a/checkpoint"}
    assert short_names(["a", "b/a"]) == {"a": "a", "b/a": "b/a"}


def test_only_what_differs_is_in_a_label() -> None:
    assert labels([result("m", 0), result("m", 4)]) == ["0-shot", "4-shot"]
    assert labels([result("m", 0), result("x/n", 0)]) == ["m, 0-shot", "n, 0-shot"]


def test_a_measure_that_one_result_lacks_is_a_dash() -> None:
    results = [result("m", 0), result("n", 0, kl=Measured(1.5, 1.25, 1.75, 2, ""))]
    table = measure_table(results, labels(results))
    assert table.rows == (
        ("score (the reward)", "0.53 (0.49 … 0.57)", "0.53 (0.49 … 0.57)"),
        ("KL to the reference, nats", "–", "1.50 (1.25 … 1.75)"),
    )


def test_findings_lead_with_the_win_rate() -> None:
    results = [result("runs/m", 0), result("runs/n", 0)]
    duels = [Duel("runs/m", "runs/n", 0, win_rate([1, 0, 0.5, 1], range(4)))]
    found = findings("4 prompts", results, duels)
    assert found.headline.startswith(f"m wins 62.5{NBSP}% (")
    assert found.headline.endswith(") against n on 4 prompts")
    assert [table.title for table in found.tables] == ["Measures", "Win rate", "Samples"]
    assert found.tables[2].rows == (
        (MDP.prompts[0].text, "first [1]", "first [1]"),
        (MDP.prompts[1].text, "third [−2]", "third [−2]"),
    )
    assert findings("4 prompts", results[:1], ()).headline == "Score on 4 prompts: 0.53 (0.49 … 0.57)"


def test_rows_of_samples_by_hand() -> None:
    assert sample_rows(result("m", 3))[1] == {
        "model": "m",
        "shots": 3,
        "prompt": MDP.prompts[0].text,
        "completion": "second",
        "length": 2,
        "finish_reason": "length",
        "score": 0.25,
        "components": {"parts": None},
    }
