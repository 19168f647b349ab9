"""``textgym generate``: sample from a trained directory."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textgym.agents.evaluation import play
from textgym.agents.saved import saved_policy
from textgym.commands.run import model_source
from textgym.lm.loading import check_fits, is_encoder_decoder, load_lm
from textgym.mdp import TokenMDP
from textgym.prompts import encode_prompts, read_prompts
from textgym.rendering import printable
from textgym.tokenization import SpecialTokens, end_token_ids, load_tokenizer


@dataclass(frozen=True)
class GenerateConfig:
    """Sample continuations of prompts."""

    model: str
    """A run, a checkpoint, any causal language model's directory, or a hub id."""
    prompt: tuple[str, ...] = ()
    """Prompts to continue."""
    prompts: Path | None = None
    """A file of prompts: JSON Lines with a field 'prompt'."""
    samples: int = 1
    """Continuations of each prompt."""
    max_new_tokens: int = 48
    """The longest continuation, in tokens."""
    temperature: float | None = None
    """Divides the logits. Default, here and below: as the policy was trained, or all of its distribution at 1."""
    min_new_tokens: int | None = None
    """No end token before so many tokens."""
    top_k: int | None = None
    """Sample only among the k most probable tokens; 0 for all."""
    top_p: float | None = None
    """Sample only among the most probable tokens that hold this mass; 1 for all."""
    special_tokens: SpecialTokens = "text"
    """Reading of special-token strings, such as '<eos>', in prompts: as 'text', or 'parse' for special tokens,
    where a chat template has rendered the prompts already."""
    skip_special_tokens: bool = False
    """Leave all special tokens out of the continuations, rather than only end, padding and start tokens."""
    seed: int = 0
    """Of the random streams."""
    out: Path | None = None
    """Write JSON Lines here instead of printing."""


def generate(config: GenerateConfig) -> list[dict[str, str]]:
    """Samples, and prints or writes what came of it.

    Raises:
        ValueError, FileNotFoundError: the model, the prompts or the sizes do not fit.
    """
    if not config.prompt and config.prompts is None:
        raise ValueError("nothing to continue: pass --prompt TEXT or --prompts FILE")
    if config.out is not None and config.out.exists():
        raise FileExistsError(f"out={str(config.out)!r} exists; choose another file")
    source = model_source(config.model)
    tokenizer, model = load_tokenizer(source), load_lm(source)
    how: dict[str, Any] = {
        "max_length": 10**9,
        "special_tokens": config.special_tokens,
        "closing": is_encoder_decoder(model),
    }
    prompts = [
        *(encode_prompts(config.prompt, tokenizer, source="--prompt", **how) if config.prompt else ()),
        *(read_prompts(config.prompts, tokenizer, **how) if config.prompts else ()),
    ]
    mdp = TokenMDP(
        tokenizer=tokenizer,
        prompts=tuple(prompts),
        reward=_unscored,
        end_token_ids=end_token_ids(tokenizer, model.generation_config),
        max_prompt_length=max(len(prompt.ids) for prompt in prompts),
        max_new_tokens=config.max_new_tokens,
        skip_special_tokens=config.skip_special_tokens,
    )
    check_fits(model, tokenizer, mdp.n_actions, mdp.width, mdp.max_prompt_length)
    policy = saved_policy(
        source,
        mdp,
        model,
        temperature=config.temperature,
        min_new_tokens=config.min_new_tokens,
        top_k=config.top_k,
        top_p=config.top_p,
    )
    episodes = play(policy, mdp, np.repeat(np.arange(len(prompts)), config.samples), config.seed)
    written = zip(episodes.prompt_index, episodes.actions, episodes.lengths, strict=True)
    answered = [(mdp.prompts[int(index)], actions[:length].tolist()) for index, actions, length in written]
    found = [{"prompt": prompt.text, "completion": mdp.completion(prompt, ids)} for prompt, ids in answered]
    _deliver(found, config.out)
    return found


def _unscored(prompts: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(prompts)


def _deliver(found: list[dict[str, str]], out: Path | None) -> None:
    if out is None:
        begin, end = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
        texts = ((printable(row["prompt"]), printable(row["completion"])) for row in found)
        print("\n\n".join(f"{prompt}{begin}{completion}{end}" for prompt, completion in texts))
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
