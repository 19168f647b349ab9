"""Supervised fine-tuning: what is trained, how the rate decays, which epoch is kept, and that a run can go on."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.helpers import tiny_bart, tiny_gpt2, tiny_llama, tiny_t5, word_tokenizer
from textgym.agents.offline.data import Demonstration, collate, collate_apart, encode_demonstrations
from textgym.agents.offline.hf_trainer import random_state, set_random_state
from textgym.agents.offline.sft import fine_tune, isolated_random_state, mean_loss, only_dropout
from textgym.agents.offline.sft_settings import EpochRow, SFTSettings
from textgym.files import write_manifest
from textgym.lm.files.loading import load_causal_lm
from textgym.lm.parts.lora import add_lora, save_pretrained, unwrapped
from textgym.rows import Screening
from textgym.types import Prompt

END = 1
UNEVEN = [
    {"prompt": "w3 w4 w5", "completion": "w1"},
    *({"prompt": f"w{i}", "completion": f"w{i} w2"} for i in range(7)),
]
ROWS = [{"prompt": f"w{i} w{i + 1}", "completion": f"w{i + 1} w{i}"} for i in range(8)]
LORA = LoraConfig(r=2, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
QUICK = SFTSettings(epochs=3, learning_rate=3e-3, batch_size=4)


def demonstrations(rows: Sequence[dict[str, Any]] = ROWS, **options: Any) -> tuple[Demonstration, ...]:
    return encode_demonstrations(rows, word_tokenizer(), END, **options)


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def tune(model: PreTrainedModel, **arguments: Any) -> Any:
    defaults = {"validation": demonstrations(), "settings": QUICK, "progress": False}
    return fine_tune(model, demonstrations(), **{**defaults, **arguments})


def test_labels_by_hand() -> None:
    rows = [{"prompt": "w0 w1", "completion": "w2"}, {"prompt": "w3", "completion": "w4 w5 <eos>"}]
    batch = collate(encode_demonstrations(rows, word_tokenizer(), END, special_tokens="parse"))
    assert batch["input_ids"].tolist() == [[2, 3, 4, END], [5, 6, 7, END]]
    assert batch["labels"].tolist() == [[-100, -100, 4, END], [-100, 6, 7, END]]
    uneven = collate(demonstrations([{"prompt": "w0", "completion": "w1"}, {"prompt": "w2 w3", "completion": "w4 w5"}]))
    assert uneven["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert uneven["labels"].tolist() == [[-100, 3, END, -100, -100], [-100, -100, 6, 7, END]]


def closing_tokenizer() -> PreTrainedTokenizerFast:
    """The words, with an end token after every text, as T5's tokenizer puts it."""
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", END)])
    return tokenizer


def test_batches_of_encoder_decoders_by_hand() -> None:
    rows = [{"prompt": "w0 w1 w2", "completion": "w3"}, {"prompt": "w4", "completion": "w5 w6"}]
    batch = collate_apart(encode_demonstrations(rows, closing_tokenizer(), END, closing=True), start=0)
    assert {name: part.tolist() for name, part in batch.items()} == {
        "input_ids": [[2, 3, 4, END], [6, END, 0, 0]],  # the encoder's text is closed, as T5's tokenizer closes it
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
        "decoder_input_ids": [[0, 5, END, 0], [0, 7, 8, END]],
        "decoder_attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]],
        "labels": [[-100, 5, END, -100], [-100, 7, 8, END]],
    }


def test_a_decoder_begins_a_text_of_its_own() -> None:
    """T5's tokenizer puts a space before every text; the first word of a response is that of a text, whatever stood
    at the end of the prompt."""
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("▁say", -1.0),
        (":", -1.0),
        ("▁hello", -1.0),
        ("hello", -2.0),
        ("▁", -3.0),
    ]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>")
    for prompt in ("say", "say:", "say: "):
        (shown,) = encode_demonstrations([{"prompt": prompt, "completion": "hello"}], tokenizer, END, closing=True)
        assert shown.prompt.ids[-1] == END
        assert tokenizer.convert_ids_to_tokens(list(shown.response_ids)) == ["▁hello", "</s>"]


