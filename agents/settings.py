"""Settings of every algorithm, each declared and described once; importable without torch.

The constructors, the command line and the experiments all read these classes: a field's docstring is its ``--help``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar, get_args

from textgym.agents.search import Choice, LogRange, Range
from textgym.moved import find_moved
from textgym.names import suggest
from textgym.numbers import LARGEST_RATE, check, check_given, check_words, count, finite

Normalisation: TypeAlias = Literal["token", "sequence", "constant"]
Credit: TypeAlias = Literal["token", "turn"]
BinaryDistance: TypeAlias = Literal["tv", "kl"]
KLEstimator: TypeAlias = Literal["k3", "k3-corrected", "exact"]


@dataclass(frozen=True)
class Common:
    """Plain values among the constructor's arguments that every algorithm has beside its settings."""

    learning_rate: float = 1e-4
    """Initial learning rate of Adam; it decays linearly to 0 over the run. Published: 1.4e-5 (Ziegler 2019, GPT-2
    small)."""
    beta: float = 0.05
    """KL coefficient β: the price of one nat of KL to the reference. Published: 0.15 at first (Ziegler 2019), 0.02
    (Ouyang 2022), 0.04 in GRPO's loss (Shao 2024)."""
    kl_target: float | None = None
    """Target of an adaptive β, in nats per response (Ziegler 2019: 6). Default: β stays fixed."""
    value: str = "trunk"
    """Critic, for algorithms with one: 'trunk' (a head on the policy), 'separate' (a model of its own), or the
    directory of a reward model."""

    def __post_init__(self) -> None:
        check(self, finite, "learning_rate", low=0, high=LARGEST_RATE)
        check(self, finite, "beta", low=0)
        check_given(self, finite, "kl_target", above=0)
        check_words(self, "value")


@dataclass(frozen=True)
class Settings:
    """Settings of every algorithm, with one set of defaults; a subclass changes what defines its algorithm."""

    has_teacher: ClassVar[bool] = False
    """True if the reference is a teacher to imitate. It must be given then, and no reward is trained on."""
    search: ClassVar[Mapping[str, Range | None]] = {
        "n_epochs": Choice((1, 2, 4)),
        "minibatch_size": Choice((16, 32, 64, 128)),
    }
    """Values that ``textgym bench tune`` draws from, beside the learning rate; a subclass adds its own, and takes one
    out by None. Each range holds the published value."""
    episodes_per_iteration: int = 128
    """Responses collected between updates, greedy and discarded ones included. Published: 512 (Ziegler 2019)."""
    minibatch_size: int = 32
    """Responses per gradient step. Published: 64 (Huang 2024)."""
    n_epochs: int = 4
    """Passes over the responses of an iteration. Published: 4 (Ziegler 2019)."""
    max_grad_norm: float = 1.0
    """Maximum norm of the gradient; a larger one is scaled down. Published: 1 (Stiennon 2020)."""
    samples_per_prompt: int = 1
    """Responses to each prompt, k, sampled in a row."""
    normalisation: Normalisation = "token"
    """Divisor of a minibatch's policy loss: its 'token' count, the length of each 'sequence', or the 'constant' T (Dr.
    GRPO, Liu 2025)."""
    kl_in_loss: bool = False
    """Put the KL into the loss, by 'kl_estimator', instead of into the reward, by k1."""
    kl_estimator: KLEstimator = "exact"
    """Estimator of a KL in the loss: 'exact' over the vocabulary, with the KL of later tokens in the advantage;
    'k3-corrected', k3 times the ratio (TRL 1.16), which leaves out later tokens; or 'k3', whose gradient is that of
    KL(π_ref‖π). Published: k3 (Shao 2024)."""
    warmup_iterations: int = 0
    """Iterations of linear warm-up: the first has 1/n of the learning rate, the second 2/n; 0 for none. Published: 10
    (Ouyang 2022, appendix C.4)."""
    ent_coef: float = 0.0
    """Weight of an entropy bonus in the loss, as in stable-baselines3: the entropy of the behaviour distribution at
    each response token, in nats, normalised as the policy loss; 0 for none. Published: none."""

    def __post_init__(self) -> None:
        check(self, count, "episodes_per_iteration", "minibatch_size", "n_epochs", "samples_per_prompt")
        check(self, count, "warmup_iterations", least=0)
        check(self, finite, "max_grad_norm", above=0)
        if self.episodes_per_iteration < 2 or self.minibatch_size > self.episodes_per_iteration:
            raise ValueError(
                f"episodes_per_iteration={self.episodes_per_iteration}, minibatch_size={self.minibatch_size}; expected "
                "at least 2 episodes, and minibatches of at least 1 and at most all of them"
            )
        kinds = get_args(Normalisation)
        require(self.normalisation in kinds, "normalisation", repr(self.normalisation), f"one of {', '.join(kinds)}")
        require(isinstance(self.kl_in_loss, bool), "kl_in_loss", repr(self.kl_in_loss), "True or False")
        kinds = get_args(KLEstimator)
        require(self.kl_estimator in kinds, "kl_estimator", repr(self.kl_estimator), f"one of {', '.join(kinds)}")
        check(self, finite, "ent_coef", low=0)


