"""The published results: today's code still asks for these runs, and says of them what the pages say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from textgym.agents.settings import FORMER
from textgym.benchmarks.experiments import find_experiment
from textgym.benchmarks.experiments.overoptimization.task import ENUMERATION
from textgym.benchmarks.runner.experiment import Experiment, Job, Plan
from textgym.benchmarks.runner.results_file import experiment_of, read_results
from textgym.commands.bench import report
from textgym.commands.configs.bench import BenchReport

pytestmark = pytest.mark.filterwarnings("ignore:.*results are of textgym 0.1.0")

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "benchmarks" / "results"
FILES = sorted(PUBLISHED.glob("*.jsonl"))

# The runs are of 0.1.0; later versions read them, and say so.
pytestmark = pytest.mark.filterwarnings("ignore:.*results are of textgym")


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report, made anew by the command that docs/benchmark.md prints."""
    out = tmp_path_factory.mktemp("report")
    report(BenchReport(tuple(FILES), out))
    return out


def plan_of(jobs: list[Job], experiment: Experiment) -> Plan:
    """What the command line was told, read off the runs."""
    trained = [job for job in jobs if job.algorithm != ENUMERATION]
    algorithms, tasks = (tuple(dict.fromkeys(getattr(job, name) for job in trained)) for name in ("algorithm", "task"))
    used = {name: trained[0].settings[name] for name in experiment.shared}
    seeds = 1 + max(job.seed for job in jobs)
    return Plan(algorithms, seeds, tasks, {**experiment.plan.settings, **used})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_runs_are_those_that_the_experiment_asks_for(path: Path) -> None:
    experiment = find_experiment(experiment_of(path))
    jobs = [job for job, _ in read_results(path)]
    asked = {job.key: job for job in experiment.sweep(plan_of(jobs, experiment))}
    for job in jobs:
        # GSPO was run before its KL was exact, as its rows say and tables repeat; published GRPO has a name of its own.
        then = dict(FORMER) if job.label == "gspo (k3)" else {}
        assert dict(job.settings) == {**asked[job.key].settings, **then}, job.key


def test_no_row_or_table_calls_an_earlier_run_by_the_name_of_todays_default(again: Path) -> None:
    for path in FILES:
        rows = [json.loads(line)["job"] for line in path.read_text("utf-8").splitlines()]
        in_loss = {
            (row["algorithm"], row["settings"]["kl_estimator"]) for row in rows if row["settings"].get("kl_in_loss")
        }
        if path.stem != "losses":
            assert in_loss <= {("grpo-published", "k3"), ("gspo", "k3")}, path
    sections = re.split(r"^## ", (again / "report.md").read_text("utf-8"), flags=re.MULTILINE)
    told = "".join(section for section in sections if not section.startswith("losses"))
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


@pytest.mark.parametrize("page", ["docs/algorithms.md", "docs/benchmark.md"])
def test_a_table_with_intervals_over_a_suite_is_that_of_the_report(page: str, again: Path) -> None:
    told = (again / "report.md").read_text(encoding="utf-8").splitlines()
    shown = (ROOT / page).read_text(encoding="utf-8")
    tables = re.findall(r"^\| algorithm \| IQM .*\n(?:\|.*\n)+", shown, re.MULTILINE)
    assert tables
    for table in tables:
        assert set(table.splitlines()) <= set(told)
