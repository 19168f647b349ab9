"""The report: numbers that were worked out by hand, and a page that is whole, closed and safe."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from textgym.intervals import SampleMean
from textgym.reports.before_after import Change, change_headline, changes_of, explain_changes
from textgym.reports.charts.runs import training_curve
from textgym.reports.formatting import decimals, number
from textgym.reports.run import before_and_after, column, ends, panels, ratio_check, tables, write_report

HOSTILE = "<script>alert('x')</script>"


def entry(mean: float, sem: float | None = None) -> dict[str, float | None]:
    return {"mean": mean, "sem": sem}


EVALUATION = {
    "episodes": 256,
    "before": {
        "length": entry(31.2, 0.4),
        "score": entry(-0.07, 0.04),
        "gold": entry(0.42, 0.02),
        "kl": entry(0, 0),
    },
    "after": {
        "length": entry(25.1, 0.3),
        "score": entry(1.96, 0.03),
        "gold": entry(0.87, 0.01),
        "kl": entry(5.4, 0.1),
    },
}


def iteration(index: int) -> dict[str, Any]:
    return {
        "iteration": index,
        "time/total_timesteps": 1000 * (index + 1),
        "rollout/components/brevity": 0.1 * index,
        "rollout/kl": 0.5 * index,
        "rollout/score": 0.2 * index,
        "rollout/score_sem": 0.1,
        "train/explained_variance": None if index == 0 else 0.1 * index,
        "train/first_minibatch_ratio_error": 1e-7 * index,
    }


SAMPLES = [
    {
        "stage": "before",
        "prompt": HOSTILE,
        "tokens": [" dull", HOSTILE],
        "token_rewards": [0.0, -1.0],
        "score": -1.0,
    },
    {
        "stage": "after",
        "prompt": HOSTILE,
        "tokens": [" a", " delight", "</s>"],
        "token_rewards": [-0.01, 0.0, 4.0],
    },
    {"stage": "after", "prompt": "alone", "tokens": ["line\u2028end", "\ud83d"], "finish_reason": "length"},
]


def make_run(path: Path) -> Path:
    """Return a run directory with every file."""
    config = {
        "task": HOSTILE,
        "algorithm": "ppo",
        "seed": 3,
        "hyperparameters": {"kl": {"beta": 0.05}, "lr": 3e-5},
    }
    (path / "config.json").write_text(json.dumps(config))
    write_lines(path / "metrics.jsonl", [iteration(index) for index in range(4)])
    (path / "evaluation.json").write_text(json.dumps(EVALUATION))
    write_lines(path / "samples.jsonl", SAMPLES)
    reward_model = {
        "heldout_accuracy": 0.871,
        "ceiling": 0.902,
        "pairs": 4096,
        "offset": -0.4,
        "accuracy_by_distance": {"1": 0.78},
        "loss_curve": [0.69, 0.5, 0.4],
    }
    (path / "reward_model.json").write_text(json.dumps(reward_model))
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.fixture(scope="module")
def full_html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(make_run(tmp_path_factory.mktemp("run"))).read_text(encoding="utf-8")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Page(HTMLParser):
    """What a browser would make of a page: its text, its elements, and whether every element is closed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.open = "", list[str]()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def headings(self) -> list[str]:
        return re.findall(r"(While training|Samples|Reward model|Settings)\n", self.text + "\n")


def page_of(run_dir: Path) -> Page:
    return Page(write_report(run_dir).read_text(encoding="utf-8"))