def apart(rows: Any = None) -> tuple[Demonstration, ...]:
    return encode_demonstrations(UNEVEN if rows is None else rows, closing_tokenizer(), END, closing=True)


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart])
def test_the_loss_of_an_encoder_decoder_is_that_of_transformers(make: Any) -> None:
    """transformers shifts labels by itself where the decoder is given no tokens."""
    model, losses, counts = make(), [], []
    for one in apart():
        labels = torch.tensor([one.response_ids])
        with torch.no_grad():
            losses.append(float(model(input_ids=torch.tensor([one.prompt.ids]), labels=labels).loss))
        counts.append(labels.numel())
    assert len({len(one.prompt.ids) for one in apart()}) > 1
    assert mean_loss(model, apart(), batch_size=4) == pytest.approx(np.average(losses, weights=counts), abs=1e-5)


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart])
def test_a_step_of_an_encoder_decoder_descends_the_mean_over_trained_tokens(make: Any) -> None:
    settings = SFTSettings(epochs=1, learning_rate=1e-3, batch_size=8, max_grad_norm=1e9)
    tuned, by_hand = make(), make()
    fine_tune(tuned, apart()[:8], validation=apart()[:1], settings=settings, progress=False)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    losses = [
        by_hand(input_ids=torch.tensor([one.prompt.ids]), labels=torch.tensor([one.response_ids])).loss
        * len(one.response_ids)
        for one in apart()[:8]
    ]
    (sum(losses) / sum(len(one.response_ids) for one in apart()[:8])).backward()
    optimizer.step()
    moved = 0
    for expected, one in zip(by_hand.parameters(), tuned.parameters(), strict=True):
        steps = expected.grad is not None and expected.grad.abs() > 1e-5
        assert torch.allclose(one[steps], expected[steps], atol=1e-5)
        moved += int(steps.sum())
    assert moved > 1000


@pytest.mark.parametrize(("make", "branches"), [(tiny_t5, 2 * 2 + 2 * 3), (tiny_bart, 2 * 2 + 2 * 3)])
def test_residual_dropout_finds_the_branches_of_encoder_decoders(make: Any, branches: int) -> None:
    """Two blocks of the encoder with two branches each, two of the decoder with three."""
    model = make()
    with only_dropout(model, SFTSettings(residual_dropout=0.5)):
        hooked = [part for part in model.modules() if part._forward_hooks]
        assert len(hooked) == branches
    assert not any(part._forward_hooks for part in model.modules())


def test_prompt_and_completion_of_an_encoder_decoder_have_a_context_each() -> None:
    row = {"prompt": "w0 w1 w2", "completion": "w3 w4"}  # 3 + 1 and 2 + 1 tokens
    how = {"end_token_id": END, "closing": True}
    (shown,) = encode_demonstrations([row], closing_tokenizer(), max_length=4, **how)
    assert (len(shown.prompt.ids), len(shown.response_ids)) == (4, 3)
    with pytest.raises(ValueError, match="the prompt has 4 tokens, more than the model's context of 3"):
        encode_demonstrations([{**row, "completion": "w3"}], closing_tokenizer(), max_length=3, **how)
    with pytest.raises(ValueError, match=r"have 3 \+ 1 tokens, which the decoder reads after a start token"):
        encode_demonstrations([{**row, "completion": "w3 w4 w5"}], closing_tokenizer(), max_length=4, **how)
    cut = Screening("left")
    (shown,) = encode_demonstrations(
        [{**row, "completion": "w3"}], closing_tokenizer(), max_length=3, screening=cut, **how
    )
    assert (shown.prompt.ids, shown.response_ids) == ((3, 4, END), (5, END))
    with pytest.raises(ValueError, match="running text, without a prompt"):
        encode_demonstrations([{"text": "w0 w1"}], closing_tokenizer(), **how)
    with pytest.raises(ValueError, match="row 1 has 7 tokens, more than the model's context of 6"):
        fine_tune(
            tiny_bart(positions=6), apart([{"prompt": "w0 w1 w2 w3 w4 w5", "completion": "w1"}]), validation=apart()
        )


