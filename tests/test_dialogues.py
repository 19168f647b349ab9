"""Conversations as lists of messages: each kind of data becomes the tokens of the text that the same turns make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import decoders, processors
from transformers import PreTrainedTokenizerFast

from tests.helpers import tiny_gpt2, word_tokenizer
from tests.test_cli import fails
from tests.test_tokenization import byte_tokenizer
from textgym.agents.loop.acting import acting_policy
from textgym.agents.loop.evaluation import sample_responses
from textgym.agents.offline.data import encode_demonstrations
from textgym.agents.offline.preferences import encode_comparisons
from textgym.cli import main
from textgym.env.mdp import TokenMDP
from textgym.prompts import encode_prompts
from textgym.rewards import Judgement, RewardModel, read_preferences
from textgym.tokenization import chat_renderer, render_chat, reply_text
from textgym.types import Ranking

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """One token a byte, after a start token that it adds by itself; with a chat template or without."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    start = ("<s>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    tokenizer.chat_template = TEMPLATE if kind == "template" else None
    return tokenizer


# What the turns of a user who says "Hi" and of an assistant who says "Yo" look like.
ASKED = {"template": "<user>Hi</user><assistant>", "plain": "Human: Hi\n\nAssistant:"}
REPLY = {"template": "Yo", "plain": " Yo"}
BOTH = pytest.mark.parametrize("kind", ["template", "plain"])


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    """Encoded by hand: a token for each byte, the start token before them."""
    return (tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"])


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@BOTH
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [user("Hi")], "completion": [assistant("Yo")]},
        {"messages": [user("Hi"), assistant("Yo")]},
        {"prompt": "Hi", "messages": [user("Hi"), assistant("Yo")]},
    ],
)
def test_demonstrations(kind: str, row: dict[str, Any]) -> None:
    tokenizer = tokenizer_of(kind)
    (shown,) = encode_demonstrations([{**row, "source": "x"}], tokenizer, tokenizer.eos_token_id)
    assert shown.prompt.ids == ids_of(tokenizer, ASKED[kind])
    assert shown.response_ids == (*ids_of(tokenizer, REPLY[kind])[1:], tokenizer.eos_token_id)
    assert shown.prompt.content == [user("Hi")]
    assert shown.prompt.columns["source"] == "x"