# -- Numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, "0"),
        (82110.0, "82,110"),
        (12345.6, "12,346"),
        (1.956, "1.96"),
        (-0.0712, "−0.0712"),
        (-6.53e-7, "−6.5e−7"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_numbers_have_three_digits_and_a_true_minus(value: float | None, told: str) -> None:
    assert number(value) == told


def test_a_negative_zero_loses_its_sign() -> None:
    assert (number(-0.001, 2), number(-0.001, 2, sign=True)) == ("0.00", "+0.00")


@pytest.mark.parametrize(("uncertainty", "places"), [(0.08, 2), (0.041, 2), (0.027, 3), (0.1, 2), (3.4, 0), (120, 0)])
def test_an_interval_decides_how_many_decimals_are_told(uncertainty: float, places: int) -> None:
    assert decimals(uncertainty) == places


def test_curves_tell_both_ends_alike() -> None:
    assert ends([math.nan, -0.00157, 0.5, 1.871]) == ("0.00", "1.87")
    assert ends([3e-4, 7.5e-6]) == ("3e−4", "7.5e−6")


# -- Before and after ------------------------------------------------------------------------------


def test_change_and_its_interval() -> None:
    row = Change("score", SampleMean(1.0, 0.3), SampleMean(2.0, 0.4))
    assert row.change.mean == 1.0
    assert row.change.half == pytest.approx(1.96 * 0.5, rel=1e-4)  # 3, 4, 5
    assert row.clear
    assert row.percent(1.0 - 1.96 * 0.3) == pytest.approx(0, abs=0.01)
    assert row.percent(2.0 + 1.96 * 0.4) == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize(
    ("name", "after", "sem", "verdict"),
    [
        ("score", 1.0, 0.1, "better"),
        ("score", -1.0, 0.1, "worse"),
        ("score", 0.2, 0.1, "unclear"),  # 0.2 < 1.96 · 0.1 · √2
        ("length", 1.0, 0.1, "changed"),
        ("score", 1.0, None, "unclear"),
    ],
)
def test_verdict(name: str, after: float, sem: float | None, verdict: str) -> None:
    assert Change(name, SampleMean(0.0, sem), SampleMean(after, sem)).verdict == verdict


def test_the_best_known_metrics_come_first() -> None:
    assert [row.name for row in changes_of(EVALUATION)] == ["score", "gold", "kl", "length"]
    assert changes_of({}) == changes_of({"before": {"score": entry(1)}}) == []


def test_words_say_what_was_learned_and_how_sure_that_is() -> None:
    rows = changes_of(EVALUATION)
    assert change_headline("PPO", rows) == "PPO raised the score from −0.07 to 1.96"
    told = explain_changes(rows).replace("\u00a0", " ")
    assert told.startswith(
        "The change is +2.03 ± 0.10, a 95 % interval. The true objective, gold, rose: +0.450 ± 0.044."
    )
    assert told.endswith("ended 5.40 ± 0.20 nats per sequence away from its reference.")
    assert "hacking" not in told


def test_a_score_that_rises_while_gold_falls_is_called_by_its_name() -> None:
    before = {"score": entry(0, 0.1), "gold": entry(0.9, 0.01)}
    after = {"score": entry(3, 0.1), "gold": entry(0.5, 0.01)}
    assert "reward hacking" in explain_changes(changes_of({"before": before, "after": after}))


def test_nothing_is_claimed_without_intervals() -> None:
    rows = changes_of({"before": {"score": entry(0.0)}, "after": {"score": entry(9.0)}})
    assert change_headline("PPO", rows) == "No clear change in score: 0.000 before PPO, 9.000 after"
    assert explain_changes(rows) == "The change is +9.000, its interval is unknown."


# -- Curves ----------------------------------------------------------------------------------------


def test_headline_curves_stand_apart_from_diagnostics_in_reading_order() -> None:
    headlines, diagnostics = panels([iteration(index) for index in range(3)])
    assert [panel.metric.label for panel in headlines] == ["Score", "KL", "brevity"]
    assert [panel.metric.label for panel in diagnostics] == ["Explained variance", "Ratio error"]


def test_a_band_is_drawn_only_where_a_standard_error_exists() -> None:
    with_band, without = training_curve([0, 1, 2], [1, 2, 3], [0.1, 0.1, 0.1]), training_curve([0, 1, 2], [1, 2, 3])
    assert "fill-opacity: 0.18" in with_band
    assert "fill-opacity: 0.18" not in without


def test_curves_repeat_to_the_byte_and_escape_their_label() -> None:
    first, second = (training_curve([0, 1], [1, math.nan], label='"<b>') for _ in range(2))
    assert first == second
    assert 'aria-label="&quot;&lt;b&gt;"' in first


def test_missing_values_are_gaps() -> None:
    values = column([{"a": 1}, {}, {"a": None}, {"a": math.inf}, {"a": "x"}], "a")
    assert values[0] == 1.0
    assert all(math.isnan(value) for value in values[1:])


@pytest.mark.parametrize(("errors", "passed"), [([1e-7, -3e-6], True), ([1e-7, -2e-4], False)])
def test_ratio_check_takes_the_largest_error(errors: list[float], passed: bool) -> None:
    check = ratio_check([{"train/first_minibatch_ratio_error": error} for error in errors])
    assert check is not None
    assert (check.largest, check.passed) == (max(map(abs, errors)), passed)
    assert ratio_check([{}]) is None


# -- Samples and settings --------------------------------------------------------------------------


def test_samples_are_paired_by_prompt_and_order() -> None:
    stages = [("before", "a"), ("after", "b"), ("after", "a"), ("before", "a")]
    samples = [{"stage": stage, "prompt": prompt, "tokens": [f"{i}"]} for i, (stage, prompt) in enumerate(stages)]
    pairs = [
        (pair.prompt, *(side and side.tokens[0].ink for side in (pair.before, pair.after)))
        for pair in before_and_after(samples)
    ]
    assert pairs == [("a", "0", "2"), ("a", "3", None), ("b", None, "1")]


def test_tokens_are_coloured_on_one_scale_for_all_samples() -> None:
    first = before_and_after(SAMPLES)[0]
    assert first.before is not None
    assert first.after is not None
    # The largest reward is 4, so −1 has strength √(1/4), and the deepest tint is 0.72.
    assert [token.colour for token in first.before.tokens] == ["", "rgba(213,78,0,0.36)"]
    assert first.after.tokens[2].colour == "rgba(0,158,115,0.72)"
    assert first.after.tokens[0].title == "token 1 of 3: −0.0100"
    assert (first.after.tokens[1].gap, first.after.tokens[1].ink) == (" ", "delight")


def test_nested_settings_become_dotted_names() -> None:
    config = {"seed": 0, "hyperparameters": {"kl": {"beta": 0.05}, "freeze": None, "sizes": [1, 2]}}
    assert tables(config) == [
        ("run", [("seed", "0")]),
        ("hyperparameters", [("kl.beta", "0.05"), ("freeze", "null"), ("sizes", "[1, 2]")]),
    ]


# -- The page --------------------------------------------------------------------------------------


def test_a_full_run_has_every_section(full_html: str) -> None:
    page = Page(full_html)
    assert page.open == []
    assert "PPO raised the score from −0.07 to 1.96" in page.text
    assert page.headings() == ["Reward model", "While training", "Samples", "Settings"]
    assert sum(tag == "figure" for tag, _ in page.elements) == 3 + 2 + 1
    for told in ("256 episodes", "tokens 4,000", "87.1\u00a0%", "90.2\u00a0%", "✓ trained as sampled"):
        assert told in page.text


def test_a_bare_run_leaves_sections_out(run_dir: Path) -> None:
    for name in ("evaluation.json", "samples.jsonl", "reward_model.json"):
        (run_dir / name).unlink()
    page = page_of(run_dir)
    assert page.headings() == ["While training", "Settings"]
    assert f"PPO on {HOSTILE}" in page.text


def test_nothing_in_a_run_becomes_markup(full_html: str) -> None:
    page = Page(full_html)
    assert HOSTILE in page.text
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "img", "object"}


def test_the_page_asks_for_nothing_outside(full_html: str) -> None:
    assert not re.search(r"https?:|@import|\bsrc=|url\((?!#)", full_html)


def test_every_id_is_one_that_something_points_to(full_html: str) -> None:
    ids = {attributes["id"] for _, attributes in Page(full_html).elements if "id" in attributes}
    assert ids == set(re.findall(r'(?:href="#|url\(#)([^")]+)', full_html))


def test_a_torn_line_costs_only_itself(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 4, "rollout/sc')
    page = page_of(run_dir)
    assert "metrics.jsonl: line 5 is not a JSON object and was left out" in page.text
    assert "iterations 4" in page.text


def test_a_run_without_iterations_still_has_a_page(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").write_text("")
    assert "While training" not in page_of(run_dir).text


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_a_folder_that_is_no_run_is_refused(run_dir: Path, name: str) -> None:
    (run_dir / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing: give write_report the directory of a run"):
        write_report(run_dir)
