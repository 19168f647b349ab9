"""Beam search finds what ``generate`` of transformers finds, prompt by prompt and without padding, and scores it alike.

Where the distribution is restricted (minimum length, masks), ``generate`` is told to normalise it again, as the policy
does when it samples and is trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from tests.helpers import moved, next_logits, tiny_bart, tiny_gpt2, tiny_llama, tiny_t5
from tests.lm.test_decoding import MODELS as ALL_MODELS
from tests.lm.test_decoding import Rows, assert_same, record_shapes, uncached
from textgym.lm.agreement import UncachedDecoder, make_decoder
from textgym.lm.beam import Beam, BeamSearch, Hypothesis, Search, advance, beam_search, candidates, is_done, place
from textgym.lm.behaviour import Behaviour
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.sampling import Sampling
from textgym.lm.trunk import Trunk

V, T = 24, 8
RENORMALISED = {"renormalize_logits": True}


def peaked(make: Callable[..., PreTrainedModel], by: float) -> Callable[[], PreTrainedModel]:
    """Return a maker of a random model whose distributions are far from uniform, so that no two beams are tied."""
    return lambda: moved(make(V), by)


MODELS = {"gpt2": peaked(tiny_gpt2, 0.3), "llama": peaked(tiny_llama, 0.3), "t5": peaked(tiny_t5, 0.2)}
FREQUENT = {"gpt2": (3, 10, 13), "llama": (1, 7, 8), "t5": (15, 16, 17)}
"""Tokens that each model often writes, so that responses end at different lengths if they are end tokens."""


def ends_of(model: PreTrainedModel) -> tuple[int, ...]:
    return FREQUENT[model.config.model_type]


def behaviour_of(model: PreTrainedModel, **sampling: Any) -> Behaviour:
    return Behaviour(V, ends_of(model), Sampling(**sampling))


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return MODELS[request.param]()


def draw_prompts(n: int, longest: int = 8, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, V, rng.integers(1, longest + 1)).tolist() for _ in range(n)]


def generated(
    model: PreTrainedModel, prompt: Sequence[int], ends: Sequence[int], max_new_tokens: int, **settings: Any
) -> list[tuple[tuple[int, ...], float]]:
    """Return ids and scores of what ``generate`` finds for one prompt; greedy decoding has no scores."""
    ids = torch.tensor([list(prompt)])
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(ends),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    begun = found.sequences[:, 1 if model.config.is_encoder_decoder else len(prompt) :].tolist()
    scores = [0.0] * len(begun) if getattr(found, "sequences_scores", None) is None else found.sequences_scores.tolist()
    return [(until_end(response, ends), score) for response, score in zip(begun, scores, strict=True)]


def until_end(response: list[int], ends: Sequence[int]) -> tuple[int, ...]:
    """Return a response without the padding behind its end token."""
    lengths = [place + 1 for place, token in enumerate(response) if token in ends]
    return tuple(response[: lengths[0]] if lengths else response)


def searched(model: PreTrainedModel, prompt: Sequence[int], search: BeamSearch, **settings: Any) -> list[Any]:
    """Return the result of ``generate`` with the same beams."""
    return generated(
        model,
        prompt,
        num_beams=search.beams,
        num_return_sequences=search.beams,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        **settings,
    )


def assert_equal(got: Sequence[Hypothesis], expected: Sequence[tuple[tuple[int, ...], float]]) -> None:
    assert [each.ids for each in got] == [ids for ids, _ in expected]
    assert [each.score for each in got] == pytest.approx([score for _, score in expected], abs=1e-5)


def compare(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], search: BeamSearch, least: int, horizon: int = T
) -> list[Hypothesis]:
    """Compare all hypotheses of all prompts with those of ``generate``, and return them."""
    got = beam_search(model, prompts, behaviour_of(model, min_new_tokens=least), horizon, search)
    restricted = {"min_new_tokens": least, **RENORMALISED} if least else {}
    for prompt, found in zip(prompts, got, strict=True):
        assert_equal(found, searched(model, prompt, search, ends=ends_of(model), max_new_tokens=horizon, **restricted))
    return [each for found in got for each in found]


# --- against generate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "least"),
    [(BeamSearch(4, 1.0, False), 0), (BeamSearch(4, 0.6, "never"), 3), (BeamSearch(4, 2.0, True), 0)],
)
def test_all_four_hypotheses_are_those_of_generate(model: PreTrainedModel, search: BeamSearch, least: int) -> None:
    found = compare(model, draw_prompts(100), search, least)
    # The case is one where it matters when responses end.
    ended = np.mean([each.ids[-1] in ends_of(model) for each in found])
    assert ended > 0.1
    assert len({len(each.ids) for each in found}) >= 3
    assert min(len(each.ids) for each in found) > least


@pytest.mark.long
@pytest.mark.parametrize("penalty", [-0.5, 0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("early", [False, True, "never"])
@pytest.mark.parametrize("least", [0, 3])
def test_every_setting_is_that_of_generate(model: PreTrainedModel, penalty: float, early: Any, least: int) -> None:
    compare(model, draw_prompts(40, longest=16, seed=1), BeamSearch(4, penalty, early), least, horizon=20)


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("penalty", [0.6, 1.0, 2.0])
def test_early_stopping_and_penalty_of_generate(early: bool, penalty: float) -> None:
    """The combinations that the comparison of 100 prompts leaves out, on a few."""
    for make in MODELS.values():
        compare(make(), draw_prompts(6, seed=2), BeamSearch(3, penalty, early), 2)


def test_settings_change_what_is_found() -> None:
    """Otherwise the comparisons above would say nothing about them."""
    model, prompts = MODELS["llama"](), draw_prompts(40)
    searches = [BeamSearch(4, p, e) for p in (0.0, 1.0, 2.0) for e in (False, True, "never")]
    found = [tuple(beam_search(model, prompts, behaviour_of(model), T, search)) for search in searches]
    best = [tuple(each[0].ids for each in one) for one in found]
    assert len(set(best)) >= 4


class Tempered(LogitsProcessor):
    """Divides the logits that ``generate`` holds, log-probabilities already, by a temperature."""

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores / self.temperature


def test_temperature_is_part_of_the_distribution(model: PreTrainedModel) -> None:
    prompts, search = draw_prompts(8), BeamSearch(4)
    got = beam_search(model, prompts, behaviour_of(model, temperature=2.5), T, search)
    for prompt, found in zip(prompts, got, strict=True):
        processors = LogitsProcessorList([Tempered(2.5)])
        further = {"ends": ends_of(model), "max_new_tokens": T, "logits_processor": processors, **RENORMALISED}
        assert_equal(found, searched(model, prompt, search, **further))


def follows(token: int) -> list[int]:
    """Return what a test's task admits after a token: no token of the other parity but the end token."""
    return [1, *(i for i in range(2, V) if i % 2 == token % 2)]


