"""Run directories, read and grouped for comparison: runs whose settings differ only in the seed are one group.

What cannot be compared is refused in words: runs that answered other prompts, that have no number in common, or that
are one run given twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from textgym.agents.offline.alignment_tax import in_short
from textgym.agents.settings import effective
from textgym.intervals import SampleMean
from textgym.reports.before_after import METRICS, Metric, metric, sample_mean
from textgym.reports.formatting import count_of, is_finite
from textgym.reports.headlines import PREFERENCES, STEP_NAMES, stop_sentence
from textgym.reports.heldout_accuracy import heldout_accuracy
from textgym.reports.run_files import read_run_lines, read_run_object
from textgym.reports.settings import LATER, MAY_DIFFER, ZERO_IS_NONE, by_name, flat
from textgym.rewards.specs.addresses import model_directory

_NEEDED_BY = "textgym compare"
COMPARED_COMMANDS = ("train", "sft", "dpo", "kto", "distill", "reward-model")
STOPS = ("stop_score", "stop_kl", "stop_patience")
CHANGES_NO_NUMBER = (*MAY_DIFFER, "checkpoint_every", "eval_every", "keep_best", "skip_bad", "reward_timeout")
"""Settings without effect on the numbers: output, logging, early stopping, and checks of the data."""
LEFT_OUT = ("seed", "out", "overwrite", "resume", "versions", "inputs", *CHANGES_NO_NUMBER)
"""Settings by which repetitions of one run may differ."""
REWARDED = "reward"
REWARD_SETTINGS = (REWARDED, "gold")
"""Settings that may hold several addresses of rewards, separated by spaces."""
LISTED = 4  # settings in a group's name; the page lists all of them
ABSENT = "–"

MEASURES: Mapping[str, Metric] = {
    "validation loss": Metric("Validation loss", "nats per token", -1),
    "held-out accuracy": Metric("Held-out accuracy", "share of pairs", 1),
    "held-out margin": Metric("Held-out margin", "implicit rewards", 1),
    "held-out loss": Metric("Held-out loss", "of the preferences", -1),
    "longer text": Metric("Longer text is better", "share of pairs"),
}
"""Numbers that no evaluation of responses has, the most important first."""
LOSS_OF_PREFERENCES = "held-out loss"
OF_PAIRS = ("held-out accuracy", "held-out margin", LOSS_OF_PREFERENCES)
CURVES_OF_PAIRS = ("validation/accuracy", "validation/margin", "validation/loss")
CURVES_OF_SCORES = ("rollout/score", "validation/score")

PromptSource = tuple[str, str, str | None]
"""The setting that names the evaluation prompts, its value, and the file's SHA-256 if the run recorded it."""


@dataclass(frozen=True)
class Measurement:
    """A measure of one run, with its 95 % interval over episodes or prompts; None where it has none."""

    mean: float
    low: float | None = None
    high: float | None = None
    n: float | None = None

    @classmethod
    def of(cls, estimate: SampleMean) -> Measurement:
        """Return a mean with Student's interval."""
        if estimate.half is None:
            return cls(estimate.mean, n=estimate.n)
        return cls(estimate.mean, estimate.low, estimate.high, estimate.n)


@dataclass(frozen=True)
class ComparedRun:
    """A run directory, as far as it is compared.

    Attributes:
        path: the directory.
        command: the command that made it.
        settings: by dotted name, without those of :data:`LEFT_OUT`.
        seed: random seed of the run.
        versions: versions of the packages that made it.
        stops: settings that may end it early, by name.
        ended_early: True if they did.
        questions: the source of its evaluation prompts.
        pairs: the source of the preferences that ``dpo`` or ``kto`` was evaluated on; None for other commands.
        measured: its results, by the name of the measure; empty if it is not finished.
        rows: rows of ``metrics.jsonl``.
        note: why it is not finished, or empty.
        notices: lines that could not be read.
    """

    path: Path
    command: str
    settings: Mapping[str, Any]
    seed: int
    versions: Mapping[str, Any]
    stops: Mapping[str, Any]
    ended_early: bool
    questions: PromptSource
    pairs: PromptSource | None
    measured: Mapping[str, Measurement]
    rows: Sequence[Mapping[str, Any]]
    note: str
    notices: Sequence[str]

    @property
    def unit(self) -> str:
        """The unit of the horizontal axis of its curves."""
        return f"{STEP_NAMES[self.command]}s" if self.command in STEP_NAMES else "tokens"


