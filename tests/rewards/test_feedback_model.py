"""TAMER's Ĥ against least squares, against what a delay does to it, and as a dense reward."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from tests.helpers import byte_tokenizer, tiny_gpt2
from textgym.agents.policy.lm_policy import value_from_reward_model
from textgym.rewards import (
    Feedback,
    FeedbackModel,
    RewardModel,
    ShownResponse,
    SimulatedTrainer,
    credit_weights,
    load_reward_model,
    resolve_reward,
    train_feedback_model,
)
from textgym.rewards.feedback.delays import Fixed, Gamma, Uniform
from textgym.rewards.feedback.settings import FeedbackSettings
from textgym.rewards.feedback.training import encode_feedback, feedback_loss, fit_head, measure_feedback, token_shares
from textgym.rewards.models.last_token import read_states
from textgym.types import Prompt

WORDS = ["the", "a", "cat", "dog", "bird", "sat", "ran", "flew", "good", "bad", "very", "dull", "on", "mat"]
HEAD = FeedbackSettings(fitted="head", heldout=0)


def make(lm, tokenizer, **config):
    return RewardModel.from_causal_lm(lm("gpt2", **config), tokenizer, torch.Generator().manual_seed(1))


def watched(words, values, delay, generator, end=False, prompt="tell me", response_rate=1.0):
    """Return a response as shown at two words a second, with a simulated person's feedback."""
    tokens = tuple(f" {word}" for word in words) + ("",) * end
    shown = np.arange(len(tokens)) / 2
    events = SimulatedTrainer(delay, response_rate).watch(values, shown, generator)
    return ShownResponse(prompt, "".join(tokens), tokens, tuple(shown.tolist()), events)


def several(count, delay, seed=0, length=12, noise=0.0, end=False):
    """Return responses of random words, each of which has a value of its own, with feedback on them."""
    generator = np.random.default_rng(seed)
    worth = dict(zip(WORDS, np.linspace(-1, 1, len(WORDS)), strict=True))
    found = []
    for i in range(count):
        words = generator.choice(WORDS, length).tolist()
        values = [worth[word] + noise * generator.normal() for word in words] + [0.5] * end
        found.append(watched(words, values, delay, generator, end, prompt=f"tell me the {WORDS[i % len(WORDS)]}"))
    return found


# --- least squares -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [False, True])
def test_a_linear_head_is_weighted_least_squares(lm, tokenizer, end):
    """One row √w_et·φ_t for every event and token, solved by NumPy."""
    model = make(lm, tokenizer, width=16)
    responses = several(40, Uniform(), noise=1.0, end=end)
    rows, targets = [], []
    for response in responses:
        weights = credit_weights(response.shown, [event.time for event in response.events], Uniform())
        prompt, said = (tokenizer(text).input_ids for text in (response.prompt, response.completion))
        ids = prompt + said + [3] * end
        states = read_states(model.model, [ids])[0].detach().double().numpy()[len(prompt) :]
        for own, event in zip(weights, response.events, strict=True):
            rows.append(np.sqrt(own)[:, None] * states)
            targets.append(np.sqrt(own) * event.value)
    # The states of a layer normalisation have the mean 0, but for rounding.
    solution = np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=1e-6)[0]
    fitted, report = train_feedback_model(model, responses, generator=torch.Generator(), settings=HEAD, progress=False)
    ids = tokenizer("tell me the cat sat on the mat").input_ids
    expected = read_states(model.model, [ids])[0].detach().double().numpy() @ solution
    assert fitted.predict([ids])[0] == pytest.approx(expected.tolist(), abs=1e-6)
    assert np.abs(expected).max() > 0.1
    squares = np.square(np.concatenate(rows) @ solution - np.concatenate(targets)).sum() / len(targets)
    assert report.train_loss == pytest.approx([squares], rel=1e-5)
    assert report.events == len(targets) == 40 * (12 + end)


