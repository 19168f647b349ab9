"""Old names of modules, for one version: importing one warns and gives what took its place."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
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
    "agents.comparisons": "agents.offline.data",
    "agents.construction": "agents.loop.checks agents.loop.checkpoint agents.loop.algorithm",
    "agents.demonstrations": "agents.offline.data",
    "agents.dpo": "agents.offline.dpo",
    "agents.dpo_settings": "agents.offline.dpo_settings",
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
    "benchmarks.optimum": "exact",
    "benchmarks.optimum.bracket": "exact.bracket",
    "benchmarks.optimum.exact": "exact.enumeration",
    "benchmarks.optimum.markov": "exact.markov",
    "benchmarks.optimum.models": "exact.models",
    "benchmarks.optimum.soft": "exact.soft",
    "benchmarks.optimum.tree": "exact.tree",
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
    "rewards.running": "rewards.functions",
    "rewards.scores": "rewards.functions",
    "rewards.training": "rewards.models.training",
    "settings": "reports.settings",
    "vector": "env.vector",
    "wrappers": "env.wrappers env.vector",
}
MODULES: Mapping[str, tuple[str, ...]] = {
    f"textgym.{old}": tuple(f"textgym.{name}" for name in now.split()) for old, now in _MODULES.items()
}
"""By the name in 0.1.0, the modules that hold its names now."""

NAMES: Mapping[str, str] = {
    "textgym.agents.SlotVecEnv": "textgym.agents.SB3VecEnv",
    "textgym.agents.bridge.SlotVecEnv": "textgym.agents.SB3VecEnv",
}
"""By the public name in 0.1.0, the public name of the same thing now."""

REPLACED: Mapping[str, str] = {
    "textgym.lm.restrict": "textgym.lm.Behaviour(n_actions, end_ids, sampling).logits(logits, elapsed, allowed)",
    "textgym.lm.score_responses": "textgym.lm.Behaviour(n_actions, end_ids, sampling).score(head, states, actions, "
    "valid, kept)",
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


def install() -> None:
    """Make old names of modules importable."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())  # after the others, which find what still has its name


def find_moved(package: str, name: str) -> Any:
    """Return what a package called by this name in 0.1.0.

    Raises:
        AttributeError: it never had such a name; or it did, and the message says how to write it now.
    """
    old = f"{package}.{name}"
    if old in REPLACED:
        raise AttributeError(f"{old} is gone; write {REPLACED[old]}")
    if old not in NAMES:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    _warn(old, NAMES[old])
    module, _, attribute = NAMES[old].rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _warn(old: str, new: str) -> None:
    """Warn at the line that used the old name, past the frames of the import system."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(
        (__file__, importlib.__file__, "<frozen importlib")
    ):
        frame = frame.f_back
    warnings.warn_explicit(
        f"{old} is now {new}; the old name goes with the next version",
        DeprecationWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
    )