@dataclass(frozen=True)
class Group:
    """Runs of the same settings, one for each seed.

    Attributes:
        name: the settings that distinguish it.
        runs: by seed, in order.
    """

    name: str
    runs: tuple[ComparedRun, ...]

    @property
    def finished(self) -> tuple[ComparedRun, ...]:
        return tuple(run for run in self.runs if run.measured)

    def values(self, measure: str) -> dict[int, float]:
        """Return a measure by seed, of the runs that have it."""
        return {run.seed: run.measured[measure].mean for run in self.runs if measure in run.measured}


def describe_measure(measure: str) -> Metric:
    """Return the label, unit and better direction of a measure."""
    return MEASURES.get(measure) or metric(measure)


# -- Reading ---------------------------------------------------------------------------------------


def read_run(path: Path) -> ComparedRun:
    """Read a run directory, finished or not.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no run of a command in :data:`COMPARED_COMMANDS`, or one of its files is damaged.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{str(path)!r}: no such directory; give {_NEEDED_BY} the directories of runs")
    if (path / "stages.json").exists():
        stages = [str(path / str(stage.get("directory"))) for stage in _stages(path)]
        raise ValueError(f"{str(path)!r} is a pipeline; give its stages instead: {', '.join(stages) or 'it has none'}")
    config = _config(path)
    rows, notices = read_run_lines(path / "metrics.jsonl")
    evaluation, stopped = read_run_object(path / "evaluation.json"), read_run_object(path / "stopped.json")
    command = str(config["command"])
    found = _measured(path, command, config, evaluation, rows)
    given = {name: value or None if name in ZERO_IS_NONE else value for name, value in by_name(config).items()}
    settings = _within_a_pipeline(path, {name: value for name, value in given.items() if name not in LEFT_OUT})
    return ComparedRun(
        path=path,
        command=command,
        settings={**settings, **_contents(settings, config.get("inputs") or {})},
        seed=int(config.get("seed") or 0),
        versions=config.get("versions") or {},
        stops=_stops(given),
        ended_early=bool(evaluation.get("stopped_early")),
        questions=_asked(config, _asking(config)),
        pairs=_asked(config, "validation" if config.get("validation") else "data") if command in PREFERENCES else None,
        measured=found,
        rows=rows,
        note=_unfinished(command, rows, stopped, bool(found)),
        notices=notices,
    )


def _config(path: Path) -> dict[str, Any]:
    """Return the settings of a run; raise ValueError for a directory that is not a run."""
    try:
        config = read_run_object(path / "config.json", _NEEDED_BY)
    except FileNotFoundError as error:
        raise ValueError(f"{str(path)!r} is not a run: it has no config.json") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{str(path / 'config.json')!r} is damaged: {error}") from error
    if config.get("command") not in COMPARED_COMMANDS:
        what = (
            f"is a run of {config['command']!r}" if "command" in config else "is no run: its config.json has no command"
        )
        raise ValueError(f"{str(path)!r} {what}; compared are runs of {', '.join(COMPARED_COMMANDS)}")
    return config


def _stages(path: Path) -> list[Mapping[str, Any]]:
    stages = json.loads((path / "stages.json").read_text(encoding="utf-8"))
    return [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []


def _stops(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that may end training early; None for those without effect."""
    found = {name: settings.get(name) for name in STOPS}
    looks = any(value is not None for value in found.values())
    return {
        **found,
        "eval_every": settings.get("eval_every") if looks else None,
        "keep_best": settings.get("keep_best") if found["stop_patience"] is not None else None,
    }


