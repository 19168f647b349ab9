"""Three uses of the package, from files to a trained policy, with the time that each step takes.

    python scripts/user_stories.py OUT [--model DIR]

1. A small language model of somebody else's (BabyLlama's kind) and a reward written in Python.
2. Pairs of dialogues in the layout of Bai et al. 2022 (arXiv:2204.05862): sft, reward-model, dpo, train.
3. A text classifier of two labels as the reward.

Everything is made in OUT first: the data by rules, the classifier by a short training. ``--model`` is any causal
language model with its tokenizer; without it a small Llama is trained on texts like those of the stories. Every policy
is trained at the default rate of its command; the script prints what each step took and what the evaluation says.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from textgym.intervals import half_width

GOOD = ("happy", "kind", "bright", "lovely", "warm")
BAD = ("sad", "mean", "dark", "ugly", "cold")
WHO = ("dog", "cat", "boy", "girl", "bird", "frog", "bear", "fish")
WHERE = ("park", "house", "garden", "forest", "lake", "school")

REWARD = '''GOOD = {words}


def kind_words(completions, **_):
    """Share of the words that are kind ones."""
    texts = [text.lower().replace(".", " ").split() for text in completions]
    return [10 * sum(word in GOOD for word in words) / max(len(words), 5) for words in texts]
'''


def main(argv: Sequence[str] | None = None) -> None:
    """Run the three stories."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--tokens", type=int, default=40_000, help="tokens that each policy generates")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    model = options.model or timed("a Llama from scratch", lambda: small_llama(options.out / "llama", rng))
    stories = [own_reward, dialogues, classifier]
    for number, story in enumerate(stories, start=1):
        place = options.out / f"story{number}"
        place.mkdir(exist_ok=True)
        print(f"\n== story {number}: {(story.__doc__ or '').splitlines()[0]}", flush=True)
        timed(f"story {number} in all", lambda story=story, place=place: story(place, str(model), options.tokens, rng))


def own_reward(place: Path, model: str, tokens: int, rng: random.Random) -> None:
    """Train a model from elsewhere on a reward in a Python file."""
    (place / "rewards.py").write_text(REWARD.format(words=repr(set(GOOD))), encoding="utf-8")
    write_rows(place / "prompts.jsonl", [{"prompt": opening(rng)} for _ in range(200)])
    command(
        *("train", "--model", model, "--prompts", place / "prompts.jsonl", "--total-timesteps", tokens),
        *("--reward", f"{place / 'rewards.py'}:kind_words", "--out", place / "train", "--overwrite"),
    )
    show(place / "train")


def dialogues(place: Path, model: str, tokens: int, rng: random.Random) -> None:
    """Take pairs of dialogues through sft, reward-model, dpo and train."""
    pairs = [dialogue_pair(rng) for _ in range(600)]
    write_rows(place / "pairs.jsonl", pairs)
    shown = [pair["chosen"].rpartition("Assistant:") for pair in pairs]
    write_rows(place / "data.jsonl", [{"prompt": p + a, "completion": c} for p, a, c in shown])
    write_rows(place / "prompts.jsonl", [{"prompt": p + a} for p, a, _ in shown])
    sizes = ("--max-new-tokens", 24, "--overwrite")
    command(*("sft", "--model", model, "--data", place / "data.jsonl", "--epochs", 3, "--out", place / "sft"), *sizes)
    command(
        *("reward-model", "--model", place / "sft", "--data", place / "pairs.jsonl", "--epochs", 2),
        *("--learning-rate", "1e-3", "--out", place / "rm", "--overwrite"),
    )
    command(
        *("dpo", "--model", place / "sft", "--data", place / "pairs.jsonl", "--reward", f"rm:{place / 'rm'}"),
        *("--out", place / "dpo"),
        *sizes,
    )
    command(
        *("train", "--model", place / "sft", "--prompts", place / "prompts.jsonl", "--reward", f"rm:{place / 'rm'}"),
        *("--total-timesteps", tokens, "--out", place / "train"),
        *sizes,
    )
    for run in ("dpo", "train"):
        show(place / run)


def classifier(place: Path, model: str, tokens: int, rng: random.Random) -> None:
    """Train on a classifier of two labels as the reward."""
    timed("a classifier of two labels", lambda: two_labels(place / "clf", rng))
    write_rows(place / "prompts.jsonl", [{"prompt": opening(rng)} for _ in range(200)])
    command(
        *("train", "--model", model, "--prompts", place / "prompts.jsonl", "--total-timesteps", tokens),
        *("--reward", f"clf:{place / 'clf'},label=POSITIVE", "--out", place / "train", "--overwrite"),
    )
    show(place / "train")


