"""The gradient of an algorithm's loss in expectation, by enumeration, and the gradient of the objective beside it.

J(π) = E[R] − β·KL(π‖π_ref) of whole responses, a mean over the prompts. Every response is played once in the task, with
the session that samples for the algorithm; its own methods then make of them what they make of an iteration:

    score → select → advantages → actor_loss

The iteration is the limit of a large one. It holds each draw in proportion to its probability, and is trained on in one
minibatch, at π = π_old. A draw is a group of k responses to one prompt, or one response where k = 1.

- Groups are enumerated as multisets, with multinomial probabilities: the result is exact.
- Single responses are weighted by their probabilities, too. For the statistics that an algorithm takes of its whole
  iteration, such as those that whiten, they stand in :data:`ROWS` rows for each prompt, in proportion to their
  probabilities: rounded to multiples of 1/``ROWS``, and to one at least.

The mean over the minibatch weighs draws as the loss does, by tokens or by responses.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import combinations_with_replacement, pairwise

import numpy as np
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from textgym.agents.functional.objectives import Advantages, weight
from textgym.agents.loop.algorithm import SequenceAlgorithm
from textgym.agents.loop.episodes import EpisodePlan, Minibatch, Scored, collect, joined, minibatches, take
from textgym.agents.loop.slots import MAX_SLOTS, admitting_env, env_attribute, make_slots
from textgym.agents.policy.lm_policy import Evaluation, Session
from textgym.env.mdp import TokenMDP
from textgym.exact.tree import prefix_tree
from textgym.rewards.combination import leaves
from textgym.rewards.functions import Reward
from textgym.types import BoolArray, Episodes, FloatArray, IntArray

DRAWS = 50_000
"""Draws of an iteration that are enumerated at most."""
ROWS = 2**16
"""Rows of the iteration, for each prompt, in which single responses stand in proportion to their probabilities."""


@dataclass(frozen=True)
class Alignment:
    """An expected step −E[∇L] compared with ∇J, both with respect to the language model's trained parameters.

    Attributes:
        cosine: cosine of the angle between them; 1 for the same direction.
        length: ratio of their lengths, |E[∇L]| / |∇J|. Adam does not see it, nor does a clipped gradient.
        beta: β' of the objective E[R] − β'·KL whose gradient is nearest to the step in direction; infinite where the
            step has no share in ∇E[R].
        best_cosine: cosine of the angle to that gradient. Where it is 1, the step is right but for the price of KL.
    """

    cosine: float
    length: float
    beta: float
    best_cosine: float


def gradient_alignment(algorithm: SequenceAlgorithm, limit: int = DRAWS) -> Alignment:
    """Compare the expected step of an algorithm's loss with ∇J.

    Arguments and errors are those of :func:`expected_gradient`.
    """
    return compare_step(expected_gradient(algorithm, limit), *objective_parts(algorithm), algorithm.kl.beta)


def compare_step(step: Tensor, reward: Tensor, kl: Tensor, beta: float) -> Alignment:
    """Compare a step with the gradient of E[R] − β·KL, given ∇E[R] and ∇KL, ``[n_parameters]`` each."""
    step, reward, kl = step.double(), reward.double(), kl.double()
    truth = reward - beta * kl
    of_reward, of_kl = torch.linalg.lstsq(torch.stack([reward, kl], 1), step).solution.tolist()
    own, nearest = (-of_kl / of_reward, of_reward * reward + of_kl * kl) if of_reward > 0 else (math.inf, -kl)
    return Alignment(_cosine(step, truth), float(step.norm() / truth.norm()), own, _cosine(step, nearest))


def _cosine(x: Tensor, y: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(x, y, dim=0))


def objective_gradient(algorithm: SequenceAlgorithm) -> Tensor:
    """Compute ∇J at an algorithm's policy, ``[n_parameters]``: over all trained parameters of the language model.

    Args:
        algorithm: with its task, policy, reference and β. Candidates that top-k, top-p or NLPO's mask leave are held
            fixed.

    Raises:
        ValueError: as for :func:`expected_gradient`.
    """
    reward, kl = objective_parts(algorithm)
    return reward - algorithm.kl.beta * kl


def objective_parts(algorithm: SequenceAlgorithm) -> tuple[Tensor, Tensor]:
    """Compute ∇E[R] and ∇KL(π‖π_ref), ``[n_parameters]`` each; arguments as for :func:`objective_gradient`."""
    apart, mdp = _apart(algorithm)
    scored = _score_all(apart, mdp, apart.policy.session(apart.n_rows))
    sequence = apart.evaluate(_minibatch(apart, scored, _no_advantages(scored))).log_probs.sum(1)
    ref, rewards = (torch.from_numpy(x.sum(1)).to(sequence) for x in (scored.ref_log_probs, scored.episodes.rewards))
    probability, parameters = sequence.exp() / len(mdp.prompts), _parameters(apart)
    reward, kl = (
        torch.autograd.grad((probability * x).sum(), parameters, retain_graph=True, allow_unused=True)
        for x in (rewards, sequence - ref)
    )
    return _flat(reward, parameters), _flat(kl, parameters)


def expected_gradient(algorithm: SequenceAlgorithm, limit: int = DRAWS) -> Tensor:
    """Compute −E[∇L] at an algorithm's policy, ``[n_parameters]``: the step that its loss takes on average.

    L is the loss of policy, entropy bonus and KL of an iteration's first minibatch. A critic is used as it is, and its
    own loss is left out. Of responses with equal returns in a group, the first in the order of enumeration counts as
    the first that was sampled.

    Args:
        algorithm: with its task, policy, reference and β; nothing in it changes. Wrappers around its environment are
            left out.
        limit: draws that are enumerated at most.

    Raises:
        ValueError: there are more than ``limit`` draws or a million responses, the task has a world, a reward is
            stochastic, there is no environment, or the algorithm finds nothing to train on.
    """
    return draw_gradients(algorithm, limit).expected()


def gradient_noise(algorithm: SequenceAlgorithm, limit: int = DRAWS) -> float:
    """Compute √tr Cov(g) / |E[g]|: the noise of the gradient g of one draw, in units of the expected gradient.

    A minibatch of n draws has 1/√n times as much. Arguments and errors are those of :func:`expected_gradient`.
    """
    return draw_gradients(algorithm, limit).noise()


# --- every response ------------------------------------------------------------------------------------------


class Recital(Session):
    """A session that chooses given tokens, and returns the log-probabilities with which it would have drawn them.

    Args:
        session: the session whose model and behaviour distribution it takes over.
        tokens: ``[n, T]`` response of each episode, by its number.
    """

    def __init__(self, session: Session, tokens: IntArray) -> None:
        vars(self).update(vars(session))
        self.tokens = tokens
        self.episode: IntArray = np.zeros(session.n_rows, np.int64)

    def begin(self, rows: IntArray, episodes: IntArray) -> None:
        super().begin(rows, episodes)
        self.episode[rows] = episodes

    def _choose(self, logits: Tensor, rows: IntArray, length: IntArray, greedy: BoolArray) -> tuple[Tensor, Tensor]:
        tokens = torch.from_numpy(self.tokens[self.episode[rows], length]).to(logits.device)
        return tokens, logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def _apart(algorithm: SequenceAlgorithm) -> tuple[SequenceAlgorithm, TokenMDP]:
    """Return the algorithm on an environment and a logger of its own, with the same models; and its task."""
    mdp = None if algorithm.env is None else env_attribute(algorithm.env, "mdp", None)
    if not isinstance(mdp, TokenMDP):
        raise ValueError("the algorithm has no environment of textgym, whose responses could be enumerated; set one")
    if mdp.world is not None:
        raise ValueError(
            f"the task has a world ({type(mdp.world).__name__}), whose replies are not enumerated for gradients; use a "
            "task without one"
        )
    if random := [name for name, part in zip(mdp.rewards.names, mdp.rewards.rewards, strict=True) if _is_random(part)]:
        raise ValueError(
            f"the reward {random[0]!r} is stochastic, and an expected score is not enough for what a group does with "
            "scores; use a deterministic reward"
        )
    apart = copy.copy(algorithm)  # shares policy and reference, which nothing here changes
    apart.set_logger(Logger(folder=None, output_formats=[]))
    apart.n_envs = MAX_SLOTS
    # Past overrides, which discard what was learned of a former task: this is the same one.
    SequenceAlgorithm.set_env(apart, admitting_env(mdp, MAX_SLOTS))
    return apart, mdp


def _is_random(reward: Reward) -> bool:
    return hasattr(reward, "expected") or any(hasattr(leaf, "expected") for leaf in leaves(reward))


def _score_all(algorithm: SequenceAlgorithm, mdp: TokenMDP, session: Session) -> Scored:
    """Play and score every response that the session can sample once, prompt by prompt, with its greedy companion."""
    levels = [(level.states, level.endings.row, level.endings.token) for level in prefix_tree(mdp)]
    prompt = np.concatenate([states.prompt[row] for states, row, _ in levels])
    order = np.argsort(prompt, kind="stable")
    tokens = np.full((len(order), mdp.max_new_tokens), mdp.filler)
    first = 0
    for states, row, token in levels:
        tokens[first : first + len(row), : states.own.shape[1] + 1] = np.column_stack([states.own[row], token])
        first += len(row)
    plan = EpisodePlan(prompt[order], np.arange(len(order)))
    episodes = _collected(algorithm, Recital(session, tokens[order]), plan)
    return _scored(algorithm, mdp, take(episodes, np.flatnonzero(np.isfinite(episodes.log_probs).all(1))))


def _scored(algorithm: SequenceAlgorithm, mdp: TokenMDP, episodes: Episodes) -> Scored:
    """Score episodes, each with the greedy companion to its prompt if the algorithm has such companions."""
    if not algorithm.greedy_companion:
        return algorithm.score(episodes)
    every, n, k = np.arange(len(mdp.prompts)), len(episodes), algorithm.settings.samples_per_prompt
    plan = EpisodePlan(every, every, np.ones(len(every), bool))
    companions = take(_collected(algorithm, algorithm.new_session(), plan), episodes.prompt_index)
    # The layout of an iteration: k samples, here all the same, and their companion.
    layout = np.column_stack([*[np.arange(n)] * k, n + np.arange(n)])
    return algorithm.score(take(joined([episodes, companions]), layout.ravel())).take(np.arange(0, n * k, k))


def _collected(algorithm: SequenceAlgorithm, session: Session, plan: EpisodePlan) -> Episodes:
    assert algorithm.env is not None
    algorithm.env.seed(0)
    algorithm.env.reset()
    episodes = collect(make_slots(algorithm.env, score_together=True), session, plan)
    assert episodes is not None, "nothing stops this collection"
    return episodes


# --- every draw ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """Every draw of an iteration.

    Attributes:
        responses: ``[G, k]`` numbers of the responses of each draw.
        chance: ``[G]`` probability of each; the sum is 1.
        copies: ``[G]`` rows of k responses that each has in the iteration.
    """

    responses: IntArray
    chance: FloatArray
    copies: IntArray

    def iteration(self, scored: Scored) -> Scored:
        """Return the iteration that holds all of them, its rows numbered in order, given the responses ``[n]``."""
        draws = np.repeat(self.responses, self.copies, axis=0)
        rows, companions = draws.ravel(), scored.companions
        if companions is not None:
            companions = take(companions, draws[:, 0])
        played = scored.take(rows)
        episodes = replace(played.episodes, episode=np.arange(len(rows)))
        return replace(played, episodes=episodes, companions=companions)

    def find(self, rows: IntArray) -> tuple[IntArray, IntArray, BoolArray]:
        """Find rows ``[N]`` of that iteration: their draws, their responses, and True for those of a first copy."""
        k = self.responses.shape[1]
        draw = np.repeat(np.arange(len(self.copies)), self.copies)[rows // k]
        first = (self.copies.cumsum() - self.copies)[draw] == rows // k
        return draw, self.responses[draw, rows % k], first


def all_draws(prompt: IntArray, probability: FloatArray, k: int, limit: int = DRAWS) -> Draws:
    """Return all draws of k responses to a prompt, given the prompt and probability of each response, ``[n]`` each.

    Raises:
        ValueError: there are more than ``limit``.
    """
    prompts, counts = np.unique(prompt, return_counts=True)
    if (total := sum(math.comb(m + k - 1, k) for m in counts.tolist())) > limit:
        raise ValueError(
            f"samples_per_prompt={k} of up to {counts.max()} responses to each of {len(prompts)} prompts make "
            f"{total:,} groups, and at most limit={limit:,} are enumerated; take fewer samples_per_prompt, fewer "
            "prompts, a smaller vocabulary or a shorter horizon"
        )
    parts = [_groups(np.flatnonzero(prompt == one), probability, k) for one in prompts]
    groups, chance = (np.concatenate(column) for column in zip(*parts, strict=True))
    copies = np.ones(len(groups), np.int64)
    if k == 1:
        copies = np.maximum(copies, np.concatenate([proportional(chances, ROWS) for _, chances in parts]))
    return Draws(groups, chance / len(prompts), copies)


def _groups(responses: IntArray, probability: FloatArray, k: int) -> tuple[IntArray, FloatArray]:
    """Return all multisets of k of the given responses, ``[G, k]``, with their multinomial probabilities, ``[G]``."""
    groups = np.array(list(combinations_with_replacement(responses.tolist(), k)), np.int64)
    # Place of each member among its equals; the product over a group is that of the factorials of its multiplicities.
    place = np.ones(groups.shape)
    for j in range(1, k):
        place[:, j] += np.where(groups[:, j] == groups[:, j - 1], place[:, j - 1], 0)
    chance: FloatArray = math.factorial(k) / place.prod(1) * probability[groups].prod(1)
    return groups, chance / chance.sum()


def proportional(shares: FloatArray, total: int) -> IntArray:
    """Round shares ``[n]``, whose sum is 1, to counts whose sum is ``total``, by the largest remainders."""
    counts: IntArray = np.floor(shares * total).astype(np.int64)
    counts[np.argsort(counts - shares * total, kind="stable")[: total - counts.sum()]] += 1
    return counts


# --- the gradient of every draw ------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawGradients:
    """Gradients of the losses of B draws with respect to what the policy computes for their N rows.

    Attributes:
        outputs: ``[F, n, T]`` log-probability, entropy and divergence at each token of the n responses, differentiable.
        parameters: the trained parameters of the language model.
        slopes: ``[F, N, T]`` derivative of each row's draw's loss with respect to the row's outputs.
        response: ``[N]`` response of each row.
        draw: ``[N]`` draw of each row.
        chance: ``[B]`` probability of each draw.
        share: ``[B]`` share of each draw in the mean over a large minibatch.
    """

    outputs: Tensor
    parameters: Sequence[nn.Parameter]
    slopes: Tensor
    response: Tensor
    draw: Tensor
    chance: Tensor
    share: Tensor

    def expected(self) -> Tensor:
        """Return −E[∇L], ``[n_parameters]``."""
        weighted = self.slopes * self.share[self.draw][:, None].to(self.slopes)
        mean = torch.zeros_like(self.outputs).index_add(1, self.response, weighted)
        return _flat(
            torch.autograd.grad(self.outputs, self.parameters, -mean, retain_graph=True, allow_unused=True),
            self.parameters,
        )

    def noise(self) -> float:
        """Return √tr Cov(g) / |E[g]| for the gradient g of one draw."""
        reached = torch.zeros_like(self.outputs).index_add(1, self.response, self.slopes.abs())
        cells = reached.flatten().nonzero()[:, 0]
        rows = [
            _flat(torch.autograd.grad(one, self.parameters, retain_graph=True, allow_unused=True), self.parameters)
            for one in self.outputs.flatten()[cells]
        ]
        jacobian = torch.stack(rows).double()
        # ‖Jᵀe‖² = eᵀ(JJᵀ)e: one backward pass for each output, not for each draw.
        gram = jacobian @ jacobian.T
        of_draws = torch.zeros(len(self.chance), *self.outputs.transpose(0, 1).shape).to(gram)
        of_draws.index_put_((self.draw, self.response), self.slopes.transpose(0, 1).double(), accumulate=True)
        e = of_draws.transpose(1, 2).flatten(1)[:, cells]
        mean = self.chance @ e
        squared, second = mean @ gram @ mean, self.chance @ ((e @ gram) * e).sum(1)
        return float(((second - squared) / squared).sqrt())


def draw_gradients(algorithm: SequenceAlgorithm, limit: int = DRAWS) -> DrawGradients:
    """Run an algorithm's own methods over an iteration of every draw; see :func:`expected_gradient`."""
    apart, mdp = _apart(algorithm)
    scored = _score_all(apart, mdp, apart.new_session())
    probability = np.exp(scored.episodes.log_probs.sum(1, dtype=np.float64))
    draws = all_draws(scored.episodes.prompt_index, probability, apart.settings.samples_per_prompt, limit)
    batch, draw, response = _training_rows(apart, draws, scored)
    present, starts, place = np.unique(draw, return_index=True, return_inverse=True)
    parts = [_part(batch, slice(*ends)) for ends in pairwise([*starts.tolist(), len(draw)])]
    weights = draws.chance[present] * [weight(apart.settings.normalisation, part.own) for part in parts]
    to = partial(torch.as_tensor, device=apart.device)
    outputs, rows = _outputs(apart, scored), to(response)
    return DrawGradients(
        outputs,
        _parameters(apart),
        _slopes(apart, outputs.detach()[:, rows], parts),
        rows,
        to(place),
        to(draws.chance[present] / draws.chance[present].sum()),
        to(weights / weights.sum()),
    )


def _training_rows(algorithm: SequenceAlgorithm, draws: Draws, scored: Scored) -> tuple[Minibatch, IntArray, IntArray]:
    """Return what the algorithm trains on, a copy of each draw; and the draw and the response of each of its rows."""
    chosen = algorithm.select(draws.iteration(scored))
    if not len(chosen.episodes):
        raise ValueError(f"{type(algorithm).__name__} finds nothing to train on: no group's responses differ in score")
    estimated = algorithm.advantages(chosen)
    draw, response, first = draws.find(chosen.episodes.episode)
    rows = np.flatnonzero(first)
    batch = _minibatch(algorithm, chosen.take(rows), Advantages(*(x[rows] for x in estimated)))
    return batch, draw[rows], response[rows]


def _outputs(algorithm: SequenceAlgorithm, scored: Scored) -> Tensor:
    """Return what the policy computes for each response, ``[F, n, T]``, differentiable."""
    computed = algorithm.evaluate(_minibatch(algorithm, scored, _no_advantages(scored)))
    return torch.stack([x for x in (computed.log_probs, computed.entropy, computed.divergence) if x is not None])


def _slopes(algorithm: SequenceAlgorithm, outputs: Tensor, parts: Sequence[Minibatch]) -> Tensor:
    """Return the derivative of each draw's loss with respect to its own rows of the outputs, ``[F, N, T]``."""
    leaves = outputs.requires_grad_()
    # Split, not sliced: the backward pass of each slice would fill a tensor of all rows.
    split = leaves.split([len(part.own) for part in parts], 1)
    losses = [_loss(algorithm, one, part) for one, part in zip(split, parts, strict=True)]
    return torch.autograd.grad(torch.stack(losses).sum(), leaves)[0]


