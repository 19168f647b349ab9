"""What stops a run, what it warns of, and what keeps a policy near the one that sampled."""

from __future__ import annotations

import copy
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from tests.agents.test_algorithms import make, make_env
from tests.agents.test_ppo import Watch, equal, make_ppo, parameters
from tests.helpers import tiny_gpt2
from textgym.agents import GRPO, PPO, SequenceAlgorithm
from textgym.agents.loop.algorithm import linear_decay, warmup_factor
from textgym.agents.policy.lm_policy import Evaluation
from textgym.agents.registry import ALGORITHMS
from textgym.lm.guards import TrainingError, TrainingWarning, alarms, check_first_ratio, check_step, ratio_bound
from textgym.lm.guards import Watch as Watchman

CLIPPED = ["ppo", "nlpo", "grpo", "gspo"]

# --- the policy that is trained is the one that sampled -----------------------------------------------------------


class ChangeWeights(BaseCallback):
    """Changes the policy between a rollout and the training on it, from the second iteration on."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: dict[str, torch.Tensor] = {}

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.model.iteration == 1:
            for parameter in self.model.policy.lm.parameters():
                parameter.data.mul_(1.5)
            self.changed = parameters(self.model)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "best-of-n"])
def test_a_policy_that_changed_since_it_sampled_is_not_trained(name: str) -> None:
    algorithm, change = make(name), ChangeWeights()
    with pytest.raises(TrainingError, match=r"ratio is .* away from 1, and at most 0\.01 is allowed") as caught:
        algorithm.learn(500, change)
    assert algorithm.iteration == 1  # the first one went well
    assert equal(parameters(algorithm), change.changed)  # no step was taken
    for cause in ("dropout", "callback", "padding", "half precision", "wrapper", "sampling settings"):
        assert cause in str(caught.value)


def test_best_of_n_leaves_its_sampler_and_goes_on() -> None:
    algorithm, watch = make("best-of-n"), Watch()
    algorithm.learn(500, watch)
    assert watch.logged[-1]["train/first_minibatch_ratio_error"] > 1e-2


def test_the_bound_is_that_of_the_coarsest_dtype() -> None:
    """1e-2, and in half precision 64 times the distance from 1 to the next number: 2^-7 in bf16, 2^-10 in fp16."""
    model = tiny_gpt2()
    assert ratio_bound(model) == 1e-2
    assert ratio_bound(copy.deepcopy(model).half()) == 64 * 2**-10
    mixed = copy.deepcopy(model)
    mixed.transformer.wte.bfloat16()
    assert ratio_bound(mixed) == 64 * 2**-7
    check_first_ratio(0.3, mixed)
    for error, bad in ((0.3, model), (0.6, mixed), (math.nan, mixed)):
        with pytest.raises(TrainingError):
            check_first_ratio(error, bad)


# --- numbers that are not finite ----------------------------------------------------------------------------------


def test_a_step_that_is_not_finite_is_not_taken(tmp_path: Path) -> None:
    algorithm = make_ppo(vf_coef=3e38)
    before = parameters(algorithm)
    with pytest.raises(TrainingError, match=r"training diverged: the loss is .*inf.*\(learning rate 0\.003\)"):
        algorithm.learn(100)
    assert equal(parameters(algorithm), before)
    algorithm.save(tmp_path / "kept")


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (1.0, math.inf)])
def test_either_number_stops_a_step(loss: float, norm: float) -> None:
    check_step(1.0, 1.0, 1e-3)
    with pytest.raises(TrainingError, match="the step was not taken"):
        check_step(loss, norm, 1e-3)


def test_weights_that_a_step_made_infinite_end_the_run() -> None:
    algorithm = make_ppo(minibatch_size=16, n_epochs=1)  # one step an iteration, so no later loss tells
    step = algorithm.policy.optimizer.step

    def overflow() -> None:
        step()
        algorithm.policy.lm.transformer.h[1].ln_1.bias.data[5] = math.inf

    algorithm.policy.optimizer.step = overflow  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match=r"not finite .* in lm\.transformer\.h\.1\.ln_1\.bias"):
        algorithm.learn(100)
    assert algorithm.iteration == 0


def test_weights_that_are_not_finite_are_never_saved_over_good_ones(tmp_path: Path) -> None:
    algorithm = make_ppo()
    algorithm.learn(100)
    algorithm.save(tmp_path / "checkpoint")
    good = (tmp_path / "checkpoint" / "model.safetensors").read_bytes()
    with torch.no_grad():
        algorithm.policy.value.head.linear.bias.fill_(math.nan)  # type: ignore[union-attr]
    with pytest.raises(TrainingError, match=r"not finite .* in value\.head\.linear\.bias"):
        algorithm.save(tmp_path / "checkpoint")
    assert (tmp_path / "checkpoint" / "model.safetensors").read_bytes() == good


@pytest.mark.parametrize("role", ["model", "reference"])
def test_a_model_with_a_nan_is_named_at_construction(role: str) -> None:
    broken = tiny_gpt2(seed=1)
    with torch.no_grad():
        broken.transformer.wpe.weight[3, 2] = math.nan
    models = {"model": tiny_gpt2(), role: broken}
    with pytest.raises(ValueError, match=rf"{role} has weights that are not finite .* transformer\.wpe\.weight"):
        make_ppo(**models)


# --- target_kl ----------------------------------------------------------------------------------------------------


def steps_and_distances(algorithm: SequenceAlgorithm, tokens: int) -> tuple[list[dict[str, torch.Tensor]], list[float]]:
    """The weights after each step of one iteration, and mean(ρ − 1 − log ρ) at each minibatch before its step."""
    weights: list[dict[str, torch.Tensor]] = []
    distances: list[float] = []
    watch, step = algorithm.watch, algorithm.policy.optimizer.step

    def noted(evaluation: Evaluation, batch: Any) -> dict[str, torch.Tensor]:
        log_ratio = (evaluation.log_probs - batch.log_probs)[batch.own].detach().double()
        distances.append(float((log_ratio.exp() - 1 - log_ratio).mean()))
        return watch(evaluation, batch)

    def stepped(*arguments: Any) -> Any:
        result = step(*arguments)
        weights.append(parameters(algorithm))
        return result

    algorithm.watch = noted  # type: ignore[method-assign]
    algorithm.policy.optimizer.step = stepped  # type: ignore[method-assign]
    algorithm.learn(tokens)
    return weights, distances


@pytest.mark.parametrize("name", CLIPPED)
def test_an_update_ends_before_the_step_that_is_too_far(name: str) -> None:
    weights, distances = steps_and_distances(make(name, learning_rate=1e-2), 10)
    assert len(weights) == 16  # 4 epochs of 4 minibatches
    # The first minibatch that is farther than all before it, though one of them was beyond the target itself.
    farthest = [max(distances[:i]) for i in range(1, 16)]
    ended = next(i for i, most in enumerate(farthest, 1) if most < 0.99 * distances[i] < 1.4 * most)
    target = 0.995 * distances[ended] / 1.5
    bounded = make(name, learning_rate=1e-2, target_kl=target)
    watch = Watch()
    bounded.learn(10, watch)
    assert bounded._n_updates == ended
    assert equal(parameters(bounded), weights[ended - 1])
    # The minibatch that was too far is logged with the others.
    (row,) = watch.logged
    assert row["train/approx_kl"] == pytest.approx(sum(distances[: ended + 1]) / (ended + 1), rel=1e-4)
    assert row["train/grad_norm"] > 0


@pytest.mark.parametrize("off", [None, 0, 100.0])
def test_without_a_bound_that_is_met_no_bit_changes(off: float | None) -> None:
    plain, bounded = make("ppo"), make("ppo", target_kl=off)
    for algorithm in (plain, bounded):
        algorithm.learn(200)
    assert equal(parameters(plain), parameters(bounded))


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_a_target_that_is_no_distance_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"target_kl=.*; expected a finite number, at least 0"):
        make("ppo", target_kl=value)


# --- the learning rate --------------------------------------------------------------------------------------------


def test_warmup_by_hand() -> None:
    assert [warmup_factor(i, 4) for i in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [warmup_factor(i, 10) for i in (0, 9, 10)] == [0.1, 1.0, 1.0]  # InstructGPT's: a tenth at first
    assert [warmup_factor(i, 0) for i in (0, 5)] == [1.0, 1.0]


class Rates(BaseCallback):
    """The optimiser's rate in each iteration, and the tokens before it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, float]] = []
        self.begun = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._note()
        self.begun = self.model.num_timesteps

    def _on_training_end(self) -> None:
        self._note()

    def _note(self) -> None:
        if self.model.iteration:
            self.seen.append((self.begun, self.model.policy.optimizer.param_groups[0]["lr"]))