# --- commands ------------------------------------------------------------------------------------------------------


def command(*arguments: Any) -> None:
    """Run a command of textgym; the script ends if it fails."""
    line = [str(argument) for argument in arguments]
    out = Path(line[line.index("--out") + 1])
    with (out.parent / f"{out.name}.log").open("w", encoding="utf-8") as log:
        code = "from textgym.cli import main; main()"
        timed(
            f"textgym {line[0]}",
            lambda: subprocess.run([sys.executable, "-c", code, *line], stdout=log, stderr=log, check=True),
        )


def timed(name: str, run: Any) -> Any:
    """Run something and print how long it took."""
    start = time.perf_counter()
    result = run()
    print(f"{name:34}{time.perf_counter() - start:8.1f} s", flush=True)
    return result


def show(run: Path) -> None:
    """Print a run's evaluation before and after."""
    found = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    for name in (name for name in ("score", "kl") if name in found["after"]):
        before, after = (found[stage][name] for stage in ("before", "after"))
        text = f"{before['mean']:.3f} -> {after['mean']:.3f} ± {half_width(after['sem'], after['n']):.3f}"
        print(f"  {run.name}: {name:8}{text}", flush=True)


# --- data ------------------------------------------------------------------------------------------------------------


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def opening(rng: random.Random) -> str:
    """Return the beginning of a story."""
    return f"Once upon a time there was a {rng.choice(WHO)} in the {rng.choice(WHERE)}. The {rng.choice(WHO)} was"


def tale(rng: random.Random, words: Sequence[str]) -> str:
    """Return a story with these adjectives."""
    one, two = rng.choice(words), rng.choice(words)
    return f"{opening(rng)} {one} and {two}. They went to the {rng.choice(WHERE)} and it was {rng.choice(words)}."


def dialogue_pair(rng: random.Random) -> dict[str, str]:
    """Return two dialogues with one question; the kind answer was chosen."""
    who, where = rng.choice(WHO), rng.choice(WHERE)
    asked = f"\n\nHuman: What did the {who} see in the {where}?\n\nAssistant:"
    kind, unkind = (
        f" The {who} saw a {rng.choice(w)} {rng.choice(WHO)}, and it was {rng.choice(w)}." for w in (GOOD, BAD)
    )
    return {"chosen": asked + kind, "rejected": asked + unkind}


# --- models ----------------------------------------------------------------------------------------------------------


def small_llama(directory: Path, rng: random.Random) -> Path:
    """Train a Llama of 0.4 M parameters, with a tokenizer of its own, on stories and dialogues."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    texts = [tale(rng, (*GOOD, *BAD)) for _ in range(2000)] + [dialogue_pair(rng)["rejected"] for _ in range(500)]
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=512, special_tokens=special, show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    rows = [[*tokenizer(text)["input_ids"], 2] for text in texts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        batch = rng.sample(rows, 32)
        width = max(map(len, batch))
        ids = torch.tensor([[*row, *[2] * (width - len(row))] for row in batch])
        labels = torch.tensor([[*row, *[-100] * (width - len(row))] for row in batch])
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def two_labels(directory: Path, rng: random.Random) -> None:
    """Train a small BERT to classify stories as NEGATIVE (unkind) or POSITIVE (kind)."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    rows = [(tale(rng, words), label) for _ in range(600) for label, words in enumerate((BAD, GOOD))]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=list(names.values()), show_progress=False)
    backend.train_from_iterator([text for text, _ in rows], trainer)
    marks = [(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        id2label={0: "NEGATIVE", 1: "POSITIVE"},
        label2id={"NEGATIVE": 0, "POSITIVE": 1},
        pad_token_id=tokenizer.pad_token_id,
    )
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        texts, labels = zip(*rng.sample(rows, 32), strict=True)
        # Beginnings too, since a policy's texts are cut at some length.
        cut = [text[: rng.randint(len(text) // 2, len(text))] for text in texts]
        inputs = tokenizer(cut, padding=True, return_tensors="pt")
        optimizer.zero_grad()
        model(**inputs, labels=torch.tensor(labels)).loss.backward()
        optimizer.step()
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    main()