# --- parts that several algorithms share -----------------------------------------------------------------------


@dataclass(frozen=True)
class OnPolicySettings(Settings):
    """Settings of Reinforce and ReMax: one pass, since nothing keeps a second one near the policy that sampled."""

    n_epochs: int = 1
    """Passes over the responses of an iteration. The loss has no ratio that would correct for a second one."""


@dataclass(frozen=True)
class GroupSettings(Settings):
    """Settings of algorithms that compare the responses to one prompt."""

    search: ClassVar[Mapping[str, Range | None]] = {"samples_per_prompt": Choice((2, 4, 8, 16))}
    samples_per_prompt: int = 4
    """Responses to each prompt, k, which are compared with each other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        k = self.samples_per_prompt
        require(k >= 2, "samples_per_prompt", k, "at least 2, since a prompt's responses are compared with each other")


@dataclass(frozen=True)
class CriticSettings(Settings):
    """Settings of algorithms with a critic."""

    search: ClassVar[Mapping[str, Range | None]] = {"vf_coef": Choice((0.1, 0.5, 1.0))}
    clip_range_vf: float = 0.2
    """Clip range of the value: the distance that it may move from its old one, in units of the value. Published:
    0.2."""
    vf_coef: float = 0.1
    """Weight of the value loss. Published: 0.1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "clip_range_vf", above=0)
        check(self, finite, "vf_coef", low=0)


@dataclass(frozen=True)
class GAESettings(CriticSettings):
    """Settings of algorithms with generalised advantage estimation (Schulman 2016)."""

    search: ClassVar[Mapping[str, Range | None]] = {"gae_lambda": Choice((0.9, 0.95, 1.0))}
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation; γ is 1. Published: 0.95."""
    credit: Credit = "token"
    """Unit of an action in advantages: each 'token', or each 'turn' of a conversation as a whole, whose tokens then
    share one advantage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "gae_lambda", low=0, high=1)
        require(self.credit in get_args(Credit), "credit", repr(self.credit), "'token' or 'turn'")


@dataclass(frozen=True)
class RatioSettings(Settings):
    """Settings of algorithms with an importance ratio, which allows several passes over the same responses."""

    target_kl: float | None = None
    """Bound on one iteration's update, in nats per token, as in stable-baselines3: the update ends before the first
    minibatch whose approx_kl exceeds 1.5 times this. None or 0 for no bound."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_given(self, finite, "target_kl", low=0)


@dataclass(frozen=True)
class ClipSettings(RatioSettings):
    """Settings of algorithms with a clipped ratio."""

    search: ClassVar[Mapping[str, Range | None]] = {"clip_range": Choice((0.1, 0.2, 0.4))}
    clip_range: float = 0.2
    """Clip range ε of the ratio, whose lower bound is 1 − ε. Published: 0.2 (Schulman 2017); 3e-4 in GSPO (Zheng
    2025)."""
    clip_range_high: float | None = None
    """Upper clip range: the ratio's upper bound is 1 plus this. Default: ε as well. Published: 0.28 (clip-higher, DAPO,
    Yu 2025); 4e-4 in GSPO (Zheng 2025)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "clip_range", above=0, high=1)
        check_given(self, finite, "clip_range_high", above=0)

    @property
    def clip_high(self) -> float:
        """Version 0.1's place of what the algorithm computes now."""
        raise AttributeError("settings.clip_high is the algorithm's own now; write self.clip_high")


