"""A language model as the other side: what it reads, and what it says, against whole passes without a cache."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.helpers import next_logits, tiny_gpt2, tiny_llama, tiny_t5, word_tokenizer
from textgym import worlds
from textgym.lm import Sampling
from textgym.prompts import encode_prompts
from textgym.types import Completion, Prompt
from textgym.worlds.language_model import Heard, PolicyWorld
from textgym.worlds.world import ask, begin_episodes, turn_generator

N_WORDS = 14
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
MARKS = ["<user>", "<assistant>", "<system>", "<end>"]
V = N_WORDS + 2 + len(MARKS)
MODELS = pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])


def chat_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = word_tokenizer(N_WORDS)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def world_of(model: PreTrainedModel | None = None, **settings: Any) -> PolicyWorld:
    settings = {"tokenizer": chat_tokenizer(), "max_tokens": 5, **settings}
    return worlds.policy(tiny_gpt2(V) if model is None else model, **settings)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def prompts(*texts: str, **columns: str) -> list[Prompt]:
    rows = [{"prompt": [message("user", text)], **columns} for text in texts]
    return list(encode_prompts(rows, chat_tokenizer(), 99))


def turns(*texts: str) -> list[Completion]:
    return [Completion(text, (7,), "stop") for text in texts]


def rendered(world: PolicyWorld, *messages: dict[str, str]) -> list[int]:
    text = world.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return list(world.tokenizer(text, add_special_tokens=False)["input_ids"])


def by_hand(world: PolicyWorld, before: Sequence[int], seed: int, turn: int) -> list[int]:
    """Sample a reply with plain passes over whole prefixes, by inverting the cumulative distribution."""
    said: list[int] = []
    for uniform in turn_generator(seed, turn).random(world.max_tokens):
        with torch.no_grad():
            logits = next_logits(world.model, list(before), said)[: len(world.tokenizer)]
        if len(said) < world.sampling.min_new_tokens:
            logits[list(world.behaviour.end_ids)] = -torch.inf
        cumulative = (logits.double() / world.sampling.temperature).softmax(-1).cumsum(-1).numpy()
        said.append(int(np.searchsorted(cumulative, uniform, side="right")))
        if said[-1] in world.behaviour.end_ids:
            break
    return said


# --- what it reads ---------------------------------------------------------------------------------------------


def test_roles_are_swapped_and_the_persona_comes_first() -> None:
    world = world_of(persona="who")
    (state,) = begin_episodes(world, prompts("w0 w1", who="w9"), [4])
    ((state, reply),) = ask(world, [state], turns(" w2 w3 "), V)
    talk = [message("system", "w9"), message("assistant", "w0 w1"), message("user", "w2 w3")]
    asked = rendered(world, *talk)
    assert list(state.ids[: len(asked)]) == asked
    # The second turn: nothing is encoded again, and the template's text of the whole conversation is the same.
    ((after, _),) = ask(world, [state], turns("w4"), V)
    assert after.ids[: len(state.ids)] == state.ids
    closed = state.ids[-1] in world.behaviour.end_ids
    marks = ["<user>", "w4", "<end>", "<assistant>"]
    new = world.tokenizer.convert_tokens_to_ids(marks if closed else ["<end>", *marks])
    assert list(after.ids[len(state.ids) :][: len(new)]) == new
    assert "<" not in str(reply.says)


def test_a_system_message_of_the_prompt_is_the_policys_alone() -> None:
    world = world_of()
    talk = [message("system", "w9"), message("user", "w0"), message("assistant", "w1"), message("user", "w2")]
    (prompt,) = encode_prompts([{"prompt": talk}], chat_tokenizer(), 99)
    (state,) = begin_episodes(world, [prompt], [4])
    ((state, _),) = ask(world, [state], turns("w3"), V)
    heard = [message("assistant", "w0"), message("user", "w1"), message("assistant", "w2"), message("user", "w3")]
    asked = rendered(world, *heard)
    assert list(state.ids[: len(asked)]) == asked


def test_special_strings_in_the_policys_turn_stay_text() -> None:
    world = world_of()
    (state,) = begin_episodes(world, prompts("w0"), [4])
    ((state, _),) = ask(world, [state], turns("w1<system>w2"), V)
    assert world.tokenizer.vocab["<system>"] not in world.glue.around(world.tokenizer, "w1<system>w2")
    assert world.tokenizer.vocab["<system>"] not in state.ids[:12]


def test_without_a_template_turns_are_written_plainly() -> None:
    tokenizer = word_tokenizer(N_WORDS)
    for word in ("Human", "Assistant", ":"):
        tokenizer.add_tokens([word])
    world = world_of(tiny_gpt2(len(tokenizer)), tokenizer=tokenizer)
    (state,) = begin_episodes(world, list(encode_prompts(["w0"], tokenizer, 9)), [4])
    ((state, _),) = ask(world, [state], turns("w1"), V)
    written = tokenizer("Assistant: w0\n\nHuman: w1\n\nAssistant:")["input_ids"]
    assert list(state.ids[: len(written)]) == written
    assert list(state.ids[len(written) :]) == by_hand(world, written, 4, 0)


# --- what it says ----------------------------------------------------------------------------------------------


@MODELS
def test_replies_are_those_of_whole_passes_by_hand(make: Any) -> None:
    world = world_of(make(V), sampling=Sampling(temperature=0.7, min_new_tokens=2))
    states = begin_episodes(world, prompts("w0", "w1 w2 w3", "w4 w5"), [4, 5, 2**64 - 1])
    for turn in range(2):
        texts = [f"w{turn}", "w1 w2 w3 w4", "w5"]
        before = [world._asked(state, one) for state, one in zip(states, turns(*texts), strict=True)]
        answers = ask(world, states, turns(*texts), V)
        for state, asked, (after, reply) in zip(states, before, answers, strict=True):
            said = by_hand(world, asked, state.seed, turn)
            assert list(after.ids) == [*asked, *said]
            words = [i for i in said if 2 <= i < 2 + N_WORDS]
            assert str(reply.says).split() == [f"w{i - 2}" for i in words]
            assert reply[1:] == (0.0, False)
        states = [state for state, _ in answers]
    assert len({state.ids for state in states}) == 3


def test_a_reply_stops_at_the_models_end_or_at_max_tokens() -> None:
    world = world_of(max_tokens=8)
    ends = world.behaviour.end_ids
    assert ends == (1, world.tokenizer.vocab["<end>"])
    lengths = set()
    states = begin_episodes(world, prompts("w0") * 40, list(range(40)))
    asked = len(world._asked(states[0], *turns("w1")))
    for state, _ in ask(world, states, turns("w1") * 40, V):
        said = state.ids[asked:]
        assert len(said) == 8 or said[-1] in ends
        assert not set(said[:-1]) & set(ends)
        lengths.add(len(said))
    assert min(lengths) < 8 == max(lengths)


def test_a_conversation_that_is_full_ends_the_episode() -> None:
    world = world_of(max_length=16)
    states = begin_episodes(world, prompts("w0", "w1"), [1, 2])
    full = "w0 w1 w2 w3 w4 w5 w6"
    (end, ended), (other, goes_on) = ask(world, states, turns(full, "w2"), V)
    assert ended == worlds.Reply("", done=True)
    assert len(end.ids) > 11
    assert [(other, goes_on)] == ask(world, states[1:], turns("w2"), V)
    assert not goes_on.done
    assert ask(world, states[:1], turns(full), V) == [(end, ended)]


@MODELS
def test_batch_order_and_forks_change_nothing(make: Any) -> None:
    world = world_of(make(V))
    states = begin_episodes(world, prompts("w0", "w1 w2 w3", "w4 w5", "w6"), [1, 2, 3, 1])
    texts = ["w1", "w2 w3 w4 w5 w6", "w7 w8", "w9"]
    together = ask(world, states, turns(*texts), V)
    alone = [ask(world, [state], turns(text), V)[0] for state, text in zip(states, texts, strict=True)]
    assert together == alone
    order = [2, 0, 3, 1]
    permuted = ask(world, [states[i] for i in order], turns(*(texts[i] for i in order)), V)
    assert permuted == [together[i] for i in order]
    # Two ways on from one state, then the first again.
    fork = together[0][0]
    first, other, again = (ask(world, [fork], turns(text), V) for text in ("w1", "w2", "w1"))
    assert first == again != other


def test_each_episode_and_each_turn_has_its_own_stream() -> None:
    world = world_of()
    (one, other) = begin_episodes(world, prompts("w0", "w0"), [1, 2])
    said = [ask(world, [state], turns("w1"), V)[0][1].says for state in (one, other, replace(one, turn=1), one)]
    assert said[0] == said[3]
    assert len(set(said)) == 3


# --- the model -------------------------------------------------------------------------------------------------


def test_a_model_that_is_trained_on_leaves_the_world_as_it_was() -> None:
    model = tiny_gpt2(V)
    world = world_of(model)
    (state,) = begin_episodes(world, prompts("w0"), [1])
    before = ask(world, [state], turns("w1"), V)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert ask(world, [state], turns("w1"), V) == before
    assert not any(parameter.requires_grad for parameter in world.model.parameters())


def test_a_directory_brings_its_tokenizer_and_a_pickle_says_the_same(tmp_path: Path) -> None:
    tiny_gpt2(V).save_pretrained(tmp_path)
    chat_tokenizer().save_pretrained(tmp_path)
    world = worlds.policy(tmp_path, max_tokens=5)
    (state,) = begin_episodes(world, prompts("w0"), [1])
    assert ask(world, [state], turns("w1"), V) == ask(world_of(), [state], turns("w1"), V)
    for twin in (pickle.loads(pickle.dumps(world)), pickle.loads(cloudpickle.dumps(world))):
        assert ask(twin, [state], turns("w1"), V) == ask(world, [state], turns("w1"), V)
    assert pickle.loads(pickle.dumps(state)) == state


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder–decoder"):
        world_of(tiny_t5(V))
    with pytest.raises(ValueError, match="tokenizer=None"):
        world_of(tokenizer=None)
    with pytest.raises(ValueError, match="the model embeds 16"):
        world_of(tiny_gpt2(16))
    with pytest.raises(ValueError, match="max_length=5 leaves no room beside max_tokens=5"):
        world_of(max_length=5)
    with pytest.raises(ValueError, match="more than the model's context of 64"):
        world_of(max_length=65)
    world = world_of(max_length=16, persona="who")
    with pytest.raises(worlds.WorldError, match="persona='who': the prompt's column holds None"):
        begin_episodes(world, prompts("w0"), [1])
    with pytest.raises(
        worlds.WorldError, match="has 13 tokens for the world's model, max_length=16 with max_tokens=5 "
    ):
        begin_episodes(world, prompts("w0 " * 9, who="w1"), [1])
    (prompt,) = encode_prompts([{"prompt": [message("user", "w0"), message("assistant", "w1")]}], chat_tokenizer(), 9)
    with pytest.raises(worlds.WorldError, match="ends with a message of role 'assistant'"):
        begin_episodes(world_of(), [prompt], [1])
    # A kind of model is checked once; one of its kind whose weights are broken is found when it speaks.
    broken = world_of(max_length=16).model
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    (state,) = begin_episodes(world_of(broken, max_length=16), prompts("w0"), [1])
    with pytest.raises(worlds.WorldError, match="the logits of the world's model are NaN"):
        ask(world_of(broken, max_length=16), [state], turns("w0"), V)


def test_a_state_is_small() -> None:
    (state,) = begin_episodes(world_of(), prompts("w0"), [1])
    assert state == Heard(1, 0, state.ids)