def test_conversations_are_rendered() -> None:
    tokenizer = word_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}w9 {{ m.content }} {% endfor %}w8 "
    talk = [{"role": "user", "content": "w1"}]
    (shown,) = encode_demonstrations([{"prompt": talk, "completion": "w2"}], tokenizer, END)
    assert shown.prompt.ids == (11, 3, 10)
    assert shown.response_ids == (4, END)


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_loss_is_log_probability_of_completion_and_end_alone(make: Any) -> None:
    model = make()
    shown = demonstrations([*ROWS[:2], {"prompt": "w3 w4 w5 w6", "completion": "w1"}])
    picked = []
    for one in shown:
        ids = [*one.prompt.ids, *one.response_ids]
        with torch.no_grad():  # alone, so nothing is padded
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        picked += [float(log_probs[at - 1, ids[at]]) for at in range(len(one.prompt.ids), len(ids))]
    assert len(picked) == 3 + 3 + 2
    assert mean_loss(model, shown, batch_size=2) == pytest.approx(-np.mean(picked), abs=1e-5)
    batch = collate(shown)
    with torch.no_grad():
        assert float(model(**batch).loss) == pytest.approx(-np.mean(picked), abs=1e-5)


def test_a_step_descends_the_mean_over_trained_tokens() -> None:
    """One epoch of one batch is one Adam step along that gradient, in whatever parts the batch comes."""
    settings = SFTSettings(epochs=1, learning_rate=1e-3, batch_size=8, max_grad_norm=1e9)
    rows = [*ROWS[:4], *({"prompt": "w1", "completion": "w2 w3 w4 w5 w6"} for _ in range(4))]
    whole, parts, by_hand = tiny_gpt2(), tiny_gpt2(), tiny_gpt2()
    tuned = {"validation": demonstrations(), "progress": False}
    fine_tune(whole, demonstrations(rows), settings=settings, **tuned)
    fine_tune(parts, demonstrations(rows), settings=replace(settings, accumulate=4), **tuned)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    by_hand(**collate(demonstrations(rows))).loss.backward()
    optimizer.step()
    for expected, one, other in zip(by_hand.parameters(), whole.parameters(), parts.parameters(), strict=True):
        # Adam's first step is the sign of the gradient, which rounding decides where there is none.
        moved = expected.grad is not None and expected.grad.abs() > 1e-5
        assert torch.allclose(one[moved], expected[moved], atol=1e-5)
        assert torch.allclose(other[moved], expected[moved], atol=1e-5)


def test_a_tiny_model_learns_a_mapping() -> None:
    model = tiny_gpt2()
    report = tune(model, settings=SFTSettings(epochs=40, learning_rate=1e-2, batch_size=4))
    assert report.epochs[0]["validation/loss"] > 2
    assert report.epochs[-1]["validation/loss"] < 0.1
    for shown in demonstrations():
        ids = list(shown.prompt.ids)
        while len(ids) < shown.n_tokens:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert tuple(ids[len(shown.prompt.ids) :]) == shown.response_ids


def test_the_rate_follows_a_cosine_to_a_tenth() -> None:
    report = tune(tiny_gpt2(), settings=SFTSettings(epochs=50, learning_rate=1e-3, batch_size=8))
    rates = [row["train/learning_rate"] for row in report.epochs[1:]]
    progress = np.arange(50) / 50  # the rate of an epoch's only step
    expected = 1e-3 * (0.1 + 0.9 * (1 + np.cos(np.pi * progress)) / 2)
    assert rates == pytest.approx(expected.tolist())
    assert rates[0] == 1e-3
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)


def adapted() -> PreTrainedModel:
    return add_lora(tiny_gpt2(), 2, first_layer=0, seed=0)


