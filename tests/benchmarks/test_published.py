"""The published results: today's code still asks for these runs, and says of them what the pages say."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.published import MARK, PAGES, filled, published_files
from textgym.agents.settings import FORMER
from textgym.benchmarks.experiments import find_experiment
from textgym.benchmarks.experiments.kl_frontier.task import SAMPLED
from textgym.benchmarks.experiments.overoptimization.task import ENUMERATION
from textgym.benchmarks.runner.experiment import Experiment, Job, Plan
from textgym.benchmarks.runner.results_file import experiment_of, read_results
from textgym.benchmarks.tuning.trials import tuning_of
from textgym.benchmarks.tuning.tuned_file import apply_tuned, read_tuned
from textgym.commands import bench
from textgym.commands.bench import report, sections
from textgym.commands.configs.bench import BenchReport
from textgym.reports.findings import Findings, Table

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "benchmarks" / "results"
FILES = sorted(PUBLISHED.glob("*.jsonl"))
TUNED = {path.stem.removesuffix("-tuned"): path for path in PUBLISHED.glob("*-tuned.json")}
OF_TODAY = ("diagnostic", "losses", "mini", "mini-untuned", "reward_noise")
"""Files whose runs have the KL of today's defaults."""
SEARCHES = sorted((PUBLISHED / "searches").glob("*.jsonl"))

# The runs are of earlier versions; later ones read them, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*results are of textgym")


@pytest.fixture(scope="module")
def found() -> dict[str, Findings]:
    """Return the findings of the published files, which take long."""
    return sections(published_files())