def test_gradient_steps_reach_the_same_minimum(lm, tokenizer):
    """The loss that Deep TAMER descends is the one that TAMER solves."""
    model = make(lm, tokenizer, width=16, layers=1)
    responses = several(20, Uniform(), noise=1.0)
    exact = copy.deepcopy(model.model)
    lowest = fit_head(RewardModel(exact, tokenizer), encode_feedback(model, responses, Uniform(), "responses"))
    model.model.base_model.requires_grad_(False)
    settings = FeedbackSettings(learning_rate=0.05, epochs=600, batch_size=20, heldout=0)
    _, report = train_feedback_model(
        model, responses, generator=torch.Generator().manual_seed(0), settings=settings, progress=False
    )
    assert report.train_loss[-1] == pytest.approx(lowest, rel=1e-3)
    assert report.train_loss[0] > 1.1 * lowest


def test_the_loss_written_out():
    scores, weights, targets = [1.0, 2.0], [[0.25, 0.75], [1.0, 0.0]], [[3.0, 1.5], [-1.0, -1.0]]
    expected = 0.25 * 4 + 0.75 * 0.25 + 1 * 4
    assert feedback_loss(*map(torch.tensor, (scores, weights, targets))).item() == pytest.approx(expected)


def test_a_word_is_paid_its_feedback_once_whatever_its_tokens():
    """Four bytes and two: with as many states as tokens Ĥ interpolates, and a word's tokens share what it is worth."""
    tokenizer = byte_tokenizer()
    model = RewardModel.from_causal_lm(tiny_gpt2(256), tokenizer, torch.Generator().manual_seed(1))
    events = (Feedback(0.5, 1.0), Feedback(1.5, -2.0))
    response = ShownResponse("a", " good c", (" good", " c"), (0.0, 1.0), events)
    fitted, report = train_feedback_model(
        model, [response], generator=torch.Generator(), settings=HEAD, delay=Fixed(0.5), progress=False
    )
    assert report.train_loss[0] == pytest.approx(0, abs=1e-6)
    paid = fitted.predict([tokenizer("a good c").input_ids])[0][1:]
    assert paid == pytest.approx([1 / 5] * 5 + [-2 / 2] * 2, abs=1e-3)
    # The best constant is paid to all seven tokens; each event has a weight of 1.
    measured = measure_feedback(fitted, encode_feedback(model, [response], Fixed(0.5), "responses"))
    assert measured["baseline"] == pytest.approx(((0.2 + 1) / 2) ** 2)


# --- delays ------------------------------------------------------------------------------------------------------


def correlations(delay, assumed, lm, tokenizer):
    """Return how Ĥ_t correlates with the true value of token t − s, for shifts s = 0 … 6.

    Eight texts are watched 40 times each; the model has more states than they have words, so that it can learn them
    all. The last word, which gets all late feedback, is left out.
    """
    generator = np.random.default_rng(0)
    texts = [(generator.choice(WORDS, 14).tolist(), generator.normal(size=14)) for _ in range(8)]
    responses = [watched(words, values, delay, generator) for words, values in texts * 40]
    model = make(lm, tokenizer, width=128)
    fitted, _ = train_feedback_model(
        model, responses, generator=torch.Generator(), settings=HEAD, delay=assumed, progress=False
    )
    prompt = tokenizer("tell me").input_ids
    scores = [fitted.predict([prompt + tokenizer(" ".join(words)).input_ids])[0][2:] for words, _ in texts]
    learned = np.concatenate([own[6:-1] for own in scores])
    true = {s: np.concatenate([values[6 - s : 13 - s] for _, values in texts]) for s in range(7)}
    return np.array([np.corrcoef(learned, true[s])[0, 1] for s in range(7)])


@pytest.mark.parametrize("tokens", [1, 3])
def test_ignoring_a_delay_shifts_the_model_by_it(lm, tokenizer, tokens):
    """Words appear twice a second: a delay of d/2 seconds is one of d tokens."""
    delay = Fixed(tokens / 2)
    ignored, modelled = (correlations(delay, assumed, lm, tokenizer) for assumed in (Fixed(0.0), delay))
    assert (ignored.argmax(), modelled.argmax()) == (tokens, 0)
    assert ignored[tokens] > 0.99 < modelled[0]
    assert max(abs(ignored[0]), abs(modelled[tokens])) < 0.3


def test_a_random_delay_is_modelled_as_well(lm, tokenizer):
    """A mean delay of 1.5 s is three words, of which the last has been there for a while."""
    delay = Gamma(9.0, 1.5 / 9)
    ignored, modelled = (correlations(delay, assumed, lm, tokenizer) for assumed in (Fixed(0.0), delay))
    assert ignored.argmax() in (2, 3)
    assert modelled.argmax() == 0
    assert modelled[0] > 0.6
    assert abs(ignored[0]) < 0.3


