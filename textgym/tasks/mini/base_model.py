"""Build the shared assets of the mini tasks: their tokenizer, and a small GPT-2 that writes all their languages.

    python -m textgym.tasks.mini.base_model --out DIR [--steps N] [--seed S]

The model imitates the whole corpus of each task, blame as much as praise and wrong answers as much as right ones: it is
the starting point of reinforcement learning, and the KL reference. New texts are drawn in every step, so there is
nothing to overfit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from textgym.tasks.mini.arithmetic import ARITHMETIC
from textgym.tasks.mini.captions import CAPTIONS
from textgym.tasks.mini.concepts import CONCEPTS
from textgym.tasks.mini.dialogue import DIALOGUE
from textgym.tasks.mini.miniature import Miniature
from textgym.tasks.mini.reviews import REVIEWS
from textgym.tasks.mini.stories import STORIES
from textgym.tasks.mini.summaries import SUMMARIES
from textgym.tasks.mini.translation import TRANSLATION

PAD, EOS = "<pad>", "<eos>"
VOCABULARY_TEXTS = 30_000  # enough for the rarest word to appear a dozen times
POSITIONS = 128  # twice the longest review, for longer prompts of users
STEPS, BATCH, WARMUP = 5_500, 64, 100
LEARNING_RATE = 4e-3
SHARPNESS = 1.3  # see sharpen
IGNORED = -100  # marks the targets that are not trained
CHUNK = 32  # batches drawn together and sorted by length, which halves the padding

LANGUAGES = (REVIEWS, CONCEPTS, SUMMARIES, CAPTIONS, TRANSLATION, STORIES, DIALOGUE, ARITHMETIC)
# Reviews have by far the most words and phrases, and their prompts contain none of them to copy.
SHARES = {REVIEWS: 3}


def corpus(rng: np.random.Generator, n: int, care: float = 0.0) -> list[tuple[str, str]]:
    """Draw ``n`` texts as pairs (prompt, continuation), of all languages in turn, by their shares.

    A share ``care`` of them are reference texts; the rest are texts of careless writers.
    """
    turns = [language for language in LANGUAGES for _ in range(SHARES.get(language, 1))]
    return [_text(turns[i % len(turns)], rng, care) for i in range(n)]


def _text(language: Miniature, rng: np.random.Generator, care: float) -> tuple[str, str]:
    if rng.random() >= care:
        return language.corpus(rng)
    example = language.draw(rng)
    return example.prompt, example.reference


def build_tokenizer(texts: Iterable[str], positions: int = POSITIONS) -> PreTrainedTokenizerFast:
    """Build a byte-level BPE in which every word of ``texts`` is one token, and other words are spelled in bytes.

    Trained merges would spend most of a small vocabulary on parts of words. With ``ignore_merges`` a word of the
    vocabulary needs none, so a token is a word, and rewards belong to words.
    """
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    words = {word for text in texts for word, _ in split.pre_tokenize_str(text)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [PAD, EOS, *alphabet, *sorted(words - set(alphabet))]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerBase, seed: int, width: int = 128) -> GPT2LMHeadModel:
    """Build an untrained GPT-2; the global random state is not changed."""
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=tokenizer.model_max_length,
        n_embd=width,
        n_layer=2,
        n_head=4,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, in one kernel
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        model = GPT2LMHeadModel(config)
    model.eval()
    return model


def train_base_model(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, steps: int
) -> float:
    """Imitate continuations of new texts; see :func:`imitate`."""
    return imitate(model, _batches(tokenizer, rng, steps), steps)


def imitate(model: GPT2LMHeadModel, batches: Iterable[tuple[Tensor, Tensor]], steps: int) -> float:
    """Minimise the cross-entropy of batches (inputs, targets); the learning rate warms up, then decays linearly to 0.

    Returns:
        The mean loss of the last tenth of the steps, in nats per token.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARMUP, (steps - step) / steps)
    )
    losses = []
    progress = tqdm(batches, total=steps, desc="base model", mininterval=5)
    for inputs, targets in progress:
        trained = targets != IGNORED
        # Only trained positions go through the output head, which is the largest matrix of this model.
        hidden = model.transformer(input_ids=inputs, use_cache=False).last_hidden_state[trained]
        loss = cross_entropy(model.lm_head(hidden), targets[trained])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    return float(np.mean(losses[-max(1, steps // 10) :]))


@torch.no_grad()
def sharpen(model: GPT2LMHeadModel, factor: float) -> None:
    """Multiply all logits by ``factor``, through the last layer norm.

    Cross-entropy leaves a little probability on hundreds of unsuitable words; together they would spoil one text in
    twenty. Sharper logits leave half of that, and hardly change the probabilities of suitable words, which are nearly
    uniform.
    """
    model.transformer.ln_f.weight.mul_(factor)
    model.transformer.ln_f.bias.mul_(factor)


def _batches(
    tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, steps: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield ``steps`` pairs (inputs, targets) of new texts, each ``[BATCH, length]``.

    Copying words from the prompt is slow to learn from writers who mostly copy wrong ones, so they become careless
    gradually: the first texts are references, and those of the second half the corpus proper.
    """
    for first in range(0, steps, CHUNK):
        pairs = corpus(rng, CHUNK * BATCH, care=max(0.0, 1 - 2 * first / steps))
        prompts, continuations = (tokenizer(list(texts))["input_ids"] for texts in zip(*pairs, strict=True))
        rows = sorted(zip(prompts, continuations, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        for place in rng.permutation(CHUNK)[: steps - first]:
            yield _shifted(rows[place * BATCH : (place + 1) * BATCH], int(tokenizer.eos_token_id))


def _shifted(rows: Sequence[tuple[list[int], list[int]]], end: int) -> tuple[Tensor, Tensor]:
    """Return each text, and the token that follows each of the continuation's, the end included.

    The content of prompts is random and not trained. Padding is on the right, to which a causal model does not attend,
    so no mask is needed.
    """
    width = max(len(prompt) + len(continuation) for prompt, continuation in rows)
    inputs, targets = [], []
    for prompt, continuation in rows:
        padding = width - len(prompt) - len(continuation)
        inputs.append([*prompt, *continuation, *[end] * padding])
        targets.append([*[IGNORED] * (len(prompt) - 1), *continuation, end, *[IGNORED] * padding])
    return torch.tensor(inputs), torch.tensor(targets)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Rebuild the tokenizer and the base model of the mini tasks.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps of {BATCH} texts")
    parser.add_argument("--seed", type=int, default=1, help="of the corpus and of the weights")
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    tokenizer = build_tokenizer("".join(text) for text in corpus(rng, VOCABULARY_TEXTS))
    model = build_model(tokenizer, arguments.seed)
    loss = train_base_model(model, tokenizer, rng, arguments.steps)
    sharpen(model, SHARPNESS)
    tokenizer.save_pretrained(arguments.out)
    model.save_pretrained(arguments.out)
    print(f"{model.num_parameters():,} parameters, loss {loss:.4f} nats a token, in {arguments.out}")


if __name__ == "__main__":
    main()