def test_warmup_multiplies_the_decay() -> None:
    rates = Rates()
    make("ppo", warmup_iterations=3).learn(400, rates)
    assert len(rates.seen) >= 4
    expected = [3e-3 * (1 - done / 400) * min(1, (i + 1) / 3) for i, (done, _) in enumerate(rates.seen)]
    assert [rate for _, rate in rates.seen] == pytest.approx(expected, rel=1e-12)


def test_a_resumed_warmup_is_bit_exact(tmp_path: Path) -> None:
    settings = {"warmup_iterations": 5, "target_kl": 0.01, "learning_rate": LinearSchedule(3e-3, 1e-3, 0.8)}
    whole, half = make("ppo", **settings), make("ppo", **settings)
    whole.learn(500)
    # The total of the schedule is the same, so only the first iterations are taken of it.
    half.learn(500, StopAt(2))
    assert half.iteration == 2
    half.save(tmp_path / "half")
    resumed = type(half).load(tmp_path / "half", make_env())
    assert isinstance(resumed.learning_rate, LinearSchedule)
    assert resumed.settings == whole.settings
    resumed.learn(500 - resumed.num_timesteps, reset_num_timesteps=False)
    assert equal(parameters(whole), parameters(resumed))


class StopAt(BaseCallback):
    """Ends training when some iterations are done."""

    def __init__(self, iterations: int) -> None:
        super().__init__()
        self.iterations = iterations

    def _on_step(self) -> bool:
        return bool(self.model.iteration < self.iterations)


