"""What collected episodes must agree with: the models, played again without a cache."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from tests.helpers import next_logits
from textgym.agents.policy.lm_policy import Session
from textgym.env.mdp import TokenMDP
from textgym.lm.behaviour import Behaviour
from textgym.lm.sampling import Sampling
from textgym.types import Episodes


def session_for(
    model: PreTrainedModel, mdp: TokenMDP, n_rows: int, sampling: Sampling | None = None, seed: int = 0
) -> Session:
    return Session(
        model,
        Behaviour(mdp.n_actions, mdp.end_token_ids, sampling or Sampling()),
        n_rows,
        mdp.width,
        mdp.max_prompt_length,
        seed,
    )


@torch.no_grad()
def behaviour(
    model: PreTrainedModel, tokens: list[int], mdp: TokenMDP, sampling: Sampling, elapsed: int, allowed=None
) -> torch.Tensor:
    """``[V]`` log-probabilities of the next token, from one row without padding."""
    begun = len(tokens) - elapsed
    logits = next_logits(model, tokens[:begun], tokens[begun:])[None]
    masks = None if allowed is None else torch.from_numpy(np.asarray(allowed))[None]
    kept = Behaviour(mdp.n_actions, mdp.end_token_ids, sampling).logits(logits, torch.tensor([elapsed]), masks)
    return kept.log_softmax(-1)[0]


def prompt_and_response(episodes: Episodes, i: int) -> tuple[list[int], list[int]]:
    mask = episodes.attention_mask[i].astype(bool)
    width = episodes.prompt_length
    ids = episodes.input_ids[i]
    return ids[:width][mask[:width]].tolist(), ids[width:][mask[width:]].tolist()


def replayed_log_probs(model: PreTrainedModel, episodes: Episodes, mdp: TokenMDP, sampling: Sampling) -> np.ndarray:
    """``[N, T]`` token by token, without a cache."""
    found = np.zeros_like(episodes.log_probs)
    for i in range(len(episodes)):
        prompt, response = prompt_and_response(episodes, i)
        for t, token in enumerate(response):
            state = _state(episodes, i, t)
            allowed = None if mdp.allowed is None else mdp.allowed(*state)[0]
            found[i, t] = behaviour(model, prompt + response[:t], mdp, sampling, t, allowed)[token]
    return found


def _state(episodes: Episodes, i: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    mask = episodes.attention_mask[i : i + 1].copy()
    mask[:, episodes.prompt_length + t :] = 0
    return episodes.input_ids[i : i + 1], mask
