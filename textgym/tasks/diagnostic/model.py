"""Stock GPT-2 that equals a given Markov chain at step 0, and can learn everything that a GPT-2 can."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from textgym.types import FloatArray

WIDTH, LAYERS, HEADS = 64, 2, 2


def markov_gpt2(log_probs: FloatArray, positions: int, seed: int = 0) -> GPT2LMHeadModel:
    """Make a GPT-2 whose next-token distribution is a row of ``log_probs``, whatever precedes the last token.

    Both branches of every block end in zeros, so the final state is the layer norm of token plus position. Tokens use
    one half of the width and positions the other, each with mean 0 and variance 1 in its half. The norm then keeps the
    token's half free of the position, and an output head that reads only that half can solve
    ``head · state(token) = log P(·|token)`` exactly. Training changes all weights: the zeros receive a gradient at
    once.

    Args:
        log_probs: ``[n_tokens, V]`` after each token; logits beyond V, of tokens that are no actions, are left out of
            the head's solution.
        positions: the context length.
        seed: seed of embeddings and weights.

    Raises:
        ValueError: there are too many different rows for the width.
    """
    n_tokens, n_actions = log_probs.shape
    config = GPT2Config(
        vocab_size=n_tokens,
        n_positions=positions,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    _place(model, np.random.default_rng(seed))
    _solve_head(model, log_probs, n_actions)
    model.eval()
    return model


@torch.no_grad()
def _place(model: GPT2LMHeadModel, rng: np.random.Generator) -> None:
    """Set the embeddings in their halves, silence the blocks, and fix one direction of the final state."""
    trunk: Any = model.transformer
    half = WIDTH // 2
    trunk.wte.weight.zero_()[:, :half] = _standard(rng, len(trunk.wte.weight), half)
    trunk.wpe.weight.zero_()[:, half:] = _standard(rng, len(trunk.wpe.weight), half)
    for block in trunk.h:
        for projection in (block.attn.c_proj, block.mlp.c_proj):
            projection.weight.zero_()
            projection.bias.zero_()
    # Centred token vectors are orthogonal to the vector of ones. A bias in that direction is the same for all tokens,
    # which gives the head an intercept.
    trunk.ln_f.bias[:half] = 1.0


def _standard(rng: np.random.Generator, n: int, width: int) -> Tensor:
    """Return ``[n, width]`` random rows of mean 0 and variance 1."""
    rows = rng.standard_normal((n, width))
    rows -= rows.mean(1, keepdims=True)
    return torch.from_numpy(rows / rows.std(1, keepdims=True)).float()


@torch.no_grad()
def _solve_head(model: GPT2LMHeadModel, log_probs: FloatArray, n_actions: int) -> None:
    half = WIDTH // 2
    tokens = torch.arange(len(log_probs))[:, None]
    states: NDArray[np.float64] = model.transformer(input_ids=tokens).last_hidden_state[:, 0, :half].double().numpy()
    head = np.linalg.lstsq(states, log_probs, rcond=None)[0]
    error = float(np.abs(states @ head - log_probs).max())
    if error > 1e-4:
        raise ValueError(
            f"log_probs has {len(log_probs)} rows of rank {np.linalg.matrix_rank(log_probs)}, which a GPT-2 of width "
            f"{WIDTH} cannot hold exactly (error {error:.2g} nats); use fewer tokens, or equal rows"
        )
    model.lm_head.weight.zero_()[:n_actions, :half] = torch.from_numpy(head.T).float()
