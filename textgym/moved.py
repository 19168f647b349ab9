"""Names of version 0.1, for one version: using one warns and gives what took its place, or says how to write it now."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from opcode import opmap
from operator import attrgetter
from types import FrameType, ModuleType
from typing import Any

_MODULES = {
    "agents.a2c": "agents.ppo",
    "agents.advantages": "agents.functional.objectives",
    "agents.algorithm": "agents.loop.algorithm",
    "agents.batches": "agents.loop.episodes",
    "agents.bridge": "agents.loop.slots",
    "agents.callbacks": "agents.loop.callbacks agents.functional.stop_rules",
    "agents.checkpoint": "agents.loop.checkpoint lm.optimizer_state",
    "agents.choices": "agents.loop.algorithm",
    "agents.clipped": "agents.ppo",
    "agents.collect": "agents.loop.episodes",
    "agents.comparisons": "agents.offline.preferences",
    "agents.construction": "agents.loop.checks agents.loop.checkpoint agents.loop.algorithm",
    "agents.demonstrations": "agents.offline.data",
    "agents.dpo": "agents.offline.dpo",
    "agents.dpo_settings": "agents.offline.preference_settings",
    "agents.epochs": "agents.offline.epoch_checkpoints",
    "agents.evaluation": "agents.loop.evaluation",
    "agents.expert_iteration": "agents.best_of_n",
    "agents.forgetting": "agents.offline.alignment_tax",
    "agents.guards": "lm.guards",
    "agents.hf_trainer": "agents.offline.hf_trainer",
    "agents.kept": "agents.loop.kept",
    "agents.likelihood": "agents.offline.likelihood",
    "agents.losses": "agents.functional.objectives",
    "agents.masking": "lm.behaviour",
    "agents.metrics": "agents.loop.metrics",
    "agents.names": "agents.registry",
    "agents.pretraining": "agents.offline.pretraining",
    "agents.reference": "agents.policy.reference",
    "agents.remax": "agents.reinforce",
    "agents.responses": "agents.loop.evaluation",
    "agents.rloo": "agents.grpo",
    "agents.saved": "agents.loop.acting",
    "agents.session": "agents.policy.lm_policy",
    "agents.sft": "agents.offline.sft",
    "agents.sft_settings": "agents.offline.sft_settings",
    "agents.slots": "agents.loop.slots",
    "agents.trust_region": "agents.trpo",
    "agents.values": "agents.policy.lm_policy",
    "benchmarks.alignment_tax": "benchmarks.experiments.alignment_tax",
    "benchmarks.alignment_tax.ratio": "benchmarks.experiments.alignment_tax.ratio",
    "benchmarks.alignment_tax.score": "benchmarks.experiments.alignment_tax.score",
    "benchmarks.alignment_tax.sweep": "benchmarks.experiments.alignment_tax.sweep",
    "benchmarks.alignment_tax.task": "benchmarks.experiments.alignment_tax.task",
    "benchmarks.bench_report": "reports.bench",
    "benchmarks.comparable": "benchmarks.runner.same_settings",
    "benchmarks.compare_findings": "benchmarks.analysis.compare_findings",
    "benchmarks.compare_runs": "benchmarks.analysis.compare_runs",
    "benchmarks.comparison": "reports.before_after reports.formatting",
    "benchmarks.contenders": "benchmarks.entries",
    "benchmarks.curves": "reports.charts.svg",
    "benchmarks.diagnostic": "benchmarks.experiments.diagnostic",
    "benchmarks.diagnostic.score": "benchmarks.experiments.diagnostic.score",
    "benchmarks.diagnostic.sweep": "benchmarks.experiments.diagnostic.sweep",
    "benchmarks.diagnostic.task": "benchmarks.experiments.diagnostic.task",
    "benchmarks.ensembles": "benchmarks.experiments.ensembles",
    "benchmarks.ensembles.score": "benchmarks.experiments.ensembles.score",
    "benchmarks.ensembles.sweep": "benchmarks.experiments.ensembles.sweep",
    "benchmarks.ensembles.task": "benchmarks.experiments.ensembles.task",
    "benchmarks.experiment": "benchmarks.runner.experiment reports.findings intervals",
    "benchmarks.figures": "reports.charts.suites",
    "benchmarks.grid": "benchmarks.runner.results_file benchmarks.runner.jobs",
    "benchmarks.judged": "reports.heldout_accuracy reports.formatting",
    "benchmarks.kl_frontier": "benchmarks.experiments.kl_frontier",
    "benchmarks.kl_frontier.score": "benchmarks.experiments.kl_frontier.score",
    "benchmarks.kl_frontier.sweep": "benchmarks.experiments.kl_frontier.sweep",
    "benchmarks.kl_frontier.task": "benchmarks.experiments.kl_frontier.task",
    "benchmarks.mini": "benchmarks.experiments.mini",
    "benchmarks.mini.score": "benchmarks.experiments.mini.score",
    "benchmarks.mini.sweep": "benchmarks.experiments.mini.sweep",
    "benchmarks.mini.task": "benchmarks.experiments.mini.task",
    "benchmarks.nlpo_mask": "benchmarks.experiments.nlpo_mask",
    "benchmarks.nlpo_mask.score": "benchmarks.experiments.nlpo_mask.score",
    "benchmarks.nlpo_mask.sweep": "benchmarks.experiments.nlpo_mask.sweep",
    "benchmarks.optimising": "benchmarks.proxies.rl",
    "benchmarks.optimum": "exact",
    "benchmarks.optimum.bracket": "exact.bracket",
    "benchmarks.optimum.exact": "exact.enumeration",
    "benchmarks.optimum.markov": "exact.markov",
    "benchmarks.optimum.models": "exact.models",
    "benchmarks.optimum.soft": "exact.soft",
    "benchmarks.optimum.tree": "exact.tree",
    "benchmarks.overoptimization": "benchmarks.experiments.overoptimization",
    "benchmarks.overoptimization.best_of_n": "benchmarks.experiments.overoptimization.best_of_n",
    "benchmarks.overoptimization.fits": "benchmarks.experiments.overoptimization.fits",
    "benchmarks.overoptimization.score": "benchmarks.experiments.overoptimization.score",
    "benchmarks.overoptimization.sweep": "benchmarks.experiments.overoptimization.sweep",
    "benchmarks.overoptimization.task": "benchmarks.experiments.overoptimization.task",
    "benchmarks.pipeline_figures": "reports.charts.runs",
    "benchmarks.pipeline_report": "reports.pipeline",
    "benchmarks.pipeline_stages": "reports.pipeline_stages",
    "benchmarks.process": "benchmarks.runner.limit_process",
    "benchmarks.ranges": "benchmarks.runner.limits",
    "benchmarks.reading": "reports.run_files",
    "benchmarks.recording": "agents.loop.episodes",
    "benchmarks.report": "reports.run",
    "benchmarks.reward_noise": "benchmarks.experiments.reward_noise",
    "benchmarks.reward_noise.score": "benchmarks.experiments.reward_noise.score",
    "benchmarks.reward_noise.sweep": "benchmarks.experiments.reward_noise.sweep",
    "benchmarks.reward_noise.task": "benchmarks.experiments.reward_noise.task",
    "benchmarks.seed_curves": "benchmarks.analysis.seeds",
    "benchmarks.statistics": "benchmarks.analysis.statistics intervals",
    "benchmarks.stories": "reports.headlines",
    "benchmarks.suite": "benchmarks.analysis.suite_scores",
    "benchmarks.summary": "benchmarks.analysis.suite_findings",
    "benchmarks.templating": "reports.pages",
    "commands.settings": "commands.configs.hyperparameters commands.train",
    "lm.adapter_files": "lm.files.adapters",
    "lm.architecture": "lm.trunk",
    "lm.backbones": "lm.parts.backbones",
    "lm.bars": "lm.files.bars",
    "lm.cache": "lm.decoding",
    "lm.finite": "lm.guards",
    "lm.freezing": "lm.parts.freezing",
    "lm.generation": "lm.files.generation",
    "lm.heads": "lm.parts.heads",
    "lm.loading": "lm.files.loading lm.parts.backbones",
    "lm.lora": "lm.parts.lora",
    "lm.patching": "lm.parts.patching",
    "lm.scoring": "lm.trunk lm.behaviour",
    "lm.seq2seq": "lm.parts.seq2seq",
    "lm.weight_files": "lm.files.weights",
    "lm.weights": "lm.decoding",
    "mdp": "env.mdp",
    "rendering": "env.rendering",
    "rewards.addresses": "rewards.specs.addresses",
    "rewards.classifier": "rewards.models.classifier",
    "rewards.ensemble": "rewards.models.ensemble",
    "rewards.evaluation": "rewards.models.evaluation rewards.labels.pairs",
    "rewards.imports": "rewards.specs.imports",
    "rewards.intervals": "intervals",
    "rewards.labellers": "rewards.labels.labelling",
    "rewards.measuring": "rewards.models.evaluation",
    "rewards.metrics": "rewards.hf_metrics",
    "rewards.model": "rewards.models.model",
    "rewards.opening": "rewards.models.opening",
    "rewards.preferences": "rewards.labels.preferences",
    "rewards.rankings": "rewards.labels.rankings rewards.labels.labelling",
    "rewards.reading": "rewards.models.last_token",
    "rewards.resolve": "rewards.specs.resolve",
    "rewards.running": "calls",
    "rewards.scores": "rewards.functions",
    "rewards.training": "rewards.models.training",
    "settings": "reports.settings",
    "tasks.mini.captions_language": "tasks.mini.languages.captions",
    "tasks.mini.concepts_language": "tasks.mini.languages.concepts",
    "tasks.mini.dialogue_language": "tasks.mini.languages.dialogue",
    "tasks.mini.reviews_language": "tasks.mini.languages.reviews",
    "tasks.mini.reviews_lexicon": "tasks.mini.languages.reviews_lexicon",
    "tasks.mini.skeletons": "tasks.mini.languages.skeletons",
    "tasks.mini.translation_language": "tasks.mini.languages.translation",
    "tasks.mini.words": "tasks.mini.languages.words",
    "vector": "env.vector",
    "wrappers": "env.wrappers env.vector",
}
MODULES: Mapping[str, tuple[str, ...]] = {
    f"textgym.{old}": tuple(f"textgym.{name}" for name in now.split()) for old, now in _MODULES.items()
}
"""By the name in 0.1.0, the modules that hold its names now."""

_NAMES = {
    "agents.SlotVecEnv": "agents.SB3VecEnv",
    "agents.bridge.SlotVecEnv": "agents.SB3VecEnv",
    "agents.choices.Choices": "agents.SequenceAlgorithm",
    "agents.demonstrations.Layout": "agents.offline.data.RowLayout",
    "agents.demonstrations.layout_of": "agents.offline.data.row_layout",
    "agents.dpo.log_probs_of": "agents.offline.preference_loop.log_probs_of",
    "agents.dpo.pair_log_probs": "agents.offline.preference_loop.completion_log_probs",
    "agents.grpo.GSPO": "agents.group_ratios.GSPO",
    "agents.likelihood.PLAIN": "lm.behaviour.PLAIN",
    "agents.masking.MASK_MODEL": "agents.loop.acting.MASK_MODEL",
    "agents.settings.warmup_factor": "agents.loop.algorithm.warmup_factor",
    "benchmarks.optimum.Interval": "exact.Estimate",
    "benchmarks.optimum.bracket.FEW": "exact.bracket.FEWEST_EFFECTIVE",
    "benchmarks.optimum.bracket.Interval": "exact.Estimate",
    "benchmarks.optimum.tree.CHUNK": "exact.tree.RESPONSES_PER_CALL",
    "benchmarks.proxies.Labels": "benchmarks.proxies.models.Labels",
    "benchmarks.proxies.ProxySettings": "benchmarks.proxies.models.ProxySettings",
    "benchmarks.proxies.agreement": "benchmarks.proxies.models.agreement",
    "benchmarks.proxies.base_responses": "benchmarks.proxies.models.base_responses",
    "benchmarks.proxies.fresh_gpt2": "benchmarks.proxies.models.fresh_gpt2",
    "benchmarks.proxies.learn_proxy": "benchmarks.proxies.models.learn_proxy",
    "benchmarks.proxies.reward_trunk": "benchmarks.proxies.models.reward_trunk",
    "benchmarks.proxies.standardise": "benchmarks.proxies.models.standardise",
    "lm.patching.giving": "lm.parts.patching.fixed_output",
    "lm.sampling.draw": "lm.behaviour.draw",
    "lm.sampling.kept_ids": "lm.behaviour.kept_ids",
    "lm.sampling.nucleus": "lm.behaviour.nucleus",
    "prompts.prompt_order": "agents.loop.episodes.prompt_order",
    "rewards.evaluation.Compared": "rewards.models.evaluation.ScoredGroup",
    "rewards.evaluation.described": "rewards.models.evaluation.calibration_summary",
    "rewards.measuring.measure": "rewards.models.evaluation.evaluate_reward_model",
    "rewards.scores.shown": "rewards.functions.short_repr",
    "rewards.training.Example": "rewards.models.training.EncodedPreference",
    "rewards.training.mean_loss": "rewards.models.training.mean_preference_loss",
    "runs.told": "runs.screening_text",
}
NAMES: Mapping[str, str] = {f"textgym.{old}": f"textgym.{now}" for old, now in _NAMES.items()}
"""By the public name in 0.1.0, the public name of the same thing now."""

_BEHAVIOUR = "textgym.lm.Behaviour(n_actions, end_ids, sampling)"
_RESTRICT = f"{_BEHAVIOUR}.logits(logits, elapsed, allowed)"
_SCORE = f"{_BEHAVIOUR}.score(head, states, actions, valid, kept)"
_MARGIN_MEASURES = "textgym.agents.offline.dpo.margin_measures(margins)"
_PREFERENCE_LOOP = "textgym.agents.offline.preference_loop"
REPLACED: Mapping[str, str] = {
    "textgym.agents.choices.numbers": "{name: float(value) for name, value in logs.items()}",
    "textgym.agents.construction.make_schedule": "textgym.agents.loop.algorithm.linear_decay(rate) for a number; a "
    "schedule is used as it is",
    "textgym.agents.dpo.summary": f"{_PREFERENCE_LOOP}.means({_MARGIN_MEASURES})",
    "textgym.agents.dpo.surety": f"{_PREFERENCE_LOOP}.surety({_MARGIN_MEASURES}, prompts)",
    "textgym.agents.trust_region.flat": "torch.nn.utils.parameters_to_vector(tensors)",
    "textgym.lm.restrict": _RESTRICT,
    "textgym.lm.sampling.restrict": _RESTRICT,
    "textgym.lm.score_responses": _SCORE,
    "textgym.lm.scoring.score_responses": _SCORE,
}
"""By the public name in 0.1.0, how to write it now."""


class MovedFinder(MetaPathFinder, Loader):
    """Find the modules of :data:`MODULES`, which no folder holds any more."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        now = MODULES[module.__name__]
        _warn(module.__name__, " and ".join(now))
        for name in reversed(now):  # the first has the last word
            found = vars(importlib.import_module(name))
            vars(module).update({key: value for key, value in found.items() if not key.startswith("__")})
        vars(module)["__getattr__"] = partial(find_moved, module.__name__)


