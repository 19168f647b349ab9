"""A run: a directory with its configuration, metrics, samples, evaluation, checkpoint and report."""

from __future__ import annotations

import json
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from importlib import metadata
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from tqdm import tqdm

from textgym.agents.algorithm import SequenceAlgorithm
from textgym.agents.evaluation import Report, evaluate, samples
from textgym.agents.forgetting import OF_TASK, OTHERS, PTX, in_short
from textgym.agents.guards import TrainingWarning
from textgym.agents.policy import LMPolicy
from textgym.benchmarks.report import write_report
from textgym.files import remove_directory, write_json, write_text
from textgym.lm.scoring import Trunk
from textgym.mdp import TokenMDP
from textgym.rendering import printable
from textgym.rewards.resolve import model_directory

CHECKPOINT = "checkpoint"
SAMPLES_KEPT = 24
NAMELESS = ("hyperparameters", "settings")  # parts whose settings are called by their own names
LATER: Mapping[str, Any] = {
    "bad_rows": "error",
    "special_tokens": "parse",
    "skip_special_tokens": True,
    "warmup_iterations": 0,
}
"""Settings that came later, with the values that mean what was done before: those of runs that do not have them."""
PACKAGES = ("textgym", "torch", "transformers", "gymnasium", "stable-baselines3", "accelerate", "numpy")

Config = TypeVar("Config")


def model_source(source: str) -> str:
    """Where a model lies: a run's directory stands for its checkpoint."""
    checkpoint = Path(source) / CHECKPOINT
    return str(checkpoint) if checkpoint.is_dir() else source


def versions() -> dict[str, str]:
    """What made the numbers."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def settings_of(config: Any) -> dict[str, Any]:
    """A command's dataclass as ``config.json`` keeps it; where the run stands and how it was begun is left out."""
    kept = {name: value for name, value in asdict(config).items() if name not in ("out", "overwrite", "resume")}
    plain: dict[str, Any] = _plain(kept)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, Path) else value


def begun_with(config: Any) -> dict[str, Any] | None:
    """The settings of the run that a command is to resume, by name, with those that came later; None without one."""
    if not (config.resume and _is_run(config.out)):
        return None
    return {**LATER, **_flat(json.loads((config.out / "config.json").read_text(encoding="utf-8")))}


def as_begun(config: Config) -> Config:
    """A command's settings; in a run to resume, those of :data:`LATER` that stand at their defaults are the run's."""
    begun = begun_with(config)
    if begun is None:
        return config
    given: Any = config
    left = [f.name for f in fields(given) if f.name in LATER and getattr(given, f.name) == f.default]
    made: Config = replace(given, **{name: begun[name] for name in left})
    return made


def check_run(out: Path, config: Mapping[str, Any], overwrite: bool, resume: bool) -> bool:
    """Whether a run may begin or go on in a directory; nothing is written.

    Returns:
        Whether there is a checkpoint to continue from.

    Raises:
        FileExistsError: something stands there and neither ``overwrite`` nor ``resume`` is set, or it is no run.
        ValueError: the run to resume had other settings, which are named; or the run to overwrite holds what this one
            reads.
    """
    if not run_to_resume(out, overwrite, resume):
        require_inputs_outside(out, config)
        return False
    _require_equal(json.loads((out / "config.json").read_text(encoding="utf-8")), dict(config), out)
    cut_off = next(out.glob(f".{CHECKPOINT}.*"), None)
    if cut_off is not None and not (out / CHECKPOINT).is_dir():
        raise ValueError(
            f"the run was killed while a checkpoint was replaced; the older one is in {str(cut_off / 'old')!r}: rename "
            f"it to {str(out / CHECKPOINT)!r}"
        )
    if not (out / CHECKPOINT).is_dir():
        print(f"--resume: {str(out)!r} has no checkpoint yet")
    return (out / CHECKPOINT).is_dir()