# --- algorithms ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PPOSettings(ClipSettings, GAESettings):
    """Settings of PPO; defaults as published (Ziegler 2019, Ouyang 2022, Huang 2024)."""


@dataclass(frozen=True)
class NLPOSettings(PPOSettings):
    """Settings of NLPO: PPO's, and those of the mask (Ramamurthy 2022)."""

    search: ClassVar[Mapping[str, Range | None]] = {"top_mask": Choice((0.8, 0.9, 0.95))}
    top_mask: float = 0.9
    """Mass of the mask model's nucleus. Published: 0.9."""
    min_tokens_to_keep: int = 1
    """Most probable tokens that the mask always keeps. Published: 100."""
    target_update: int = 5
    """Iterations between refreshes of the mask model. Published: 5 (IMDB)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "min_tokens_to_keep", "target_update")
        check(self, finite, "top_mask", above=0, high=1)


@dataclass(frozen=True)
class A2CSettings(CriticSettings):
    """Settings of A2C: one pass over the episodes, as nothing keeps a second one near the policy that sampled them."""

    n_epochs: int = 1
    """Passes over the responses of an iteration. The loss has no ratio that would correct for a second one."""


@dataclass(frozen=True)
class TRPOSettings(GAESettings):
    """Settings of TRPO (Schulman 2015). Adam trains the critic alone; the policy takes one step an iteration."""

    search: ClassVar[Mapping[str, Range | None]] = {"target_kl": LogRange(0.003, 0.1)}
    n_epochs: int = 4
    """Passes of the critic over the responses of an iteration."""
    target_kl: float = 0.01
    """TRPO's KL bound per step, in nats per token: the mean of KL(π_old‖π) over the states of an iteration. Published:
    0.01."""
    cg_steps: int = 10
    """Steps of the conjugate gradient. Published: 10."""
    cg_damping: float = 0.1
    """Damping that is added to the curvature. Published: 0.1."""
    curvature_share: float = 0.1
    """Share of the minibatches that the curvature is estimated on; the KL bound is checked on all. Published: 0.1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "cg_steps")
        check(self, finite, "target_kl", "cg_damping", above=0)
        check(self, finite, "curvature_share", above=0, high=1)


@dataclass(frozen=True)
class TraceSettings(Settings):
    """Settings of algorithms that take feedback on each token for its advantage, with an eligibility trace."""

    search: ClassVar[Mapping[str, Range | None]] = {"trace_lambda": Choice((0.0, 0.35, 0.7, 0.95, 1.0))}
    trace_lambda: float = 0.95
    """λ, the decay of the eligibility trace: the share of a token's credit that the token before it receives, too. At 0
    feedback stays where it is, at 1 it reaches all earlier tokens undiminished."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "trace_lambda", low=0, high=1)


@dataclass(frozen=True)
class COACHSettings(OnPolicySettings, TraceSettings):
    """Settings of COACH (MacGlashan 2017): one pass, as feedback judges the policy that it was given to."""


@dataclass(frozen=True)
class ECOACHSettings(OnPolicySettings):
    """Settings of E-COACH (Shah 2021): a discount in place of the trace's decay."""

    search: ClassVar[Mapping[str, Range | None]] = {"gamma": Choice((0.9, 0.95, 0.99, 1.0))}
    gamma: float = 0.95
    """Discount γ of the objective: feedback on the t-th token, counted from 0, weighs γ^t. 1 for none, as everywhere
    else."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "gamma", above=0, high=1)


@dataclass(frozen=True)
class DeepCOACHSettings(ClipSettings, TraceSettings):
    """Settings of Deep COACH (Arumugam 2019)."""

    search: ClassVar[Mapping[str, Range | None]] = {"ent_coef": Choice((0.0, 0.01, 0.1, 1.5))}
    trace_lambda: float = 0.35
    """λ, the decay of the eligibility trace: the share of a token's credit that the token before it receives, too.
    Published: 0.35."""
    ent_coef: float = 0.01
    """Weight of an entropy bonus in the loss: the entropy of the behaviour distribution at each response token, in
    nats, normalised as the policy loss. Published: 1.5, beside feedback of ±1."""


@dataclass(frozen=True)
class RLOOSettings(GroupSettings):
    """Settings of RLOO: one pass over the episodes, as nothing keeps a second one near the policy that sampled them."""

    n_epochs: int = 1
    """Passes over the responses of an iteration. The loss has no ratio that would correct for a second one."""
    samples_per_prompt: int = 4
    """Responses to each prompt, k, each compared with the mean of the others. Published: 2 and 4 (Ahmadian 2024)."""


@dataclass(frozen=True)
class ClippedRLOOSettings(GroupSettings, ClipSettings):
    """Settings of RLOO with a clipped ratio of whole responses, as TRL's."""

    normalisation: Normalisation = "sequence"