def test_the_mask_of_a_task(model: PreTrainedModel) -> None:
    """A rule that depends on the last token, in prompts of different lengths."""

    def allowed(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        masks = np.zeros((len(input_ids), V), bool)
        for row, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            masks[row, follows(int(ids[np.flatnonzero(mask)[-1]]))] = True
        return masks

    prompts, search = draw_prompts(8), BeamSearch(4, 0.6)
    got = beam_search(model, prompts, Behaviour(V, (1,)), T, search, allowed=allowed)
    for prompt, found in zip(prompts, got, strict=True):
        rows_begin = model.config.is_encoder_decoder  # whose decoder's first token stands for the prompt

        def admitted(_: int, ids: torch.Tensor, prompt: list[int] = prompt, rows_begin: bool = rows_begin) -> list[int]:
            return follows(prompt[-1] if rows_begin and len(ids) == 1 else int(ids[-1]))

        settings = {"ends": (1,), "max_new_tokens": T, "prefix_allowed_tokens_fn": admitted, **RENORMALISED}
        assert_equal(found, searched(model, prompt, search, **settings))
        assert all(token == 1 or token % 2 == prompt[-1] % 2 for each in found for token in each.ids)


def test_the_stop_rule_of_a_task(model: PreTrainedModel) -> None:
    """A response also ends with the third token above 9."""

    class Rule(StoppingCriteria):
        def __init__(self, begin: int) -> None:
            self.begin = begin

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            return (input_ids[:, self.begin :] > 9).sum(1) >= 3

    prompts, search = draw_prompts(8), BeamSearch(4)
    rule = lambda ids: sum(token > 9 for token in ids) >= 3  # noqa: E731
    got = beam_search(model, prompts, behaviour_of(model), T, search, stop=rule)
    stopped = 0
    for prompt, found in zip(prompts, got, strict=True):
        criteria = StoppingCriteriaList([Rule(0 if model.config.is_encoder_decoder else len(prompt))])
        expected = searched(model, prompt, search, ends=ends_of(model), max_new_tokens=T, stopping_criteria=criteria)
        # ``generate`` fills up what ended by a rule, for want of a PAD id above 0 with the first end token.
        cut = [(ids[: len(each.ids)], score) for (ids, score), each in zip(expected, found, strict=True)]
        assert_equal(found, cut)
        assert all(
            set(ids[len(each.ids) :]) <= {ends_of(model)[0]} for (ids, _), each in zip(expected, found, strict=True)
        )
        stopped += sum(rule(each.ids) for each in found)
    assert stopped >= 3


def test_one_beam_is_greedy(model: PreTrainedModel) -> None:
    prompts = draw_prompts(10)
    for early in (False, True):
        got = beam_search(model, prompts, behaviour_of(model), T, BeamSearch(1, early_stopping=early))
        expected = [generated(model, prompt, ends_of(model), T, num_beams=1)[0][0] for prompt in prompts]
        assert [found[0].ids for found in got] == expected


def test_stories(assets: Any) -> None:
    """A model that was trained, on 20 beginnings of stories that it can continue."""
    from transformers import AutoTokenizer

    directory = assets / "models" / "stories260K"
    model, tokenizer = load_causal_lm(directory), AutoTokenizer.from_pretrained(directory)
    names, places = ("Lily", "Tom", "A small dog", "The old king", "My friend Sue"), ("park", "sea", "wood", "shop")
    texts = [f"{name} went to the {place}" + " and saw a cat" * (i % 3) for i, (name, place) in
             enumerate(itertools.product(names, places))]  # fmt: skip
    prompts = [tokenizer(text).input_ids for text in texts]
    assert len({len(prompt) for prompt in prompts}) >= 5
    size, search = model.config.vocab_size, BeamSearch(4)
    ends = [tokenizer(".", add_special_tokens=False).input_ids[-1]]  # a sentence, so that the search ends by itself
    got = beam_search(model, prompts, Behaviour(size, tuple(ends)), 24, search)
    one = beam_search(model, prompts, Behaviour(size, tuple(ends)), 24, BeamSearch(1))
    for prompt, found, greedy in zip(prompts, got, one, strict=True):
        assert_equal(found, searched(model, prompt, search, ends=ends, max_new_tokens=24))
        assert greedy[0].ids == generated(model, prompt, ends, 24, num_beams=1)[0][0]
    assert sum(each.ids[-1] in ends for found in got for each in found) >= 20


# --- against an enumeration --------------------------------------------------------------------------------------


@torch.no_grad()
def enumerated(model: PreTrainedModel, prompt: list[int], size: int, end: int, horizon: int) -> dict[Any, float]:
    """Return the log-probability of every response, each token from a plain pass."""
    done: dict[tuple[int, ...], float] = {}
    open_: dict[tuple[int, ...], float] = {(): 0.0}
    for length in range(1, horizon + 1):
        grown = {}
        for ids, log_prob in open_.items():
            log_probs = next_logits(model, prompt, list(ids)).double().log_softmax(-1)[:size]
            for token in range(size):
                ended = token == end or length == horizon
                (done if ended else grown)[(*ids, token)] = log_prob + float(log_probs[token])
        open_ = grown
    return done


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama, tiny_t5])
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_a_wide_beam_finds_every_response(make: Any, penalty: float) -> None:
    model, prompts = moved(make(4), 0.1), [[2, 3, 3], [0]]
    wide = beam_search(model, prompts, Behaviour(4, (1,)), 4, BeamSearch(256, penalty))
    for prompt, found in zip(prompts, wide, strict=True):
        expected = enumerated(model, prompt, 4, 1, 4)
        assert sum(np.exp(list(expected.values()))) == pytest.approx(1)
        assert {each.ids: each.log_prob for each in found} == pytest.approx(expected, abs=1e-5)
        scores = {ids: log_prob / len(ids) ** penalty for ids, log_prob in expected.items()}
        assert {each.ids: each.score for each in found} == pytest.approx(scores, abs=1e-5)
        assert found[0].ids == max(scores, key=scores.__getitem__)
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_never_stops_early_where_a_longer_response_wins() -> None:
    """``early_stopping="never"`` with a penalty finds a response at least as good as the default does."""
    model, prompts = MODELS["llama"](), draw_prompts(40)
    found = {
        early: [
            each[0].score for each in beam_search(model, prompts, behaviour_of(model), 20, BeamSearch(4, 1.0, early))
        ]
        for early in (True, False, "never")
    }
    assert (np.array(found["never"]) >= np.array(found[False]) - 1e-6).all()
    assert np.mean(found["never"]) > np.mean(found[True])


