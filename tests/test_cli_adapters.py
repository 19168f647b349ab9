"""Commands on a model that is saved as adapters alone, as peft and TRL leave it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.cli import main
from textgym.lm.files.adapters import adapter_tensors
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.parts.lora import adapters_off
from textgym.rewards import RewardModel

pytestmark = [
    pytest.mark.usefixtures("unrendered"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]

REWARD = "def fives(completions, **_): return [float(text.split().count('w5')) for text in completions]\n"
IDS = torch.arange(2, 8)[None]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder: a model, adapters of it with the tokenizer, data, and a file of rewards."""
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained("model")
    word_tokenizer().save_pretrained("adapters")
    config = LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained("model"), config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained("adapters")
    write("prompts.jsonl", [{"prompt": f"w{i} w{i + 1}"} for i in range(6)])
    write("data.jsonl", [{"prompt": f"w{i} w{i + 1}", "completion": f"w5 w{i}"} for i in range(10)])
    write(
        "pairs.jsonl", [{"prompt": f"w{i} w{i + 1}", "chosen": f"w{i} w7", "rejected": f"w{i} w3"} for i in range(12)]
    )
    Path("rewards.py").write_text(REWARD)
    return tmp_path


def write(name: str, rows: list[dict[str, str]]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


TRAIN = [
    *("train", "--model", "adapters", "--prompts", "prompts.jsonl", "--reward", "rewards.py:fives"),
    *("--algorithm", "rloo", "--max-new-tokens", "6", "--eval-episodes", "8", "--episodes-per-iteration", "8"),
    *("--minibatch-size", "4", "--checkpoint-every", "1", "--learning-rate", "3e-2"),
]


def kl_before(out: str) -> float:
    return float(json.loads(Path(out, "evaluation.json").read_text())["before"]["kl"]["mean"])


def test_training_goes_on_from_adapters(place: Path) -> None:
    main([*TRAIN, "--total-timesteps", "150", "--out", "from-adapters"])
    main([*TRAIN, "--total-timesteps", "50", "--out", "from-base", "--reference", "without-adapters"])
    assert abs(kl_before("from-adapters")) < 1e-3
    assert abs(kl_before("from-base")) > 1e-2
    trained = load_causal_lm("from-adapters/checkpoint")
    with adapters_off(trained):
        torch.testing.assert_close(trained(IDS).logits, tiny_gpt2()(IDS).logits)
    assert not torch.equal(trained(IDS).logits, load_causal_lm("adapters")(IDS).logits)


def test_a_plain_model_has_no_model_below(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    word_tokenizer().save_pretrained("model")
    with pytest.raises(SystemExit) as stop:
        main([*TRAIN, "--model", "model", "--reference", "without-adapters", "--out", "run"])
    assert stop.value.code == 2
    said = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert "reference='without-adapters', but the policy has no adapters" in said
    assert not Path("run").exists()


def test_fine_tuning_and_preferences_go_on_from_adapters(place: Path) -> None:
    quick = ["--eval-episodes", "8", "--batch-size", "4", "--epochs", "2"]
    main(["sft", "--model", "adapters", "--data", "data.jsonl", "--out", "sft", *quick])
    main(["dpo", "--model", "sft", "--data", "pairs.jsonl", "--out", "dpo", *quick])
    main(["kto", "--model", "sft", "--data", "pairs.jsonl", "--out", "kto", *quick])
    began, tuned, *preferred = map(
        load_causal_lm, ("adapters", *(f"{run}/checkpoint" for run in ("sft", "dpo", "kto")))
    )
    for before, after in ((began, tuned), *((tuned, one) for one in preferred)):
        assert not any(
            torch.equal(value, adapter_tensors(before)[name]) for name, value in adapter_tensors(after).items()
        )
        with adapters_off(before), adapters_off(after):
            assert torch.equal(before(IDS).logits, after(IDS).logits)
    main(["reward-model", "--model", "sft", "--data", "pairs.jsonl", "--out", "rm"])
    assert not any("lora" in name for name in RewardModel.load("rm/checkpoint").model.state_dict())