@dataclass(frozen=True)
class StandardisedSettings(GroupSettings, RatioSettings):
    """Settings of algorithms with a ratio that standardise scores within a prompt's group; the KL is in the loss."""

    samples_per_prompt: int = 4
    """Responses to each prompt, k: the group that scores are standardised in. Published: 64 (Shao 2024)."""
    kl_in_loss: bool = True
    scale_by_std: bool = True
    """Divide the advantages of a group by their standard deviation. Published: yes (Shao 2024), no (Liu 2025)."""
    bessel: bool = True
    """Divide by k − 1 in that standard deviation (Bessel's correction), as TRL does; False divides by k."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("scale_by_std", "bessel"):
            require(isinstance(value := getattr(self, name), bool), name, repr(value), "True or False")


@dataclass(frozen=True)
class GRPOSettings(StandardisedSettings, ClipSettings):
    """Settings of GRPO; as published, the loss is normalised by response length."""

    normalisation: Normalisation = "sequence"


@dataclass(frozen=True)
class PublishedGRPOSettings(GRPOSettings):
    """Settings of GRPO with the KL estimator and the standard deviation of Shao 2024."""

    kl_estimator: KLEstimator = "k3"
    bessel: bool = False


@dataclass(frozen=True)
class DrGRPOSettings(GRPOSettings):
    """Settings of Dr. GRPO (Liu 2025): no division by the standard deviation, nor by a response's length."""

    normalisation: Normalisation = "constant"
    scale_by_std: bool = False


@dataclass(frozen=True)
class DAPOSettings(StandardisedSettings, ClipSettings):
    """Settings of DAPO (Yu 2025), as published."""

    search: ClassVar[Mapping[str, Range | None]] = {"clip_range": None, "clip_range_high": Choice((0.2, 0.28, 0.4))}
    episodes_per_iteration: int = 128
    """Responses to train on between updates; those that are discarded come on top. Published: 8192, to 512 prompts."""
    clip_range_high: float | None = 0.28
    """Upper clip range: the ratio's upper bound is 1 plus this. Published: 0.28, with 0.2 below."""
    max_resamples: int = 10
    """Further collections in an iteration, at most, for prompts whose responses all score the same. Published code:
    10."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "max_resamples", least=0)


@dataclass(frozen=True)
class CISPOSettings(StandardisedSettings, ClipSettings):
    """Settings of CISPO (MiniMax 2025): one pass, since a clipped weight lets every token go on moving."""

    search: ClassVar[Mapping[str, Range | None]] = {"clip_range": None, "clip_range_high": Choice((0.2, 1.0, 4.0))}
    n_epochs: int = 1
    """Passes over the responses of an iteration. No token's gradient ends, so that further passes need
    ``target_kl``."""
    clip_range: float = 1.0
    """Lower clip range ε of the weight, whose lower bound is 1 − ε; 1 for none. Published: none."""
    clip_range_high: float | None = 0.2
    """Upper clip range: the weight's upper bound is 1 plus this. Published: tuned, no value given; 4 in ScaleRL (whose
    bound is 5, Khatri 2025)."""


@dataclass(frozen=True)
class DPPOSettings(StandardisedSettings):
    """Settings of DPPO (Qi 2026)."""

    distance: BinaryDistance = "tv"
    """Distance of a token's probability from the sampling policy's: 'tv', its change, or 'kl', the KL of the token
    against all others."""
    max_distance: float | None = None
    """Distance beyond which a token is left out where its loss would take it farther. Default: 0.2 for 'tv', 0.05 for
    'kl'. Published, in the authors' example for verl: 0.15 and 0.05."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kinds = get_args(BinaryDistance)
        require(self.distance in kinds, "distance", repr(self.distance), "'tv' or 'kl'")
        check_given(self, finite, "max_distance", above=0)