@pytest.mark.parametrize("make", [tiny_gpt2, adapted])
def test_the_best_epoch_by_score_is_kept_though_not_by_loss(make: Any) -> None:
    seen: list[dict[str, Tensor]] = []
    scores = iter([9.0, 0.1, 0.7, 0.7, 0.2])  # before training, then one for each epoch; the first of equals is kept

    def judge(model: PreTrainedModel) -> dict[str, float]:
        assert not model.training
        seen.append(weights(model))
        return {"score": next(scores), "length": 3.0}

    model = make()
    report = tune(model, judge=judge, settings=replace(QUICK, epochs=4))
    losses = [row["validation/loss"] for row in report.epochs]
    assert losses == sorted(losses, reverse=True)  # by loss it would be the last
    assert (report.kept_epoch, report.kept_by) == (2, "score")
    assert same(weights(model), seen[2])
    assert [row["iteration"] for row in report.epochs] == [0, 1, 2, 3, 4]
    assert [row["validation/score"] for row in report.epochs] == [9.0, 0.1, 0.7, 0.7, 0.2]
    assert report.epochs[1]["validation/length"] == 3.0


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("wrap", [lambda model: add_lora(model, 2, 0, 0), lambda model: get_peft_model(model, LORA)])
def test_of_an_adapted_model_the_adapters_alone_learn(wrap: Any, tmp_path: Path) -> None:
    model = wrap(tiny_gpt2()).requires_grad_(False)  # as libraries open saved adapters
    before, first = weights(model), mean_loss(model, demonstrations())
    report = tune(model, settings=replace(QUICK, epochs=10))
    after = weights(model)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all("lora_" in name for name in changed)
    assert report.epochs[report.kept_epoch]["validation/loss"] < first - 0.1
    assert mean_loss(model, demonstrations()) == pytest.approx(report.epochs[report.kept_epoch]["validation/loss"])
    save_pretrained(unwrapped(model), tmp_path)
    ids = torch.arange(2, 8)[None]
    assert torch.equal(load_causal_lm(tmp_path)(ids).logits, model(ids).logits)


def test_without_a_judge_the_loss_chooses() -> None:
    opposite = demonstrations([{"prompt": row["prompt"], "completion": "w9 w9 w9"} for row in ROWS])
    report = tune(tiny_gpt2(), validation=opposite, settings=SFTSettings(epochs=8, learning_rate=1e-2, batch_size=4))
    losses = [row["validation/loss"] for row in report.epochs[1:]]
    assert report.kept_by == "loss"
    assert report.kept_epoch == 1 + int(np.argmin(losses)) < 8


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("make", "killed_after"), [(tiny_gpt2, 1), (tiny_gpt2, 2), (tiny_gpt2, 3), (adapted, 3)])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, make: Any, killed_after: int) -> None:
    settings = replace(QUICK, epochs=4, residual_dropout=0.2)
    # Its best epoch is the second, so that it must survive a later interruption.
    by_rows = [0.0, 0.3, 0.9, 0.5, 0.4]

    def judge_of(rows: list[int]) -> Any:
        def judge(model: PreTrainedModel) -> dict[str, float]:
            torch.rand(3)  # a judge that draws from the global generator disturbs nothing
            return {"score": by_rows[rows[0]]}

        return judge

    def played(model: PreTrainedModel, resume: bool, kill: bool) -> Any:
        rows = [killed_after if resume else 0]

        def on_epoch(epochs: Sequence[EpochRow]) -> None:
            rows[0] = len(epochs)
            if kill and len(epochs) == killed_after + 2:  # before the state of this epoch is written
                raise KilledError

        return tune(
            model,
            judge=judge_of(rows),
            settings=settings,
            directory=tmp_path / ("parts" if kill or resume else "whole"),
            resume=resume,
            on_epoch=on_epoch,
        )

    whole, first, second = make(), make(), make()
    expected = played(whole, resume=False, kill=False)
    with pytest.raises(KilledError):
        played(first, resume=False, kill=True)
    (tmp_path / "parts" / "checkpoint-9999").mkdir()  # cut off while it was written
    (tmp_path / "parts").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "parts")
    report = played(second, resume=True, kill=False)
    assert report == expected
    assert report.kept_epoch == 2
    assert same(weights(second), weights(whole))