def run_to_resume(out: Path, overwrite: bool, resume: bool) -> bool:
    """Whether a run stands in a directory and is to be continued; nothing is written.

    Raises:
        FileExistsError: something stands there and neither ``overwrite`` nor ``resume`` is set, or it is no run.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        if resume:
            print(f"--resume: nothing stands in {str(out)!r}, so the run begins anew")
        return False
    is_run = _is_run(out)
    if not (is_run and (overwrite or resume)):
        mend = "pass --overwrite to replace it or --resume to continue it" if is_run else "choose another directory"
        raise FileExistsError(f"out={str(out)!r} exists and {'is a run' if is_run else 'is not a run'}; {mend}")
    return resume


def require_inputs_outside(out: Path, config: Mapping[str, Any]) -> None:
    """ValueError where a setting names a file or directory inside the one that is overwritten."""
    for value in _flat(config).values():
        for text in value if isinstance(value, list | tuple) else [value]:
            path = _path_in(text) if isinstance(text, str) else None
            if path is not None and path.resolve().is_relative_to(out.resolve()):
                raise ValueError(
                    f"{str(path)!r} lies in out={str(out)!r}, which --overwrite removes; choose another out"
                )


def _path_in(text: str) -> Path | None:
    """The path that a setting names, alone or as in 'rm:DIR' and 'file.py:function', with or without ',weight'."""
    bare = model_directory(text) or text.partition(",")[0]
    named = (Path(part) for part in (text, bare, bare.rpartition(":")[0]) if part)
    return next((path for path in named if path.exists()), None)


def _is_run(out: Path) -> bool:
    """Whether this command made the directory; a model's directory also holds a config.json."""
    try:
        return bool({"command", "versions"} <= json.loads((out / "config.json").read_text(encoding="utf-8")).keys())
    except (OSError, ValueError, AttributeError):
        return False


def begin_run(out: Path, config: Mapping[str, Any], overwrite: bool) -> None:
    """Makes the directory of a new run; with ``overwrite`` the run that :func:`check_run` found there is removed."""
    if overwrite and out.is_dir():
        remove_directory(out)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "config.json", {**config, "versions": versions()})


def _require_equal(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """A run goes on with the settings it began with, or its numbers would mean nothing."""
    difference = changed_settings(old, new)
    if difference:
        raise ValueError(f"--resume of {str(out)!r} with other settings ({difference}); repeat the run's own settings")


def changed_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What differs between the settings that a run began with and others, in words; empty where nothing does."""
    here = _comparable(json.loads(json.dumps(new)))
    there = {name: value for name, value in LATER.items() if name in here} | _comparable(old)
    changed = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    return ", ".join(f"{key}: {there.get(key)!r} there, {here.get(key)!r} here" for key in changed)


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name, equal where they mean the same."""
    found = _flat(config)
    return {**found, "target_kl": found.get("target_kl") or None}  # no bound is 0 or None


def _flat(config: Mapping[str, Any], part: str = "") -> dict[str, Any]:
    """Settings by the names that the command line has for them, those of a part after its name and a dot."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if not isinstance(value, dict):
            found[part + name] = value
        elif name != "versions":  # which are no settings
            found |= _flat(value, part if name in NAMELESS else f"{part}{name}.")
    return found


class MetricsFile(KVWriter):
    """Appends one JSON object per iteration to ``metrics.jsonl``.

    Args:
        path: the file.
        iterations: how many iterations the checkpoint has seen; later lines belong to work that is done again.
    """

    def __init__(self, path: Path, iterations: int = 0) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        write_text(path, "".join(line + "\n" for line in lines[:iterations]))

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        row: dict[str, Any] = {"iteration": int(key_values.get("time/iterations", 0))}
        row |= {key: float(value) for key, value in sorted(key_values.items()) if isinstance(value, Real)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Nothing is held open."""


class SaveEvery(BaseCallback):
    """Saves a checkpoint every ``iterations`` iterations, at their boundary, and one at the end."""

    def __init__(self, directory: Path, iterations: int) -> None:
        super().__init__()
        self.directory = directory
        self.iterations = iterations

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        done = self._algorithm.iteration
        if done and done % self.iterations == 0:
            self._algorithm.save(self.directory)

    def _on_training_end(self) -> None:
        self._algorithm.save(self.directory)

    @property
    def _algorithm(self) -> SequenceAlgorithm:
        assert isinstance(self.model, SequenceAlgorithm)
        return self.model


class Evaluator:
    """Measures a policy before and after training, on the same prompts, and keeps what it found in the run.

    Args:
        out: the run.
        mdp: prompts, and the reward that judges.
        n_episodes: responses.
        seed: of the sampling.
        further: measures something else of the policy, as mean and standard error by name.
    """

    def __init__(
        self,
        out: Path,
        mdp: TokenMDP,
        n_episodes: int,
        seed: int,
        further: Callable[[LMPolicy], Mapping[str, Mapping[str, float]]] | None = None,
    ) -> None:
        self.out = out
        self.mdp = mdp
        self.n_episodes = n_episodes
        self.seed = seed
        self.further = further or (lambda _: {})

    def __call__(self, stage: str, algorithm: SequenceAlgorithm) -> Report:
        return self.measure(stage, algorithm.policy, algorithm.reference_trunk, algorithm.kl.beta)

    def measure(self, stage: str, policy: LMPolicy, reference: Trunk, beta: float = 0.0) -> Report:
        """Measures a policy; with ``beta``, samples show the rewards of their tokens less the price of KL."""
        report = evaluate(policy, reference, self.mdp, self.n_episodes, self.seed)
        rows = samples(report, self.mdp, stage, beta, SAMPLES_KEPT)
        others = [row for row in _read_rows(self.out / "samples.jsonl") if row["stage"] != stage]
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in [*others, *rows]]
        write_text(self.out / "samples.jsonl", "".join(lines))
        # Last, since a stage that stands here is not measured again.
        evaluation = _read_json(self.out / "evaluation.json")
        found = {**report.summary(), **self.further(policy)}
        write_json(self.out / "evaluation.json", {**evaluation, stage: found})
        return report