@dataclass(frozen=True)
class GMPOSettings(StandardisedSettings, ClipSettings):
    """Settings of GMPO (Zhao 2025)."""

    normalisation: Normalisation = "sequence"
    clip_range: float = 0.4
    """Clip range ε of the log-ratio of a token, whose lower bound is −ε. Published: 0.4."""


@dataclass(frozen=True)
class SAPOSettings(StandardisedSettings):
    """Settings of SAPO (Gao 2025): one pass, since a soft gate lets every token go on moving."""

    normalisation: Normalisation = "sequence"
    n_epochs: int = 1
    """Passes over the responses of an iteration. No token's gradient ends, so that further passes need
    ``target_kl``."""
    tau: float = 1.0
    """Steepness τ of the gate where the advantage is positive. Published: 1."""
    tau_negative: float = 1.05
    """Steepness τ of the gate where the advantage is negative. Published: 1.05."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "tau", "tau_negative", above=0)


@dataclass(frozen=True)
class VESPOSettings(StandardisedSettings):
    """Settings of VESPO (Shen 2026): exponents k and decays λ of the weight W^k·exp(λ(1 − W)) of a response."""

    k_positive: float = 2.0
    """Exponent k where the advantage is at least 0. Default of TRL: 2."""
    decay_positive: float = 3.0
    """Decay λ where the advantage is at least 0. Default of TRL: 3."""
    k_negative: float = 3.0
    """Exponent k where the advantage is negative. Default of TRL: 3."""
    decay_negative: float = 2.0
    """Decay λ where the advantage is negative. Default of TRL: 2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "k_positive", "decay_positive", "k_negative", "decay_negative", above=0)


@dataclass(frozen=True)
class GSPOSettings(GRPOSettings):
    """Settings of GSPO (Zheng 2025). Tuning reaches from the clip range published for long responses to wide ones."""

    search: ClassVar[Mapping[str, Range | None]] = {"clip_range": LogRange(3e-4, 0.3)}


@dataclass(frozen=True)
class LUSPOSettings(GSPOSettings):
    """Settings of LUSPO (Liu 2026): GSPO's ratio, and no division by a response's length."""

    normalisation: Normalisation = "constant"


@dataclass(frozen=True)
class MaxRLSettings(GroupSettings, ClipSettings):
    """Settings of MaxRL (Tajwar 2026)."""

    normalisation: Normalisation = "constant"
    kl_in_loss: bool = True
    subtract_mean: bool = True
    """Subtract the group's mean score, which lowers the variance. Published: yes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(isinstance(self.subtract_mean, bool), "subtract_mean", repr(self.subtract_mean), "True or False")


@dataclass(frozen=True)
class AStarPOSettings(Settings):
    """Settings of A*PO (Brantley 2025)."""

    n_epochs: int = 1
    """Passes over the responses of an iteration. Published: 1. More are sound, as the regression has its optimum in π*
    whichever policy sampled the responses."""
    normalisation: Normalisation = "sequence"
    value_samples: int = 8
    """Responses of the reference to each prompt, n, from which V* is estimated, once in a run. Published: 8."""
    value_beta: float | None = None
    """Coefficient β₁ in that estimate: β₁ times the log of the mean of exp(score/β₁). Default: the present beta, with
    which the optimum has loss 0. Published: 0.5, with a beta of 0.001."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, count, "value_samples")
        check_given(self, finite, "value_beta", above=0)
        reason = "False: the loss is a regression on the log-ratio to the reference, which stands in it for the KL"
        require(not self.kl_in_loss, "kl_in_loss", self.kl_in_loss, reason)
        reason = "'sequence', since a loss belongs to a response, not to its tokens"
        require(self.normalisation == "sequence", "normalisation", repr(self.normalisation), reason)