def with_later_settings(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return runs with all settings that newer runs of their command have, at the default of older versions."""
    known = {(run.command, name) for run in runs for name in run.settings}

    def later(run: ComparedRun) -> dict[str, Any]:
        return {name: value for name, value in LATER.items() if (run.command, name) in known}

    return [replace(run, settings=effective({**later(run), **run.settings})) for run in runs]


def _within_a_pipeline(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stage's settings, with paths into its own pipeline relative to the pipeline.

    Two pipelines with other seeds then have equal settings, though their directories differ.
    """
    root = next((parent for parent in path.resolve().parents if (parent / "stages.json").exists()), None)
    if root is None:
        return dict(settings)
    places = sorted({str(stage.get("directory")) for stage in _stages(root)}, key=len, reverse=True)
    # Longest first, so that 'iteration-1/policy' is not cut at 'iteration-1'.
    own = rf"/({'|'.join(map(re.escape, places))})(?=[/,]|$)"
    address, file = re.compile(rf"[^:,\s]*{own}"), re.compile(rf"^.*{own}")
    return {
        name: (address if name in REWARD_SETTINGS else file).sub(r"…/\1", v) if isinstance(v, str) else v
        for name, v in settings.items()
    }


def _contents(settings: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the first letters of the inputs' digests as settings, as files may have been edited between two runs.

    An input that the same pipeline made is left out, as it follows from the settings and the seed.
    """
    found: dict[str, str] = {}
    for name, value in settings.items():
        named = value.split() if isinstance(value, str) and name in REWARD_SETTINGS else [value]
        digests = [digest[:12] for item in named if (digest := _digest(name, item, inputs))]
        if digests:
            found[f"{name} (content)"] = " ".join(digests)
    return found


def _digest(name: str, value: Any, inputs: Mapping[str, str]) -> str | None:
    """Return the SHA-256 that a run recorded of the input that a setting names; None without one."""
    if not isinstance(value, str) or not value:
        return None
    if name not in REWARD_SETTINGS:
        return inputs.get(str(Path(value)))
    directory, source = model_directory(value), value.partition(",")[0].rpartition(":")[0]
    if directory or source.endswith(".py"):
        return inputs.get(str(Path(directory or source)))
    module = f"/{source.replace('.', '/')}"  # the path of its file is where it was installed
    ends = (f"{module}.py", f"{module}/__init__.py")
    return next((digest for path, digest in inputs.items() if source and path.endswith(ends)), None)


def _asked(config: Mapping[str, Any], name: str) -> PromptSource:
    value = str(config.get(name))
    return name, value, _digest(name, value, config.get("inputs") or {})


def _asking(config: Mapping[str, Any]) -> str:
    """Return the name of the setting that decides the evaluation prompts of a run."""
    command, task = config.get("command"), config.get("task")
    if command == "reward-model":
        return "validation" if config.get("validation") else "data"
    if command in PREFERENCES:
        return "task" if task else "validation" if config.get("validation") else "data"
    if config.get("validation"):
        return "validation"
    own = "prompts" if "prompts" in config else "data"
    return own if config.get(own) else "task"


def _measured(
    path: Path,
    command: str,
    config: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, Measurement]:
    """Return the results of a finished run, by measure; empty if it is not finished."""
    if command == "reward-model":
        return _of_preferences(evaluation)
    after = evaluation.get("after")
    if not isinstance(after, dict):
        return {}
    found = {
        name: Measurement.of(sample_mean(after[name], config.get("eval_episodes")))
        for name in in_short(after)
        if isinstance(after[name], dict) and is_finite(after[name].get("mean"))
    }
    return {**_of_epochs(path, command, rows), **found}


def _of_preferences(evaluation: Mapping[str, Any]) -> dict[str, Measurement]:
    judgement = heldout_accuracy({}, evaluation)
    found = {"held-out accuracy": judgement.accuracy, "longer text": judgement.longer}
    measured = {
        name: Measurement(share.value, share.low, share.high, judgement.prompts)
        for name, share in found.items()
        if share
    }
    loss = evaluation.get("loss")
    if measured and loss is not None and is_finite(loss):
        measured[LOSS_OF_PREFERENCES] = Measurement(float(loss))
    return measured


def _of_epochs(path: Path, command: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Measurement]:
    """Return the losses and margins of the model that is kept."""
    if command == "sft":
        kept = read_run_object(path / "kept.json").get("epoch")
        loss = next((row.get("validation/loss") for row in rows if row.get("iteration") == kept), None)
        return {"validation loss": Measurement(loss)} if isinstance(loss, float) and is_finite(loss) else {}
    if command not in PREFERENCES or not rows:
        return {}
    last = {name.removeprefix("validation/"): value for name, value in rows[-1].items()}
    names = {"held-out accuracy": "accuracy", "held-out margin": "margin", LOSS_OF_PREFERENCES: "loss"}
    found = {
        name: Measurement.of(SampleMean(float(last[key]), last.get(f"{key}_sem"), last.get("prompts")))
        for name, key in names.items()
        if is_finite(last.get(key))
    }
    # A share near 0 or 1 has an asymmetric interval, which mean and error cannot express.
    if "accuracy_low" in last and "held-out accuracy" in found:
        ends = float(last["accuracy_low"]), float(last["accuracy_high"])
        found["held-out accuracy"] = Measurement(found["held-out accuracy"].mean, *ends, last.get("prompts"))
    return found


def _unfinished(command: str, rows: Sequence[Mapping[str, Any]], stopped: Mapping[str, Any], finished: bool) -> str:
    """Return why a run has no results, or where it was stopped; empty for a complete run."""
    step = STEP_NAMES.get(command, "iteration")
    reason = stop_sentence(stopped, step)
    if finished or reason:
        return reason
    done = max((int(row.get("iteration", 0)) for row in rows), default=0)
    return f"Not finished: {count_of(done, step)} so far, and nothing was measured afterwards."


# -- Grouping --------------------------------------------------------------------------------------


def read_runs(paths: Sequence[Path]) -> list[ComparedRun]:
    """Read runs that can be compared with each other.

    Raises:
        FileNotFoundError: one of them does not exist.
        ValueError: fewer than two, one given twice, no run, other prompts, or rewards that differ without gold.
    """
    if len(paths) < 2:
        raise ValueError(f"{count_of(len(paths), 'run')} given; expected at least two to compare")
    seen: dict[Path, Path] = {}
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"{str(path)!r} is given twice (as {str(seen[path.resolve()])!r}); give each run once")
        seen[path.resolve()] = path
    runs = with_later_settings([read_run(path) for path in paths])
    _require_one_question(runs)
    return comparable(runs)


def _require_one_question(runs: Sequence[ComparedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if not _same(run.questions, first.questions):
            edited = run.questions[:2] == first.questions[:2]
            why = "the file was edited in between: " if edited else ""
            raise ValueError(
                f"{str(run.path)!r} was measured on other prompts than {str(first.path)!r} ({why}"
                f"{_source_text(run.questions, edited)}; there {_source_text(first.questions, edited)}); compare runs "
                "of one task, or of the same files"
            )
        if (run.command == "reward-model") != (first.command == "reward-model"):
            raise ValueError(
                f"{str(run.path)!r} is a run of {run.command}, {str(first.path)!r} of {first.command}: a reward model "
                "and a policy have no number in common"
            )


def _same(one: PromptSource, other: PromptSource) -> bool:
    """Return True for files of equal content, wherever they are; without digests, for equal settings."""
    (a, ours, held), (b, theirs, holds) = one, other
    return a == b and (held == holds if held and holds else ours == theirs)


def _source_text(asked: PromptSource, with_content: bool) -> str:
    name, value, content = asked
    return f"{name}={value!r}" + (f", SHA-256 {content[:12]}…" if with_content and content else "")


def comparable(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return runs with only those measures and curves that have the same meaning in all of them.

    Where rewards differ, scores do too; gold is what they can be compared by. Where runs held out other preferences, or
    one learned from pairs and another from labels, what was measured on them differs; where losses differ, their values
    do.

    Raises:
        ValueError: rewards differ, and there is a finished run without gold.
    """
    return _of_one_reward(_of_one_loss(_of_the_same_pairs(runs)))


def _of_the_same_pairs(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return runs without their measures on held-out pairs if these differ, with a notice."""

    def others(run: ComparedRun) -> list[ComparedRun]:
        return [
            other
            for other in runs
            if run.pairs and other.pairs and not (other.command == run.command and _same(run.pairs, other.pairs))
        ]

    if not any(map(others, runs)):
        return list(runs)
    return [run if run.pairs is None else _without_pairs(run, others(run)) for run in runs]


def _without_pairs(run: ComparedRun, others: Sequence[ComparedRun]) -> ComparedRun:
    reasons = [
        f"{other.path} held out other pairs ({_source_text(other.pairs, True)})"
        if other.command == run.command
        else f"{other.path} is a run of {other.command}, which measures them in another way"
        for other in others
        if other.pairs
    ]
    why = (
        f"Held-out accuracy, margin and loss are left out: {reasons[0] if reasons else 'others held out other pairs'}."
    )
    return replace(_without(run, OF_PAIRS, CURVES_OF_PAIRS), notices=[*run.notices, why])


def _of_one_loss(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return runs without the loss on preferences if they minimised several, with a notice."""
    names = sorted({str(run.settings.get("algorithm")) for run in runs if run.pairs})
    if len(names) < 2:
        return list(runs)
    why = f"Losses are left out: those of {' and '.join(names)} are different functions."
    lost = [LOSS_OF_PREFERENCES], ["validation/loss", "train/loss"]
    return [replace(_without(run, *lost), notices=[*run.notices, why]) if run.pairs else run for run in runs]


def _without(run: ComparedRun, measures: Sequence[str], curves: Sequence[str]) -> ComparedRun:
    measured = {name: reached for name, reached in run.measured.items() if name not in measures}
    rows = [{name: value for name, value in row.items() if name not in curves} for row in run.rows]
    return replace(run, measured=measured, rows=rows)


def _of_one_reward(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    rewards = {_reward(run) for run in runs if run.command != "reward-model"}
    if len(rewards) < 2:
        return list(runs)
    lacking = [run for run in runs if run.measured and "gold" not in run.measured]
    if lacking:
        raise ValueError(
            f"the rewards of these runs differ ({'; '.join(sorted(rewards))}), so their scores say nothing of each "
            f"other, and {str(lacking[0].path)!r} has no gold to compare by; train with --task, whose gold is measured "
            "beside any reward"
        )
    kept = {*METRICS, *MEASURES} - {"score"}
    return [_without(run, [name for name in run.measured if name not in kept], CURVES_OF_SCORES) for run in runs]


def _reward(run: ComparedRun) -> str:
    """Return the reward that a run's score is."""
    given, content = run.settings.get(REWARDED), run.settings.get(f"{REWARDED} (content)")
    if given is None:
        return "the task's" if run.settings.get("task") else "none"
    return str(given) if content is None else f"{given}, SHA-256 {content}…"


def grouped(runs: Sequence[ComparedRun]) -> list[Group]:
    """Group runs by their settings, in the order given; seeds are repetitions.

    Where two runs differ by nothing but versions, these count as settings.

    Raises:
        ValueError: two runs have the same settings and the same seed.
    """
    runs = _with_stops(runs)
    twins = {key: [run for run in runs if _key(run) == key] for key in map(_key, runs)}
    # Only then: otherwise an update of a package between two seeds would split every group.
    doubled = any(len({run.seed for run in own}) < len(own) for own in twins.values())
    if doubled:
        runs = [replace(run, settings={**run.settings, **flat({"version": dict(run.versions)})}) for run in runs]
    groups: dict[str, list[ComparedRun]] = {}
    for run in runs:
        others = groups.setdefault(_key(run), [])
        twin = next((other for other in others if other.seed == run.seed), None)
        if twin is not None:
            raise ValueError(
                f"{str(run.path)!r} and {str(twin.path)!r} have the same settings and the same seed, {run.seed}: one "
                "run done twice would count as two (settings of output and logging are ignored); "
                "leave one of them out"
            )
        others.append(run)
    names = group_names([own[0] for own in groups.values()])
    ordered = (sorted(own, key=lambda run: run.seed) for own in groups.values())
    return [Group(name, tuple(own)) for name, own in zip(names, ordered, strict=True)]


def _key(run: ComparedRun) -> str:
    """Return the settings as text; a setting that is unset counts as absent."""
    given = {name: value for name, value in run.settings.items() if value is not None}
    return json.dumps(given, sort_keys=True, default=str)


def _with_stops(runs: Sequence[ComparedRun]) -> list[ComparedRun]:
    """Return runs with their stop settings, where one of the runs with equal other settings was stopped by them."""
    # A stop rule that never fired cannot have changed a number, so it does not separate runs.
    ended = {_key(run) for run in runs if run.ended_early}
    return [replace(run, settings={**run.settings, **run.stops}) if _key(run) in ended else run for run in runs]


NAMING_SETTINGS = ("command", "algorithm", "model", "reward", "data", "learning_rate", "beta", "kl_target", "epochs")
"""Settings that name a group before others do: those that experiments are about."""


def settings_that_differ(groups: Sequence[ComparedRun]) -> list[str]:
    """Return the settings in which some of these runs differ; those of :data:`NAMING_SETTINGS` come first."""
    names = dict.fromkeys(name for run in groups for name in run.settings)
    found = [name for name in names if len({_shown(run.settings.get(name)) for run in groups}) > 1]
    return sorted(
        found, key=lambda name: NAMING_SETTINGS.index(name) if name in NAMING_SETTINGS else len(NAMING_SETTINGS)
    )


def group_names(first: Sequence[ComparedRun]) -> list[str]:
    """Return a name for each group: its algorithm if algorithms differ, and the settings that distinguish it."""
    kinds = [(run.command, run.settings.get("algorithm")) for run in first]
    found = []
    for run, kind in zip(first, kinds, strict=True):
        alike = [other for other, own in zip(first, kinds, strict=True) if own == kind]
        names = [name for name in settings_that_differ(alike) if name != "algorithm"]
        found.append(_name(run, [*(["algorithm"] if len(alike) < len(first) or not names else []), *names]))
    return [
        name if found.count(name) == 1 else f"{name} ({found[: i + 1].count(name)})" for i, name in enumerate(found)
    ]


def _name(run: ComparedRun, names: Sequence[str]) -> str:
    """Return an algorithm by its name alone and other settings with theirs; those that the run lacks are left out."""
    own = [name for name in names if name in run.settings and name != "command"]
    parts = [_word(name, run.settings[name]) for name in own[:LISTED]]
    more = [f"and {count_of(len(own) - LISTED, 'more setting')}"] if len(own) > LISTED else []
    return ", ".join([*parts, *more]) or str(run.settings.get("algorithm", run.command))


def _word(name: str, value: Any) -> str:
    return str(value) if name == "algorithm" else f"{name} {'unset' if value is None else _shown(value)}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def settings_table(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """Return a row for each setting that differs: its name, and its value in each group."""
    first = [group.runs[0] for group in groups]
    return [
        (name, *(_shown(run.settings[name]) if name in run.settings else ABSENT for run in first))
        for name in settings_that_differ(first)
    ]
