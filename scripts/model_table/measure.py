"""Compares what textgym does with a model to plain transformers calls, one unpadded row at a time and without a cache."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.logger import KVWriter, Logger
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from scripts.model_table.tiny import BOS, EOS, PAD, VOCABULARY
from textgym.agents import PPO
from textgym.lm.agreement import make_decoder
from textgym.lm.loading import accepted
from textgym.lm.sampling import Sampling
from textgym.lm.scoring import Trunk, score_responses
from textgym.mdp import TokenMDP
from textgym.prompts import encode_prompts
from textgym.vector import TokenVectorEnv

P, T = 8, 24
ENDS = tuple(range(EOS, EOS + 32))
"""Tokens that end a response in training: many, so that rows begin anew at different times."""

RESTART = 10
"""The step at which the second row begins anew."""

NOISE = 1e-3
"""Differences of log-probabilities up to here are rounding in float32."""


@dataclass(frozen=True)
class Episode:
    """Token ids of a prompt and of its response."""

    prompt: list[int]
    response: list[int]


def padded_words(played: list[Episode]) -> list[Episode]:
    """The same with the padding token among the words of each response, where it is a token like any other."""
    return [Episode(one.prompt, [*one.response[:3], PAD, *one.response[4:]]) for one in played]


def episodes(seed: int = 0) -> list[Episode]:
    """Prompts of several lengths; the first fills the width, the last follows the second in the same row."""
    rng = np.random.default_rng(seed)
    sizes = ((P, T), (3, RESTART), (5, T), (6, T - RESTART))
    return [
        Episode(*(rng.integers(EOS + 1, VOCABULARY, n).tolist() for n in (prompt, response)))
        for prompt, response in sizes
    ]


@torch.no_grad()
def plain_logits(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """``[len(response) + 1, V]`` after the prompt and after each token, by one full pass of the model."""
    if model.config.is_encoder_decoder:
        ids, begun = torch.tensor([prompt]), torch.tensor([[_start(model), *response]])
        seen = {"attention_mask": torch.ones_like(ids), "decoder_attention_mask": torch.ones_like(begun)}
        logits = model(input_ids=ids, decoder_input_ids=begun, use_cache=False, **seen).logits[0]
    else:
        ids = torch.tensor([[*prompt, *response]])
        arguments = {"attention_mask": torch.ones_like(ids), **_no_cache(model)}
        logits = model(input_ids=ids, **accepted(model, **arguments)).logits[0, len(prompt) - 1 :]
    return logits[:, :VOCABULARY]


def _no_cache(model: PreTrainedModel) -> dict[str, Any]:
    return {"use_cache": False} if hasattr(model.config, "use_cache") else {}


def _start(model: PreTrainedModel) -> int:
    return int(model.generation_config.decoder_start_token_id)


def growing_log_probs(model: PreTrainedModel, episode: Episode) -> Tensor:
    """``[T, V]`` before each token, each from a pass over the tokens before it alone."""
    grown = [plain_logits(model, episode.prompt, episode.response[:t])[-1] for t in range(len(episode.response))]
    return torch.stack(grown).log_softmax(-1)


def whole_log_probs(model: PreTrainedModel, episode: Episode) -> Tensor:
    """``[T, V]`` before each token, all from one pass over the whole episode."""
    return plain_logits(model, episode.prompt, episode.response)[:-1].log_softmax(-1)


def acting_log_probs(model: PreTrainedModel, played: list[Episode]) -> list[Tensor]:
    """``[T, V]`` of each episode: three rows of a decoder, the second of which begins anew with the fourth."""
    decoder = make_decoder(model, 3, P + T, P)
    ids, mask = np.zeros((3, P + T), np.int64), np.zeros((3, P + T), np.int8)
    given: list[list[Tensor]] = [[] for _ in played]
    for step in range(T):
        for row in range(3):
            which, elapsed = (3, step - RESTART) if row == 1 and step >= RESTART else (row, step)
            _show(played[which], elapsed, ids[row], mask[row])
        logits = decoder.logits(ids, mask, np.arange(3))[:, :VOCABULARY].log_softmax(-1)
        for row in range(3):
            given[3 if row == 1 and step >= RESTART else row].append(logits[row])
    return [torch.stack(one) for one in given]


def _show(episode: Episode, elapsed: int, ids: Any, mask: Any) -> None:
    ids[:], mask[:] = PAD, 0
    shown = [*episode.prompt, *episode.response[:elapsed]]
    start = P - len(episode.prompt)
    ids[start : start + len(shown)], mask[start : start + len(shown)] = shown, 1


def training_log_probs(model: PreTrainedModel, played: list[Episode]) -> list[Tensor]:
    """``[T]`` of each episode's tokens, as training computes them of a padded batch."""
    ids, mask = np.zeros((len(played), P + T), np.int64), np.zeros((len(played), P + T), np.int8)
    for row, episode in enumerate(played):
        _show(episode, T, ids[row], mask[row])
    input_ids, attention_mask = torch.from_numpy(ids), torch.from_numpy(mask)
    with torch.no_grad():
        trunk = Trunk(model)
        states = trunk.hidden_states(input_ids, attention_mask, P)[:, :-1]
        valid = attention_mask[:, P:].bool()
        scores = score_responses(trunk.head, states, input_ids[:, P:], valid, Sampling(), VOCABULARY)
    return [row[: len(episode.response)] for row, episode in zip(scores.log_probs, played, strict=True)]


