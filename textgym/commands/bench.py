"""``textgym bench``: run experiments that compare algorithms, resumably, and report their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from textgym.benchmarks.experiments import EXPERIMENTS, find_experiment
from textgym.benchmarks.runner.account import runs_table
from textgym.benchmarks.runner.experiment import Experiment, Job, Plan, Results
from textgym.benchmarks.runner.jobs import run_jobs
from textgym.benchmarks.runner.results_file import experiment_of, origins, read_results
from textgym.benchmarks.runner.same_settings import require_comparable
from textgym.benchmarks.tuning.findings import search_findings
from textgym.benchmarks.tuning.trials import TRIAL, chosen_settings, planned_trials, search_jobs
from textgym.benchmarks.tuning.tuned_file import Tuned, apply_tuned, read_tuned, write_tuned
from textgym.commands.configs.bench import BenchConfig, BenchList, BenchReport, BenchRun, BenchTune
from textgym.files import write_text
from textgym.lm.guards import TrainingError, TrainingWarning
from textgym.names import suggest
from textgym.reports.bench import markdown_page, one_line, terminal_table, write_bench_report
from textgym.reports.findings import Findings

TUNED = ".json"
"""Suffix of tuned files; results files are .jsonl."""
GATHERED = (TrainingWarning,)
"""Warnings that a sweep tells once: many settings of a search move far, which their scores tell, too."""

Chosen: TypeAlias = BenchRun | BenchTune | BenchReport | BenchList


def bench(config: BenchConfig) -> None:
    """Run, report or list experiments, as the settings say.

    Raises:
        ValueError, FileNotFoundError: something is unknown, or a file does not fit; nothing was run then.
    """
    chosen: Chosen = config.action
    if isinstance(chosen, BenchRun):
        run(chosen)
    elif isinstance(chosen, BenchTune):
        tune(chosen)
    elif isinstance(chosen, BenchReport):
        report(chosen)
    else:
        print(listing())


def run(config: BenchRun) -> Findings:
    """Run what is missing, and print the headline with the first table."""
    experiment = find_experiment(config.experiment)
    plan = make_plan(experiment, config)
    if config.tuned is not None:
        plan = apply_tuned(config.tuned, read_tuned(config.tuned), experiment, plan)
    jobs = experiment.sweep(plan)
    out = config.out or Path("bench", f"{experiment.name}.jsonl")
    results = run_jobs(experiment, jobs, out, config.jobs, gathered=GATHERED)
    found = experiment.findings(ordered(results, experiment.plan))
    print(f"\n{terminal_findings(found)}\n")
    print(f"results: {out}\nreport:  textgym bench report {out} --out DIR")
    return found


def tune(config: BenchTune) -> Tuned:
    """Run what is missing of a search, and write its choice.

    Raises:
        ValueError: something is unknown, a search space leaves out a published value, or the file has another search.
    """
    experiment = find_experiment(config.experiment)
    plan = make_plan(experiment, config)
    out = config.out or Path("bench", f"{experiment.name}-tuned.json")
    trials = planned_trials(experiment, plan, config.trials, config.seed)
    jobs = search_jobs(experiment, plan, trials)
    results = run_jobs(experiment, jobs, out.with_suffix(".jsonl"), config.jobs, (TrainingError,), GATHERED)
    tuned = chosen_settings(experiment, plan, trials, results, config.seed)
    write_tuned(out, tuned)
    print(f"\n{terminal_findings(search_findings(tuned))}\n")
    print(f"tuned: {out}\nuse:   textgym bench run {experiment.name} --tuned {out}")
    return tuned


def terminal_findings(findings: Findings) -> str:
    """Return the headline and the first table, for a terminal."""
    return "\n\n".join([one_line(findings.headline), *map(terminal_table, findings.tables[:1])])


def make_plan(experiment: Experiment, config: BenchRun | BenchTune) -> Plan:
    """Return the experiment's own plan with what the user chose.

    Raises:
        ValueError: nothing is left, a name is repeated, or the experiment has no such setting.
    """
    own = experiment.plan
    algorithms = own.algorithms if config.algorithms is None else config.algorithms
    tasks, seeds = own.tasks, own.seeds
    if isinstance(config, BenchRun):
        tasks = tasks if config.tasks is None else config.tasks
        seeds = seeds if config.seeds is None else range(config.seeds)
        seeds = seeds if config.seed is None else (config.seed,)
    if not algorithms or not tasks:
        raise ValueError("algorithms or tasks are empty; expected at least one of each")
    for flag, names in (("algorithms", algorithms), ("tasks", tasks)):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{flag}: {', '.join(twice)} is given more than once; expected each once")
    return Plan(algorithms, seeds, tasks, {**own.settings, **_settings(experiment, config.settings)})


def _settings(experiment: Experiment, given: Mapping[str, float]) -> dict[str, Any]:
    known = experiment.plan.settings
    chosen = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in known:
            hint = suggest(name, known, after=" ")
            raise ValueError(f"{experiment.name} has no setting {name!r}; {hint}It has: {', '.join(known) or 'none'}")
        chosen[name] = value
    return chosen


def ordered(results: Results, plan: Plan) -> Results:
    """Return results in the order of a plan, in which intervals are drawn, whatever order they were made in."""

    def place(known: tuple[str, ...], name: str) -> tuple[int, str]:
        return (known.index(name) if name in known else len(known), name)

    def order(job: Job) -> tuple[Any, ...]:
        return place(plan.algorithms, job.algorithm), place(plan.tasks, job.task), job.seed, job.key

    return sorted(results, key=lambda done: order(done[0]))


def report(config: BenchReport) -> Path:
    """Write the page; each file is a section, under the name of its experiment or, where two share that, its own."""
    if config.out.exists() and not config.out.is_dir():
        raise FileExistsError(f"out={str(config.out)!r} is a file; expected a directory")
    found = sections(config.results)
    config.out.mkdir(parents=True, exist_ok=True)
    page = write_bench_report(found, config.out)
    write_text(config.out / "report.md", "\n".join(markdown_page(title, one) for title, one in found.items()))
    print("\n\n".join(f"{one_line(title)}: {terminal_findings(one)}" for title, one in found.items()))
    print(f"\nreport: {page}")
    return page


def sections(paths: Sequence[Path]) -> dict[str, Findings]:
    """Return the findings of each results file and tuned file, by the title of its section.

    Raises:
        ValueError: there is no file, one is damaged or has runs that must not be compared, or two have one title.
    """
    if not paths:
        raise ValueError("no results files; expected at least one that 'textgym bench run' wrote")
    names = [_section(path) for path in paths]
    titles = [name if names.count(name) == 1 else path.stem for path, name in zip(paths, names, strict=True)]
    if twice := sorted({title for title in titles if titles.count(title) > 1}):
        raise ValueError(f"several results files would be called {', '.join(twice)}; give each a name of its own")
    return {title: _findings(path, name) for path, name, title in zip(paths, names, titles, strict=True)}


def _findings(path: Path, name: str) -> Findings:
    if path.suffix == TUNED:
        return search_findings(read_tuned(path))
    experiment = find_experiment(name)
    results = read_results(path, name)
    if any(TRIAL in job.arm for job, _ in results):
        raise ValueError(f"{path} has the runs of a search; expected its tuned file, {path.with_suffix(TUNED)}")
    require_comparable(path, (job for job, _ in results), experiment.shared)
    results = ordered(results, experiment.plan)
    found = experiment.findings(results)
    return replace(found, tables=(*found.tables, runs_table(experiment, results, origins(path))))


def _section(path: Path) -> str:
    """Return the section of a file: the experiment of a results file, or the search of one."""
    return f"{read_tuned(path).experiment} search" if path.suffix == TUNED else experiment_of(path)


def listing() -> str:
    """Return the experiments with their questions, settings and development instances."""
    lines = []
    for name in EXPERIMENTS:
        experiment = find_experiment(name)
        lines.append(f"{name}: {experiment.question}")
        if settings := ", ".join(f"{key}={value}" for key, value in experiment.plan.settings.items()):
            lines.append(f"    settings: {settings}")
        if (tuning := experiment.tuning) is not None:
            instances = ", ".join(f"{task} {seed}" for seed in tuning.seeds for task in tuning.tasks)
            lines.append(f"    tuned on instances: {instances}")
    return "\n".join(lines)
