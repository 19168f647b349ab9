"""``textgym generate``: write continuations with a trained directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from textgym import runs
from textgym.agents.loop.acting import saved_policy
from textgym.agents.loop.decode import BestOf, Decoding, Greedy, Sampled, decode
from textgym.commands.configs.evaluate import EvaluateConfig
from textgym.commands.configs.generate import DEFAULT_BEAMS, DEFAULT_BEST_OF, GenerateConfig
from textgym.commands.train import UNLIMITED, longest_prompt, parse_reward
from textgym.env.mdp import TokenMDP
from textgym.env.rendering import printable, styled
from textgym.files import json_line, write_json_lines
from textgym.lm.beam import BeamSearch
from textgym.lm.files.loading import check_fits, is_encoder_decoder, load_lm
from textgym.prompts import encode_prompts, read_prompts
from textgym.rows import Screening
from textgym.tokenization import end_token_ids, load_tokenizer


def generate(config: GenerateConfig) -> list[dict[str, str]]:
    """Decode, and print or write the continuations.

    Raises:
        ValueError, FileNotFoundError: the model, the prompts or the sizes do not fit.
    """
    if not config.prompt and config.prompts is None:
        raise ValueError("nothing to continue: pass --prompt TEXT or --prompts FILE")
    if config.out is not None and config.out.exists():
        raise FileExistsError(f"out={str(config.out)!r} exists; choose another file")
    # Before the models: a wrong reward is told at once.
    reward = _unscored if config.reward is None else parse_reward(config.reward, None)
    source = runs.model_source(config.model)
    tokenizer, model = load_tokenizer(source), load_lm(source)
    screening = Screening(config.truncation, config.skip_bad)
    how: dict[str, Any] = {"special_tokens": config.special_tokens, "closing": is_encoder_decoder(model)}
    longest = longest_prompt(model, config.max_new_tokens)
    prompts = [
        *(encode_prompts(config.prompt, tokenizer, UNLIMITED, source="--prompt", **how) if config.prompt else ()),
        *(read_prompts(config.prompts, tokenizer, longest, screening=screening, **how) if config.prompts else ()),
    ]
    if screening.counts:
        print(runs.screening_text(screening), file=sys.stderr)
    mdp = TokenMDP(
        tokenizer=tokenizer,
        prompts=tuple(prompts),
        reward=reward,
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
    episodes = decode(policy, mdp, np.arange(len(prompts)), chosen_decoding(config), config.seed, config.samples)
    written = zip(episodes.prompt_index, episodes.actions, episodes.extents, strict=True)
    answered = [(mdp.prompts[int(index)], actions[:length].tolist()) for index, actions, length in written]
    found = [{"prompt": prompt.text, "completion": mdp.completion(prompt, ids)} for prompt, ids in answered]
    _deliver(found, config.out)
    return found


def chosen_decoding(config: GenerateConfig | EvaluateConfig) -> Decoding:
    """Return the way of decoding that the settings name."""
    if config.decoding == "beam":
        penalty = 1.0 if config.length_penalty is None else config.length_penalty
        return BeamSearch(config.beams or DEFAULT_BEAMS, penalty)
    if config.decoding == "best-of-n":
        return BestOf(config.best_of or DEFAULT_BEST_OF)
    return Greedy() if config.decoding == "greedy" else Sampled()


def _unscored(prompts: list[Any], **_: Any) -> list[float]:
    return [0.0] * len(prompts)


def _deliver(found: list[dict[str, str]], out: Path | None) -> None:
    if out is None:
        begin, end = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
        texts = ((printable(row["prompt"]), printable(row["completion"])) for row in found)
        print("\n\n".join(f"{prompt}{begin}{completion}{end}" for prompt, completion in texts), file=styled(sys.stdout))
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists() and not out.is_file():  # such as /dev/stdout, which nothing can take the place of
        out.write_text("".join(json_line(row) + "\n" for row in found), encoding="utf-8")
    else:
        write_json_lines(out.resolve(), found)