@pytest.mark.parametrize(
    ("penalty", "early", "worst", "expected"),
    [
        # The best unfinished response has a log-probability of -4 and 4 tokens: it scores -1, or at 10 tokens -0.4.
        (1.0, False, -0.9, True),
        (1.0, False, -1.1, False),
        (1.0, "never", -0.9, False),
        (1.0, "never", -0.3, True),
        (1.0, True, -1.1, True),
        # It scores -16, and at 10 tokens -40: a longer one only loses.
        (-1.0, "never", -17.0, False),
        (-1.0, "never", -15.0, True),
        (1.0, True, None, False),
        (1.0, False, None, False),
    ],
)
def test_when_a_search_is_done_by_hand(penalty: float, early: Any, worst: float | None, expected: bool) -> None:
    """With two beams, of which the second finished response is the worst; or of which one is finished."""
    finished = [Hypothesis((1,), -0.1, -0.1), *([] if worst is None else [Hypothesis((2, 1), worst, worst)])]
    running = (Beam((2, 3, 4, 5), -4.0, 0, 0), Beam((2, 3, 4, 6), -5.0, 1, 0))
    settings = BeamSearch(2, penalty, early)
    assert is_done(Search(running, tuple(finished)), settings, horizon=10) is expected
    assert is_done(Search((), tuple(finished)), settings, horizon=10)