@pytest.fixture(scope="module")
def again(found: dict[str, Findings], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report, made anew by the command that docs/benchmark.md prints."""
    out, files = tmp_path_factory.mktemp("report"), published_files()

    def known(paths: Sequence[Path]) -> dict[str, Findings]:
        assert list(paths) == files
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "sections", known)
        report(BenchReport(tuple(files), out))
    return out


def plan_of(jobs: list[Job], experiment: Experiment) -> Plan:
    """What the command line was told, read off the runs."""
    trained = [job for job in jobs if job.algorithm not in (ENUMERATION, SAMPLED)]
    algorithms, tasks = (tuple(dict.fromkeys(getattr(job, name) for job in trained)) for name in ("algorithm", "task"))
    first = trained[0].settings
    # A setting that all runs have alike was the command's; others are each algorithm's own.
    values = {
        name: {job.settings[name] for job in trained if name in job.settings} for name in experiment.plan.settings
    }
    changed = {name: next(iter(found)) for name, found in values.items() if len(found) == 1}
    if first.get("trials"):
        changed.pop("learning_rate", None)
    budgets = sorted({job.arm["tokens"] for job in trained if "tokens" in job.arm}, reverse=True)
    if budgets and "budgets" in experiment.plan.settings:
        changed |= {"tokens": budgets[0], "budgets": len(budgets)}
    plan = Plan(algorithms, sorted({job.seed for job in jobs}), tasks, {**experiment.plan.settings, **changed})
    if not first.get("trials"):
        return plan
    # Published files stay what they are when the version moves on.
    tuned = replace(read_tuned(TUNED[experiment.name]), version=metadata.version("textgym"))
    return apply_tuned(TUNED[experiment.name], tuned, experiment, plan)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_runs_are_those_that_the_experiment_asks_for(path: Path) -> None:
    experiment = find_experiment(experiment_of(path))
    jobs = [job for job, _ in read_results(path)]
    asked = {job.key: job for job in experiment.sweep(plan_of(jobs, experiment))}
    for job in jobs:
        # GSPO was run before its KL was exact, as its rows say and tables repeat; published GRPO has a name of its own.
        then = dict(FORMER) if job.label == "gspo (k3)" else {}
        # Runs of 0.2 and before were never tuned, and did not say so.
        untold = {} if "trials" in job.settings else {"trials": 0}
        settings = {**asked[job.key].settings, **then}
        assert {**job.settings, **untold} == {**untold, **settings}, job.key


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_published_score_is_of_an_instance_that_was_tuned_on(path: Path) -> None:
    rows = read_results(path)
    scored = {(job.task, job.seed) for job, _ in rows if job.settings.get("drawn") or path.stem == "diagnostic"}
    for tuned in map(read_tuned, TUNED.values()):
        assert tuned.development
        assert not scored & set(tuned.development)
    if any(job.settings.get("trials") for job, _ in rows):
        name = experiment_of(path)
        assert {job.settings["trials"] for job, _ in rows} == {read_tuned(TUNED[name]).count}


@pytest.mark.parametrize("path", SEARCHES, ids=lambda path: path.stem)
def test_the_tuned_file_is_that_of_the_searchs_runs(path: Path) -> None:
    """Every trial of every algorithm, its score from the run, and the best mean chosen."""
    name = experiment_of(path)
    tuned, score = read_tuned(TUNED[name]), tuning_of(find_experiment(name)).score
    runs = {(job.algorithm, job.arm["trial"], job.task, job.seed): (job, result) for job, result in read_results(path)}
    assert len(runs) == len(tuned.trials) * tuned.count * len(tuned.development)
    for algorithm, trials in tuned.trials.items():
        means = []
        for number, trial in enumerate(trials):
            own = [runs[algorithm, number, *instance] for instance in tuned.development]
            assert [None if "failed" in result else score(job, result) for job, result in own] == list(trial.scores)
            for job, _ in own:
                assert {setting: job.settings[setting] for setting in trial.settings} == dict(trial.settings)
            means.append(-np.inf if None in trial.scores else np.mean([one for one in trial.scores if one is not None]))
        assert tuned.chosen[algorithm] == int(np.argmax(means))
    assert tuned.cpu_seconds == pytest.approx(sum(result.get("cpu_seconds", 0.0) for _, result in runs.values()))


def test_every_search_is_published_with_its_runs() -> None:
    assert TUNED
    assert {experiment_of(path) for path in SEARCHES} == set(TUNED)


def test_no_row_or_table_calls_an_earlier_run_by_the_name_of_todays_default(again: Path) -> None:
    for path in FILES:
        rows = [json.loads(line)["job"] for line in path.read_text("utf-8").splitlines()]
        in_loss = {
            (row["algorithm"], row["settings"]["kl_estimator"]) for row in rows if row["settings"].get("kl_in_loss")
        }
        if path.stem not in OF_TODAY:
            assert in_loss <= {("grpo-published", "k3"), ("gspo", "k3")}, path
    sections = re.split(r"^## ", (again / "report.md").read_text("utf-8"), flags=re.MULTILINE)
    of_today = {*OF_TODAY, *(f"{name} search" for name in TUNED)}
    told = "".join(section for section in sections if section.partition("\n")[0] not in of_today)
    assert "| grpo-published |" in told
    assert "| gspo (k3) |" in told
    assert not re.search(r"\| (grpo|gspo) \|", told)


def test_the_published_tables_are_those_of_the_results(again: Path) -> None:
    tables = [path.name for path in sorted(again.iterdir()) if path.suffix in (".csv", ".md")]
    published = PUBLISHED / "report"
    assert tables == [path.name for path in sorted(published.iterdir()) if path.suffix in (".csv", ".md")]
    for name in tables:
        found, told = (numbers_apart((folder / name).read_text(encoding="utf-8")) for folder in (again, published))
        assert found[0] == told[0], name
        np.testing.assert_allclose(found[1], told[1], rtol=1e-9, err_msg=name)  # releases of SciPy round differently


def numbers_apart(table: str) -> tuple[list[str], list[float]]:
    """Return the text around the decimal fractions of a table, and the fractions."""
    fraction = r"-?\d+\.\d+(?:e[+-]?\d+)?"
    return re.split(fraction, table), [float(number) for number in re.findall(fraction, table)]


def test_every_figure_is_there(again: Path) -> None:
    figures = {path.name for path in again.glob("*.svg")}
    assert figures == {path.name for path in (PUBLISHED / "report").glob("*.svg")}


def test_the_table_of_the_losses_is_that_of_their_runs() -> None:
    """Means over the seeds of each task, in the page on algorithms."""
    header = r"^\| algorithm \| (Emit .*) \| seeds \| CPU s a run \|\n.*\n((?:\|.*\n)+)"
    found = re.search(header, (ROOT / "docs" / "algorithms.md").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    tasks, rows = found[1].split(" | "), [row.strip("| ").split(" | ") for row in found[2].splitlines()]
    runs = read_results(PUBLISHED / "losses.jsonl")
    assert [row[0] for row in rows] == list(dict.fromkeys(job.label for job, _ in runs))
    for name, *means, seeds, _ in rows:
        for task, mean in zip(tasks, means, strict=True):
            scores = [result["score"] for job, result in runs if (job.label, job.task) == (name, task)]
            assert len(scores) == int(seeds)
            assert f"{np.mean(scores):.3f}" == mean, (name, task)


def test_pages_quote_the_results_to_the_last_digit(found: dict[str, Findings]) -> None:
    """Whatever stands between marks is what the committed files say."""
    marked = 0
    for path in PAGES:
        page = path.read_text("utf-8")
        marked += len(MARK.findall(page))
        assert filled(page, found) == page, path.name
    assert marked > 5


def test_sentences_about_learned_rewards_and_references_have_their_rows(found: dict[str, Findings]) -> None:
    page = (ROOT / "docs" / "benchmark.md").read_text("utf-8")
    proxies = _columns(found["overoptimization"].tables[0])
    falls = [one.low > 0 for one in proxies["fall of gold since the peak"]]
    words = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    assert f"then falls for all {words[len(falls)]}, and surely so," in page
    assert all(falls)
    peaks = [one.value for one in proxies["gold at its peak"]]
    assert f"to between {min(peaks):.2f} and {max(peaks):.2f} and then" in page
    ends = [one.value for one in proxies["gold at the end"]]
    assert f"gold ends\n  at {min(ends):.2f} to {max(ends):.2f}, lowest under the untrained larger model" in page
    assert set(proxies["seeds"]) == {5}
    by_rl, by_best = (_columns(found["overoptimization"].tables[i])["AIC of the first less the second"] for i in (1, 2))
    better = sum(one.low > 0 for one in by_rl)
    assert f"surely fits better than d(α − βd) for {words[better]} proxies, for none surely worse" in page
    assert not any(one.high < 0 for one in by_rl)
    assert all(one.high < 0 for one in by_best)
    seen = _columns(found["references"].tables[0])
    score = {
        (name, shown): one.value
        for name, shown, one in zip(*(seen[key] for key in ("algorithm", "seen", "score")), strict=True)
    }
    most = {name: max(shown for other, shown in score if other == name) for name, _ in score}
    sft, ppo, both = (score[name, most[name]] for name in ("sft, 4 passes", "ppo", "sft+ppo"))
    assert "four passes over 4,000 of them end above PPO's 4,000 calls" in page
    assert sft > ppo
    assert score["sft, 4 passes", 1000] == pytest.approx(ppo, abs=0.01), "level with these"
    assert both < max(ppo, score["sft, 1 pass", most["sft, 1 pass"]])


def test_sentences_about_the_alignment_tax_have_their_rows(found: dict[str, Findings]) -> None:
    page = (ROOT / "docs" / "instruct.md").read_text("utf-8")
    columns = _columns(found["alignment_tax"].tables[0])
    rows = {
        (task, str(weight)): dict(zip(columns, row, strict=True))
        for task, weight, row in zip(columns["task"], columns["γ"], zip(*columns.values(), strict=True), strict=True)
    }
    small = [rows[task, "0.1"] for task in ("Reviews", "Concepts")]
    assert "saves more than half of what is forgotten, on both tasks beyond doubt" in page
    assert all(row["tax saved"].low > 0.5 for row in small)
    assert "It costs about 0.02 of gold; five\nseeds do not decide whether that is less than 0.03." in page
    assert all(row["gold change"].low < -0.03 < row["gold change"].high for row in small)
    assert all(round(-row["gold change"].value, 2) == 0.02 for row in small)
    assert set(columns["seeds"]) == {5}
    assert f"at γ = 1\nthe price is {-rows['Reviews', '1']['gold change'].value:.2f} of gold on Reviews" in page
    risen: dict[float, list[float]] = {}
    for job, result in read_results(PUBLISHED / "alignment_tax.jsonl"):
        if job.task == "Reviews":
            rise = result["after"]["loss/Translation"] - result["before"]["loss/Translation"]
            risen.setdefault(job.arm["ptx_coef"], []).append(rise)
    told = f"has risen by {np.mean(risen[0.1]):.2f} with γ = 0.1 and by {np.mean(risen[0.0]):.2f} without the text"
    assert told in page


def test_sentences_about_noise_and_kl_have_their_rows(found: dict[str, Findings]) -> None:
    page = (ROOT / "docs" / "benchmark.md").read_text("utf-8")
    frontier = _columns(found["kl_frontier"].tables[0])
    beside = zip(frontier["gold"], frontier["gold of best-of-n at this KL"], strict=True)
    compared = [(one.value, best.value) for one, best in beside if best is not None]
    assert "the best of n has more gold than PPO wherever both are measured" in page
    assert len(compared) == 4
    assert all(best > one for one, best in compared)
    (base,) = (
        gold.value for n, gold in zip(frontier["β or n"], frontier["gold"], strict=True) if n == 1 and gold.value < 0.6
    )
    assert f"The base model has {base:.2f}." in page
    noise = _columns(found["reward_noise"].tables[0])
    kept = [
        (noisy.value - base) / (clean.value - base) for clean, noisy in zip(noise["σ = 0"], noise["σ = 2"], strict=True)
    ]
    assert max(kept) < 0.5, "less than half of what it learns without noise"


def _columns(table: Table) -> dict[str, list[Any]]:
    return dict(zip(table.columns, map(list, zip(*table.rows, strict=True)), strict=True))