@BOTH
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [user("Hi")], "chosen": [assistant("Yo")], "rejected": [assistant("No")]},
        {"chosen": [user("Hi"), assistant("Yo")], "rejected": [user("Hi"), assistant("No")]},
        {"prompt": [user("Hi")], "completions": [[assistant("No")], [assistant("Yo")]], "ranks": [1, 0]},
    ],
)
def test_comparisons_for_dpo_and_for_reward_models(kind: str, row: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    rankings = read_preferences(write(tmp_path / "data.jsonl", row), chat_renderer(tokenizer))
    assert all(isinstance(ranking, Ranking) for ranking in rankings)
    (pair,) = encode_comparisons(rankings, tokenizer, tokenizer.eos_token_id)  # type: ignore[arg-type]
    assert pair.chosen.prompt.ids == ids_of(tokenizer, ASKED[kind])  # one start token, not two
    assert pair.chosen.response_ids == (*ids_of(tokenizer, REPLY[kind])[1:], tokenizer.eos_token_id)
    assert pair.rejected.response_ids != pair.chosen.response_ids


@BOTH
def test_labels(kind: str, tmp_path: Path) -> None:
    row = {"prompt": [user("Hi")], "completion": [assistant("Yo")], "label": True}
    (found,) = read_preferences(write(tmp_path / "data.jsonl", row), chat_renderer(tokenizer_of(kind)))
    assert found == Judgement([user("Hi")], REPLY[kind], True)


def test_dialogues_as_strings_have_the_tokens_of_plain_messages(tmp_path: Path) -> None:
    tokenizer = tokenizer_of("plain")
    render = chat_renderer(tokenizer)
    texts = {"chosen": "Human: Hi\n\nAssistant: Yo", "rejected": "Human: Hi\n\nAssistant: No"}
    turns = {"chosen": [user("Hi"), assistant("Yo")], "rejected": [user("Hi"), assistant("No")]}
    rankings = read_preferences(write(tmp_path / "data.jsonl", texts, turns), render)
    by_text, by_turns = encode_comparisons(rankings, tokenizer, tokenizer.eos_token_id)  # type: ignore[arg-type]
    for one, other in ((by_text.chosen, by_turns.chosen), (by_text.rejected, by_turns.rejected)):
        assert (one.prompt.ids, one.response_ids) == (other.prompt.ids, other.response_ids)


@BOTH
def test_a_reward_model_reads_what_the_policy_wrote(kind: str) -> None:
    import torch

    tokenizer = tokenizer_of(kind)
    lm = tiny_gpt2(vocabulary_size=len(tokenizer))
    reward = RewardModel.from_causal_lm(lm, tokenizer, torch.Generator().manual_seed(0))
    (prompt,) = encode_prompts([{"prompt": [user("Hi")]}], tokenizer, 99)
    expected = [*ids_of(tokenizer, ASKED[kind]), *ids_of(tokenizer, REPLY[kind])[1:], tokenizer.eos_token_id]
    assert reward.encode([user("Hi")], REPLY[kind]) == expected
    assert list(prompt.ids) == expected[: len(prompt.ids)]


@BOTH
def test_samples_are_stored_beside_what_was_asked(kind: str) -> None:
    tokenizer = tokenizer_of(kind)
    prompts = encode_prompts([{"prompt": [user("Hi")]}, {"prompt": "Hi"}], tokenizer, 40)
    mdp = TokenMDP(tokenizer, prompts, lambda completions, **_: [0.0] * len(completions), (2,), 40, 3)
    policy = acting_policy(tiny_gpt2(vocabulary_size=len(tokenizer)), mdp)
    assert sample_responses(policy, mdp, np.array([0, 1]), 1, seed=0).prompts == [[user("Hi")], "Hi"]


def test_a_message_follows_what_stands_before_it() -> None:
    assert reply_text("Human: Hi\n\nAssistant:", [assistant("Yo")]) == " Yo"
    assert reply_text("Human: Hi\n\nAssistant:", [assistant(" Yo")]) == " Yo"
    assert reply_text("<assistant>", [assistant("Yo")]) == "Yo"
    with pytest.raises(ValueError, match="one message of the assistant, got messages of: user"):
        reply_text("", [user("Hi")])
    with pytest.raises(ValueError, match="got messages of: assistant, user"):
        reply_text("", [assistant("Yo"), user("Hi")])


TOOL = {"role": "tool", "content": "4"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [user("Hi")]}, "row 2: messages is .*the last of them the assistant's"),
        ({"messages": [user("Hi"), user("Ho")]}, "row 2: messages is .*the last of them the assistant's"),
        ({"messages": "Hi"}, "row 2: messages is 'Hi'"),
        ({"messages": [{"role": "user", "content": None}, assistant("Yo")]}, "row 2: messages is"),
        ({"prompt": [user("Hi")], "completion": [user("Yo")]}, "row 2: completion: .*got messages of: user"),
        ({"prompt": [user("Hi")], "completion": []}, "row 2: completion: .*got messages of: none"),
        ({"prompt": [user("Hi")], "completion": [assistant("")]}, "row 2: completion is ''"),
        ({"prompt": [user("Hi"), TOOL], "completion": "Yo"}, "row 2: the tokenizer's chat template refuses .*no tools"),
        ({"prompt": [{"role": "user"}], "completion": "Yo"}, "row 2: prompt is"),
    ],
)
def test_a_bad_demonstration_is_named(row: dict[str, Any], message: str) -> None:
    tokenizer, good = tokenizer_of("template"), {"prompt": "Hi", "completion": "Yo"}
    with pytest.raises(ValueError, match=f"demonstrations, {message}"):
        encode_demonstrations([good, row], tokenizer, tokenizer.eos_token_id)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": [TOOL], "chosen": "a", "rejected": "b"}, "the tokenizer.s chat template refuses .*no tools here"),
        ({"prompt": "p", "chosen": [user("a")], "rejected": "b"}, "chosen: .*got messages of: user"),
        (
            {"chosen": [user("Hi"), assistant("a"), user("b")], "rejected": [user("Hi"), assistant("c")]},
            "chosen: .*got messages of: assistant, user",
        ),
    ],
)
def test_a_bad_comparison_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b"}, row)
    with pytest.raises(ValueError, match=rf"data\.jsonl, row 2: {message}"):
        read_preferences(path, chat_renderer(tokenizer_of("template")))


@BOTH
def test_every_command_takes_conversations(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained("model")
    tokenizer = word_tokenizer()
    if kind == "template":
        tokenizer.chat_template = "{% for m in messages %}w9 {{ m.content }} {% endfor %}w8"
    tokenizer.save_pretrained("model")
    asked = [[user(f"w{i} w{i + 1}")] for i in range(6)]
    write(tmp_path / "prompts.jsonl", *({"prompt": p} for p in asked))
    write(tmp_path / "shown.jsonl", *({"messages": [*p, assistant("w5")]} for p in asked))
    write(
        tmp_path / "pairs.jsonl", *({"chosen": [*p, assistant("w5")], "rejected": [*p, assistant("w3")]} for p in asked)
    )
    small = ["--eval-episodes", "4", "--max-new-tokens", "4"]
    main(["sft", "--model", "model", "--data", "shown.jsonl", "--epochs", "1", *small, "--out", "sft"])
    main(["reward-model", "--model", "sft", "--data", "pairs.jsonl", "--demonstrations", "shown.jsonl", "--out", "rm"])
    main(["dpo", "--model", "sft", "--data", "pairs.jsonl", *small, "--out", "dpo"])
    sizes = ["--episodes-per-iteration", "4", "--minibatch-size", "4", "--total-timesteps", "8", *small]
    main(["train", "--model", "sft", "--prompts", "prompts.jsonl", "--reward", "rm:rm", *sizes, "--out", "ppo"])
    capsys.readouterr()
    main(["generate", "--model", "ppo", "--prompts", "prompts.jsonl", "--max-new-tokens", "2", "--out", "said.jsonl"])
    first = json.loads((tmp_path / "said.jsonl").read_text().splitlines()[0])
    assert first["prompt"] == render_chat(tokenizer, asked[0])
    write(tmp_path / "bad.jsonl", {"prompt": asked[0]}, {"prompt": [{"role": "user"}]})
    assert "bad.jsonl, row 2: prompt is" in fails(capsys, "generate", "--model", "ppo", "--prompts", "bad.jsonl")