class FormerMember:
    """An attribute's name in 0.1.0, for one version: reading it warns and gives what took its place.

    Args:
        now: the attribute's name now, from the same object; dots lead to attributes of attributes.
    """

    def __init__(self, now: str) -> None:
        self.now = now

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        _warn(f"{owner.__name__}.{self.name}", f"{owner.__name__}.{self.now}")
        return attrgetter(self.now)(instance)


def install() -> None:
    """Make old names of modules importable."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())  # after the others, which find what still has its name


def find_moved(module: str, name: str) -> Any:
    """Return what a module called by this name in 0.1.0.

    Raises:
        AttributeError: it never had such a name, or has none any more; the message says how to write it now.
        ImportError: the same in ``from module import name``, where an AttributeError's message would be lost.
    """
    old = f"{module}.{name}"
    if old in NAMES:
        _warn(old, NAMES[old])
        found, _, attribute = NAMES[old].rpartition(".")
        return getattr(importlib.import_module(found), attribute)
    if old in REPLACED:
        message = f"{old} is gone; write {REPLACED[old]}"
    elif module in MODULES:
        message = f"{module} is now {' and '.join(MODULES[module])}, without {name!r}"
    else:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    raise ImportError(message, name=module) if _imports(_user(module)) else AttributeError(message)


def _imports(frame: FrameType) -> bool:
    """Return True if a frame is at the instruction that takes a name out of a module, ``from … import name``."""
    return frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_FROM"]


def _user(module: str | None = None) -> FrameType:
    """Return the frame that used an old name: the nearest that is neither of this file, importing, nor the module's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith((__file__, importlib.__file__, "<frozen importlib"))
        or frame.f_globals.get("__name__") == module
    ):
        frame = frame.f_back
    return frame


def _warn(old: str, new: str) -> None:
    """Warn at the line that used the old name."""
    frame = _user(old.rpartition(".")[0])
    warnings.warn_explicit(
        f"{old} is now {new}; the old name goes with the next version",
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__", "<string>"),  # as warnings.warn has it; None would be silent
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )
