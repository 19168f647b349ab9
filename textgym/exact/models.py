"""A model's next-token distribution in every state of a tree."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache

from textgym.env.mdp import TokenMDP
from textgym.exact.tree import Tree
from textgym.lm.behaviour import Behaviour, NucleusMask
from textgym.lm.decoding import no_column_cache
from textgym.lm.files.loading import accepted, cache_argument
from textgym.lm.sampling import Sampling
from textgym.types import Float32Array, FloatArray, IntArray

TreeArrays: TypeAlias = tuple[FloatArray, ...]
"""One array ``[n, V]`` for each level of a tree."""

TOKENS_AT_ONCE = 2**13
"""Number of tokens cached for one batch; large enough for the arithmetic to outweigh the calls."""


def tree_log_probs(
    tree: Tree, mdp: TokenMDP, model: PreTrainedModel, sampling: Sampling, mask: NucleusMask | None = None
) -> TreeArrays:
    """Compute log-probabilities of the behaviour distribution, NLPO's mask included; -inf for excluded tokens.

    The model computes logits in its own precision. They are normalised in float64, so that each row sums to 1.
    """
    behaviour = Behaviour(mdp.n_actions, mdp.end_token_ids, sampling, mask)
    judged = [None] * len(tree) if mask is None else tree_logits(tree, mdp, mask.model)
    found = []
    for t, (level, logits, own) in enumerate(zip(tree, tree_logits(tree, mdp, model), judged, strict=True)):
        kept = behaviour.logits(
            torch.from_numpy(logits),
            torch.full((len(logits),), t),
            None if mdp.allowed is None else torch.from_numpy(level.allowed),
            None if own is None else torch.from_numpy(own),
        )
        found.append(kept.double().log_softmax(-1).numpy())
    return tuple(found)


@torch.inference_mode()
def tree_logits(tree: Tree, mdp: TokenMDP, model: PreTrainedModel) -> tuple[Float32Array, ...]:
    """Compute the logits ``[n, V]`` in each state of every level of the tree.

    Depth first, with a key-value cache: every state costs the tokens that its parent lacks, and what is cached at once
    is a batch at each depth. There is no padding, as a batch holds responses of one length.

    Raises:
        ValueError: the model keeps no cache of columns.
    """
    if (reason := no_column_cache(model)) is not None:
        raise ValueError(f"{reason}, which walking the tree of responses needs; estimate J by sampling instead")
    found = tuple(np.zeros(level.allowed.shape, np.float32) for level in tree)
    lengths = np.array([len(prompt.ids) for prompt in mdp.prompts])
    training = model.training
    model.eval()  # dropout would make each pass another policy
    try:
        for length in np.unique(lengths):
            for rows in _batches(np.flatnonzero(lengths == length), int(length)):
                ids = torch.tensor([mdp.prompts[row].ids for row in rows.tolist()])
                cache = DynamicCache(config=model.config)
                found[0][rows] = _forward(model, ids, cache, int(length), mdp.n_actions)
                _descend(tree, 1, rows, cache, int(length), 0, model, found)
    finally:
        model.train(training)
    return found


def _descend(
    tree: Tree,
    t: int,
    parents: IntArray,
    cache: Cache,
    prompt_length: int,
    read: int,
    model: PreTrainedModel,
    found: tuple[Float32Array, ...],
) -> None:
    """Fill in the logits of all states that follow ``parents``.

    A state reads the tokens that its parent lacks: the policy's one, and those of the reply, if there was one.

    Args:
        tree: the tree.
        t: level of the states.
        parents: rows of level t − 1 whose tokens are cached.
        cache: of the parents.
        prompt_length: number of tokens of the prompt.
        read: number of response tokens of the parents.
        model: the model.
        found: is filled in.
    """
    if t == len(tree):
        return
    states = tree[t].states
    first = np.searchsorted(states.parent, parents)
    count = np.searchsorted(states.parent, parents, "right") - first
    place = np.repeat(np.arange(len(parents)), count)
    rows = first[place] + np.arange(len(place)) - np.repeat(count.cumsum() - count, count)
    for length in np.unique(states.lengths[rows]).tolist():
        alike = np.flatnonzero(states.lengths[rows] == length)
        width = prompt_length + length
        for batch in _batches(alike, width):
            extended = copy.deepcopy(cache)
            extended.batch_select_indices(torch.from_numpy(place[batch]).to(model.device))
            ids = torch.from_numpy(states.tokens[rows[batch], read:length])
            found[t][rows[batch]] = _forward(model, ids, extended, width, found[t].shape[1])
            _descend(tree, t + 1, rows[batch], extended, prompt_length, length, model, found)


def _batches(rows: IntArray, width: int) -> Iterator[IntArray]:
    size = max(1, TOKENS_AT_ONCE // width)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _forward(model: PreTrainedModel, ids: Tensor, cache: Cache, width: int, n_actions: int) -> Float32Array:
    """Compute ``[b, V]`` logits after the last of ``width`` tokens; the cache gains ``ids``, and holds all before."""
    further = {str(cache_argument(model)): cache, **accepted(model, logits_to_keep=1)}
    mask = torch.ones(len(ids), width, dtype=torch.long, device=model.device)
    output = model(input_ids=ids.to(model.device), attention_mask=mask, use_cache=True, **further)
    logits: Float32Array = output.logits[:, -1, :n_actions].float().cpu().numpy()
    return logits
