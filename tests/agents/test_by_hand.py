"""The library's updates against the algorithms written out in plain torch.

Each test lets an algorithm of the library collect and train, keeps what it collected, and repeats every update from a
copy of its first weights: PPO and GRPO by the functions of ``examples/``, the others by :func:`repeat`, which reads
nothing of the library but the recorded responses. All parameters and β must agree.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.examples import load_example
from tests.helpers import tiny_gpt2, word_mdp, word_tokenizer
from tests.talking import talking_mdp
from textgym.agents import (
    A2C,
    CISPO,
    DAPO,
    DPPO,
    GMPO,
    GRPO,
    GSPO,
    LUSPO,
    NLPO,
    PPO,
    RLOO,
    SAPO,
    TRPO,
    VESPO,
    BestOfN,
    ClippedRLOO,
    DrGRPO,
    ExpertIteration,
    MaxRL,
    Pretraining,
    PublishedGRPO,
    Reinforce,
    ReinforcePlusPlus,
    ReMax,
    encode_texts,
)
from textgym.env.mdp import TokenMDP
from textgym.env.vector import TokenVectorEnv
from textgym.lm.sampling import Sampling
from textgym.rewards.kl import AdaptiveKL
from textgym.types import Episodes

END, V, T = 1, 16, 6
TOKENS = 150  # two iterations
RATE, BETA, TARGET, HORIZON = 3e-3, 0.3, 0.2, 50
ATOL = 2e-5
SIZES: dict[str, Any] = {"episodes_per_iteration": 16, "minibatch_size": 8, "n_epochs": 3, "max_grad_norm": 0.3}
CLIP: dict[str, Any] = {"clip_range": 0.05, "clip_range_high": 0.4}
TEXTS = encode_texts(
    [" ".join(f"w{(3 * i + j) % 14}" for j in range(2 + i % 5)) for i in range(20)], word_tokenizer(), 1, 8
)

pytestmark = pytest.mark.filterwarnings("ignore:iteration .* nats:UserWarning")  # steps are large

ppo, grpo = load_example("ppo_by_hand"), load_example("grpo_by_hand")


def mean_id(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Reward large ids: hardly two responses earn the same."""
    return [sum(ids) / len(ids) / 4 for ids in completion_ids]