@pytest.mark.parametrize("schedule", [LinearSchedule(3e-3, 1e-4, 0.5), ConstantSchedule(2e-3)])
def test_schedules_of_stable_baselines3_come_back(schedule: Any, tmp_path: Path) -> None:
    algorithm = make("ppo", learning_rate=schedule)
    algorithm.save(tmp_path / "saved")
    again = type(algorithm).load(tmp_path / "saved", make_env())
    assert type(again.learning_rate) is type(schedule)
    for remaining in (1.0, 0.7, 0.4, 0.0):
        assert again.lr_schedule(remaining) == schedule(remaining)


class Halved(LinearSchedule):
    """A schedule of a caller's own, which would come back as another."""

    def __call__(self, progress_remaining: float) -> float:
        return super().__call__(progress_remaining) / 2


@pytest.mark.parametrize(
    ("rate", "error", "message"),
    [
        (lambda left: 1e-3 * left, TypeError, "another function could not be saved"),
        (Halved(1e-3, 0.0, 1.0), TypeError, "expected a number, which decays linearly to 0"),
        (linear_decay(1e-3), TypeError, "another function could not be saved"),
        ("fast", TypeError, "learning_rate='fast'"),
        (-1e-3, ValueError, "learning_rate=-0.001; expected a finite number, at least 0"),
        (math.nan, ValueError, "learning_rate=nan"),
        (LinearSchedule(1e-3, math.inf, 1.0), ValueError, "learning_rate: end=inf"),
    ],
)
def test_a_rate_that_no_checkpoint_holds_is_refused(rate: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make("ppo", learning_rate=rate)


def test_a_generation_config_that_would_not_be_saved_is_mended(tmp_path: Path) -> None:
    model = tiny_gpt2()
    model.generation_config.do_sample, model.generation_config.temperature = False, 0.6
    with pytest.raises(ValueError, match="temperature"):
        model.generation_config.save_pretrained(tmp_path)
    ids = torch.tensor([[2, 3]])
    written = tiny_gpt2().generate(ids, max_new_tokens=5, do_sample=False)
    algorithm = make_ppo(model=model)
    assert torch.equal(model.generate(ids, max_new_tokens=5), written)  # as before: greedy
    algorithm.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "generation_config.json").is_file()


