"""TRL's losses and ours on one batch: the same value, and the same gradient of every parameter.

TRL's trainers are real ones on the same tiny model; only their sampling is replaced, by responses that our algorithm
has played. Advantages, log-probabilities, normalisers and losses come from TRL's own code, settings from its configs;
``LOSSES`` maps them to ours.

Defaults of TRL 1.16 that differ from ours:

- GRPO's loss is DAPO's token mean, without a KL (β 0); ours averages over each response, with the exact KL at β 0.05.
  A KL in TRL's loss is k3 times the ratio, ours "k3-corrected". GMPO leaves the ratio out. With a ratio of whole
  responses (GSPO, LUSPO), TRL multiplies by that ratio, ours by the token's, as the estimator's derivation has it.
- ``loss_type="dapo"`` neither raises the upper clip (ε' = 0.28 is ours) nor discards groups that score the same.
- ``loss_type="dr_grpo"`` still divides by the standard deviation (``scale_rewards="group"``).
- ``loss_type="luspo"`` still has ratios of tokens (``importance_sampling_level="token"``). Its loss is T times ours.
- ``loss_type="cispo"`` has ``epsilon_high`` itself as the bound, and so a bound of 0.2 by default: nearly all tokens
  weigh the same. Ours is 1 + ε'.
- dapo, cispo and vespo divide by the tokens of all responses that were generated together, ours by the minibatch's.
- The entropy bonus (0 for both) is a mean over tokens in every loss; ours is normalised as the policy loss.
- RLOO has 2 responses to a prompt (ours 4), and clips the ratio of whole responses (ours: "rloo-clipped").
- One gradient step on each response, at a rate of 1e-6; ours up to 4 passes at 1e-4. Groups are of 8, ours of 4.
- The model's dropout stays on; ours is always off.
- ``scale_rewards="batch"``, the batch's standard deviation about the group's mean, and δ, a bound of the ratio where it
  is not clipped, have no counterpart.

TRL passes no positions to a model, so that learned ones (GPT-2) are shifted where prompts are padded on the left. The
models here have rotary positions, which do not care, but for one with prompts of equal length.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from tests.agents.replay import prompt_and_response
from tests.helpers import moved, tiny_gpt2, word_mdp, word_tokenizer
from textgym.agents.dapo import DAPO
from textgym.agents.functional.objectives import Advantages, masked_mean
from textgym.agents.group_ratios import CISPO, GMPO, GSPO, LUSPO, SAPO, VESPO
from textgym.agents.grpo import GRPO, ClippedRLOO, DrGRPO
from textgym.agents.loop.episodes import Minibatch, minibatches
from textgym.agents.policy.lm_policy import Evaluation
from textgym.env.vector import TokenVectorEnv
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import jensen_shannon, k3
from textgym.types import Episodes

trl = pytest.importorskip("trl", minversion="1.16")
datasets = pytest.importorskip("datasets")

N, T = 24, 6
PROMPTS = ("w0 w1", "w2", "w3 w4 w5")
EQUAL = 1e-6
BETA = 0.3
STEP = 0.05
"""Standard deviation of the noise that moves a policy away from the one that sampled: ratios are 0.3 to 2.5."""

HERE: dict[str, Any] = {
    "per_device_train_batch_size": N,
    "max_completion_length": T,
    "disable_dropout": True,
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
}
"""Sizes and hardware of a TRL trainer in these tests; other settings are TRL's defaults."""

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


# --- the settings of both ------------------------------------------------------------------------------------


def clip(config: Any) -> dict[str, Any]:
    return {"clip_range": config.epsilon, "clip_range_high": config.epsilon_high}


def bound(config: Any) -> dict[str, Any]:
    return {"clip_range": 1.0, "clip_range_high": config.epsilon_high - 1}


def gate(config: Any) -> dict[str, Any]:
    return {"tau": config.sapo_temperature_pos, "tau_negative": config.sapo_temperature_neg}


def gamma(config: Any) -> dict[str, Any]:
    return {
        "k_positive": config.vespo_k_pos,
        "decay_positive": config.vespo_lambda_pos,
        "k_negative": config.vespo_k_neg,
        "decay_negative": config.vespo_lambda_neg,
    }