@dataclass(frozen=True)
class BestOfNSettings(GroupSettings):
    """Settings of best-of-n: more samples, since n alone decides how far from the reference the policy comes."""

    samples_per_prompt: int = 16
    """Responses to each prompt, n, of which the best is imitated."""


@dataclass(frozen=True)
class DistillationSettings(Settings):
    """Settings of distillation on the student's own samples (Agarwal 2023)."""

    has_teacher: ClassVar[bool] = True
    n_epochs: int = 1
    """Passes over the responses of an iteration. Published: 1 (Agarwal 2023)."""
    jsd: float = 1.0
    """Divergence between the two models over the vocabulary: 1 is the reverse KL(student‖teacher), 0 the forward
    KL(teacher‖student), and a number between them the generalised Jensen–Shannon divergence with that weight of the
    teacher in the mixture. Published: 0.1, 0.5, 0.9 and both ends (Agarwal 2023)."""
    teacher_share: float = 0.0
    """Share λ of an iteration's responses that the teacher writes, rounded to whole prompts; the student writes the
    others. Published: 0, 0.5 and 1 (Agarwal 2023, whose λ is the student's share)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, finite, "jsd", "teacher_share", low=0, high=1)
        expected = "False, since the loss is the divergence from the teacher already"
        require(not self.kl_in_loss, "kl_in_loss", self.kl_in_loss, expected)

    @property
    def taught(self) -> int:
        """Number of an iteration's responses that the teacher writes."""
        k = self.samples_per_prompt
        return round(self.teacher_share * self.episodes_per_iteration / k) * k


SETTINGS: Mapping[str, type[Settings]] = {
    "ppo": PPOSettings,
    "nlpo": NLPOSettings,
    "a2c": A2CSettings,
    "trpo": TRPOSettings,
    "reinforce": OnPolicySettings,
    "coach": COACHSettings,
    "e-coach": ECOACHSettings,
    "deep-coach": DeepCOACHSettings,
    "rloo": RLOOSettings,
    "rloo-clipped": ClippedRLOOSettings,
    "grpo": GRPOSettings,
    "grpo-published": PublishedGRPOSettings,
    "dr-grpo": DrGRPOSettings,
    "dapo": DAPOSettings,
    "gspo": GSPOSettings,
    "luspo": LUSPOSettings,
    "gmpo": GMPOSettings,
    "cispo": CISPOSettings,
    "dppo": DPPOSettings,
    "sapo": SAPOSettings,
    "vespo": VESPOSettings,
    "maxrl": MaxRLSettings,
    "reinforce++": ClipSettings,
    "remax": OnPolicySettings,
    "a-star-po": AStarPOSettings,
    "best-of-n": BestOfNSettings,
    "expert-iteration": GroupSettings,
    "distill": DistillationSettings,
}
"""Settings class of each algorithm, by the name that commands and experiments use."""


WITHOUT_SAMPLING: Mapping[str, str] = {
    "sft": "textgym sft",
    "dpo": "textgym dpo",
    "ipo": "textgym dpo --loss ipo",
    "kto": "textgym kto",
}
"""Commands that learn from data, which are no algorithms of ``textgym train``, by the names of their losses."""


def find_settings(algorithm: str) -> type[Settings]:
    """Return the settings class of an algorithm.

    Raises:
        ValueError: there is no such algorithm; the nearest is named, or the command that learns by it from data.
    """
    if algorithm in WITHOUT_SAMPLING:
        command = WITHOUT_SAMPLING[algorithm]
        raise ValueError(f"algorithm={algorithm!r} is a command of its own, which learns from data: {command}")
    if algorithm not in SETTINGS:
        hint = suggest(algorithm, SETTINGS, after=" ")
        raise ValueError(f"algorithm={algorithm!r} is unknown; {hint}Known: {', '.join(SETTINGS)}")
    return SETTINGS[algorithm]


