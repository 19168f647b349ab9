"""The algorithms of a benchmark: textgym's by name, a user's own, stable-baselines3's, and fine-tuning.

- a name of :data:`textgym.agents.registry.ALGORITHMS`, such as ``ppo``;
- ``package.module:Class`` or ``path/to/file.py:Class``, a user's own subclass of ``SequenceAlgorithm``;
- ``stable_baselines3:PPO``, ``sb3_contrib:TRPO``: on-policy algorithms of stable-baselines3, through
  :mod:`textgym.agents.stock`;
- ``sft``: fine-tuning on reference texts, where a task has some;
- ``sft+ppo``, ``sft+grpo`` and so on: fine-tuning for half of the tokens, then that algorithm for the rest.

All get the same budget of tokens, and all end as an ``LMPolicy``, so that all are measured alike.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode
from sb3_contrib import TRPO, MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from transformers import PreTrainedModel

from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.algorithm import SequenceAlgorithm, linear_decay
from textgym.agents.loop.slots import SB3VecEnv
from textgym.agents.offline.data import Demonstration, task_demonstrations
from textgym.agents.offline.sft import fine_tune
from textgym.agents.offline.sft_settings import SFTSettings
from textgym.agents.policy.lm_policy import LMPolicy
from textgym.agents.registry import ALGORITHMS
from textgym.agents.search import Choice, Space, search_space
from textgym.agents.settings import Settings, effective, make_settings
from textgym.agents.stock import MaskableTokenActorCriticPolicy, TokenActorCriticPolicy
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.env.wrappers import VectorReferenceKL
from textgym.lm.files.loading import ModelSource, load_causal_lm
from textgym.lm.sampling import Sampling
from textgym.names import suggest
from textgym.numbers import count
from textgym.rewards.specs.imports import import_named
from textgym.tasks.task import Task
from textgym.tokenization import trained_end

CURVE_POINTS = 50
VALIDATION_REFERENCES = 128  # references that plain imitation is validated on
SFT = "sft"
SFT_RATE = 1e-3
"""Learning rate of the fine-tuning that comes before another algorithm."""
OMITTED_IF_UNUSED = ("target_kl", "warmup_iterations", "ent_coef", "stop_patience", "credit")
"""Settings added after the first published results; they are left out where they have no effect, so that results stay
comparable."""
WITHOUT_EFFECT = (None, 0, "token")
"""Values with which these settings change nothing."""
STOCK = ("stable_baselines3", "sb3_contrib")
"""Packages whose algorithms are identified by the version; other code is identified by the digest of its file."""


def is_used(name: str, value: Any) -> bool:
    """Return True if a setting belongs to a run's identity."""
    return name not in OMITTED_IF_UNUSED or value not in WITHOUT_EFFECT


@dataclass(frozen=True)
class TrainingJob:
    """A training job for one benchmark entry.

    Attributes:
        task: with the base model, and the references for fine-tuning.
        mdp: the task with the reward that is paid.
        tokens: the budget.
        learning_rate: at first.
        beta: β.
        seed: random seed.
        slots: responses generated at once.
        settings: from :meth:`Entry.settings`.
    """

    task: Task
    mdp: TokenMDP
    tokens: int
    learning_rate: float
    beta: float
    seed: int
    slots: int
    settings: Mapping[str, Any]

    @property
    def base_model(self) -> ModelSource:
        """The model that every entry starts from; ValueError if the task has none."""
        if self.mdp.base_model is None:
            raise ValueError(f"task={self.task.name!r} has no base model; expected one to start from")
        return self.mdp.base_model


@dataclass(frozen=True)
class TrainingResult:
    """The result of one training run.

    Attributes:
        policy: as it acts.
        tokens: generated or trained tokens; the last iteration may exceed the budget.
        curve: at most 50 pairs of tokens and mean reward, from its own rollouts.
        updates: gradient steps of the policy; None if its library does not count them.
        scored: responses whose reward was computed.
    """

    policy: LMPolicy
    tokens: int
    curve: list[tuple[int, float]]
    updates: int | None
    scored: int


class Entry(Protocol):
    """An algorithm as benchmarks use it.

    Attributes:
        imitates: True if it learns from reference texts instead of from the reward.
    """

    imitates: ClassVar[bool]

    def settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return all of its settings as JSON values; ``wanted`` are those to change (None for its own value)."""

    def values(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return :meth:`settings`, and those that have no effect at their values."""

    def search(self) -> Space:
        """Return the search space of its settings, without the learning rate, which an experiment adds."""

    def train(self, job: TrainingJob) -> TrainingResult:
        """Train on a job."""


