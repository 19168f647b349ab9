"""The pipeline's page: its figures are those of the stages' files, and what is missing is named."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.test_report import HOSTILE, Page, entry, write_lines
from textgym.intervals import SampleMean
from textgym.reports.before_after import Change
from textgym.reports.pipeline import (
    Journey,
    journeys_of,
    milestones_of,
    pictured,
    pipeline_contents,
    pipeline_headline,
    samples_of,
    write_pipeline_report,
)
from textgym.reports.pipeline_stages import SECTIONS, StageRun

STAGES = [
    {"name": "sft", "kind": "sft", "directory": "sft", "iteration": 0},
    {"name": "labels 1", "kind": "labels", "directory": "iteration-1/labels", "iteration": 1},
    {"name": "reward model 1", "kind": "reward-model", "directory": "iteration-1/reward_model", "iteration": 1},
    {"name": "policy 1", "kind": "train", "directory": "iteration-1/policy", "iteration": 1},
]
SFT = {
    "before": {"score": entry(0.51, 0.02), "gold": entry(0.51, 0.02), "kl": entry(0, 0)},
    "after": {"score": entry(0.7, 0.02), "gold": entry(0.7, 0.02), "kl": entry(1.25, 0.1)},
}
POLICY = {
    "before": {
        "score": entry(-1.5, 0.1),
        "reward_model": entry(-1.5, 0.1),
        "gold": entry(0.69, 0.02),
        "kl": entry(0, 0),
    },
    "after": {
        "score": entry(2.5, 0.1),
        "reward_model": entry(2.5, 0.1),
        "gold": entry(0.97, 0.01),
        "kl": entry(4.9, 0.1),
    },
}
RANKINGS = [
    {"prompt": "p", "completions": ["tie", "tied"], "ranks": [0, 0]},
    {"prompt": HOSTILE, "completions": ["worst", "best", "middling"], "ranks": [2, 0, 1]},
]
CALIBRATION = {"expected_error": 0.096, "bins": [{"count": 3, "predicted": 0.2, "actual": 0.3}, {"count": 0}]}


def dump(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def sample(stage: str, prompt: str, text: str) -> dict[str, Any]:
    return {"stage": stage, "prompt": prompt, "tokens": [text], "token_rewards": [1.0], "score": 1.0, "gold": 0.25}


def make_pipeline(out: Path) -> Path:
    """Return a finished loop of one iteration, with every file that the page reads."""
    sft, labels, reward_model, policy = (out / str(stage["directory"]) for stage in STAGES)
    dump(
        out / "config.json", {"command": "pipeline", "task": HOSTILE, "seed": 7, "iterations": 1, "sft": {"epochs": 2}}
    )
    dump(out / "stages.json", STAGES)
    dump(sft / "evaluation.json", SFT)
    dump(sft / "kept.json", {"epoch": 1, "by": "score"})
    epochs = [
        {"iteration": i, "train/loss": 2.0 - i, "validation/loss": 1.75 + i, "validation/gold": 0.5} for i in range(3)
    ]
    write_lines(sft / "metrics.jsonl", epochs)
    write_lines(sft / "samples.jsonl", [sample("before", "shared", "ugh"), sample("after", "shared", "hm")])
    dump(labels / "labels.json", {"prompts": 300, "pairs": 1791, "labeller": "gold", "dropped": {"empty": 4}})
    write_lines(labels / "rankings.jsonl", RANKINGS)
    found = {"heldout_accuracy": 0.803, "ceiling": 0.868, "pairs": 512, "accuracy_by_distance": {"1": 0.7096, "2": 0.9}}
    dump(reward_model / "reward_model.json", {**found, "loss_curve": [0.75, 0.5]})
    dump(reward_model / "evaluation.json", {"calibration": CALIBRATION, "gold": {"agreement": 0.926}})
    dump(policy / "evaluation.json", POLICY)
    rows = [{"rollout/kl": float(i), "rollout/components/gold": 0.7 + 0.1 * i} for i in range(3)]
    write_lines(policy / "metrics.jsonl", rows)
    answers = [sample("before", "shared", "hm"), sample("after", "shared", "bravo"), sample("after", "alone", "solo")]
    write_lines(policy / "samples.jsonl", answers)
    (policy / "report.html").write_text("the stage's own")
    return out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_pipeline(tmp_path)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page of the finished loop."""
    return read(make_pipeline(tmp_path_factory.mktemp("loop")))


def read(out: Path) -> str:
    return write_pipeline_report(out).read_text(encoding="utf-8")


def told_by(html: str) -> str:
    """Return the page's text, with single spaces and one at least between elements."""
    assert Page(html).open == []
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def runs_of(out: Path) -> list[StageRun]:
    return [StageRun.read(out, stage) for stage in json.loads((out / "stages.json").read_text())]


def headline_of(out: Path) -> tuple[str, str]:
    runs = runs_of(out)
    return pipeline_headline(journeys_of(milestones_of(runs)), runs, "a task")


# -- What the loop did -----------------------------------------------------------------------------