def test_a_generation_config_that_cannot_be_mended_is_refused() -> None:
    model = tiny_gpt2()
    model.generation_config.num_return_sequences = 3  # which greedy search cannot give
    with pytest.raises(ValueError, match=r"model\.generation_config .* will not save.*num_return_sequences"):
        make_ppo(model=model)


# --- warnings -----------------------------------------------------------------------------------------------------

HEALTHY = {
    "rollout/score": 0.5,
    "rollout/score_sem": 0.05,
    "rollout/kl": 3.0,
    "rollout/length": 48.0,
    "train/approx_kl": 0.02,
    "train/clip_fraction": 0.15,
    "train/entropy": 1.5,
    "train/learning_rate": 5e-4,
    "train/beta": 0.05,
    "train/first_minibatch_ratio_error": 1e-6,
}


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, []),
        ({"train/approx_kl": 0.34}, ["approx_kl"]),
        ({"train/approx_kl": 0.34, "rollout/length": 8.0}, []),  # 2.7 nats a response: a task of a few tokens
        ({"train/approx_kl": 0.09, "train/clip_fraction": 0.6}, ["clip_fraction"]),
        ({"train/approx_kl": 0.34, "train/first_minibatch_ratio_error": 20.0}, []),  # not what was sampled: best-of-n
        ({"train/entropy": 0.1}, ["entropy"]),
        ({"train/entropy": 0.1, "rollout/score": 0.9}, []),  # it found the one good answer
        ({"train/entropy": 0.1, "rollout/score": 0.6}, ["entropy"]),  # within 2·√2·0.05 of where it was
        ({"rollout/kl": 40.0}, ["kl"]),
        ({"rollout/kl": 40.0, "rollout/length": 400.0}, []),  # 0.1 nats a token
        ({"rollout/kl": 28.0, "rollout/length": 8.0}, []),
    ],
)
def test_alarms_by_hand(changes: dict[str, float], kinds: list[str]) -> None:
    assert list(alarms({**HEALTHY, **changes}, HEALTHY)) == kinds


def test_an_alarm_names_numbers_and_what_to_change() -> None:
    row = {**HEALTHY, "train/approx_kl": 0.34, "train/clip_fraction": 0.7, "train/entropy": 0.01, "rollout/kl": 117.0}
    said = alarms(row, HEALTHY)
    for kind, parts in {
        "approx_kl": ("0.34", "above 0.1", "learning_rate (0.0005 now", "target_kl", "n_epochs"),
        "clip_fraction": ("0.70", "above 0.5", "learning_rate", "target_kl", "n_epochs"),
        "entropy": ("0.01", "from 1.5", "KL coefficient", "learning_rate"),
        "kl": ("117", "above 30", "2.4 per token", "KL coefficient (0.05 now)", "learning_rate"),
    }.items():
        assert all(part in said[kind] for part in parts), said[kind]


def test_each_kind_is_warned_of_once() -> None:
    watch = Watchman()
    far, farther = ({**HEALTHY, "train/approx_kl": 0.34, "rollout/kl": kl} for kl in (3.0, 50.0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for iteration, row in enumerate([HEALTHY, far, far, farther]):
            watch(iteration, row)
    assert [one.category for one in caught] == [TrainingWarning] * 2
    assert str(caught[0].message).startswith("iteration 2: approx_kl")
    assert str(caught[1].message).startswith("iteration 4: KL to the reference is 50")


@pytest.mark.parametrize(("algorithm", "learning_rate"), [(PPO, 1e-3), (PPO, 5e-4), (GRPO, 1e-3)])
def test_published_settings_raise_no_alarm(algorithm: type[SequenceAlgorithm], learning_rate: float) -> None:
    """Reviews as in benchmarks/results and in the demo: the first iterations, which go farthest."""
    learner = algorithm("LMPolicy", "textgym/Reviews-v0", learning_rate, seed=0, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingWarning)
        learner.learn(100_000, StopAt(1))
    assert learner.iteration == 1
    assert learner.metrics["train/approx_kl"] > 0.01  # it does move


def test_learn_warns_of_a_policy_that_moves_far() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_ppo(learning_rate=0.3).learn(10)
    said = [str(one.message) for one in caught if one.category is TrainingWarning]
    assert re.search(r"iteration 1: approx_kl is .* Lower learning_rate \(0\.3 now", "\n".join(said))