def test_feedback_at_a_single_response_lands_on_its_words(lm, tokenizer):
    """With as many states as words Ĥ interpolates: without the delay each value stands one word too late."""
    values = [0.5, -1.0, 0.25, 2.0]
    words = ["cat", "sat", "on", "mat"]
    response = watched(words, values, Fixed(0.5), np.random.default_rng(0))
    for delay, expected in ((Fixed(0.5), values), (Fixed(0.0), [None, 0.5, -1.0, (0.25 + 2.0) / 2])):
        model = make(lm, tokenizer)
        fitted, _ = train_feedback_model(
            model, [response], generator=torch.Generator(), settings=HEAD, delay=delay, progress=False
        )
        scores = fitted.predict([tokenizer("tell me cat sat on mat").input_ids])[0][2:]
        assert [s for s, e in zip(scores, expected, strict=True) if e is not None] == pytest.approx(
            [e for e in expected if e is not None], abs=1e-4
        )


# --- from shown texts to tokens ----------------------------------------------------------------------------------


def shares_of(texts, completion, tokenizer, end=False):
    """Return the credit that each of a byte tokenizer's tokens has in each text."""
    response = ShownResponse("a", completion, tuple(texts), tuple(map(float, range(len(texts)))))
    own = tokenizer(completion).input_ids
    return token_shares(tokenizer, tokenizer("a").input_ids, own, response)


def test_a_word_shares_its_credit_among_its_tokens():
    shares = shares_of(["ab", " c", ""], "ab c", byte_tokenizer())
    assert shares.tolist() == [[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0, 0, 1]]


def test_a_character_of_several_tokens_is_one_text():
    tokenizer = byte_tokenizer()
    assert len(tokenizer("é€").input_ids) == 5
    assert shares_of(["é", "€"], "é€", tokenizer) == pytest.approx(
        np.array([[1, 1, 0, 0, 0], [0, 0, 2, 2, 2]]) / [[2], [6]]
    )


def test_a_token_of_several_texts_gets_all_of_their_credit(tokenizer):
    response = ShownResponse("tell me", " cat sat", (" c", "at", " s", "at"), (0.0, 1.0, 2.0, 3.0))
    prompt, own = tokenizer("tell me").input_ids, tokenizer(" cat sat").input_ids
    assert token_shares(tokenizer, prompt, own, response).tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]


def test_a_completion_may_lack_the_space_that_its_tokenizer_writes(tokenizer):
    response = ShownResponse("tell me", "cat sat", ("cat", " sat"), (0.0, 1.0))
    prompt, own = tokenizer("tell me").input_ids, tokenizer("cat sat").input_ids
    assert token_shares(tokenizer, prompt, own, response).tolist() == [[1, 0], [0, 1]]


def test_white_space_belongs_to_the_word_after_it(tokenizer):
    """However a text is cut, a word's feedback is credited to the word."""
    prompt, own = tokenizer("tell me").input_ids, tokenizer(" cat sat on").input_ids
    for texts in ((" cat", " sat", " on"), ("cat ", "sat ", "on"), ("cat ", "sat ", "on ")):
        response = ShownResponse("tell me", "".join(texts), texts, (0.0, 1.0, 2.0))
        assert token_shares(tokenizer, prompt, own, response).tolist() == np.eye(3).tolist()
    halves = [[1, 0, 0], [0, 0.5, 0.5]]
    assert shares_of(["a ", "b"], "a b", byte_tokenizer()).tolist() == halves
    assert shares_of(["a", "b\n"], "ab\n", byte_tokenizer()).tolist() == halves  # after the last word there is none


@pytest.mark.parametrize("texts", [["a", "b", "\n"], ["a", "\n", "b"], ["\n", "a", ""]])
def test_a_text_of_white_space_alone_is_credited_itself(texts):
    assert shares_of(texts, "".join(texts), byte_tokenizer()).tolist() == np.eye(3).tolist()


def test_rows_of_credit_keep_their_sum(lm, tokenizer):
    examples = encode_feedback(make(lm, tokenizer), several(5, Uniform(), end=True), Uniform(), "responses")
    for example in examples:
        assert example.weights.sum(1) == pytest.approx(np.ones(13))
        assert example.ids[-1] == 3
        assert example.weights.shape == (13, len(example.ids) - example.start)