@dataclass
class Run:
    """What an algorithm of the library did.

    Attributes:
        algorithm: after training.
        first: its language model, as it was before.
        episodes: what each iteration trained on.
        settings: what it was made with.
    """

    algorithm: Any
    first: Any
    episodes: list[Episodes]
    settings: dict[str, Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        """All parameters after training, by the names of :class:`Policy`."""
        found = {f"lm.{name}": value.detach() for name, value in self.algorithm.policy.lm.named_parameters()}
        if self.algorithm.policy.value is not None:
            head = self.algorithm.policy.value.head.linear
            found |= {"value_weight": head.weight.detach()[0], "value_bias": head.bias.detach()[0]}
        return found


def above_two(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """Reward one: three ids and more above 2; many groups agree."""
    return [float(sum(i > 2 for i in ids) >= 3) for ids in completion_ids]


def run(kind: Any, tokens: int = TOKENS, model: Any = None, mdp: TokenMDP | None = None, **settings: Any) -> Run:
    """Train, and keep what was trained on."""
    model = model or tiny_gpt2()
    first = copy.deepcopy(model)
    env = TokenVectorEnv(mdp or word_mdp(mean_id), 8, "Disabled")
    settings = {**SIZES, "beta": AdaptiveKL(BETA, TARGET, HORIZON), "seed": 0, **settings}
    algorithm = kind("LMPolicy", env, RATE, model=model, **settings)
    kept: list[Episodes] = []
    train = algorithm.train

    def keep(episodes: Episodes, progress_remaining: float) -> dict[str, float]:
        kept.append(episodes)
        return train(episodes, progress_remaining)

    algorithm.train = keep
    algorithm.learn(tokens)
    return Run(algorithm, first, kept, settings)


def agree(policy: Any, beta: float, run: Run) -> None:
    """All parameters and β are equal, and the run was such that they could differ."""
    mine, theirs = dict(policy.named_parameters()), run.weights
    assert set(theirs) <= set(mine)
    for name, value in theirs.items():
        torch.testing.assert_close(
            mine[name].detach(), value, atol=ATOL, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert run.algorithm.kl.beta == pytest.approx(beta, rel=1e-5)
    assert beta != pytest.approx(BETA, rel=1e-3)
    before = run.first.named_parameters()
    assert max(float((theirs[f"lm.{name}"] - value).detach().abs().max()) for name, value in before) > 100 * ATOL


# --- PPO and GRPO: the examples ------------------------------------------------------------------------------


def as_example(example: Any, episodes: Episodes) -> Any:
    ids, mask = torch.from_numpy(episodes.input_ids), torch.from_numpy(episodes.attention_mask).long()
    log_probs, rewards = torch.from_numpy(episodes.log_probs), torch.from_numpy(episodes.rewards)
    return example.Episodes(ids, mask, log_probs, rewards, episodes.prompt_length)


@pytest.mark.parametrize(
    ("kind", "example", "policy", "own"),
    [
        (PPO, ppo, ppo.ActorCritic, {"clip_range_vf": 0.05, "vf_coef": 0.5, "gae_lambda": 0.8}),
        (GRPO, grpo, grpo.Policy, {"samples_per_prompt": 4}),
    ],
)
def test_the_library_is_the_example(kind: Any, example: Any, policy: Any, own: dict[str, Any]) -> None:
    done = run(kind, **CLIP, **own)
    assert len(done.episodes) == 2
    by_hand = policy(copy.deepcopy(done.first), V)
    shared = {name: SIZES[name] for name in ("minibatch_size", "n_epochs", "max_grad_norm")}
    controller = {"beta": BETA, "kl_target": TARGET, "kl_horizon": HORIZON}
    settings = example.Settings(total_tokens=TOKENS, learning_rate=RATE, **shared, **controller, **CLIP, **own)
    episodes = iter([as_example(example, one) for one in done.episodes])
    beta, _ = example.train(by_hand, copy.deepcopy(by_hand), episodes.__next__, settings)
    assert next(episodes, None) is None
    agree(by_hand, beta, done)


@pytest.mark.parametrize("example", [ppo, grpo])
def test_the_examples_learn_and_owe_nothing_to_the_agents(example: Any, capsys: pytest.CaptureFixture[str]) -> None:
    imported = [line for line in Path(example.__file__).read_text().splitlines() if "import " in line]
    assert [line for line in imported if "textgym" in line] == ["import textgym  # noqa: F401 - registers the tasks"]
    scores = example.main(example.Settings(total_tokens=4000))
    assert scores[0] < 0.4  # of four words each is as probable
    assert scores[-1] > 0.85
    assert f"{scores[-1]:.2f}" in capsys.readouterr().out


# --- the others ----------------------------------------------------------------------------------------------


@dataclass
class Iteration:
    """An iteration's sampled responses with what the models say of them, ``[N, T]`` each; greedy ones aside."""

    rewards: Tensor
    shaped: Tensor
    values: Tensor
    valid: Tensor
    companions: Tensor | None = None  # [G] scores of the greedy responses


@dataclass(frozen=True)
class Recipe:
    """An algorithm, in what it differs from the others.

    Attributes:
        advantages: ``[N, T]`` and value targets of an iteration.
        loss: of each token from log-ratios to the rollout, log-probabilities, advantages and ``valid``, ``[n, T]``.
        mean: a number of it.
        critic: whether a value head learns.
        kl: what stands in the loss instead of k1 in the reward: "k3", "k3-corrected", "exact" with the KL of later
            tokens in the advantages, "whole" with that of the whole response there, or "summed" with its sum in the
            loss as well; None for k1 in the reward.
        group: responses to a prompt, greedy ones included.
        greedy: whether the last of a group is greedy.
        best: whether only the best of a group is trained on.
        informative: whether only groups whose scores differ are trained on.
        from_reference: whether the reference writes the responses.
        entropy: weight of the bonus.
        text: weight of the pretraining text, and texts in an update.
        warmup: iterations until the rate is whole.
        temperature, at_least: of sampling.
        target_kl: an iteration ends before a step whose minibatch is 1.5 times as far from the rollout; None for never.
    """

    advantages: Callable[[Iteration], tuple[Tensor, Tensor]]
    loss: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    mean: Callable[[Tensor, Tensor], Tensor]
    critic: bool = False
    kl: str | None = None
    group: int = 1
    greedy: bool = False
    best: bool = False
    informative: bool = False
    from_reference: bool = False
    entropy: float = 0.0
    text: tuple[float, int] | None = None
    warmup: int = 0
    temperature: float = 1.0
    at_least: int = 0
    target_kl: float | None = None


class Policy(ppo.ActorCritic):  # type: ignore[misc,name-defined]
    """The example's model under a temperature, a minimum length and a mask."""

    def distribution(
        self, ids: Tensor, mask: Tensor, p: int, recipe: Recipe, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ``[n, T, V]`` log π of every token at each step, over those ``kept``, and ``[n, T]`` values."""
        log_probs, values = self(ids, mask)
        logits = log_probs[:, p - 1 : -1] / recipe.temperature
        forbidden = torch.zeros_like(logits, dtype=torch.bool) if kept is None else ~kept
        forbidden[:, : recipe.at_least, END] = True
        return logits.masked_fill(forbidden, -torch.inf).log_softmax(-1), values[:, p - 1 : -1]


def chosen(log_probs: Tensor, ids: Tensor, p: int, valid: Tensor) -> Tensor:
    """Return ``[n, T]`` of the tokens that stand there; 0 where none does."""
    return log_probs.gather(2, ids[:, p:, None])[..., 0].masked_fill(~valid, 0.0)


def entropy(log_probs: Tensor) -> Tensor:
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -torch.inf, 0.0)).sum(-1)


def state_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return ``[n, T]`` Σ_v p(v)·log(p(v)/q(v)); what p excludes adds nothing."""
    possible = log_p > -torch.inf
    difference = torch.where(possible, log_p, 0.0) - torch.where(possible, log_q, 0.0)
    return (log_p.exp() * difference).sum(-1)


def answered_for(kl: Tensor, group: int, whole: bool) -> Tensor:
    """Return ``[N, T]`` KL of later tokens, or of all, less its mean over the other responses to the prompt."""
    n = len(kl)
    size = group if group > 1 else n
    found = torch.zeros_like(kl)
    for t in range(kl.shape[1]):
        cost = kl.sum(1) if whole else kl[:, t + 1 :].sum(1)
        for i in range(n):
            others = [j for j in range(i // size * size, i // size * size + size) if j != i]
            found[i, t] = cost[i] - cost[others].mean()
    return found


def text_loss(lm: Any, texts: Sequence[Any]) -> Tensor:
    """Return the mean of −log p over all tokens but each text's first, text by text and without padding."""
    losses = []
    for one in texts:
        ids = torch.tensor([*one.prompt.ids, *one.response_ids])
        losses.append(-lm(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0])
    return torch.cat(losses).mean()


def kept_mask(episodes: Episodes) -> Tensor | None:
    """Return ``[N, T, V]`` True for the ids that were recorded as kept; all where no token stands."""
    if episodes.kept is None:
        return None
    found = torch.zeros(*episodes.kept.shape[:2], V + 1, dtype=torch.bool)
    found.scatter_(2, torch.from_numpy(episodes.kept).long() % (V + 1), True)  # -1 becomes the column that is cut off
    return found[..., :V] | ~torch.from_numpy(episodes.own)[..., None]


def repeat(
    done: Run, recipe: Recipe, total: int = TOKENS, before: Callable[[int, Policy], None] = lambda *_: None
) -> tuple[Policy, float]:
    """Repeat the updates of a run; return the policy and β. ``before`` sees each iteration's number and policy."""
    policy = Policy(copy.deepcopy(done.first), V)
    reference = copy.deepcopy(policy)
    optimizer = torch.optim.Adam(policy.parameters(), RATE, eps=1e-5)
    beta, tokens, n_updates, ended_early = BETA, 0, 0, False
    for i, episodes in enumerate(done.episodes):
        before(i, policy)
        warm = min(1.0, (i + 1) / recipe.warmup) if recipe.warmup else 1.0
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - tokens / total) * warm
        tokens += int(episodes.own.sum())

        p, kept = episodes.prompt_length, kept_mask(episodes)
        everything = torch.from_numpy(episodes.input_ids), torch.from_numpy(episodes.attention_mask).long()
        rewards, old = torch.from_numpy(episodes.rewards), torch.from_numpy(episodes.log_probs)
        place = torch.arange(len(episodes)) % recipe.group
        sampled = place < recipe.group - recipe.greedy
        companions = rewards[~sampled].sum(1) if recipe.greedy else None
        if recipe.greedy:
            beside = everything[0][~sampled], everything[1][~sampled], p
            with torch.no_grad():
                likeliest = policy.distribution(*beside, recipe)[0].argmax(2)
            wrote_there = beside[1][:, p:].bool()
            assert torch.equal(beside[0][:, p:][wrote_there], likeliest[wrote_there])
        ids, mask, rewards, old = (x[sampled] for x in (*everything, rewards, old))
        valid = torch.from_numpy(episodes.own)[sampled]
        with torch.no_grad():
            ref_all = reference.distribution(ids, mask, p, recipe)[0]
            ref = chosen(ref_all, ids, p, valid)
            wrote, values = (reference if recipe.from_reference else policy).distribution(ids, mask, p, recipe, kept)
            torch.testing.assert_close(old, chosen(wrote, ids, p, valid), atol=ATOL, rtol=0)
        kl = old - ref
        shaped = rewards if recipe.kl else rewards - beta * kl
        exact = state_kl(wrote, ref_all) * valid
        every = range(len(ids))
        groups = [list(every[start : start + recipe.group]) for start in every[:: recipe.group]]
        if recipe.best or recipe.informative:
            earned = shaped.sum(1).tolist()
            rows = [max(group, key=lambda row: earned[row]) for group in groups]
            if recipe.informative:
                paid = rewards.sum(1).tolist()  # without the KL, in which no two responses are alike
                rows = [row for group in groups if len({paid[row] for row in group}) > 1 for row in group]
                assert len(rows) == done.settings["episodes_per_iteration"]
            ids, mask, rewards, shaped, old, ref, valid, values, ref_all, exact = (
                x[rows] for x in (ids, mask, rewards, shaped, old, ref, valid, values, ref_all, exact)
            )
        advantages, returns = recipe.advantages(Iteration(rewards, shaped, values, valid, companions))
        if recipe.kl in ("exact", "whole", "summed"):
            advantages = advantages - beta * answered_for(exact, recipe.group, recipe.kl != "exact")

        for rows in minibatches(np.random.default_rng([0, i]), len(ids), done.settings):
            shown = ids[rows], mask[rows], p
            log_probs, now = policy.distribution(*shown, recipe, None if kept is None else kept[rows])
            new, inside = chosen(log_probs, ids[rows], p, valid[rows]), valid[rows]
            log_ratio = new - old[rows]
            if recipe.target_kl and by_token(log_ratio.exp() - 1 - log_ratio, inside) > 1.5 * recipe.target_kl:
                ended_early = True
                break
            loss = recipe.mean(recipe.loss(log_ratio, new, advantages[rows], inside), inside)
            if recipe.entropy:
                loss = loss - recipe.entropy * recipe.mean(entropy(log_probs), inside)
            if recipe.kl:
                k3 = (ref[rows] - new).exp() - 1 - (ref[rows] - new)
                now_kl = state_kl(log_probs, ref_all[rows])
                summed = (now_kl * inside).sum(1, keepdim=True).expand_as(now_kl)
                kls = {"k3": k3, "k3-corrected": log_ratio.exp() * k3, "summed": summed}
                loss = loss + beta * recipe.mean(kls.get(recipe.kl, now_kl), inside)
            if recipe.critic:
                near = values[rows] + (now - values[rows]).clamp(-0.2, 0.2)
                worse = torch.maximum((now - returns[rows]) ** 2, (near - returns[rows]) ** 2)
                loss = loss + 0.1 * 0.5 * worse[inside].mean()
            if recipe.text is not None:
                weight, size = recipe.text
                loss = loss + weight * text_loss(policy.lm, Pretraining(TEXTS, weight, size).draw(0, n_updates))
            descend(policy, optimizer, loss, done.settings["max_grad_norm"])
            n_updates += 1
        error = min(max(float(kl.sum(1).mean()) / TARGET - 1, -0.2), 0.2)
        beta *= 1 + error * min(len(kl) / HORIZON, 1)
    assert ended_early == (recipe.target_kl is not None)
    return policy, beta


def minibatches(order: np.random.Generator, n: int, settings: dict[str, Any]) -> Iterator[Any]:
    """Yield rows of ``n`` episodes, which each epoch shuffles anew; the last of an epoch may be fewer."""
    for _ in range(settings["n_epochs"]):
        drawn = order.permutation(n)
        yield from (
            drawn[start : start + settings["minibatch_size"]] for start in range(0, n, settings["minibatch_size"])
        )


def descend(policy: Policy, optimizer: torch.optim.Optimizer, loss: Tensor, most: float) -> None:
    """Take a step along the gradient, scaled down to a norm of ``most``."""
    optimizer.zero_grad()
    loss.backward()
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    for gradient in gradients:
        gradient *= min(1.0, most / max(norm, 1e-6))  # all responses may be clipped
    optimizer.step()


# Advantages.


def rest(x: Tensor) -> Tensor:
    """Return ``[N, T]`` sums from each token to the end."""
    return torch.stack([x[:, t:].sum(1) for t in range(x.shape[1])], 1)


def whitened(x: Tensor, valid: Tensor) -> Tensor:
    return ((x - x[valid].mean()) / x[valid].std(correction=0)) * valid


def gae(one: Iteration) -> tuple[Tensor, Tensor]:
    advantages, returns = ppo.gae(one.shaped, one.values, one.valid, 0.95)
    return whitened(advantages, one.valid), returns


def actor_critic(one: Iteration) -> tuple[Tensor, Tensor]:
    return whitened(rest(one.shaped) - one.values, one.valid), rest(one.shaped)


def reinforce(one: Iteration) -> tuple[Tensor, Tensor]:
    return whitened(rest(one.shaped), one.valid), one.values


def leave_one_out(one: Iteration) -> tuple[Tensor, Tensor]:
    earned = one.shaped.sum(1)
    others = [[j for j in range(i // 4 * 4, i // 4 * 4 + 4) if j != i] for i in range(len(earned))]
    advantages = torch.stack([earned[i] - earned[own].mean() for i, own in enumerate(others)])
    return advantages[:, None] * one.valid, one.values


def against_greedy(one: Iteration) -> tuple[Tensor, Tensor]:
    assert one.companions is not None
    return (one.shaped.sum(1) - one.companions)[:, None] * one.valid, one.values


def in_group(one: Iteration, divisor: int | None = 3) -> tuple[Tensor, Tensor]:
    groups = one.shaped.sum(1).view(-1, 4)
    advantages = groups - groups.mean(1, keepdim=True)
    if divisor:
        variance = advantages.square().sum(1, keepdim=True) / divisor
        advantages = advantages / (variance.sqrt() + 1e-4)
    return advantages.view(-1, 1) * one.valid, one.values


def as_published(one: Iteration) -> tuple[Tensor, Tensor]:
    return in_group(one, divisor=4)


def centred(one: Iteration) -> tuple[Tensor, Tensor]:
    return in_group(one, divisor=None)


def over_mean(one: Iteration) -> tuple[Tensor, Tensor]:
    groups = one.shaped.sum(1).view(-1, 4)
    return (groups / groups.mean(1, keepdim=True)).view(-1, 1) * one.valid, one.values


def over_mean_centred(one: Iteration) -> tuple[Tensor, Tensor]:
    advantages, values = over_mean(one)
    return (advantages - 1) * one.valid, values


def imitated(one: Iteration) -> tuple[Tensor, Tensor]:
    return one.valid.float(), one.values


# Losses of each token, and means.


def policy_gradient(_: Tensor, log_probs: Tensor, advantages: Tensor, __: Tensor) -> Tensor:
    return -advantages * log_probs


def clipped(log_ratio: Tensor, _: Tensor, advantages: Tensor, __: Tensor) -> Tensor:
    ratio = log_ratio.exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(0.95, 1.4) * advantages)


def clipped_sequence(log_ratio: Tensor, log_probs: Tensor, advantages: Tensor, valid: Tensor) -> Tensor:
    mean = log_ratio.sum(1, keepdim=True) / valid.sum(1, keepdim=True)
    return clipped(mean.expand_as(log_ratio), log_probs, advantages, valid)


def clipped_response(log_ratio: Tensor, log_probs: Tensor, advantages: Tensor, valid: Tensor) -> Tensor:
    return clipped(log_ratio.sum(1, keepdim=True).expand_as(log_ratio), log_probs, advantages, valid)


def clipped_weight(log_ratio: Tensor, log_probs: Tensor, advantages: Tensor, _: Tensor) -> Tensor:
    with torch.no_grad():
        weight = log_ratio.exp().clip(0.95, 1.03)
    return -(weight * advantages) * log_probs


def geometric(log_ratio: Tensor, _: Tensor, advantages: Tensor, valid: Tensor) -> Tensor:
    gains = advantages[:, :1] > 0
    limited = torch.where(
        gains, torch.minimum(log_ratio, torch.tensor(0.04)), torch.maximum(log_ratio, torch.tensor(-0.03))
    )
    mean = (limited * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True)
    return -mean.exp() * advantages


def within(distance: Callable[[Tensor, Tensor], Tensor], limit: float) -> Any:
    """Return DPPO's loss: −ρA, but 0 where the distance of p from μ is above the limit and would grow."""

    def loss(log_ratio: Tensor, log_probs: Tensor, advantages: Tensor, _: Tensor) -> Tensor:
        p, mu = log_probs.detach().exp(), (log_probs - log_ratio).detach().exp()
        far = (p > mu) & (advantages > 0) | (p < mu) & (advantages < 0)
        return torch.where(far & (distance(p, mu) > limit), 0.0, -log_ratio.exp() * advantages)

    return loss


def variation(p: Tensor, mu: Tensor) -> Tensor:
    return (p - mu).abs()


def two_outcomes(p: Tensor, mu: Tensor) -> Tensor:
    return mu * (mu / p).log() + (1 - mu) * ((1 - mu) / (1 - p)).log()


def gated(log_ratio: Tensor, _: Tensor, advantages: Tensor, __: Tensor) -> Tensor:
    tau = torch.where(advantages > 0, 20.0, 50.0)
    return -4 / tau * advantages / (1 + (-tau * (log_ratio.exp() - 1)).exp())


def gamma(log_ratio: Tensor, log_probs: Tensor, advantages: Tensor, valid: Tensor) -> Tensor:
    w = (log_ratio * valid).sum(1, keepdim=True).exp().detach()
    phi = torch.where(advantages >= 0, w**1.5 * (2.5 * (1 - w)).exp(), w**3.5 * (2.2 * (1 - w)).exp())
    return -phi * advantages * log_probs


def by_token(x: Tensor, valid: Tensor) -> Tensor:
    return (x * valid).sum() / valid.sum()


def by_sequence(x: Tensor, valid: Tensor) -> Tensor:
    return torch.stack([row[keep].mean() for row, keep in zip(x, valid, strict=True)]).mean()


def by_constant(x: Tensor, valid: Tensor) -> Tensor:
    return (x * valid).sum() / (len(x) * T)


WRITTEN_OUT: dict[str, tuple[Any, dict[str, Any], Recipe]] = {
    "a2c": (A2C, {}, Recipe(actor_critic, policy_gradient, by_token, critic=True)),
    "reinforce": (Reinforce, {}, Recipe(reinforce, policy_gradient, by_token)),
    "rloo": (RLOO, {}, Recipe(leave_one_out, policy_gradient, by_token, group=4)),
    "remax": (ReMax, {"minibatch_size": 5}, Recipe(against_greedy, policy_gradient, by_token, group=2, greedy=True)),
    "gspo": (GSPO, CLIP, Recipe(in_group, clipped_sequence, by_sequence, kl="whole", group=4)),
    "gspo, k3": (
        GSPO,
        {**CLIP, "kl_estimator": "k3", "bessel": False},
        Recipe(as_published, clipped_sequence, by_sequence, kl="k3", group=4),
    ),
    "luspo": (LUSPO, CLIP, Recipe(in_group, clipped_sequence, by_constant, kl="whole", group=4)),
    "gmpo": (
        GMPO,
        {"clip_range": 0.03, "clip_range_high": 0.04},
        Recipe(in_group, geometric, by_sequence, kl="whole", group=4),
    ),
    "grpo-published": (PublishedGRPO, CLIP, Recipe(as_published, clipped, by_sequence, kl="k3", group=4)),
    "grpo, k3": (
        GRPO,
        {**CLIP, "kl_estimator": "k3"},
        Recipe(in_group, clipped, by_sequence, kl="k3", group=4),
    ),
    "grpo, corrected": (
        GRPO,
        {**CLIP, "kl_estimator": "k3-corrected"},
        Recipe(in_group, clipped, by_sequence, kl="k3-corrected", group=4),
    ),
    "grpo, exact": (GRPO, CLIP, Recipe(in_group, clipped, by_sequence, kl="exact", group=4)),
    "grpo, by token": (
        GRPO,
        {**CLIP, "normalisation": "token"},
        Recipe(in_group, clipped, by_token, kl="exact", group=4),
    ),
    "dr-grpo": (DrGRPO, CLIP, Recipe(centred, clipped, by_constant, kl="exact", group=4)),
    "maxrl": (MaxRL, CLIP, Recipe(over_mean_centred, clipped, by_constant, kl="exact", group=4)),
    "maxrl, mean left in": (
        MaxRL,
        {**CLIP, "subtract_mean": False},
        Recipe(over_mean, clipped, by_constant, kl="exact", group=4),
    ),
    "cispo": (
        CISPO,
        {"clip_range": 0.05, "clip_range_high": 0.03},
        Recipe(in_group, clipped_weight, by_token, kl="exact", group=4),
    ),
    "dppo, tv": (
        DPPO,
        {"max_distance": 0.002},
        Recipe(in_group, within(variation, 0.002), by_token, kl="exact", group=4),
    ),
    "dppo, kl": (
        DPPO,
        {"distance": "kl", "max_distance": 5e-5},
        Recipe(in_group, within(two_outcomes, 5e-5), by_token, kl="exact", group=4),
    ),
    "sapo": (
        SAPO,
        {"tau": 20.0, "tau_negative": 50.0},
        Recipe(in_group, gated, by_sequence, kl="exact", group=4),
    ),
    "vespo": (
        VESPO,
        {"k_positive": 1.5, "decay_positive": 2.5, "k_negative": 3.5, "decay_negative": 2.2},
        Recipe(in_group, gamma, by_token, kl="whole", group=4),
    ),
    "rloo-clipped": (ClippedRLOO, CLIP, Recipe(leave_one_out, clipped_response, by_sequence, group=4)),
    "rloo-clipped, exact": (
        ClippedRLOO,
        {**CLIP, "kl_in_loss": True},
        Recipe(leave_one_out, clipped_response, by_sequence, kl="summed", group=4),
    ),
    "reinforce++": (ReinforcePlusPlus, CLIP, Recipe(reinforce, clipped, by_token)),
    "grpo, k1 in the reward": (GRPO, {**CLIP, "kl_in_loss": False}, Recipe(in_group, clipped, by_sequence)),
    "ppo, exact": (
        PPO,
        {**CLIP, "kl_in_loss": True},
        Recipe(gae, clipped, by_token, critic=True, kl="exact"),
    ),
    "ppo, corrected": (
        PPO,
        {**CLIP, "kl_in_loss": True, "kl_estimator": "k3-corrected"},
        Recipe(gae, clipped, by_token, critic=True, kl="k3-corrected"),
    ),
    "grpo, exact and top-k": (
        GRPO,
        {**CLIP, "sampling": Sampling(top_k=5, temperature=0.8, min_new_tokens=2)},
        Recipe(in_group, clipped, by_sequence, kl="exact", group=4, temperature=0.8, at_least=2),
    ),
    "ppo, text": (
        PPO,
        {**CLIP, "pretraining": Pretraining(TEXTS, 2.5, 4)},
        Recipe(gae, clipped, by_token, critic=True, text=(2.5, 4)),
    ),
    "ppo, entropy": (PPO, {**CLIP, "ent_coef": 0.3}, Recipe(gae, clipped, by_token, critic=True, entropy=0.3)),
    "grpo, entropy": (
        GRPO,
        {**CLIP, "ent_coef": 0.3},
        Recipe(in_group, clipped, by_sequence, kl="exact", group=4, entropy=0.3),
    ),
    "ppo, target of the KL": (
        PPO,
        {**CLIP, "target_kl": 0.004},
        Recipe(gae, clipped, by_token, critic=True, target_kl=0.004),
    ),
    "ppo, warm-up": (PPO, {**CLIP, "warmup_iterations": 3}, Recipe(gae, clipped, by_token, critic=True, warmup=3)),
    "ppo, temperature": (
        PPO,
        {**CLIP, "sampling": Sampling(temperature=0.7, min_new_tokens=2)},
        Recipe(gae, clipped, by_token, critic=True, temperature=0.7, at_least=2),
    ),
    "ppo, top-k": (PPO, {**CLIP, "sampling": Sampling(top_k=5)}, Recipe(gae, clipped, by_token, critic=True)),
    "expert iteration": (ExpertIteration, {}, Recipe(imitated, policy_gradient, by_token, group=4, best=True)),
    "best of n": (
        BestOfN,
        {"samples_per_prompt": 4},
        Recipe(imitated, policy_gradient, by_token, group=4, best=True, from_reference=True),
    ),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_the_library_is_the_algorithm_written_out(name: str) -> None:
    kind, own, recipe = WRITTEN_OUT[name]
    done = run(kind, **own)
    assert len(done.episodes) >= 2
    agree(*repeat(done, recipe), done)


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        (GRPO, Recipe(in_group, clipped, by_sequence, kl="exact", group=4)),
        (GSPO, Recipe(in_group, clipped_sequence, by_sequence, kl="whole", group=4)),
        (VESPO, Recipe(in_group, gamma, by_token, kl="whole", group=4)),
    ],
)
def test_in_a_conversation_only_the_policys_own_tokens_count(kind: Any, recipe: Recipe) -> None:
    gammas = {"k_positive": 1.5, "decay_positive": 2.5, "k_negative": 3.5, "decay_negative": 2.2}
    done = run(kind, 400, mdp=talking_mdp(), **(gammas if kind is VESPO else CLIP))
    assert len(done.episodes) >= 2
    assert not all((one.own == one.attention_mask[:, one.prompt_length :]).all() for one in done.episodes)
    agree(*repeat(done, recipe, 400), done)


@pytest.mark.parametrize("kl_in_loss", [True, False])
def test_dapo_trains_on_the_prompts_whose_scores_differ(kl_in_loss: bool) -> None:
    """Others are discarded, though their tokens count and their KL steers β; as many are left as were asked for."""
    done = run(DAPO, 500, mdp=word_mdp(above_two), kl_in_loss=kl_in_loss, **CLIP)
    assert len(done.episodes) >= 3
    assert len({len(one) for one in done.episodes}) > 1
    recipe = Recipe(in_group, clipped, by_token, kl="exact" if kl_in_loss else None, group=4, informative=True)
    agree(*repeat(done, recipe, 500), done)


# --- NLPO ----------------------------------------------------------------------------------------------------


def nucleus(log_probs: Tensor, mass: float, least: int) -> set[int]:
    """Return the ids of the fewest most probable tokens that hold a mass, at least so many, and the end token."""
    probs, order = log_probs.double().exp().sort(descending=True)
    needed = int((probs.cumsum(0) < mass).sum()) + 1
    return {*order[: max(needed, least)].tolist(), END}


def test_nlpo_masks_by_a_copy_that_follows_every_other_iteration() -> None:
    """What a copy of the policy of iteration 0, then of 2, finds plausible, is kept; training renormalises over it."""
    model = tiny_gpt2(initializer_range=0.2)
    own = {"top_mask": 0.6, "min_tokens_to_keep": 2, "target_update": 2}
    done = run(NLPO, 4 * TOKENS // 2, model, **CLIP, **own)
    assert len(done.episodes) >= 4
    recipe = Recipe(gae, clipped, by_token, critic=True)
    copies: list[Policy] = []

    def before(i: int, policy: Policy) -> None:
        if i % 2 == 0:
            copies.append(copy.deepcopy(policy))
        episodes = done.episodes[i]
        valid, kept = torch.from_numpy(episodes.own), kept_mask(episodes)
        assert kept is not None
        shown = torch.from_numpy(episodes.input_ids), torch.from_numpy(episodes.attention_mask).long()
        stored = [set(row.nonzero()[:, 0].tolist()) for row in kept[valid]]
        for candidate in (copies[-1], policy):
            with torch.no_grad():
                judged = candidate.distribution(*shown, episodes.prompt_length, recipe)[0][valid]
            same = np.mean([own == nucleus(row, 0.6, 2) for own, row in zip(stored, judged, strict=True)])
            # Not always 1, as rounding may tip a token at the edge of the nucleus.
            assert same > 0.98 if candidate is copies[-1] or i % 2 == 0 else same < 0.9

    agree(*repeat(done, recipe, 4 * TOKENS // 2, before), done)


# --- TRPO ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """What an iteration of TRPO reads: ``[N, P+T]`` ids and mask, ``[N, T]`` the rest, and the update's texts."""

    ids: Tensor
    mask: Tensor
    p: int
    valid: Tensor
    old: Tensor
    advantages: Tensor
    text: Callable[[Any], Tensor]

    def surrogate(self, policy: Policy) -> Tensor:
        log_probs = policy.distribution(self.ids, self.mask, self.p, GAE)[0]
        ratio = (chosen(log_probs, self.ids, self.p, self.valid) - self.old).exp()
        return by_token(-ratio * self.advantages, self.valid) + self.text(policy.lm)

    def states(self, policy: Policy) -> Tensor:
        """Return ``[m, V]`` log π in the states in which a token was chosen."""
        return policy.distribution(self.ids, self.mask, self.p, GAE)[0][self.valid]


GAE = Recipe(gae, clipped, by_token, critic=True)


def natural_step(policy: Policy, region: Region, bound: float, damping: float) -> Tensor:
    """Return √(2δ / xᵀHx)·x with x = −H⁻¹g and H = F + damping, of the Fisher matrix F as it is defined.

    F is the mean over states of Σ_v π(v)·∇log π(v)·∇log π(v)ᵀ: Schulman 2015, appendix C.
    """
    parameters = list(policy.lm.parameters())
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(region.surrogate(policy), parameters)]).double()
    log_probs = region.states(policy)
    fisher = torch.zeros(len(gradient), len(gradient), dtype=torch.float64)
    for state in log_probs:
        rows = torch.autograd.grad(state, parameters, torch.eye(V), retain_graph=True, is_grads_batched=True)
        slopes = torch.cat([g.flatten(1) for g in rows], 1).double()
        fisher += slopes.T @ (slopes * state.detach().double().exp()[:, None]) / len(log_probs)
    curvature = fisher + damping * torch.eye(len(fisher), dtype=torch.float64)
    natural = torch.linalg.solve(curvature, -gradient)
    return natural * torch.sqrt(2 * bound / (natural @ curvature @ natural))


@torch.no_grad()
def go(policy: Policy, origin: Sequence[Tensor], step: Tensor) -> None:
    pieces = step.float().split([p.numel() for p in origin])
    for parameter, start, piece in zip(policy.lm.parameters(), origin, pieces, strict=True):
        parameter.copy_(start + piece.view_as(start))


@torch.no_grad()
def line_search(policy: Policy, region: Region, step: Tensor, bound: float) -> list[tuple[bool, bool]]:
    """Go as far as the KL stays within the bound and the surrogate falls; what held at each try, in this order."""
    origin, before, old = [p.clone() for p in policy.lm.parameters()], region.surrogate(policy), region.states(policy)
    tried = []
    for shrunk in range(10):
        go(policy, origin, 0.8**shrunk * step)
        kl = (old.exp() * (old - region.states(policy))).sum(1).mean()
        tried.append((bool(kl <= bound), bool(region.surrogate(policy) < before)))
        if all(tried[-1]):
            return tried
    go(policy, origin, 0.0 * step)
    return tried


@pytest.mark.parametrize(("bound", "damping", "weight"), [(0.01, 0.3, 0.0), (30.0, 1.0, 20.0)])
def test_trpo_is_its_step_by_the_explicit_fisher_matrix(bound: float, damping: float, weight: float) -> None:
    """The second case has so wide a region that the step overshoots a text: there the surrogate ends the search."""
    text = {"pretraining": Pretraining(TEXTS, weight, 4)} if weight else {}
    own = {"target_kl": bound, "cg_damping": damping, "cg_steps": 60, "curvature_share": 1.0, **text}
    model = tiny_gpt2(positions=10, n_embd=4, n_layer=1, n_head=1, initializer_range=0.5)
    done = run(TRPO, TOKENS, model, **own)
    policy = Policy(copy.deepcopy(done.first), V)
    reference = copy.deepcopy(policy)
    optimizer = torch.optim.Adam(policy.parameters(), RATE, eps=1e-5)
    beta, tokens, tried = BETA, 0, []
    for i, episodes in enumerate(done.episodes):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - tokens / TOKENS)
        tokens += int(episodes.own.sum())
        ids, mask, old, rewards, p = as_example(ppo, episodes)
        valid = mask[:, p:].bool()
        with torch.no_grad():
            ref = chosen(reference.distribution(ids, mask, p, GAE)[0], ids, p, valid)
            values = policy.distribution(ids, mask, p, GAE)[1]
        advantages, returns = gae(Iteration(rewards, rewards - beta * (old - ref), values, valid))

        def text_of(lm: Any, i: int = i) -> Tensor:
            return weight * text_loss(lm, Pretraining(TEXTS, weight, 4).draw(0, i)) if weight else torch.zeros(())

        region = Region(ids, mask, p, valid, old, advantages, text_of)
        tried += line_search(policy, region, natural_step(policy, region, bound, damping), bound)

        order = np.random.default_rng([0, i])
        order.permutation(len(ids))  # the policy's step goes over minibatches, too, though their order tells nothing
        for rows in minibatches(order, len(ids), SIZES):
            with torch.no_grad():
                states = hidden(policy, ids[rows], mask[rows])[:, p - 1 : -1]
            now = states @ policy.value_weight + policy.value_bias
            near = values[rows] + (now - values[rows]).clamp(-0.2, 0.2)
            worse = torch.maximum((now - returns[rows]) ** 2, (near - returns[rows]) ** 2)
            descend(policy, optimizer, 0.1 * 0.5 * worse[valid[rows]].mean(), SIZES["max_grad_norm"])
        error = min(max(float((old - ref).sum(1).mean()) / TARGET - 1, -0.2), 0.2)
        beta *= 1 + error * len(ids) / HORIZON
    agree(policy, beta, done)
    assert any(within and not fell for within, fell in tried) == (weight > 0)


def hidden(policy: Policy, ids: Tensor, mask: Tensor) -> Tensor:
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    told = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "output_hidden_states": True}
    return policy.lm(**told).hidden_states[-1]