def find_entry(name: str) -> Entry:
    """Return an entry by name.

    Raises:
        ValueError: there is none (the nearest is named), or the import is not an algorithm.
        FileNotFoundError: there is no such file.
    """
    if name in ALGORITHMS:
        if ALGORITHMS[name].settings_class.has_teacher:
            raise ValueError(f"algorithm={name!r} learns from a teacher and not from a reward; run 'distillation'")
        return TextgymEntry(ALGORITHMS[name])
    if name == SFT:
        return SFTEntry()
    if name.startswith(f"{SFT}+"):
        return _after_sft(name)
    if ":" in name:
        return _imported(name)
    hint = suggest(name, [*ALGORITHMS, SFT], after=" ")
    raise ValueError(
        f"algorithm={name!r} is unknown; {hint}Known: {', '.join(ALGORITHMS)}, {SFT}; or write package.module:Class, "
        "path/to/file.py:Class, or stable_baselines3:PPO"
    )


def _after_sft(name: str) -> Entry:
    entry = find_entry(name.removeprefix(f"{SFT}+"))
    if not isinstance(entry, TextgymEntry):
        raise ValueError(
            f"algorithm={name!r} would go on with something that is no algorithm of textgym; expected 'sft+ppo' or the "
            "like"
        )
    return SFTThenEntry(entry)


def _imported(name: str) -> Entry:
    try:
        kind = import_named("algorithm", name)
    except (ImportError, AttributeError) as error:
        raise ValueError(str(error)) from error
    if isinstance(kind, type) and issubclass(kind, SequenceAlgorithm):
        return TextgymEntry(kind, _digest(kind))
    if isinstance(kind, type) and issubclass(kind, OnPolicyAlgorithm):
        return StockEntry(kind, None if _package(kind) in STOCK else _digest(kind))
    raise ValueError(
        f"algorithm={name!r} is {kind!r}; expected a subclass of textgym.agents.SequenceAlgorithm, or an on-policy "
        "algorithm of stable-baselines3"
    )