# --- what cannot be used -----------------------------------------------------------------------------------------


def refused(lm, tokenizer, responses, **given):
    with pytest.raises(ValueError, match=r"\w") as error:
        train_feedback_model(make(lm, tokenizer), responses, generator=torch.Generator(), **given)
    return str(error.value)


def test_data_that_teaches_nothing_is_refused(lm, tokenizer):
    (response,) = several(1, Fixed(0.0))
    unknown = ShownResponse("tell me", " cat zebra", (" cat", " zebra"), (0.0, 1.0), (Feedback(1.0, 1.0),))
    silent = ShownResponse("tell me", " cat", (" cat",), (0.0,))
    early = ShownResponse("tell me", " cat", (" cat",), (5.0,), (Feedback(1.0, 1.0),))
    long = ShownResponse("tell me", " cat" * 40, (" cat",) * 40, tuple(map(float, range(40))), (Feedback(1.0, 1.0),))
    assert "responses, row 2: the model's tokens spell" in refused(lm, tokenizer, [response, unknown])
    assert "0 events of feedback, none of which" in refused(lm, tokenizer, [silent])
    assert "1 events of feedback, none of which can mean a token under Uniform(low=0.2" in refused(
        lm, tokenizer, [early]
    )
    assert "row 1: prompt and response have 42 tokens, the model reads at most 32" in refused(lm, tokenizer, [long])
    assert "there are 1" in refused(lm, tokenizer, [response], delay=Fixed(0.0))  # one prompt cannot be split


def test_an_encoder_has_no_score_at_each_token(tokenizer):
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=1
    )
    with torch.random.fork_rng(devices=[]):
        model = RewardModel(BertForSequenceClassification(config).eval(), tokenizer)
    for settings in (HEAD, FeedbackSettings(heldout=0)):
        with pytest.raises(ValueError, match="BertForSequenceClassification"):
            train_feedback_model(model, several(2, Fixed(0.0)), generator=torch.Generator(), settings=settings)


