"""Train LoRA adapters

A large model is trained by small matrices beside its weights (LoRA, Hu 2021, arXiv:2106.09685). Any algorithm takes
`policy_kwargs={"lora": RANK}`: adapters beside every linear map but the output head, and nothing else is trained. The
reference of the KL is the same model with its adapters switched off, so there is no second copy in memory.

    python examples/108_lora.py
    python examples/108_lora.py --model DIRECTORY_OR_HUB_ID

Without `--model` the script works offline, on the small base model of the package. Any causal language model of
transformers will do, with its own tokenizer. The prompts go into a JSON Lines file, from which `textgym.jsonl_task`
makes a task for that tokenizer; the reward counts words of praise. LoRA needs `pip install "textgym[lora]"`.

Expected output:

```text
GPT2LMHeadModel: 32,768 of 615,040 parameters are trained (5.3%)

Before training: score 0.092, KL 0.0 nats per response
  I watched "The Paper Shadow" with my friend.
    → Although the climax is predictable, the visuals are dull and hardly moving. The soundtrack

After training: score 0.668, KL 3.7 nats per response
  I watched "The Paper Shadow" with my friend.
    → Although the climax is lovely, the visuals are elegant and always magical. The sets

Adapters: 133 kB
Merged:   2,332 kB
Largest difference between logits of the policy and the merged model: 1.3e-05
```

`runs/108/policy` holds the adapters and, in `base/`, the model that they belong to. It opens in transformers and in
peft, and `PPO.load` goes on training from it. `runs/108/merged` is an ordinary model without adapters, for whatever
serves or evaluates models. (With a checkpoint alone, peft merges as well:
`AutoPeftModelForCausalLM.from_pretrained("runs/108/policy").merge_and_unload()`.)

Next: [109](109_exact_optimum.py) reads an exact optimum.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import textgym
from textgym.agents import PPO, evaluate
from textgym.env import TokenMDP
from textgym.files import write_json_lines
from textgym.lm.parts.lora import merged

LORA_RANK = 8
TOTAL_TIMESTEPS = 25_000
EVALUATION_EPISODES = 256
OUT = Path("runs/108")

ID = "acme/Praise-v0"
PROMPTS = OUT / "prompts.jsonl"

TITLES = ("Silent Harbor", "Copper Tower", "Green Mountain", "Paper Shadow", "Iron Garden", "Frozen Bridge")
PEOPLE = ("sister", "brother", "mother", "father", "friend", "teacher")
PRAISE = ("superb", "wonderful", "brilliant", "excellent", "magical", "great", "good", "love", "happy", "beautiful")


def praise(prompt: str, completion: str, columns: Mapping[str, Any]) -> float:
    """Pay half for a word of praise, and 1 for two or more."""
    return min(1.0, sum(completion.lower().count(word) for word in PRAISE) / 2)


def praise_task(model: str) -> textgym.Task:
    """Return the task of the prompts in a file, for a model and its tokenizer."""
    return textgym.jsonl_task(
        PROMPTS, gold=textgym.per_text(praise), model=model, description="Praise a film.", max_new_tokens=16
    )


textgym.register_task(ID, praise_task)


def main(model: str | Path | None = None) -> dict[str, float]:
    """Train adapters on a model, save them, and merge them into its weights."""
    model = model or textgym.load_task("textgym/Reviews-v0").base_model
    OUT.mkdir(parents=True, exist_ok=True)

    # 1. A task for this model: its tokenizer reads the prompts. Parameters of the function that makes a task, here
    # `model`, are settings of `gym.make` and `gym.make_vec`.
    rows = [{"prompt": f'I watched "The {title}" with my {who}.'} for title, who in product(TITLES, PEOPLE)]
    write_json_lines(PROMPTS, rows)
    envs = gym.make_vec(ID, num_envs=64, model=str(model))

    # 2. Train. Adapters bear a higher learning rate than whole models.
    algorithm = PPO(
        "LMPolicy",
        envs,
        policy_kwargs={"lora": LORA_RANK},
        learning_rate=3e-3,
        target_kl=0.02,
        seed=0,
    )
    lm = algorithm.policy.lm
    trained = sum(p.numel() for p in lm.parameters() if p.requires_grad)
    total = sum(p.numel() for p in lm.parameters())
    print(f"{type(lm).__name__}: {trained:,} of {total:,} parameters are trained ({trained / total:.1%})")
    test = gym.make(ID, split="test", model=str(model)).unwrapped.mdp
    before = measure(algorithm, test, "Before training")
    algorithm.learn(TOTAL_TIMESTEPS)
    after = measure(algorithm, test, "After training")

    # 3. Save the adapters, and a model with the adapters merged into its weights.
    algorithm.save(OUT / "policy")
    merged(lm).save_pretrained(OUT / "merged")
    test.tokenizer.save_pretrained(OUT / "merged")
    print("\nAdapters:", f"{(OUT / 'policy' / 'adapter_model.safetensors').stat().st_size / 1e3:,.0f} kB")
    print("Merged:  ", f"{(OUT / 'merged' / 'model.safetensors').stat().st_size / 1e3:,.0f} kB")

    opened = AutoModelForCausalLM.from_pretrained(OUT / "merged").eval()
    difference = largest_difference(lm, opened, torch.tensor([test.prompts[0].ids]))
    print(f"Largest difference between logits of the policy and the merged model: {difference:.1e}")
    return {"before": before, "after": after, "difference": difference, "trained": trained, "total": total}


def measure(algorithm: PPO, mdp: TokenMDP, title: str) -> float:
    """Print the mean score, the KL and a sample; return the mean."""
    report = evaluate(algorithm.policy, algorithm.reference_trunk, mdp, EVALUATION_EPISODES, seed=0)
    score, kl = (report.summary()[name]["mean"] for name in ("score", "kl"))
    prompt = mdp.prompts[report.episodes.prompt_index[0]]
    tokens = report.episodes.actions[0, : report.episodes.lengths[0]]
    print(f"\n{title}: score {score:.3f}, KL {kl:.1f} nats per response")
    print(f"  {prompt.text}\n    →{mdp.completion(prompt, tokens.tolist())}")
    return score


@torch.no_grad()
def largest_difference(one: PreTrainedModel, other: PreTrainedModel, ids: torch.Tensor) -> float:
    """Return the largest difference between the logits of two models after the same tokens."""
    return float((one(ids).logits - other(ids).logits).abs().max())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train LoRA adapters on a causal language model.")
    parser.add_argument("--model", help="a directory or a hub id; by default the base model of the package")
    main(parser.parse_args().model)
