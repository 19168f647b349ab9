"""Hyperparameters of an algorithm as the command line and YAML files give them."""

from __future__ import annotations

from dataclasses import dataclass

from textgym.agents.settings import Normalisation
from textgym.numbers import LARGEST_RATE, TEMPERATURES, check, check_given, check_words, count, finite


@dataclass(frozen=True)
class Hyperparameters:
    """How the policy is trained. None stands for the algorithm's own value; not every algorithm has every setting."""

    learning_rate: float = 1e-4
    """Adam's initial rate; it decays linearly to 0 over the run. Published: 1.4e-5 (Ziegler 2019, GPT-2 small)."""
    warmup_iterations: int = 0
    """Iterations until that rate is whole: the first has 1/n of it. Published: 10 (Ouyang 2022)."""
    episodes_per_iteration: int = 128
    """Responses collected between updates, greedy and discarded ones included. Published: 512 (Ziegler 2019)."""
    minibatch_size: int = 32
    """Responses per gradient step. Published: 64 (Huang 2024)."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm. Published: 1 (Stiennon 2020)."""
    kl_coef: float = 0.05
    """β, the price of one nat of KL to the reference. Published: 0.15 at first (Ziegler 2019), 0.02 (Ouyang 2022), 0.04
    in GRPO's loss (Shao 2024)."""
    kl_target: float | None = None
    """Nats per sequence that an adaptive β steers to (published: 6); without it β stays as it is."""
    temperature: float = 1.0
    """Divides the logits of policy and reference, when sampling and when training. Published: 0.7 (Ziegler 2019)."""
    top_k: int = 0
    """Sample only among the k most probable tokens; 0 for all."""
    top_p: float = 1.0
    """Sample only among the most probable tokens that hold this mass; 1 for all."""
    min_new_tokens: int = 0
    """No end token before so many tokens."""
    value: str = "trunk"
    """The critic, where there is one: 'trunk' (a head on the policy), 'separate' (its own model), or a reward model's
    directory."""
    n_epochs: int | None = None
    """Passes over an iteration's responses: 4 (published: Ziegler 2019), and 1 in a2c, reinforce, rloo and remax,
    whose loss has no ratio."""
    samples_per_prompt: int | None = None
    """k, the responses to each prompt (1; grpo, gspo, rloo, expert-iteration 4; best-of-n 16). Published: 2 and 4
    (RLOO, Ahmadian 2024), 64 (GRPO, Shao 2024)."""
    normalisation: Normalisation | None = None
    """What the policy loss is divided by: the minibatch's 'token' count, each 'sequence' length (grpo, gspo), or the
    'constant' T (Dr. GRPO, Liu 2025)."""
    kl_in_loss: bool | None = None
    """Whether the KL stands in the loss, by the k3 estimator (grpo, gspo), or in the reward (all others)."""
    gae_lambda: float | None = None
    """λ of generalised advantage estimation in ppo, nlpo and trpo; γ is 1. Published: 0.95."""
    clip_range: float | None = None
    """ε of the clipped ratio in ppo, nlpo, grpo and gspo. Published: 0.2; in gspo 3e-4 (Zheng 2025)."""
    clip_range_high: float | None = None
    """Its upper side, where that is another. Published: 0.28 (DAPO, Yu 2025); in gspo 4e-4 (Zheng 2025)."""
    clip_range_vf: float | None = None
    """How far a value may move from its old one, in units of the value. Published: 0.2."""
    vf_coef: float | None = None
    """Weight of the value loss. Published: 0.1."""
    ent_coef: float | None = None
    """Weight of an entropy bonus in the loss, as in stable-baselines3. Published: none (0)."""
    scale_by_std: bool | None = None
    """Whether grpo divides a group's advantages by their standard deviation. Published: yes (Shao 2024), no (Liu
    2025)."""
    top_mask: float | None = None
    """The mass of the nucleus of nlpo's mask. Published: 0.9 (Ramamurthy 2022)."""
    min_tokens_to_keep: int | None = None
    """The most probable tokens that nlpo's mask keeps in any case. Default 1. Published: 100."""
    target_update: int | None = None
    """Iterations between refreshes of nlpo's mask model. Published: 5 (IMDB)."""
    target_kl: float | None = None
    """Nats per token. In ppo, nlpo, grpo and gspo an iteration's update ends at the first minibatch that is 1.5 times
    so far from the policy that sampled; 0 for no such bound. In trpo: what a step may change. Published: 0.01
    (Schulman 2015)."""
    cg_steps: int | None = None
    """Steps of trpo's conjugate gradient. Published: 10."""
    cg_damping: float | None = None
    """What trpo adds to the curvature. Published: 0.1."""
    curvature_share: float | None = None
    """Share of the minibatches that trpo's curvature is estimated on. Published: 0.1 (Schulman 2015)."""

    def __post_init__(self) -> None:
        check(self, count, "episodes_per_iteration", "minibatch_size")
        check(self, count, "warmup_iterations", "top_k", "min_new_tokens", least=0)
        check(self, finite, "learning_rate", low=0, high=LARGEST_RATE)
        check(self, finite, "kl_coef", low=0)
        check(self, finite, "max_grad_norm", above=0)
        check(self, finite, "temperature", **TEMPERATURES)
        check(self, finite, "top_p", above=0, high=1)
        check_given(self, count, "n_epochs", "samples_per_prompt", "min_tokens_to_keep", "target_update", "cg_steps")
        check_given(self, finite, "kl_target", "clip_range_high", "clip_range_vf", "cg_damping", above=0)
        check_given(self, finite, "vf_coef", "target_kl", "ent_coef", low=0)
        check_given(self, finite, "gae_lambda", low=0, high=1)
        check_given(self, finite, "clip_range", "top_mask", "curvature_share", above=0, high=1)
        check_words(self, "value")


CAUTIOUS = Hyperparameters(learning_rate=1e-4, warmup_iterations=10)
"""Defaults of ``textgym train``, for models of anyone's: measured in docs/rates.md. The class's own defaults are those
of the published runs."""
CAUTIOUS_KL = 0.02
"""``target_kl`` there, in algorithms with a clipped ratio."""