@dataclass(frozen=True)
class Match:
    """A loss of TRL's, and ours.

    Attributes:
        ours: our algorithm.
        normalisation: of our loss.
        settings: those of our algorithm, read from TRL's config.
        theirs: settings of TRL's config that its defaults do not have.
        times: TRL's loss in ours.
        estimators: KL estimators that are the same in both.
    """

    ours: Any
    normalisation: str
    settings: Callable[[Any], dict[str, Any]]
    theirs: dict[str, Any] = field(default_factory=dict)
    times: float = 1.0
    estimators: tuple[str, ...] = ("k3", "k3-corrected")


WHOLE = {"importance_sampling_level": "sequence", "epsilon": 0.05}  # means over a response move less

LOSSES: dict[str, Match] = {
    "grpo": Match(GRPO, "sequence", clip, {"loss_type": "grpo"}),
    "grpo, asymmetric": Match(GRPO, "sequence", clip, {"loss_type": "grpo", "epsilon": 0.1, "epsilon_high": 0.4}),
    "bnpo": Match(GRPO, "token", clip, {"loss_type": "bnpo"}),
    "dr_grpo": Match(DrGRPO, "constant", clip, {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "dapo": Match(DAPO, "token", clip, {"loss_type": "dapo", "epsilon_high": 0.28}),
    "cispo": Match(CISPO, "token", bound, {"loss_type": "cispo", "epsilon_high": 1.2}),
    "sapo": Match(SAPO, "sequence", gate, {"loss_type": "sapo"}),
    "vespo": Match(VESPO, "token", gamma, {"loss_type": "vespo"}),
    "gspo": Match(GSPO, "sequence", clip, {"loss_type": "grpo", **WHOLE}, estimators=("k3",)),
    "luspo": Match(LUSPO, "constant", clip, {"loss_type": "luspo", **WHOLE}, T, ("k3",)),
    "gmpo": Match(GMPO, "sequence", clip, estimators=("k3",)),
    "rloo": Match(ClippedRLOO, "sequence", clip, estimators=()),
}
"""TRL's losses, every ``loss_type`` of its GRPO among them, and ours."""

STANDARDISED: dict[str, bool] = {"group": True, "none": False}
"""``scale_by_std`` by TRL's ``scale_rewards``."""

ESTIMATORS: dict[bool, str] = {True: "k3-corrected", False: "k3"}
"""``kl_estimator`` by TRL's ``use_bias_correction_kl``."""


def trainer_and_config(name: str) -> tuple[Any, Any]:
    if name == "gmpo":
        from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

        return GMPOTrainer, GMPOConfig
    return (trl.RLOOTrainer, trl.RLOOConfig) if name == "rloo" else (trl.GRPOTrainer, trl.GRPOConfig)


def settings_of_ours(match: Match, config: Any) -> dict[str, Any]:
    """Return our algorithm's settings by TRL's config."""
    shared = {
        "normalisation": match.normalisation,
        "samples_per_prompt": config.num_generations,
        "beta": config.beta,
        "sampling": Sampling(temperature=config.temperature),
        **match.settings(config),
    }
    if isinstance(config, trl.RLOOConfig):
        return shared
    return {
        **shared,
        "kl_estimator": ESTIMATORS[config.use_bias_correction_kl],
        "scale_by_std": STANDARDISED[config.scale_rewards],
        "ent_coef": config.entropy_coef,
    }


# --- one batch for both --------------------------------------------------------------------------------------


def mean_id(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Reward large ids: hardly two responses earn the same."""
    return [sum(ids) / len(ids) / 4 for ids in completion_ids]


@dataclass
class Both:
    """An algorithm of ours and a trainer of TRL's with the same weights, and the episodes of both.

    Attributes:
        algorithm: ours.
        batch: the minibatch of all its episodes.
        trainer: TRL's.
        inputs: the same episodes, as TRL scored them.
    """

    algorithm: Any
    batch: Minibatch
    trainer: Any
    inputs: dict[str, Tensor]

    def move(self, by: float = STEP) -> None:
        """Move both policies to the same other weights."""
        moved(self.algorithm.policy.lm, by)
        moved(self.trainer.model, by)

    def our_loss(self) -> Tensor:
        loss: Tensor = self.algorithm.loss(self.algorithm.evaluate(self.batch), self.batch)[0]
        return loss

    def their_loss(self) -> Tensor:
        loss: Tensor = self.trainer.compute_loss(self.trainer.model, self.inputs)
        return loss

    def agree(self, times: float = 1.0) -> None:
        """Assert that TRL's loss and its gradient are these times ours."""
        ours, theirs = times * self.our_loss(), self.their_loss()
        assert float(ours.detach()) == pytest.approx(float(theirs.detach()), abs=EQUAL * max(1.0, times))
        mine, other = gradient(ours, self.algorithm.policy.lm), gradient(theirs, self.trainer.model)
        assert mine.keys() == other.keys()
        largest = max(float(grad.abs().max()) for grad in other.values())
        assert largest > 1e-3
        for name, grad in other.items():
            torch.testing.assert_close(mine[name], grad, atol=EQUAL * largest, rtol=0, msg=f"{name}: {largest}")


def gradient(loss: Tensor, model: Any) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a reference that is not the policy, in which trainers may write."""
    directory = tmp_path_factory.mktemp("trl")
    for name, make in MODELS.items():
        moved(make(seed=1), 2 * STEP).save_pretrained(directory / name)
    return directory


def tiny_neox(seed: int = 0) -> GPTNeoXForCausalLM:
    """Rotary positions; unlike Llama's, its norms do not return to float32 in a float64 model."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = GPTNeoXConfig(vocab_size=16, bos_token_id=1, eos_token_id=1, pad_token_id=0, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPTNeoXForCausalLM(config).eval()


MODELS: dict[str, Callable[..., Any]] = {"neox": tiny_neox, "gpt2": tiny_gpt2}


def play(
    match: Match, config: Any, folder: Path, model: str = "neox", prompts: tuple[str, ...] = PROMPTS
) -> tuple[Any, Episodes]:
    """Return our algorithm, and the episodes of its first iteration."""
    env = TokenVectorEnv(word_mdp(mean_id, prompts), 8, "Disabled")
    settings = {"episodes_per_iteration": N, "minibatch_size": N, **settings_of_ours(match, config)}
    algorithm = match.ours(
        "LMPolicy", env, model=MODELS[model](), reference=str(folder / model), seed=0, device="cpu", **settings
    )
    episodes = algorithm.collect()
    assert episodes is not None
    assert len(set(episodes.lengths)) > 1
    return algorithm, episodes


def scored_by_trl(trainer: Any, episodes: Episodes) -> dict[str, Tensor]:
    """Return the inputs of TRL's loss: these episodes, with TRL's advantages and log-probabilities."""
    prompts, responses = zip(*(prompt_and_response(episodes, i) for i in range(len(episodes))), strict=True)
    generated = (list(prompts), list(responses), None, [""] * N, None, {}, None, None)
    if isinstance(trainer, trl.RLOOTrainer):
        generated = (list(prompts), list(responses), [""] * N)
    trainer._generate = lambda _: generated
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer.model.train()
    inputs: dict[str, Tensor] = trainer._generate_and_score_completions([{"prompt": "w0"}] * N)
    return inputs


def with_our_numbers(inputs: dict[str, Tensor], algorithm: Any, episodes: Episodes) -> dict[str, Tensor]:
    """Return TRL's inputs with our advantages and our log-probabilities of the policy that sampled.

    TRL's must equal them. Both sides round them, each in its own way, and a loss would hold both errors.
    """
    own = torch.from_numpy(episodes.own[:, : inputs["completion_mask"].shape[1]])
    log_probs, advantages = (
        torch.where(own, torch.from_numpy(values)[:, : own.shape[1]].double(), 0.0)
        for values in (episodes.log_probs, algorithm.advantages(algorithm.score(episodes)).advantages)
    )
    ours = {
        "old_per_token_logps": log_probs,
        "old_logps": log_probs.sum(1),
        "advantages": advantages[:, 0],  # one for each response
    }
    for name in inputs.keys() & ours.keys():
        theirs = inputs[name].double()
        found = torch.where(own, theirs, 0.0) if theirs.ndim == 2 else theirs
        torch.testing.assert_close(found, ours[name], atol=T * EQUAL, rtol=0)
    return {name: ours.get(name, value) for name, value in inputs.items()}


def scored_by_us(algorithm: Any, episodes: Episodes, rows: slice = slice(None)) -> Minibatch:
    """Return the minibatch of the episodes in these rows."""
    scored = algorithm.select(algorithm.score(episodes))
    assert len(scored.episodes) == N
    estimated = algorithm.advantages(scored)
    part = scored.take(np.arange(N)[rows])
    chosen = Advantages(estimated.advantages[rows], estimated.returns[rows])
    (batch,) = minibatches(part, chosen, N, 1, np.random.default_rng(0), torch.device("cpu"))
    return batch


def both(name: str, folder: Path, model: str = "neox", prompts: tuple[str, ...] = PROMPTS, **theirs: Any) -> Both:
    """Return both sides for a loss of ``LOSSES``; ``theirs`` are further settings of TRL's config."""
    match = LOSSES[name]
    kind, config_of = trainer_and_config(name)
    config = config_of(output_dir=str(folder / "out"), **{**HERE, **match.theirs, **theirs})
    algorithm, episodes = play(match, config, folder, model, prompts)
    policy = MODELS[model]()
    policy.config._name_or_path = str(folder / model)  # where TRL loads its reference from
    data = datasets.Dataset.from_dict({"prompt": ["w0"] * N})
    trainer = kind(policy, mean_id, args=config, train_dataset=data, processing_class=word_tokenizer())
    inputs = with_our_numbers(scored_by_trl(trainer, episodes), algorithm, episodes)
    sides = Both(algorithm, scored_by_us(algorithm, episodes), trainer, inputs)
    # A ratio of whole responses is the exponential of a sum, in which rounding adds up: float64 from here on.
    algorithm.policy.lm.double()
    policy.double()
    return sides


# --- losses --------------------------------------------------------------------------------------------------

KLS = [(name, estimator) for name, match in LOSSES.items() for estimator in (None, *match.estimators)]


@pytest.mark.parametrize(("name", "estimator"), KLS)
def test_value_and_gradient_are_those_of_trl(name: str, estimator: str | None, folder: Path) -> None:
    """Without a KL, as TRL's defaults, and with each estimator; at the policy that sampled, and at another."""
    kl = {"beta": BETA, "use_bias_correction_kl": estimator == "k3-corrected"} if estimator else {}
    # With two iterations TRL keeps the log-probabilities of the policy that sampled.
    sides = both(name, folder, num_generations=4, num_iterations=2, **kl)
    sides.agree(LOSSES[name].times)
    sides.move()
    assert_both_sides_are_clipped(sides)
    sides.agree(LOSSES[name].times)


def assert_both_sides_are_clipped(sides: Both) -> None:
    """Assert that there are ratios beyond the bounds where PPO's minimum clips them, or as far without bounds."""
    batch, algorithm = sides.batch, sides.algorithm
    low, high = getattr(algorithm, "bounds", (0.8, 1.2))
    with torch.no_grad():
        ratio = algorithm.ratio(batch.log_ratio(algorithm.evaluate(batch).log_probs), batch.own)[batch.own]
    gains = batch.advantages[batch.own] > 0
    assert (ratio[gains] > high).any()
    assert low == 0 or (ratio[~gains] < low).any()


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_the_defaults_of_trl(name: str, folder: Path) -> None:
    """Every setting but sizes and hardware is the config's own: loss, KL, clip range, group and temperature."""
    config = trainer_and_config(name)[1](output_dir=str(folder / "out"), **HERE)
    loss = getattr(config, "loss_type", name)
    assert loss == {"grpo": "dapo", "rloo": "rloo"}[name]
    theirs = {key: getattr(config, key) for key in LOSSES[loss].theirs}
    assert config.epsilon_high is None
    sides = both(loss, folder, **theirs)
    assert sides.algorithm.settings.samples_per_prompt == config.num_generations
    sides.agree()


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_at_another_temperature(name: str, folder: Path) -> None:
    sides = both(name, folder, num_generations=4, temperature=0.6, num_iterations=2, beta=BETA)
    sides.move()
    sides.agree()


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_on_a_model_with_learned_positions(name: str, folder: Path) -> None:
    sides = both(name, folder, "gpt2", ("w0 w1", "w2 w3", "w4 w5"), num_generations=4, num_iterations=2, beta=BETA)
    sides.move()
    sides.agree()


def test_the_entropy_bonus_is_a_mean_over_tokens(folder: Path) -> None:
    sides = both("dapo", folder, num_generations=4, num_iterations=2, entropy_coef=0.1)
    sides.move()
    sides.agree()


def test_trl_divides_by_the_tokens_that_were_generated_together(folder: Path) -> None:
    """Where ours divides by the minibatch's; they agree where the minibatch holds all."""
    half = {"per_device_train_batch_size": N // 2, "steps_per_generation": 2}
    sides = both("dapo", folder, num_generations=4, num_iterations=2, **half)
    tokens = int(sides.batch.own.sum())
    sides.move()
    whole, losses = sides.our_loss(), []
    algorithm, episodes = play(LOSSES["dapo"], sides.trainer.args, folder)
    batches = [scored_by_us(algorithm, episodes, rows) for rows in (slice(None, N // 2), slice(N // 2, None))]
    moved(algorithm.policy.lm, STEP)
    for batch, inputs in zip(batches, trl.trainer.utils.split_tensor_dict(sides.inputs, 2), strict=True):
        losses.append(sides.trainer.compute_loss(sides.trainer.model, inputs))
        ours = algorithm.loss(algorithm.evaluate(batch), batch)[0]
        share = int(batch.own.sum()) / (tokens / 2)
        assert share != 1
        assert float(share * ours) == pytest.approx(float(losses[-1]), abs=EQUAL)
    assert float(sum(losses) / 2) == pytest.approx(float(whole), abs=EQUAL)


@pytest.mark.parametrize("name", ["gspo", "luspo"])
def test_trl_corrects_the_kl_by_the_ratio_of_the_loss(name: str, folder: Path) -> None:
    """Ours corrects it by the ratio of the token, which alone makes k3 an estimate under the present policy."""
    sides = both(name, folder, num_generations=4, num_iterations=2, beta=BETA, use_bias_correction_kl=True)
    sides.move(3 * STEP)
    times = LOSSES[name].times
    assert abs(float(times * sides.our_loss() - sides.their_loss())) > 100 * EQUAL

    def kl_loss(evaluation: Evaluation, batch: Minibatch) -> Tensor:
        ratio = sides.algorithm.ratio(batch.log_ratio(evaluation.log_probs), batch.own)
        estimated: Tensor = ratio * k3(evaluation.log_probs, batch.ref_log_probs)
        return estimated

    sides.algorithm.kl_loss = kl_loss
    sides.agree(times)


# --- advantages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("grpo", {}),
        ("grpo", {"scale_rewards": "none"}),
        ("rloo", {}),
        ("rloo", {"num_generations": 4, "beta": 0.0}),
        ("rloo", {"num_generations": 4, "beta": BETA}),
    ],
)
def test_advantages_are_those_of_trl(name: str, theirs: dict[str, Any], folder: Path) -> None:
    """GRPO's of the group, by the standard deviation of k − 1 and 1e-4; RLOO's leave one out, after the KL."""
    sides = both(name, folder, **theirs)
    algorithm, episodes = play(LOSSES[name], sides.trainer.args, folder)
    scored = algorithm.score(episodes)
    ours = algorithm.estimate_advantages(scored).advantages
    expected = np.where(episodes.own, sides.inputs["advantages"].numpy()[:, None], 0.0)
    np.testing.assert_allclose(ours, expected, atol=EQUAL)
    assert np.abs(ours).max() > 0.3


# --- distillation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_generalised_jensen_shannon_divergence_is_that_of_trl(share: float) -> None:
    """Of GKD, on logits, and of the distillation trainer, on hidden states; with padding that does not count."""
    from trl.experimental.gkd import GKDTrainer
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 5, T, 9, generator=generator)
    own = torch.arange(T) < torch.tensor([6, 3, 1, 5, 2])[:, None]
    inputs = [student.clone().requires_grad_() for _ in range(3)]
    divergence = jensen_shannon(inputs[0].log_softmax(-1), teacher.log_softmax(-1), share)
    losses = [
        masked_mean(divergence, own),
        GKDTrainer.generalized_jsd_loss(inputs[1], teacher, torch.where(own, 0, -100), share),
        _chunked_divergence_loss(inputs[2], teacher, torch.eye(9), torch.eye(9), own.long(), share)[0],
    ]
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in zip(losses, inputs, strict=True)]
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        torch.testing.assert_close(losses[0], loss, atol=EQUAL, rtol=0)
        torch.testing.assert_close(gradients[0], gradient, atol=EQUAL, rtol=0)