def _loss(algorithm: SequenceAlgorithm, outputs: Tensor, batch: Minibatch) -> Tensor:
    """Return the loss of one draw, given what the policy computes for its rows, ``[F, k, T]``."""
    log_probs, entropy, *divergence = outputs
    return algorithm.actor_loss(Evaluation(log_probs, entropy, None, *divergence), batch)[0]


def _minibatch(algorithm: SequenceAlgorithm, scored: Scored, estimated: Advantages) -> Minibatch:
    """Return all episodes as one minibatch, in their order."""
    n = len(scored.episodes)
    shuffled = next(minibatches(scored, estimated, n, 1, np.random.default_rng(0), algorithm.device))
    return _part(shuffled, torch.from_numpy(np.random.default_rng(0).permutation(n).argsort()))


def _part(batch: Minibatch, rows: slice | Tensor) -> Minibatch:
    """Return some rows of a minibatch."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(batch, **{name: value[rows] for name, value in values.items() if value is not None})


def _no_advantages(scored: Scored) -> Advantages:
    nothing = np.zeros_like(scored.shaped)
    return Advantages(nothing, nothing)


def _parameters(algorithm: SequenceAlgorithm) -> list[nn.Parameter]:
    return [p for p in algorithm.policy.lm.parameters() if p.requires_grad]


def _flat(gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    """Concatenate gradients to one vector; 0 for parameters that nothing depends on."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