def test_the_headline_tells_gold_from_base_to_the_last_policy(html: str) -> None:
    told = told_by(html)
    assert "The loop raised gold from 0.51 to 0.97" in told
    # 1.96 · √(0.02² + 0.01²) = 0.0438; the steps are 0.70 − 0.51 and 0.97 − 0.70.
    assert "From base to policy 1: +0.46 ± 0.04, a 95 % interval. Step by step: SFT +0.19, policy 1 +0.27." in told
    assert "Policy 1 ended 4.90 ± 0.20 nats per sequence away from SFT." in told


def test_milestones_compare_what_can_be_compared(out: Path) -> None:
    journeys = {journey.name: journey.estimates for journey in journeys_of(milestones_of(runs_of(out)))}
    assert journeys == {
        "gold": {"base": SampleMean(0.51, 0.02), "SFT": SampleMean(0.7, 0.02), "policy 1": SampleMean(0.97, 0.01)},
        # Counted from SFT: its distance from the base model, 1.25, is on another scale.
        "kl": {"base": None, "SFT": SampleMean(0.0, 0.0), "policy 1": SampleMean(4.9, 0.1)},
    }


def test_the_picture_tells_the_same_numbers_as_the_table(out: Path, html: str) -> None:
    gold = journeys_of(milestones_of(runs_of(out)))[0]
    assert re.findall(r">([\w .]+)</text>", gold.svg)[:3] == ["base", "SFT", "policy 1"]
    assert re.findall(r">(0\.\d{3})</text>", gold.svg) == ["0.510", "0.700", "0.970"]
    assert "0.510 ± 0.039 0.700 ± 0.039 0.970 ± 0.020 +0.460 ± 0.044 better" in told_by(html)


def test_without_sft_the_first_policy_begins_at_the_base_model(out: Path) -> None:
    dump(out / "stages.json", STAGES[1:])
    assert list(milestones_of(runs_of(out))) == ["base", "policy 1"]
    assert headline_of(out)[0] == "The loop raised gold from 0.69 to 0.97"


@pytest.mark.parametrize(
    "own",
    [
        {"sft": {"demonstrations": "data.jsonl"}},
        {"validation": "heldout.jsonl"},
        {"train": {"hyperparameters": {"temperature": 0.7}}},
    ],
)
def test_what_fine_tuning_measured_otherwise_is_compared_with_nothing(out: Path, own: dict[str, Any]) -> None:
    dump(out / "config.json", {"command": "pipeline", "task": "a task", **own})
    found = pipeline_contents(out)
    # What SFT earns is told by the first policy's stage, 0.69 before training, not by its own, 0.70.
    gold = found["journeys"][0].estimates
    assert gold == {"SFT": SampleMean(0.69, 0.02), "policy 1": SampleMean(0.97, 0.01)}
    assert found["title"] == "The loop raised gold from 0.69 to 0.97"
    assert [list(series.samples) for series in found["samples"]] == [["SFT", "policy 1"]]


def test_without_gold_the_last_policy_is_judged_by_its_own_reward_model(out: Path) -> None:
    for directory, evaluation in (("sft", SFT), ("iteration-1/policy", POLICY)):
        bare = {side: {k: v for k, v in rows.items() if k != "gold"} for side, rows in evaluation.items()}
        dump(out / directory / "evaluation.json", bare)
    assert headline_of(out)[0] == "Policy 1 raised the score of its own reward model from −1.50 to 2.50"


def test_reward_that_gold_denies_is_called_by_its_name(out: Path) -> None:
    assert "hacking" not in headline_of(out)[1]
    after = {**POLICY["after"], "gold": entry(0.2, 0.01)}
    dump(out / "iteration-1/policy/evaluation.json", {**POLICY, "after": after})
    assert headline_of(out)[1].endswith("Policy 1 earned reward that gold denies: reward hacking.")


def test_what_got_worse_is_said(out: Path) -> None:
    rows = {"before": {**POLICY["before"], "grammatical": entry(0.97, 0.01)}, "after": dict(POLICY["after"])}
    rows["after"]["grammatical"] = entry(0.84, 0.03)
    dump(out / "iteration-1/policy/evaluation.json", rows)
    # 1.96 · √(0.01² + 0.03²) = 0.0620
    assert "Grammatical got worse: −0.130 ± 0.062." in headline_of(out)[1].replace("\u00a0", " ")


@pytest.mark.parametrize(("others", "count"), [(0, 1), (1, 2), (2, 3), (3, 3), (4, 3), (5, 6), (7, 6), (8, 9)])
def test_pictures_fill_their_rows(others: int, count: int) -> None:
    both = Change("gold", SampleMean(0.0), SampleMean(1.0))
    journeys = [Journey(replace(both, name=name), {}) for name in ["gold", *map(str, range(others))]]
    assert pictured(journeys) == count
    assert pictured(journeys[1:]) == others  # without gold, all are small