@pytest.mark.parametrize("settings", [{"fitted": "tail"}, {"heldout": 1.0}, {"heldout": -0.1}, {"epochs": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        FeedbackSettings(**settings)


@pytest.mark.parametrize("settings", [{"epochs": 8}, {"learning_rate": 1e-3}, {"batch_size": 1}])
def test_what_the_exact_solution_does_not_use_is_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.* belongs to gradient steps"):
        FeedbackSettings(fitted="head", **settings)
    FeedbackSettings(**settings)


# --- as a reward -------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["without ends", "with ends"])
def fitted(request, lm, tokenizer):
    responses = several(60, Uniform(), end=request.param)
    settings = FeedbackSettings(learning_rate=1e-3, heldout=0.2)
    return train_feedback_model(
        make(lm, tokenizer), responses, generator=torch.Generator().manual_seed(0), settings=settings, progress=False
    )


def test_each_token_is_paid_what_a_lone_pass_gives_at_it(fitted, tokenizer):
    model = fitted[0].bind(tokenizer)
    prompts, ids = [[18, 19], [4, 6, 9]], [[6, 9, 12, 3], [7, 8]]
    paid = model(["", ""], ["", ""], completion_ids=ids, prompt_ids=prompts)
    for before, own, found in zip(prompts, ids, paid, strict=True):
        with torch.no_grad():
            lone = [model.model.model(torch.tensor([[*before, *own[: t + 1]]])).logits.item() for t in range(len(own))]
        if own[-1] == 3 and not model.knows_ends:
            lone[-1] = 0.0
        assert found == pytest.approx(lone, abs=1e-6)
    assert (paid[0][-1] == 0.0) is not model.knows_ends


def test_a_response_that_was_cut_off_at_a_special_token_has_no_end(fitted, tokenizer):
    """<s> ends a response: Ĥ reads its own end, </s>. At the horizon it is a token as others are."""
    model = fitted[0].bind(tokenizer)
    given = {"completion_ids": [[6, 2]] * 2, "prompt_ids": [[18, 19]] * 2}
    paid = model(["", ""], ["", ""], finish_reason=["stop", "length"], **given)
    end, start = (model.predict([[18, 19, 6, last]])[0][-1] for last in (3, 2))
    assert [own[-1] for own in paid] == pytest.approx([end if model.knows_ends else 0.0, start])
    assert model(["", ""], ["", ""], **given)[1] == pytest.approx(paid[0])


def test_a_task_may_fill_the_context(fitted):
    """No end token comes in addition, whatever ends a response."""
    prompts = [Prompt("", "", (4,)), Prompt("", "", (4,) * 20)]
    fitted[0].check_lengths(prompts, 12, [3, 6], stops=True)
    with pytest.raises(
        ValueError, match=r"tamer reads at most 32 tokens, but .* 33: .* 20 .* 13; shorten one of them$"
    ):
        fitted[0].check_lengths(prompts, 13, [3], stops=False)


def test_held_out_feedback_is_measured(fitted):
    report = fitted[1]
    assert report.heldout is not None
    assert report.heldout["error"] < report.heldout["baseline"]
    assert report.heldout["sign"] > 0.5
    assert report.without_credit == 0
    assert report.train_loss[-1] < report.train_loss[0]


def test_measures_written_out(lm, tokenizer):
    """Ĥ is 0 everywhere: the error is the mean square of the values, and no sign is right."""
    model = make(lm, tokenizer)
    torch.nn.init.zeros_(model.model.score.weight)
    examples = encode_feedback(model, several(3, Fixed(0.0)), Fixed(0.0), "responses")
    values = np.concatenate([example.values for example in examples])
    measured = measure_feedback(FeedbackModel(model), examples)
    assert measured == pytest.approx(
        {
            "events": 36,
            "error": np.square(values).mean(),
            "baseline": np.square(values - values.mean()).mean(),
            "sign": 0,
        }
    )


def test_saved_models_are_read_as_what_they_are(fitted, lm, tokenizer, tmp_path):
    model = fitted[0]
    model.save(tmp_path / "h")
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run" / "checkpoint")
    sequences = [[18, 19, 6, 9]]
    for directory in ("h", "run"):
        loaded = FeedbackModel.load(tmp_path / directory)
        assert loaded.predict(sequences) == model.predict(sequences)
        assert loaded.knows_ends is model.knows_ends
        with pytest.raises(ValueError, match=f"use it as tamer:{tmp_path / directory}"):
            load_reward_model(tmp_path / directory)
    with pytest.raises(ValueError, match=f"use it as tamer:{tmp_path / 'h'}"):
        value_from_reward_model(tmp_path / "h")
    make(lm, tokenizer).save(tmp_path / "rm")
    with pytest.raises(ValueError, match=f"use it as rm:{tmp_path / 'rm'}"):
        FeedbackModel.load(tmp_path / "rm")
    rewards = resolve_reward(f"tamer:{tmp_path / 'run'},0.5", {}).bind(tokenizer)
    paid = rewards([""], [""], completion_ids=[[6, 9]], prompt_ids=[[18, 19]])
    assert paid[0] == pytest.approx([x / 2 for x in model.predict(sequences)[0][2:]])
    with pytest.raises(ValueError, match="'tamer:' has no option 'too_long'"):
        resolve_reward(f"tamer:{tmp_path / 'h'},too_long=truncate", {})


def test_another_tokenizer_is_refused(fitted):
    with pytest.raises(ValueError, match="the policy has another tokenizer"):
        fitted[0].bind(byte_tokenizer())


def test_texts_beyond_the_context_are_refused(fitted):
    with pytest.raises(ValueError, match="have 33 tokens, tamer reads at most 32"):
        fitted[0].predict([[4] * 33])
    assert math.isfinite(fitted[0].predict([[4] * 32])[0][-1])
    assert fitted[0].predict([]) == []


def test_llama_is_read_as_well(lm, tokenizer):
    model = RewardModel.from_causal_lm(lm("llama"), tokenizer, torch.Generator().manual_seed(1))
    fitted, _ = train_feedback_model(
        model, several(5, Fixed(0.0)), generator=torch.Generator(), settings=HEAD, delay=Fixed(0.0), progress=False
    )
    together = fitted.predict([[4, 6, 9, 3], [7, 8]])
    assert together[1] == pytest.approx(fitted.predict([[7, 8]])[0], abs=1e-6)
