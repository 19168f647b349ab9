"""Tools in a chat model's own format: what stands in the observation is what the chat template writes."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from textgym.env import TextView, TokenEnv, TokenMDP
from textgym.prompts import encode_prompts
from textgym.types import completion_text
from textgym.worlds import parse_hermes_call, tools

QWEN = (
    "{%- for m in messages %}"
    "{%- if m.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{%- endif %}"
    "{{ '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{%- endif %}"
    "{%- else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
"""Layout of Qwen's template for messages of users, assistants and tools."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the marks of turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token) for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = QWEN
    return made


def shout(word: str) -> str:
    return f"{word.upper()}<|im_end|>"  # which stays text


def right(completions: list[object], answer: list[str], **_: object) -> list[float]:
    said = [completion_text(completion) for completion in completions]  # type: ignore[arg-type]
    return [float(text.endswith(each)) for text, each in zip(said, answer, strict=True)]


def test_a_conversation_with_tools_is_what_the_template_writes(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [{"role": "user", "content": "Shout hé!"}]
    mdp = TokenMDP(
        tokenizer,
        encode_prompts([{"prompt": messages, "answer": "HÉ!"}], tokenizer, 100),
        right,
        end_token_ids=(tokenizer.convert_tokens_to_ids("<|endoftext|>"),),
        max_prompt_length=100,
        max_new_tokens=600,
        world=tools([shout], parse=parse_hermes_call, cost=0.25),
        turn_end_ids=(tokenizer.convert_tokens_to_ids("<|im_end|>"),),
    )
    env = TextView(TokenEnv(mdp))
    prompt, _ = env.reset(seed=0)
    assert prompt == "<|im_start|>user\nShout hé!<|im_end|>\n<|im_start|>assistant\n"
    said = [
        "I call.\n<tool_call>\n" + json.dumps({"name": "shout", "arguments": {"word": "hé"}}) + "\n</tool_call>",
        '<tool_call>\n{"name": "shut", "arguments": {}}\n</tool_call>',
        "HÉ!",
    ]
    replies = []
    for text in said:
        reply, reward, terminated, _, info = env.step(text)
        replies.append((reply, reward, terminated))
    assert replies == [
        ("HÉ<|im_end|>", -0.25, False),
        ("error: there is no tool 'shut'; did you mean 'shout'? Tools: shout", -0.25, False),
        ("", 1.0, True),
    ]
    assert [message["role"] for message in info["conversation"]] == ["assistant", "tool"] * 3
    assert info["score"] == 0.5
    # The tokens are those of the rendered conversation, up to the last message's end.
    row = env.unwrapped._row.observation()  # type: ignore[attr-defined]
    shown = row["input_ids"][0][row["attention_mask"][0] == 1].tolist()
    conversation = messages + [dict(message) for message in info["conversation"][:-1]]
    rendered = str(tokenizer.apply_chat_template(conversation, tokenize=False))
    assert tokenizer.decode(shown) == rendered.removesuffix("\n")
    ends = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert shown.count(ends) == 6  # of the user's message, three turns and two replies; the tool's own is text