def test_a_moved_run_keeps_its_best_epoch(tmp_path: Path) -> None:
    scores = [0.0, 0.9, 0.1, 0.2, 0.3]

    def run(model: PreTrainedModel, directory: Path, begin: int, kill: int | None) -> Any:
        at = iter(scores[begin:])

        def on_epoch(epochs: Sequence[EpochRow]) -> None:
            if len(epochs) == kill:
                raise KilledError

        judge = lambda _: {"score": next(at)}  # noqa: E731
        settings = replace(QUICK, epochs=4)
        return tune(model, judge=judge, settings=settings, directory=directory, resume=begin > 0, on_epoch=on_epoch)

    with pytest.raises(KilledError):
        run(tiny_gpt2(), tmp_path / "here", 0, 4)
    (tmp_path / "here").rename(tmp_path / "there")
    moved, whole = tiny_gpt2(), tiny_gpt2()
    assert run(moved, tmp_path / "there", 3, None) == run(whole, tmp_path / "whole", 0, None)
    assert same(weights(moved), weights(whole))


def test_damaged_state_is_named(tmp_path: Path) -> None:
    tune(tiny_gpt2(), directory=tmp_path)
    state = max(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name[11:])) / "optimizer.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"optimizer\.safetensors is damaged"):
        tune(tiny_gpt2(), directory=tmp_path, resume=True)


def test_seed_decides_the_bits_and_nothing_global_is_left_changed() -> None:
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    found = []
    for seed in (0, 0, 1):
        model = tiny_gpt2()
        p = [m.p for m in model.modules() if hasattr(m, "p")]
        tune(model, seed=seed, settings=replace(QUICK, residual_dropout=0.2))
        assert model.config.use_cache
        assert [m.p for m in model.modules() if hasattr(m, "p")] == p
        assert not model.training
        found.append(weights(model))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_dropout_is_on_the_residual_branches_alone(make: Any) -> None:
    model = make().train()
    ids = torch.arange(2, 8)[None]
    with torch.no_grad():
        plain = make()(ids).logits
        with only_dropout(model, SFTSettings()):
            assert torch.equal(model(ids).logits, plain)  # whatever dropout the config has
        torch.manual_seed(0)
        with only_dropout(model, SFTSettings(residual_dropout=0.2)):
            assert not torch.allclose(model(ids).logits, plain)
            assert torch.equal(model.eval()(ids).logits, plain)
            block = model.train().base_model.get_submodule("h.0" if make is tiny_gpt2 else "layers.0")
            dropped = block.mlp(torch.ones(1, 200, 32))
            assert 0.15 < float((dropped == 0).float().mean()) < 0.25
        assert not model._modules["lm_head"]._forward_hooks


def tiny_opt() -> OPTForCausalLM:
    config = OPTConfig(
        vocab_size=16,
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    with torch.random.fork_rng(devices=[]):
        return OPTForCausalLM(config).eval()


@pytest.mark.parametrize("make", [tiny_opt, tiny_t5, tiny_bart])
def test_no_dropout_is_left_where_it_is_a_function(make: Any) -> None:
    """These hand the share of their config, 0.1, to a function, which no module shows."""
    model = make()
    ids = torch.arange(2, 10)[None]
    given = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        plain = model(**given).logits
        assert not torch.allclose(model.train()(**given).logits, plain)
        with only_dropout(model, SFTSettings()):
            assert torch.equal(model(**given).logits, plain)
        assert not torch.allclose(model(**given).logits, plain)  # as it was


def test_dropout_of_an_unknown_architecture_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="residual_dropout"),
        only_dropout(torch.nn.Linear(2, 2), SFTSettings(residual_dropout=0.1)),
    ):
        pass


