"""Naturalness equals log-probabilities of plain forward passes, one text at a time, in the model's own tokens."""

from __future__ import annotations

import math

import pytest
import torch

from tests.helpers import save_byte_model, tiny_t5, word_mdp, word_tokenizer
from textgym.numbers import SettingError
from textgym.rewards.functions import RewardError, call_reward, check_signature, reward_name
from textgym.rewards.text.naturalness import Naturalness

PROMPTS = ["the cat", "", "tell me : the dog", "the", "a cat sat", "the"]
COMPLETIONS = [" sat on the mat .", " a bird", "", " flew", " very bad very bad very bad", " ."]


@pytest.fixture
def saved(tmp_path, tokenizer, lm):
    def save(kind="gpt2", **settings):
        place = tmp_path / kind
        lm(kind, **settings).save_pretrained(place)
        tokenizer.save_pretrained(place)
        return place

    return save


def by_hand(place, prompts, completions, start=2):
    """One plain pass for each text, over the ids of its words, which a word tokenizer never merges."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(place)
    found = []
    for prompt, completion in zip(prompts, completions, strict=True):
        first, second = (tokenizer.convert_tokens_to_ids(text.split()) for text in (prompt, completion))
        ids = [*(first or [start]), *second]
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        scored = [float(log_probs[i - 1, ids[i]]) for i in range(len(ids) - len(second), len(ids))]
        found.append(sum(scored) / len(scored) if scored else -math.log(model.config.vocab_size))
    return found


def scores(reward, prompts=PROMPTS, completions=COMPLETIONS):
    return call_reward(reward, prompts, completions, [[1]] * len(prompts), {})


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_the_mean_log_probability_of_each_completion(kind, saved, batch_size):
    place = saved(kind)
    reward = Naturalness(place, batch_size=batch_size)
    check_signature(reward)
    assert reward_name(reward) == "naturalness"
    expected = by_hand(place, PROMPTS, COMPLETIONS)
    assert scores(reward) == pytest.approx(expected, abs=1e-5)
    assert len({round(one, 3) for one in expected}) == len(PROMPTS)


def test_alone_it_reads_no_prompt(saved):
    place = saved()
    expected = by_hand(place, [""] * len(PROMPTS), COMPLETIONS)
    assert scores(Naturalness(place, alone=True)) == pytest.approx(expected, abs=1e-5)
    assert scores(Naturalness(place)) != pytest.approx(expected, abs=1e-3)


def test_an_empty_completion_scores_as_a_uniform_model_would(saved):
    assert scores(Naturalness(saved()), ["the cat", ""], ["", ""]) == [-math.log(24)] * 2


def test_it_is_what_transformers_calls_the_loss(saved):
    """The loss of labels −100 over the prompt is the mean negative log-probability of the rest."""
    from transformers import AutoModelForCausalLM

    place = saved("llama")
    model = AutoModelForCausalLM.from_pretrained(place).eval()
    ids = torch.tensor([[4, 6, 9, 16, 4, 17]])  # "the cat sat on the mat"
    labels = ids.clone()
    labels[0, :2] = -100
    with torch.no_grad():
        loss = float(model(ids, labels=labels).loss)
    assert scores(Naturalness(place), ["the cat"], [" sat on the mat"]) == pytest.approx([-loss], abs=1e-5)


def test_conversations_are_rendered_and_their_last_words_scored(saved, chat_template, tokenizer):
    place = saved()
    templated = type(tokenizer).from_pretrained(place)
    templated.chat_template = chat_template
    templated.save_pretrained(place)
    prompt = [{"role": "user", "content": "tell me"}]
    single = [{"role": "assistant", "content": "the cat sat"}]
    several = [*single, {"role": "user", "content": "very good"}, {"role": "assistant", "content": "a bird"}]
    seen = ["user : tell me assistant :", "user : tell me assistant : the cat sat user : very good assistant :"]
    expected = by_hand(place, seen, ["the cat sat", "a bird"])
    assert scores(Naturalness(place), [prompt, prompt], [single, several]) == pytest.approx(expected, abs=1e-5)


# --- too long, and bound to a task ---------------------------------------------------------------------------------


def test_a_text_beyond_the_context(saved):
    place = saved(context=8)
    prompt, completion = "the cat sat on the mat .", " a dog ran"
    with pytest.raises(RewardError, match=r"have 10 tokens, the model of 'naturalness' reads at most 8; shorten them"):
        scores(Naturalness(place), [prompt], [completion])
    with pytest.warns(UserWarning, match="dropped 2 from the left"):
        found = scores(Naturalness(place, too_long="truncate"), [prompt], [completion])
    assert found == pytest.approx(by_hand(place, ["sat on the mat ."], [completion]), abs=1e-5)
    with pytest.warns(UserWarning, match="dropped 3 from the left"):
        found = scores(Naturalness(place, too_long="truncate"), ["the"], [" a" * 10])
    assert found == pytest.approx(by_hand(place, ["a"], [" a" * 7]), abs=1e-5)


def test_a_task_loads_it_and_checks_lengths_before_any_text(tmp_path):
    """Words of one token each: ``w3 w4 w5`` and 6 more are 9. In bytes a prompt alone is known: 8."""
    from tests.helpers import tiny_gpt2

    def save(positions):
        place = tmp_path / f"own{positions}"
        tiny_gpt2(positions=positions).save_pretrained(place)
        word_tokenizer().save_pretrained(place)
        return place

    word_mdp(Naturalness(save(9)))
    with pytest.raises(ValueError, match=r"reads at most 8 tokens, but this task can produce 9: 3 before the response"):
        word_mdp(Naturalness(save(8)))
    word_mdp(Naturalness(save(8), too_long="truncate"))
    word_mdp(Naturalness(save(8), alone=True))
    with pytest.raises(ValueError, match="this task can produce 7: 1 before the response and 6 of it"):
        word_mdp(Naturalness(save(6), alone=True))
    word_mdp(Naturalness(save_byte_model(tmp_path / "bytes9", positions=9)))
    with pytest.raises(ValueError, match=r"reads at most 8 tokens, but this task can produce 9: 8 before the response"):
        word_mdp(Naturalness(save_byte_model(tmp_path / "bytes8", positions=8)))


def test_a_bound_reward_scores_as_before_and_shares_the_model(saved):
    reward = Naturalness(saved())
    bound = reward.bind(word_tokenizer())
    assert bound == reward
    assert bound.reader is reward.reader
    assert scores(bound) == scores(reward)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_construction_loads_nothing_and_options_are_checked(tmp_path):
    Naturalness(tmp_path / "nothing")
    with pytest.raises(SettingError, match="too_long='cut'; expected one of 'error', 'truncate'"):
        Naturalness(tmp_path, too_long="cut")
    with pytest.raises(SettingError, match="batch_size=0; expected a whole number, at least 1"):
        Naturalness(tmp_path, batch_size=0)


def test_a_directory_without_a_model_is_refused_when_a_task_takes_it(tmp_path):
    with pytest.raises(ValueError, match=r"model='.*nothing': no such directory"):
        word_mdp(Naturalness(tmp_path / "nothing"))
    tiny_t5().save_pretrained(tmp_path / "t5")
    word_tokenizer().save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="is an encoder–decoder; expected a causal language model"):
        word_mdp(Naturalness(tmp_path / "t5"))


def test_a_tokenizer_without_a_first_token(tmp_path, lm, tokenizer):
    lm().save_pretrained(tmp_path)
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, unk_token="<unk>")
    bare.save_pretrained(tmp_path)
    reward = Naturalness(tmp_path)
    assert scores(reward, ["the"], ["cat"])[0] < 0
    with pytest.raises(RewardError, match="has neither a start nor an end token; expected one of them"):
        scores(reward, [""], ["cat"])