# -- Stage by stage --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [
        "After 2 epochs over the demonstrations, the model of epoch 1 was kept, chosen by the score of its samples.",
        "1.75 → 2.75",  # validation loss, before training and of the epoch that was kept
        "labeller gold prompts 300 pairs 1791 dropped: empty 4",
        "The reward model orders 80.3 % of held-out pairs as the labeller did",
        "Gold itself orders 86.8 % as the labeller did: of what it gains on chance, the model has 82.3 %",  # 303 / 368
        "judged on 512 held-out pairs; their prompts were not counted, so there is no interval",
        "1 rank apart 71.0 %",
        "error 9.6 %",
        "With gold itself it agrees on 92.6 %",
        "0.700 → 0.900",  # gold while policy 1 trains
    ],
)
def test_each_stage_tells_its_figures(html: str, told: str) -> None:
    assert told in told_by(html)


def test_the_example_is_the_ranking_that_tells_most_apart_best_first(out: Path) -> None:
    labels = runs_of(out)[1]
    assert SECTIONS["labels"](labels)["example"] == {
        "prompt": HOSTILE,
        "ranked": [("1", "best"), ("2", "middling"), ("3", "worst")],
    }


def test_a_stage_links_to_its_own_report_where_it_has_one(html: str) -> None:
    links = [attributes["href"] for tag, attributes in Page(html).elements if tag == "a"]
    assert [link for link in links if link and not link.startswith("#")] == ["iteration-1/policy/report.html"]


def test_prompts_that_all_models_answered_stand_side_by_side(out: Path) -> None:
    (series,) = samples_of(runs_of(out))
    written = {name: shown.tokens[0].ink for name, shown in series.samples.items()}
    assert (series.prompt, written) == ("shared", {"base": "ugh", "SFT": "hm", "policy 1": "bravo"})
    # The score is each reward model's own, so only gold stands below the texts.
    assert series.samples["SFT"].numbers == [("Gold", "0.250")]


# -- Runs that were cut short ----------------------------------------------------------------------


def test_stages_that_are_missing_or_unfinished_are_named(out: Path) -> None:
    ahead = [{"name": f"{name} 2", "kind": "labels", "directory": f"iteration-2/{name}"} for name in ("labels", "more")]
    dump(out / "stages.json", [STAGES[0], STAGES[3], *ahead])
    dump(out / "iteration-2/labels/to_label.jsonl", {"ranks": None})
    dump(out / "iteration-1/policy/evaluation.json", {"before": POLICY["before"]})
    told = told_by(read(out))
    absent = (
        "policy 1 (unfinished), labels 2 (waits for ranks in iteration-2/labels/to_label.jsonl), more 2 (not begun)"
    )
    assert f"The loop is not complete. Missing: {absent}." in told
    assert "stages 1 of 4" in told
    assert "So far, the loop raised gold from 0.51 to 0.70" in told


def test_a_stage_that_was_stopped_says_where_and_why(out: Path) -> None:
    policy = out / "iteration-1" / "policy"
    dump(policy / "evaluation.json", {"before": POLICY["before"]})
    dump(policy / "stopped.json", {"iteration": 3, "reason": "training diverged: the loss is nan"})
    assert "Missing: policy 1 (stopped at iteration 3: training diverged: the loss is nan)." in told_by(read(out))


def test_a_loop_that_has_only_been_planned_has_a_page(tmp_path: Path) -> None:
    dump(tmp_path / "config.json", {"task": "textgym/Reviews-v0"})
    dump(tmp_path / "stages.json", STAGES)
    told = told_by(read(tmp_path))
    assert "The loop on textgym/Reviews-v0" in told
    assert told.count("(not begun)") == 4


def test_a_torn_line_costs_only_itself(out: Path) -> None:
    dump(out / "stages.json", STAGES[3:])
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (out / "iteration-1/policy" / name).open("a") as file:
            file.write('{"rollout/kl": 3')
    told = told_by(read(out))
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert f"policy 1: {name}: line 4 is not a JSON object and was left out" in told
    assert "0.700 → 0.900" in told


@pytest.mark.parametrize("name", ["config.json", "stages.json"])
def test_a_folder_that_is_no_pipeline_is_refused(out: Path, name: str) -> None:
    (out / name).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"{name} is missing: give write_pipeline_report the directory of a run"
    ):
        write_pipeline_report(out)


@pytest.mark.parametrize("stages", [{}, ["sft"], [{"name": "a", "directory": "a", "kind": "prayer"}]])
def test_stages_that_are_none_are_refused(out: Path, stages: Any) -> None:
    dump(out / "stages.json", stages)
    with pytest.raises(ValueError, match=r"stages.json(: stage 0 is .*; expected an object| must hold a JSON list)"):
        write_pipeline_report(out)


# -- The page is whole, closed and safe ------------------------------------------------------------


def test_nothing_in_a_run_becomes_markup(html: str) -> None:
    page = Page(html)
    assert HOSTILE in page.text
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "img", "object"}


def test_the_page_asks_for_nothing_outside(html: str) -> None:
    assert not re.search(r"https?:|@import|\bsrc=|url\((?!#)", html)


def test_every_id_is_one_that_something_points_to(html: str) -> None:
    ids = {attributes["id"] for _, attributes in Page(html).elements if "id" in attributes}
    assert "sft" in ids
    assert ids == set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