def test_mixed_precision_leaves_a_plain_model() -> None:
    model, plain = tiny_gpt2(), tiny_gpt2()
    report = tune(model, settings=replace(QUICK, precision="bf16"))
    full = tune(plain)
    assert report.epochs[-1]["validation/loss"] == pytest.approx(full.epochs[-1]["validation/loss"], abs=0.05)
    assert "forward" not in vars(model)
    assert next(model.parameters()).dtype == torch.float32
    assert not same(weights(model), weights(plain))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "w1"}, "data.jsonl, row 2: no field 'completion'"),
        ({"completion": "w1"}, "data.jsonl, row 2: no field 'prompt'"),
        ({"prompt": "w1", "completion": ""}, "data.jsonl, row 2: completion is ''"),
        ({"prompt": "w1", "completion": None}, "data.jsonl, row 2: completion is None"),
        ({"prompt": "", "completion": "w1"}, "data.jsonl, row 2: prompt is ''"),
        ({"prompt": "w1", "completion": " "}, "data.jsonl, row 2: completion is ' '"),
        ({"prompt": "w1 w2 w3", "completion": "w1 w2"}, "data.jsonl, row 2: .* 3 . 2 . 1 tokens, more than .* 5"),
    ],
)
def test_bad_rows_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        demonstrations([ROWS[0], row], max_length=5, source="data.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": ()}, "validation is empty"),
        ({"seed": -1}, "seed=-1"),
        ({"keep_by": "score"}, "needs a judge"),
        ({"judge": lambda _: {"gold": 1.0}}, "expected 'score'"),
        ({"validation": demonstrations([{"prompt": "w1 " * 70, "completion": "w2"}])}, "row 1 has 72 tokens"),
        ({"validation": encode_demonstrations(ROWS[:1], word_tokenizer(), 40)}, "beyond the 16"),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments: dict[str, Any], message: str) -> None:
    model = tiny_gpt2()
    with pytest.raises(ValueError, match=message):
        tune(model, **arguments)
    assert same(weights(model), weights(tiny_gpt2()))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"residual_dropout": 1.0}, "residual_dropout=1"),
        ({"accumulate": 3}, "accumulate=3"),
        ({"precision": "fp8"}, "precision='fp8'"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SFTSettings(**setting)


# --- no pickle ----------------------------------------------------------------------------------------------------


def last_state(directory: Path) -> Path:
    return max(directory.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))


def test_the_state_between_epochs_holds_no_pickle(tmp_path: Path) -> None:
    tune(tiny_gpt2(), directory=tmp_path)
    for path in last_state(tmp_path).iterdir():
        assert path.suffix in (".json", ".safetensors")
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            load_file(path)


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "scheduler.pt", "scaler.pt", "pytorch_model.bin"])
def test_a_planted_pickle_is_refused_and_not_read(name: str, tmp_path: Path) -> None:
    class Mark:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "RAN",))

    tune(tiny_gpt2(), directory=tmp_path)
    state = last_state(tmp_path)
    torch.save({"w": Mark()}, state / name)
    (state / "manifest.json").unlink()
    write_manifest(state)
    with pytest.raises(ValueError, match=rf"{name} is not one of the files that textgym keeps between epochs"):
        tune(tiny_gpt2(), directory=tmp_path, resume=True)
    assert not (tmp_path / "RAN").exists()


def test_random_state_is_put_back_to_the_bit(tmp_path: Path) -> None:
    """Also with a normal number that Python and NumPy hold back, as they make them in pairs."""

    def drawn() -> list[float]:
        numpy = np.random.standard_normal(3).tolist()  # noqa: NPY002 - Trainer seeds it
        return [random.gauss(0, 1), *numpy, *torch.rand(3).tolist()]

    with isolated_random_state():
        random.gauss(0, 1)
        np.random.standard_normal()  # noqa: NPY002
        tensors, numbers = random_state()
        save_file(tensors, tmp_path / "state.safetensors")
        expected = [drawn() for _ in range(300)]
        set_random_state(load_file(tmp_path / "state.safetensors"), json.loads(json.dumps(numbers)))
        assert [drawn() for _ in range(300)] == expected


def test_gradients_that_overflow_under_a_scaler_are_no_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """fp16 scales its loss until gradients overflow: the scaler then skips the step and halves the scale."""
    from textgym.agents.offline import hf_trainer

    made = hf_trainer._Trainer.__init__

    def with_scaler(self: Any, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)

    monkeypatch.setattr(hf_trainer._Trainer, "__init__", with_scaler)
    shown = [Demonstration(Prompt("a", "a", (2, 3)), (4, 5, 1)) for _ in range(8)]
    settings = SFTSettings(epochs=6, learning_rate=1e-3, batch_size=2)
    report = fine_tune(tiny_gpt2(), shown, validation=shown, settings=settings, progress=False)
    assert [row["iteration"] for row in report.epochs] == [0, 1, 2, 3, 4, 5, 6]  # nothing was taken for divergence
