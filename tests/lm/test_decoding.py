"""Cached decoding gives what an uncached pass over each row alone gives, whatever happens to the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from tests.helpers import next_logits, tiny_bart, tiny_gpt2, tiny_llama, tiny_t5
from textgym.lm.agreement import UncachedDecoder, make_decoder
from textgym.lm.decoding import PrefixDecoder, SlotCache
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.trunk import Trunk

N, P, T = 5, 6, 10
WIDTH = P + T
LONG = P + 44
"""Width of episodes with several turns."""


def tiny_gemma(**_: Any) -> PreTrainedModel:
    """Interleaves full attention with a window that is shorter than an episode."""
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=5,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gemma2ForCausalLM(config).eval()


def tiny_bloom() -> PreTrainedModel:
    """Positions are slopes that it computes from the two-dimensional attention mask."""
    from transformers import BloomConfig, BloomForCausalLM

    config = BloomConfig(vocab_size=16, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0, eos_token_id=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BloomForCausalLM(config).eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": tiny_gpt2,
    "llama": tiny_llama,
    "gemma2": tiny_gemma,
    "bloom": tiny_bloom,
    "t5": tiny_t5,
    "bart": tiny_bart,
}


@pytest.fixture(scope="module", params=[*MODELS, "stories260K"])
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    if request.param in MODELS:
        return MODELS[request.param]()
    # In float64, where rounding, which is another on each kind of CPU, cannot hide or feign a mistake.
    return load_causal_lm(request.getfixturevalue("assets") / "models" / "stories260K").double()


@torch.no_grad()
def uncached(model: PreTrainedModel, ids: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    """Each row alone, without its padding."""
    rows = [(i[:P][m[:P] != 0].tolist(), i[P:][m[P:] != 0].tolist()) for i, m in zip(ids, mask, strict=True)]
    return torch.stack([next_logits(model, prompt, response) for prompt, response in rows])


class Rows:
    """Observations that are reset, extended and rewritten at random."""

    def __init__(self, vocabulary_size: int, rng: np.random.Generator, n: int = N, width: int = WIDTH) -> None:
        self.rng = rng
        self.vocabulary_size = vocabulary_size
        self.width = width
        self.ids = np.zeros((n, width), np.int64)
        self.mask = np.zeros((n, width), np.int8)
        for row in range(n):
            self.reset(row)

    def tokens(self, n: int) -> np.ndarray:
        return self.rng.integers(self.vocabulary_size, size=n)

    def end(self, row: int) -> int:
        return int(np.flatnonzero(self.mask[row])[-1]) + 1

    def reset(self, row: int) -> None:
        length = self.rng.integers(1, P + 1)
        self.ids[row], self.mask[row] = 0, 0
        self.ids[row, P - length : P], self.mask[row, P - length : P] = self.tokens(length), 1

    def grow(self, row: int, n: int = 1) -> None:
        end = self.end(row)
        n = min(n, self.width - end)
        self.ids[row, end : end + n], self.mask[row, end : end + n] = self.tokens(n), 1

    def edit(self, row: int) -> None:
        """Another token somewhere, as a wrapper may write it."""
        column = self.rng.choice(np.flatnonzero(self.mask[row]))
        self.ids[row, column] = self.tokens(1)[0]

    def shorten(self, row: int) -> None:
        self.mask[row, self.end(row) - 1] = self.mask[row].sum() == 1

    def turn_around(self, row: int) -> None:
        """Edits one token and appends another in the same step."""
        self.edit(row)
        self.grow(row)

    def change(self, row: int) -> None:
        if self.end(row) == self.width:
            return self.reset(row)
        moves = [self.grow, self.reset, self.edit, self.shorten, self.turn_around, lambda r: self.grow(r, 3)]
        return self.rng.choice(np.array(moves, object), p=[0.75, 0.05, 0.05, 0.05, 0.05, 0.05])(row)


def assert_same(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Log-probabilities to 1e-5; those of improbable tokens (−25 and below) to the precision of fp32. 1e-10 in fp64."""
    near = {"atol": 1e-5, "rtol": 1e-6} if got.dtype == torch.float32 else {"atol": 1e-10, "rtol": 0.0}
    torch.testing.assert_close(got.log_softmax(-1), expected.log_softmax(-1), **near)