def of_tokens(log_probs: Tensor, episode: Episode) -> Tensor:
    """``[T]`` of the episode's own tokens."""
    return log_probs.gather(1, torch.tensor(episode.response)[:, None])[:, 0]


def greedy_plain(model: PreTrainedModel, prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    """The most probable tokens by passes without a cache, and by how much each leads the next."""
    tokens: list[int] = []
    leads = []
    for _ in range(count):
        first, second = plain_logits(model, prompt, tokens)[-1].topk(2).values.tolist()
        leads.append(first - second)
        tokens.append(int(plain_logits(model, prompt, tokens)[-1].argmax()))
    return tokens, leads


def greedy_acting(model: PreTrainedModel, prompt: list[int], count: int) -> list[int]:
    """The most probable tokens by a decoder of one row."""
    decoder = make_decoder(model, 1, P + T, P)
    ids, mask = np.zeros((1, P + T), np.int64), np.zeros((1, P + T), np.int8)
    tokens: list[int] = []
    for step in range(count):
        _show(Episode(prompt, tokens), step, ids[0], mask[0])
        tokens.append(int(decoder.logits(ids, mask, np.arange(1))[0, :VOCABULARY].argmax()))
    return tokens


def greedy_generate(model: PreTrainedModel, prompt: list[int], count: int, use_cache: bool = True) -> list[int]:
    """The most probable tokens by ``generate``, which no processor changes and no token ends."""
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=count,
        use_cache=use_cache,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=None,
        decoder_start_token_id=_start(model) if model.config.is_encoder_decoder else None,
    )
    ids = torch.tensor([prompt])
    before, model.generation_config = model.generation_config, settings
    try:
        given = model.generate(ids, attention_mask=torch.ones_like(ids))[0].tolist()
    finally:
        model.generation_config = before
    return given[1:] if model.config.is_encoder_decoder else given[len(prompt) :]


def same_words(tokens: list[int], plain: tuple[list[int], list[float]]) -> bool:
    """Whether these are the plain ones, up to the first choice between equals."""
    different = [t for t, (ours, right) in enumerate(zip(tokens, plain[0], strict=True)) if ours != right]
    return not different or plain[1][different[0]] < NOISE


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words ``w3 … w511``, whose ids are their numbers."""
    vocabulary = {"<pad>": PAD, "<bos>": BOS, "<eos>": EOS, **{f"w{i}": i for i in range(EOS + 1, VOCABULARY)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>")


def task(n_rows: int = 4) -> gym.vector.VectorEnv[Any, Any, Any]:
    """Prompts of two lengths, in fewer rows than an iteration has episodes; the reward is the share of even tokens."""
    tokenizer = word_tokenizer()
    texts = ("w5 w80 w11 w200 w7 w7", "w9 w300")
    prompts = encode_prompts(texts, tokenizer, P)

    def even(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [sum(i % 2 == 0 for i in ids) / max(len(ids), 1) for ids in completion_ids]

    mdp = TokenMDP(
        tokenizer=tokenizer,
        prompts=prompts,
        reward=even,
        end_token_ids=ENDS,
        max_prompt_length=P,
        max_new_tokens=T,
    )
    return TokenVectorEnv(mdp, n_rows, AutoresetMode.DISABLED)


class _Rows(KVWriter):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        self.rows.append(dict(key_values))

    def close(self) -> None:
        pass


def learn(model: PreTrainedModel) -> dict[str, float]:
    """One iteration of PPO: the first minibatch's ratio error, and the KL to the same model before it was trained."""
    settings: dict[str, Any] = {"episodes_per_iteration": 8, "minibatch_size": 8, "n_epochs": 1, "device": "cpu"}
    algorithm = PPO(env=task(), model=model, learning_rate=1e-3, seed=0, **settings)
    rows = _Rows()
    algorithm.set_logger(Logger(None, [rows]))
    algorithm.learn(64)
    names = {"ratio_error": "train/first_minibatch_ratio_error", "kl": "rollout/kl"}
    return {short: float(rows.rows[0][long]) for short, long in names.items()}