def _digest(kind: type) -> str:
    """Return the digest of a user's file, which changes with the code."""
    return hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()[:12]


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def constructor_settings(entry: TextgymEntry | StockEntry, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor: :meth:`Entry.settings` without those that identify the code.

    Raises:
        ValueError: the code has changed since, so the result would be recorded under the wrong identity.
    """
    arguments, identity = dict(settings), entry.identity
    for name, here in identity.items():
        there = arguments.pop(name, None)
        if there != here:
            raise ValueError(
                f"{entry.kind.__name__} has changed since its runs were planned ({name}: {there!r} then, {here!r} "
                "now); run the changed one into a results file of its own"
            )
    return arguments


@dataclass(frozen=True)
class TextgymEntry:
    """A subclass of ``SequenceAlgorithm``; ``code`` is the digest of the file of one that is not the package's."""

    imitates: ClassVar[bool] = False
    kind: type[SequenceAlgorithm]
    code: str | None = None

    @property
    def identity(self) -> dict[str, str]:
        """The identity of the code, as settings."""
        return {} if self.code is None else {"code": self.code}

    def settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        made = effective(self.values(wanted))
        return {
            **{name: value for name, value in made.items() if is_used(name, value)},
            **self.identity,
        }

    def values(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        own = self.kind.settings_class
        known = {field.name for field in fields(own)}
        given = {name: value for name, value in wanted.items() if name in known and value is not None}
        return asdict(make_settings(own, self.kind.__name__, given))

    def search(self) -> Space:
        return search_space(self.kind.settings_class)

    def train(self, job: TrainingJob, model: PreTrainedModel | None = None) -> TrainingResult:
        """Train on a job, from ``model`` instead of the base model if one is given; the reference is the base model."""
        settings = constructor_settings(self, job.settings)
        # Disabled autoreset: the loop admits the prompts of each iteration itself.
        env = TokenVectorEnv(job.mdp, job.slots, AutoresetMode.DISABLED)
        start: dict[str, Any] = {}
        if model is not None:
            start = {"model": model, "reference": load_causal_lm(job.base_model)}
        algorithm = self.kind("LMPolicy", env, job.learning_rate, beta=job.beta, seed=job.seed, **start, **settings)
        curve = LearningCurve()
        algorithm.learn(job.tokens, curve, log_interval=0)
        return TrainingResult(
            algorithm.policy, algorithm.num_timesteps, curve.points(), algorithm.n_updates, curve.scored
        )


@dataclass  # not frozen, as the wrapper's protocol has it
class _Acting:
    """The attributes of a policy that the KL wrapper reads."""

    lm: PreTrainedModel
    sampling: Sampling


@dataclass(frozen=True)
class StockEntry:
    """An on-policy algorithm of stable-baselines3 or sb3-contrib.

    γ is 1, the KL is paid in every step, and rollouts and minibatches have as many tokens as textgym's algorithms could
    have; all else is the library's default. ``code`` is the digest of the file of a user's own subclass.
    """

    imitates: ClassVar[bool] = False
    kind: type[OnPolicyAlgorithm]
    code: str | None = None

    @property
    def identity(self) -> dict[str, str]:
        """The identity of the code, as settings: the library and its version, and the digest of a user's own file."""
        library = next(package for base in self.kind.__mro__ if (package := _package(base)) in STOCK)
        identity = {"library": f"{library} {metadata.version(library)}"}
        return identity if self.code is None else {**identity, "code": self.code}

    def settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        shared = asdict(Settings())
        knows = inspect.signature(self.kind).parameters
        sizes = {"episodes_per_iteration"} | ({"minibatch_size"} if "batch_size" in knows else set())
        given = {name: value for name, value in wanted.items() if value is not None}
        passed = {name: given[name] for name in ("n_epochs", "vf_coef") if name in knows and name in given}
        return {name: given.get(name, shared[name]) for name in sorted(sizes)} | passed | self.identity

    def values(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        return self.settings(wanted)

    def search(self) -> Space:
        # Their authors' defaults stand in their signatures; the size of a minibatch is counted in responses here.
        knows = inspect.signature(self.kind).parameters
        space = dict(search_space(Settings))
        sizes = {"minibatch_size"} if "batch_size" in knows else set()
        return {name: values for name, values in space.items() if name in sizes}

    def train(self, job: TrainingJob) -> TrainingResult:
        settings, horizon = constructor_settings(self, job.settings), job.mdp.max_new_tokens
        episodes, minibatch = settings.pop("episodes_per_iteration"), settings.pop("minibatch_size", None)
        rows = min(job.slots, episodes)
        settings["n_steps"] = episodes * horizon // rows  # SB3 counts steps of each row, textgym episodes
        if minibatch is not None:
            settings["batch_size"] = minibatch * horizon
        model = load_causal_lm(job.base_model)
        if issubclass(self.kind, TRPO):
            model.set_attn_implementation("eager")  # it differentiates twice
        venv = TokenVectorEnv(job.mdp, rows, AutoresetMode.DISABLED)
        reference = load_causal_lm(job.base_model)
        paid = VectorReferenceKL(venv, reference, job.beta, policy=_Acting(model, Sampling()))
        make: Any = self.kind
        algorithm: OnPolicyAlgorithm = make(
            MaskableTokenActorCriticPolicy if issubclass(self.kind, MaskablePPO) else TokenActorCriticPolicy,
            SB3VecEnv(paid),
            learning_rate=linear_decay(job.learning_rate),
            gamma=1.0,
            policy_kwargs={"model": model},
            seed=job.seed,
            device="cpu",
            **settings,
        )
        curve = LearningCurve()
        algorithm.learn(job.tokens, curve)
        policy = acting_policy(model, job.mdp)
        return TrainingResult(policy, algorithm.num_timesteps, curve.points(), None, curve.scored)


@dataclass(frozen=True)
class SFTEntry:
    """Fine-tuning on reference texts; each trained token of them counts in the budget, in every pass.

    It goes ``epochs`` times through as many of them as the budget then pays for; more often only where there are too
    few. With a number of ``references`` it goes through so many, whatever the budget.
    """

    imitates: ClassVar[bool] = True

    def settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        known = {field.name for field in fields(SFTSettings)} - {"learning_rate"}
        given = {name: wanted[name] for name in known & wanted.keys() if wanted[name] is not None}
        made = asdict(SFTSettings(**{"epochs": 1, **given}))
        shown = {} if wanted.get("references") is None else {"references": count("references", wanted["references"])}
        return {name: made[name] for name in sorted(known) if is_used(name, made[name])} | shown

    def values(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        return self.settings(wanted)

    def search(self) -> Space:
        return {"epochs": Choice((1, 2, 4)), "batch_size": Choice((16, 32, 64, 128))}

    def train(self, job: TrainingJob) -> TrainingResult:
        model, mdp = load_causal_lm(job.base_model), job.mdp
        end = trained_end(mdp.tokenizer, mdp.end_token_ids)
        shown, validation = (task_demonstrations(job.task, split, end) for split in ("train", "validation"))
        # The budget may not pay for all references, so the seed decides which ones are used.
        order = np.random.default_rng(job.seed).permutation(len(shown))
        own, drawn = dict(job.settings), [shown[i] for i in order]
        epochs, references = own.pop("epochs", 1), own.pop("references", None)
        if references is None:
            chosen, epochs = within_budget(drawn, job.tokens, epochs)
        elif references > len(drawn):
            raise ValueError(f"references={references}; expected 1 to {len(drawn)}, as {job.task.name} has")
        else:
            chosen = drawn[:references]
        settings = SFTSettings(epochs=epochs, learning_rate=job.learning_rate, **own)
        fine_tune(
            model,
            chosen,
            validation=validation[:VALIDATION_REFERENCES],
            settings=settings,
            seed=job.seed,
            progress=False,
        )
        used = epochs * sum(len(one.response_ids) for one in chosen)
        updates = epochs * -(-len(chosen) // settings.batch_size)
        return TrainingResult(acting_policy(model, mdp), used, [], updates, 0)


@dataclass(frozen=True)
class SFTThenEntry:
    """Fine-tuning for half of the tokens, with its defaults, then ``entry`` for the rest.

    The settings are those of ``entry``; the KL is to the base model throughout, as for all.
    """

    imitates: ClassVar[bool] = True
    entry: TextgymEntry

    def settings(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        return self.entry.settings(wanted)

    def values(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        return self.entry.values(wanted)

    def search(self) -> Space:
        return self.entry.search()

    def train(self, job: TrainingJob) -> TrainingResult:
        shown = job.tokens // 2
        sft = SFTEntry()
        first = sft.train(replace(job, tokens=shown, learning_rate=SFT_RATE, settings=sft.settings({})))
        then = self.entry.train(replace(job, tokens=job.tokens - shown), first.policy.lm)
        updates = (first.updates or 0) + (then.updates or 0)
        curve = [(first.tokens + tokens, reward) for tokens, reward in then.curve]
        return TrainingResult(then.policy, first.tokens + then.tokens, curve, updates, then.scored)


def within_budget(demonstrations: list[Demonstration], tokens: int, epochs: int = 1) -> tuple[list[Demonstration], int]:
    """Return the first demonstrations, at least one, that a budget pays for ``epochs`` times, and the number of passes.

    ``tokens`` are trained tokens of responses; there are more passes where all demonstrations cost less than it has.
    """
    spent = np.cumsum([len(one.response_ids) for one in demonstrations])
    affordable = int(np.searchsorted(spent, tokens // epochs, side="right"))
    return demonstrations[: max(1, affordable)], max(epochs, tokens // int(spent[-1]))


class LearningCurve(BaseCallback):
    """A callback that records the mean reward of each rollout's finished responses, without the cost of KL.

    Attributes:
        scored: number of responses with a reward.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scored = 0
        self._ended: list[dict[str, Any]] = []  # infos, whose scores may come at the end of the rollout
        self._points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        ended = np.flatnonzero(self.locals["dones"])
        self._ended += [self.locals["infos"][row] for row in ended]
        return True

    def _on_rollout_end(self) -> None:
        scores = [info["score"] for info in self._ended if "score" in info]  # none where a callback stopped the rollout
        self.scored += len(scores)
        if scores:
            self._points.append((self.model.num_timesteps, float(np.mean(scores))))
        self._ended = []

    def points(self) -> list[tuple[int, float]]:
        """Return the curve; neighbouring rollouts are averaged if there are more than 50."""
        parts = np.array_split(np.asarray(self._points), min(CURVE_POINTS, len(self._points)) or 1)
        return [(int(part[-1, 0]), float(part[:, 1].mean())) for part in parts if len(part)]