def test_one_step_by_hand() -> None:
    """Two beams and an end token, 1. The third candidate ends and is not among the first two; two others go on."""
    running = (Beam((2,), -1.0, 4, 4), Beam((3,), -2.0, 5, 4))
    log_probs = np.array([[-0.1, -0.5, -3.5, -9.0], [-0.2, -0.7, -np.inf, -np.inf]])
    tokens = np.array([[1, 2, 3, 4], [1, 5, 6, 7]])
    found = candidates(running, log_probs, tokens, 4)
    assert [(beam.ids, beam.source) for beam in found] == [((2, 1), 4), ((2, 2), 4), ((3, 1), 5), ((3, 5), 5)]
    assert [beam.log_prob for beam in found] == pytest.approx([-1.1, -1.5, -2.2, -2.7])
    after = advance(Search(running), found, lambda ids: ids[-1] == 1, BeamSearch(2, 2.0), range(4, 6))
    assert [(each.ids, each.score) for each in after.finished] == [((2, 1), pytest.approx(-1.1 / 4))]
    assert [(beam.ids, beam.row, beam.source) for beam in after.running] == [((2, 2), 4, 4), ((3, 5), 5, 5)]
    assert place([5, 5, 4], range(4, 8)) == [5, 6, 4]  # only the second beam of row 5 is copied


# --- the batch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*MODELS.values(), peaked(tiny_bart, 0.1)], ids=[*MODELS, "bart"])
def test_the_result_does_not_depend_on_the_batch(make: Any) -> None:
    """One prompt at a time, three (so that prompts take the rows of others), and all at once."""
    model, prompts = make(), draw_prompts(20, seed=4)
    found = [
        beam_search(model, prompts, Behaviour(V, (1, 7, 8)), T, BeamSearch(4, 0.6), n_rows=n, prompt_length=width)
        for n, width in ((1, None), (12, 11), (80, None))
    ]
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert_equal(mine, [(each.ids, each.score) for each in theirs])


def test_models_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = draw_prompts(6)
    for make in MODELS.values():
        model = make()
        cached = beam_search(model, prompts, behaviour_of(model), T)
        with monkeypatch.context() as patch:
            patch.setattr("textgym.lm.beam.make_decoder", lambda m, n, _, width: UncachedDecoder(Trunk(m), n, width))
            for mine, theirs in zip(cached, beam_search(model, prompts, behaviour_of(model), T), strict=True):
                assert_equal(mine, [(each.ids, each.score) for each in theirs])