def attempt(name: str, found: dict[str, Any], what: Callable[[], Any]) -> Any:
    """The result, or None after noting why there is none."""
    try:
        return what()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        ours = any(part in where.filename for part in ("/textgym/", "/agents/", "/rewards/")) and (
            "site-packages" not in where.filename
        )
        found[f"{name}_error"] = {
            "kind": type(error).__name__,
            "message": " ".join(str(error).split()),
            "at": f"{where.filename.split('site-packages/')[-1]}:{where.lineno}",
            "in_words": ours and isinstance(error, ValueError | TypeError | NotImplementedError),
        }
        return None


def _largest(pairs: list[tuple[Tensor, Tensor]]) -> float:
    return max(float((a - b).abs().nan_to_num(nan=math.inf).max()) for a, b in pairs)


def measure(model: PreTrainedModel) -> dict[str, Any]:
    """Everything that the table says of a model; ``NAME_error`` where something raised."""
    played = episodes()
    found: dict[str, Any] = {}
    right = attempt("plain", found, lambda: [growing_log_probs(model, one) for one in played])
    if right is None:
        return found
    tokens = [of_tokens(*pair) for pair in zip(right, played, strict=True)]
    found["spread"] = float(torch.cat(right).std(-1).mean())
    whole = attempt("whole", found, lambda: [whole_log_probs(model, one) for one in played])
    acting = attempt("acting", found, lambda: acting_log_probs(model, played))
    training = attempt("training", found, lambda: training_log_probs(model, played))
    if whole is not None:
        found["causal"] = _largest(list(zip(whole, right, strict=True)))
    if acting is not None:
        found["acting"] = _largest(list(zip(acting, right, strict=True)))
    if training is not None:
        found["training"] = _largest(list(zip(training, tokens, strict=True)))
    if acting is not None and training is not None:
        acted = [of_tokens(*pair) for pair in zip(acting, played, strict=True)]
        found["acting_training"] = _largest(list(zip(acted, training, strict=True)))
    found |= attempt("padding", found, lambda: measure_padding(model, padded_words(played))) or {}
    prompt = played[2].prompt
    plain = greedy_plain(model, prompt, 16)
    for name, greedy in (("greedy", greedy_acting), ("generate", greedy_generate)):
        words = attempt(name, found, lambda greedy=greedy: greedy(model, prompt, 16))
        if words is not None:
            found[name] = same_words(words, plain)
    if found.get("generate") is False:  # is it the cache that transformers gives it?
        uncached = attempt("generate", found, lambda: greedy_generate(model, prompt, 16, use_cache=False))
        found["generate_uncached"] = uncached is not None and same_words(uncached, plain)
    trained = attempt("learn", found, lambda: learn(model))
    return found | (trained or {})


def measure_padding(model: PreTrainedModel, played: list[Episode]) -> dict[str, float]:
    """How far acting and training are from the truth where a response holds the padding token."""
    right = [growing_log_probs(model, one) for one in played]
    tokens = [of_tokens(*pair) for pair in zip(right, played, strict=True)]
    acting, training = acting_log_probs(model, played), training_log_probs(model, played)
    acted = [of_tokens(*pair) for pair in zip(acting, played, strict=True)]
    return {
        "padding_acting": _largest(list(zip(acting, right, strict=True))),
        "padding_training": _largest(list(zip(training, tokens, strict=True))),
        "padding_acting_training": _largest(list(zip(acted, training, strict=True))),
    }


def verdict(found: dict[str, Any]) -> str:
    """One of ``right``, ``refused``, ``SILENTLY WRONG``, ``crash`` and ``not built``."""
    if "plain_error" in found or "build_error" in found:
        return "not built"
    if "learn_error" in found:
        return "refused" if found["learn_error"]["in_words"] else "crash"
    if any("_error" in name and name.split("_")[0] in ("acting", "training", "greedy") for name in found):
        return "crash"
    errors = [found[name] for name in ("acting", "training", "acting_training", "ratio_error", "kl")]
    return "right" if found["greedy"] and all(abs(e) < NOISE for e in errors) else "SILENTLY WRONG"