def setting_names(kind: type[Settings]) -> tuple[str, ...]:
    """Return the names of the settings that a class has."""
    return tuple(field.name for field in fields(kind))


FORMER: Mapping[str, Any] = {"kl_estimator": "k3", "bessel": False}
"""Settings that version 0.2 did not have, with the values by which it trained."""

SWITCHES = {"kl_estimator": "kl_in_loss", "bessel": "scale_by_std"}
"""Settings that have no effect where another one is False."""


def effective(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that another one switches off; names may have a section's prefix and a dot."""

    def is_off(name: str) -> bool:
        own = name.rpartition(".")[2]
        return own in SWITCHES and settings.get(name.removesuffix(own) + SWITCHES[own]) is False

    return {name: value for name, value in settings.items() if not is_off(name)}


def require(holds: bool, name: str, value: Any, expected: str) -> None:
    """Raise ValueError, naming the setting, unless the condition holds."""
    if not holds:
        raise ValueError(f"{name}={value}; expected {expected}")


Kind = TypeVar("Kind", bound=Settings)


ELSEWHERE = {
    "kl_coef": "beta",
    "kl_target": "beta",
    **dict.fromkeys(("temperature", "top_k", "top_p", "min_new_tokens"), "sampling"),
    **dict.fromkeys(("lora", "freeze_layers", "untie_head"), "policy_kwargs"),
    "n_steps": "episodes_per_iteration",
    "batch_size": "minibatch_size",
}
"""Arguments, or parts of them, that the command line, papers or stable-baselines3 call otherwise."""

FIXED = {
    "gamma": "γ is 1: a response is paid at its end, whole; e-coach has a discount",
    "normalize_advantage": "advantages are normalised as each algorithm's paper says",
    **dict.fromkeys(("use_sde", "sde_sample_freq"), "tokens are discrete, so there is no state-dependent exploration"),
    **dict.fromkeys(("use_rms_prop", "rms_prop_eps"), "the optimiser is Adam"),
    **dict.fromkeys(("force_reset", "print_system_info"), "it changes nothing here"),
    "custom_objects": "nothing is unpickled; pass what should differ by its own name, as learning_rate=1e-5",
    **dict.fromkeys(("rollout_buffer_class", "rollout_buffer_kwargs"), "whole responses are kept, in no such buffer"),
}
"""Settings of stable-baselines3's algorithms that these do not have, and why."""


Beta = TypeVar("Beta")


def former_beta(given: dict[str, Any], beta: Beta) -> Beta:
    """Return β from keyword arguments that may still call it ``kl``, as version 0.1 did.

    Args:
        given: further keyword arguments of a constructor, from which ``kl`` is taken out.
        beta: the constructor's argument ``beta``.

    Raises:
        TypeError: both names are given.
    """
    if "kl" not in given:
        return beta
    former: Beta = given.pop("kl")
    if beta is not None and beta != Common.beta:
        raise TypeError(f"kl={former!r} and beta={beta!r}; they are the same argument: write beta=… alone")
    message = "the argument kl is called beta now, and this is the last version that takes the old name; write beta=…"
    warnings.warn(message, DeprecationWarning, stacklevel=3)
    return former


def make_settings(kind: type[Kind], algorithm: str, given: Mapping[str, Any]) -> Kind:
    """Return the settings of an algorithm.

    Raises:
        TypeError: the algorithm has no setting of a given name.
        ValueError: a value is out of its range.
    """
    known = setting_names(kind)
    for name in given:
        if name in FIXED and name not in known:
            raise TypeError(f"{algorithm} has no setting {name!r}: {FIXED[name]}; it has {', '.join(known)}")
        if name not in known:
            near = f"; did you mean {ELSEWHERE[name]!r}?" if name in ELSEWHERE else suggest(name, known, before="; ")
            raise TypeError(f"{algorithm} has no setting {name!r}{near}; it has {', '.join(known)}")
    return kind(**given)


if not TYPE_CHECKING:  # a type checker must not take every name for one of this module
    __getattr__ = partial(find_moved, __name__)