@pytest.mark.parametrize("seed", range(3))
def test_cached_equals_uncached_through_everything(model, seed, monkeypatch):
    """Rows leave the batch, come back, restart, are rewritten and grow, a random few at a time."""
    monkeypatch.setattr("textgym.lm.decoding.SPARE_COLUMNS", 3)  # so that columns are also moved back to the left
    rng = np.random.default_rng(seed)
    rows = Rows(model.config.vocab_size, rng)
    decoder = make_decoder(model, N, WIDTH, P)
    for _ in range(60):
        asked = rng.permutation(np.flatnonzero(rng.random(N) < 0.7))
        if len(asked) == 0:
            continue
        got = decoder.logits(rows.ids, rows.mask, asked)
        expected = uncached(model, rows.ids[asked], rows.mask[asked])
        assert_same(got, expected)
        for row in asked[rng.random(len(asked)) < 0.9]:
            rows.change(row)


def record_shapes(model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record the rows and columns that each forward pass reads."""
    read: list[tuple[int, ...]] = []
    forward = model.forward

    def counting(input_ids: torch.Tensor | None = None, **kwargs: Any) -> Any:
        read.append(tuple(kwargs.get("decoder_input_ids", input_ids).shape))
        return forward(input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", counting)
    return read


def test_an_extended_row_costs_one_token(monkeypatch):
    model = tiny_gpt2()
    rows = Rows(16, np.random.default_rng(0))
    decoder = PrefixDecoder(model, N, WIDTH)
    decoder.logits(rows.ids, rows.mask, np.arange(N))
    read = record_shapes(model, monkeypatch)
    for _ in range(T):
        for row in range(N):
            rows.grow(row)
        decoder.logits(rows.ids, rows.mask, np.arange(N))
    assert read == [(N, 1)] * T


def test_a_batch_that_loses_rows_goes_on_without_a_prefill(monkeypatch):
    """Rows end one after another, those in front before those behind, and each later call is smaller."""
    model, twin = tiny_gpt2(), tiny_gpt2()
    rows = Rows(16, np.random.default_rng(0))
    decoder = PrefixDecoder(model, N, WIDTH)
    decoder.logits(rows.ids, rows.mask, np.arange(N))
    read = record_shapes(model, monkeypatch)
    for asked in (np.array([1, 2, 3, 4]), np.array([3, 4]), np.array([4])):
        for row in asked:
            rows.grow(row)
        got = decoder.logits(rows.ids, rows.mask, asked)
        assert_same(got, uncached(twin, rows.ids[asked], rows.mask[asked]))
    assert read == [(4, 1), (2, 1), (1, 1)]


# --- turns: rows that grow by several tokens at once ---------------------------------------------------------------


GROWTHS = (1, 1, 1, 2, 3, 9)


def take_turns(rows: Rows, asked: np.ndarray) -> None:
    """Mostly own tokens; replies of a few lengths; now and then a restart, or a reply to what was rewritten."""
    for row in asked:
        if rows.end(row) == rows.width or rows.rng.random() < 0.05:
            rows.reset(row)
        else:
            if rows.rng.random() < 0.05:
                rows.edit(row)
            rows.grow(row, int(rows.rng.choice(GROWTHS)))


@pytest.mark.parametrize("seed", range(3))
def test_cached_equals_uncached_over_ragged_turns(model, seed, monkeypatch):
    """Each call has rows that grew by one token, by several, not at all, or anew; rows leave and come back."""
    monkeypatch.setattr("textgym.lm.decoding.SPARE_COLUMNS", 4)
    rng = np.random.default_rng(seed)
    rows = Rows(model.config.vocab_size, rng, width=LONG)
    decoder = make_decoder(model, N, LONG, P)
    for _ in range(60):
        asked = rng.permutation(np.flatnonzero(rng.random(N) < 0.85))
        if len(asked) == 0:
            continue
        got = decoder.logits(rows.ids, rows.mask, asked)
        assert_same(got, uncached(model, rows.ids[asked], rows.mask[asked]))
        take_turns(rows, asked[rng.random(len(asked)) < 0.95])


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_t5])
def test_whole_prefixes_over_ragged_turns(make):
    """The slower path, for models without a cache."""
    model = make()
    rng = np.random.default_rng(0)
    rows = Rows(16, rng, width=LONG)
    decoder = UncachedDecoder(Trunk(model), N, P)
    for _ in range(20):
        asked = rng.permutation(N)[: rng.integers(1, N + 1)]
        assert_same(decoder.logits(rows.ids, rows.mask, asked), uncached(model, rows.ids[asked], rows.mask[asked]))
        take_turns(rows, asked)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_bart])
@pytest.mark.parametrize(
    ("growth", "expected"),
    [
        ([3, 3, 3, 3, 3], [(5, 3)]),
        ([1, 9, 1, 1, 1], [(4, 1), (1, 9)]),
        ([2, 1, 9, 3, 1], [(2, 1), (3, 9)]),
        ([12, 2, 2, 7, 5], [(5, 12)]),
    ],
)
def test_a_row_that_grew_is_not_prefilled(make, growth, expected, monkeypatch):
    """Rows that grew by several tokens take one pass, as wide as the longest growth; then all grow by one."""
    model, twin = make(), make()
    rows = Rows(16, np.random.default_rng(0), width=LONG)
    decoder = make_decoder(model, N, LONG, P)
    everyone = np.arange(N)
    decoder.logits(rows.ids, rows.mask, everyone)
    read = record_shapes(model, monkeypatch)
    for grown in (growth, growth, [1] * N):
        for row in everyone:
            rows.grow(row, grown[row])
        assert_same(decoder.logits(rows.ids, rows.mask, everyone), uncached(twin, rows.ids, rows.mask))
    assert read == [*expected, *expected, (N, 1)]


def test_a_reply_to_what_was_rewritten_is_prefilled(monkeypatch):
    model, twin = tiny_gpt2(), tiny_gpt2()
    rows = Rows(16, np.random.default_rng(0), n=2, width=LONG)
    decoder = PrefixDecoder(model, 2, LONG)
    decoder.logits(rows.ids, rows.mask, np.arange(2))
    read = record_shapes(model, monkeypatch)
    begin = int(np.flatnonzero(rows.mask[1])[0])
    rows.ids[1, begin] = (rows.ids[1, begin] + 1) % 16
    rows.grow(0, 3), rows.grow(1, 3)
    assert_same(decoder.logits(rows.ids, rows.mask, np.arange(2)), uncached(twin, rows.ids, rows.mask))
    assert read == [(1, 3), (1, rows.end(1) - begin)]


@pytest.mark.parametrize("growth", [1, 3])
def test_a_row_that_is_not_requested_is_not_taken_for_its_twin(growth, monkeypatch):
    """Rows of a group begin alike, and only the second goes on."""
    model, twin = tiny_gpt2(), tiny_gpt2()
    rows = Rows(16, np.random.default_rng(0), n=2, width=LONG)
    rows.ids[0], rows.mask[0] = rows.ids[1], rows.mask[1]
    decoder = PrefixDecoder(model, 2, LONG)
    decoder.logits(rows.ids, rows.mask, np.arange(2))
    read = record_shapes(model, monkeypatch)
    rows.grow(1, growth)
    got = decoder.logits(rows.ids, rows.mask, np.array([1]))
    assert_same(got, uncached(twin, rows.ids[1:], rows.mask[1:]))
    assert read == [(1, growth)]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_rows_logits_do_not_depend_on_how_the_others_grew(make):
    """The first row is played alone, and beside others whose replies are shorter, longer, or none."""
    model = make()
    played = []
    for others in (None, 1, 2, 14):
        rows = Rows(16, np.random.default_rng(0), width=LONG)
        decoder = make_decoder(model, N, LONG, P)
        asked = np.arange(1 if others is None else N)
        own = np.random.default_rng(1)
        logits = []
        for growth in (1, 4, 1, 9, 3, 1):
            logits.append(decoder.logits(rows.ids, rows.mask, asked)[0])
            end = rows.end(0)
            rows.ids[0, end : end + growth], rows.mask[0, end : end + growth] = own.integers(16, size=growth), 1
            for row in asked[1:]:
                rows.grow(row, others)
        played.append(torch.stack(logits))
    for beside in played[1:]:
        assert_same(beside, played[0])


def test_rows_that_grow_alike_stay_in_place(monkeypatch):
    """Conversations in step move no column: the end moves instead."""
    rows = Rows(16, np.random.default_rng(0), width=LONG)
    decoder = PrefixDecoder(tiny_gpt2(), N, LONG)
    decoder.logits(rows.ids, rows.mask, np.arange(N))
    monkeypatch.delattr(SlotCache, "_shift")
    for growth in (9, 1, 4, 9):
        for row in range(N):
            rows.grow(row, growth)
        decoder.logits(rows.ids, rows.mask, np.arange(N))


def test_a_pass_that_fails_is_done_again(monkeypatch):
    """The second pass of a call fails after columns were moved; the next call begins anew."""
    model, twin = tiny_gpt2(), tiny_gpt2()
    rows = Rows(16, np.random.default_rng(0), width=LONG)
    decoder = PrefixDecoder(model, N, LONG)
    decoder.logits(rows.ids, rows.mask, np.arange(N))
    for row, growth in enumerate((1, 9, 1, 3, 1)):
        rows.grow(row, growth)
    forward = model.forward

    def failing(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        if input_ids.shape[1] == 9:
            raise MemoryError
        return forward(input_ids, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", failing)
        with pytest.raises(MemoryError):
            decoder.logits(rows.ids, rows.mask, np.arange(N))
    assert_same(decoder.logits(rows.ids, rows.mask, np.arange(N)), uncached(twin, rows.ids, rows.mask))


# --- failures and changes of the weights -----------------------------------------------------------------------------


def test_a_failed_call_leaves_nothing_wrong_behind():
    model = tiny_gpt2()
    rows = Rows(16, np.random.default_rng(0))
    decoder = PrefixDecoder(model, N, WIDTH)
    empty = rows.mask.copy()
    empty[2] = 0
    with pytest.raises(ValueError, match="attention_mask is all 0"):
        decoder.logits(rows.ids, empty, np.arange(N))
    got = decoder.logits(rows.ids, empty, np.array([0, 1]))
    assert_same(got, uncached(model, rows.ids[:2], rows.mask[:2]))


def optimise(**settings: Any) -> Callable[[PreTrainedModel], None]:
    def change(model: PreTrainedModel) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, **settings)
        model(torch.tensor([[1, 2, 3]])).logits.square().sum().backward()
        optimizer.step()

    return change


def load_another(model: PreTrainedModel) -> None:
    model.load_state_dict(tiny_gpt2(seed=1).state_dict())


def assign_data(model: PreTrainedModel) -> None:
    """As averaged weights are swapped in."""
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.5


@pytest.mark.parametrize(
    "change",
    [optimise(), optimise(foreach=True), optimise(fused=True), load_another, assign_data],
    ids=["adam", "foreach", "fused", "load_state_dict", "data"],
)
def test_a_change_of_weights_empties_the_cache(change):
    model = tiny_gpt2()
    rows = Rows(16, np.random.default_rng(0))
    decoder = PrefixDecoder(model, N, WIDTH)
    everyone = np.arange(N)
    decoder.logits(rows.ids, rows.mask, everyone)
    before = uncached(model, rows.ids, rows.mask)
    change(model)
    for row in range(N):
        rows.grow(row, 1 + row)
    got = decoder.logits(rows.ids, rows.mask, everyone)
    expected = uncached(model, rows.ids, rows.mask)
    assert_same(got, expected)
    assert not torch.allclose(before, expected, atol=1e-2)


def test_what_diverged_weights_computed_does_not_outlive_them():
    """A masked column enters the attention with weight 0, and 0 · NaN is NaN."""
    model = tiny_gpt2()
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = Rows(16, np.random.default_rng(0))
    decoder = PrefixDecoder(model, N, WIDTH)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    assert decoder.logits(rows.ids, rows.mask, np.arange(N)).isnan().all()
    model.load_state_dict(good)
    for _ in range(2):
        got = decoder.logits(rows.ids, rows.mask, np.arange(N))
        assert_same(got, uncached(model, rows.ids, rows.mask))
        for row in range(N):
            rows.grow(row)


def test_a_recurrent_model_has_no_cache_of_columns():
    """Its state is no cache of columns."""
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ValueError, match="MambaForCausalLM keeps a recurrent state"):
        PrefixDecoder(MambaForCausalLM(config), N, WIDTH)