def run(
    algorithm: SequenceAlgorithm,
    out: Path,
    evaluator: Evaluator,
    total_timesteps: int,
    checkpoint_every: int,
    resumed: bool,
) -> Path:
    """Evaluates, trains with checkpoints and metrics, evaluates again, and writes the report.

    Returns:
        The report's path.
    """
    algorithm.set_logger(Logger(str(out), [MetricsFile(out / "metrics.jsonl", algorithm.iteration)]))
    if "before" not in _read_json(out / "evaluation.json"):
        evaluator("before", algorithm)
    remaining = total_timesteps - algorithm.num_timesteps
    if remaining > 0:
        callback = SaveEvery(out / CHECKPOINT, checkpoint_every)
        with printed_warnings():
            algorithm.learn(remaining, callback, reset_num_timesteps=not resumed, progress_bar=True)
    evaluator("after", algorithm)
    return write_report(out)


@contextmanager
def printed_warnings() -> Iterator[None]:
    """Prints each :class:`TrainingWarning` as one line beside the progress bar; other warnings are left as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TrainingWarning)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, TrainingWarning):
                tqdm.write(f"warning: {message}", file=sys.stderr)
            else:
                others(message, category, *place, **more)

        warnings.showwarning = show
        yield


def note_skipped(out: Path, skipped: Sequence[str] | None) -> None:
    """Says how many rows were left out as nothing can be learned from them, and keeps their number in the run."""
    if skipped is None:
        return
    first = f"; the first: {printable(skipped[0])}" if skipped else ""
    print(f"rows left out: {len(skipped)}{first}")
    write_json(out / "evaluation.json", {**_read_json(out / "evaluation.json"), "skipped_rows": len(skipped)})


def comparison_table(out: Path) -> str:
    """Before and after, one line a metric, with 95 % intervals."""
    evaluation = _read_json(out / "evaluation.json")
    before, after = evaluation["before"], evaluation["after"]
    lines = [f"{'':14}{'before':>18}{'after':>18}"]
    names = [name for name in in_short(after) if name in before]
    lines += [f"{name:14}{interval(before[name]):>18}{interval(after[name]):>18}" for name in names]
    return "\n".join(lines)


def alignment_tax(out: Path) -> str:
    """What became of the loss on held-out pretraining text and on other tasks, as one line; empty if unmeasured."""
    evaluation = _read_json(out / "evaluation.json")
    before, after = evaluation["before"], evaluation["after"]
    rise = {name: after[name]["mean"] - before[name]["mean"] for name in after if name in before}
    if PTX not in rise:
        return ""
    tax = f"alignment tax: {rise[PTX]:+.4f} nats per token of held-out pretraining text"
    if OTHERS not in rise:
        return tax
    single = [name for name in rise if name.startswith(OF_TASK) and name != OTHERS]
    named = ", ".join(f"{name.removeprefix(OF_TASK)} {rise[name]:+.3f}" for name in single)
    return f"{tax}; {rise[OTHERS]:+.4f} of the other mini tasks' references ({named})"


def sample_pairs(out: Path, count: int, since: Path | None = None) -> str:
    """Some prompts with what the policy wrote before and after; before an earlier run, where ``since`` names one."""

    def written(run: Path, stage: str) -> list[dict[str, Any]]:
        return [row for row in _read_rows(run / "samples.jsonl") if row["stage"] == stage][:count]

    pairs = zip(written(since or out, "before"), written(out, "after"), strict=False)
    return "\n\n".join(
        f"{printable(old['prompt'])}\n  before ({old['score']:+.2f}):{_indented(old['completion'])}"
        f"\n  after  ({new['score']:+.2f}):{_indented(new['completion'])}"
        for old, new in pairs
    )


def _indented(text: str) -> str:
    return " " + printable(text).strip().replace("\n", "\n    ")


def interval(measured: Mapping[str, float]) -> str:
    """A mean with its 95 % interval."""
    return f"{measured['mean']:.3f} ± {1.96 * measured['sem']:.3f}"


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # Not splitlines: a sample may hold separators that only str counts as line ends.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