def test_a_prompt_is_read_once_and_leaves_the_batch(model: PreTrainedModel) -> None:
    """The first pass reads each prompt once, whatever the number of beams; every later one reads a token a beam."""
    prompts, read = draw_prompts(10), []

    def note(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        read.append(tuple(kwargs.get("decoder_input_ids", kwargs.get("input_ids")).shape))

    beam_search(model, prompts, behaviour_of(model), T, n_rows=40)  # checks this kind of model
    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    beam_search(model, prompts, behaviour_of(model), T, BeamSearch(4, early_stopping=True), n_rows=40)
    hook.remove()
    rows = [n for n, _ in read]
    assert rows[:2] == [10, 40]
    assert {columns for _, columns in read[1:]} == {1}
    assert rows[1:] == sorted(rows[1:], reverse=True)
    assert rows[-1] < 40
    assert len(read) <= T


# --- rows that go on from where others stand ---------------------------------------------------------------------


@pytest.mark.parametrize("make", ALL_MODELS.values(), ids=ALL_MODELS)
@pytest.mark.parametrize("seed", range(2))
def test_branched_rows_equal_uncached_ones(make: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows go on from others, or from others that are announced wrongly, are unknown, or have left."""
    monkeypatch.setattr("textgym.lm.decoding.SPARE_COLUMNS", 3)
    model, rng = make(), np.random.default_rng(seed)
    n, prompt_length, width = 6, 6, 16
    rows = Rows(16, rng, n=n, width=width)
    decoder = make_decoder(model, n, width, prompt_length)
    decoder.branch(np.arange(2), np.arange(2)[::-1])  # before any call
    for _ in range(40):
        asked = rng.permutation(np.flatnonzero(rng.random(n) < 0.8))
        if len(asked):
            got = decoder.logits(rows.ids, rows.mask, asked)
            assert_same(got, uncached(model, rows.ids[asked], rows.mask[asked]))
        targets = rng.permutation(n)[: rng.integers(1, n + 1)]
        sources = rng.integers(n, size=len(targets))
        decoder.branch(targets, sources)
        followed = rng.random(len(targets)) < 0.9
        ids, mask = rows.ids[sources], rows.mask[sources]
        rows.ids[targets[followed]], rows.mask[targets[followed]] = ids[followed], mask[followed]
        for row in range(n):
            rows.change(row)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_t5])
def test_a_branched_row_costs_one_token(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows become five, which then change places."""
    model, rng = make(), np.random.default_rng(0)
    rows = Rows(16, rng, n=5)
    decoder = make_decoder(model, 5, rows.width, 6)
    decoder.logits(rows.ids, rows.mask, np.arange(2))
    read = record_shapes(model, monkeypatch)
    for sources in (np.array([1, 1, 0, 0, 0]), np.array([4, 3, 3, 0, 1])):
        decoder.branch(np.arange(5), sources)
        rows.ids, rows.mask = rows.ids[sources], rows.mask[sources]
        for row in range(5):
            rows.grow(row)
        decoder.logits(rows.ids, rows.mask, np.arange(5))
    assert read == [(5, 1)] * 2


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"beams": 0}, "beams=0; expected a whole number, at least 1"),
        ({"length_penalty": np.nan}, "length_penalty=nan; expected a finite number"),
        ({"length_penalty": 11}, "length_penalty=11; expected a finite number, at least -10 and at most 10"),
        ({"early_stopping": "always"}, "early_stopping='always'; expected True, False or 'never'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BeamSearch(**settings)


def test_bad_prompts() -> None:
    model, behaviour = tiny_gpt2(), Behaviour(16, (1,))
    with pytest.raises(ValueError, match=r"prompts\[1\] has 0 tokens; expected 1 to prompt_length=2"):
        beam_search(model, [[2, 3], []], behaviour, T)
    with pytest.raises(ValueError, match=r"prompts\[0\] has 2 tokens; expected 1 to prompt_length=1"):
        beam_search(model, [[2, 3]], behaviour, T, prompt_length=1)
    assert beam_search(model, [], behaviour, T) == []


def test_diverged_weights() -> None:
    model = tiny_gpt2()
    beam_search(model, [[2, 3]], Behaviour(16, (1,)), T)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="the model's logits are NaN"):
        beam_search(model, [[2, 3]], Behaviour(16, (1,)), T)
