"""The language of film reviews, its gold reward, its prompts, and the base model that is shipped with it."""

import re
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from textgym.tasks.mini import base_model
from textgym.tasks.mini import reviews_lexicon as lexicon
from textgym.tasks.mini.base_model import corpus
from textgym.tasks.mini.miniature import BASE_MODEL, SPLITS
from textgym.tasks.mini.reviews import reviews, sentiment
from textgym.tasks.mini.reviews_language import CUT, LANGUAGE
from textgym.tasks.task import Task

OPENING = 'I watched "The Silent Harbor" on Friday with my sister.'


@pytest.fixture(scope="module")
def task() -> Task:
    return reviews()


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    return corpus(np.random.default_rng(5), 10_000)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(BASE_MODEL)


# --- the language --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "continuation",
    [
        " The acting is superb.",
        " The plot is not dull. The songs never drag.",
        " Although the plot is thin, the acting is superb. It is a gem.",
        " The music is better than I expected. I recommend it to friends of westerns.",
        " It runs for two hours. It is far from a mess.",
        " My brother hated it. Still, the sets are elegant and rather witty.",
    ],
)
def test_hand_written_reviews_are_accepted(continuation: str) -> None:
    assert grammatical([OPENING], [continuation]) == [1.0]


@pytest.mark.parametrize(
    "continuation",
    [
        "",  # an opening alone
        "The acting is superb.",  # no space between the sentences
        " the acting is superb.",  # no capital
        " The acting is superb",  # no full stop
        " The acting are superb.",  # number
        " The songs is superb.",
        " The acting superb is.",  # order
        " The plot never drag.",
        " It is a elegant film.",  # article
        " Although the plot is thin, the plot is superb.",  # a contrast of a thing with itself
        " It is superb. It is superb. It is superb. It is superb.",  # no end
        " Superb superb superb superb.",
        " The acting is superb.\n",
        " The acting is superb. <eos>",
        CUT + " The acting is superb.",
    ],
)
def test_texts_outside_the_language_are_rejected(continuation: str) -> None:
    assert grammatical([OPENING], [continuation]) == [0.0]


def test_a_cut_prompt_decides_how_to_go_on() -> None:
    """Agreement reaches across the prompt's end: the metric sees prompt and completion together."""
    continuations = [" is superb.", " are superb.", " plays the widow badly.", " loved it."]
    subjects = [" The acting", " The songs", " Anna Keller", " My aunt"]
    accepted = [grammatical([OPENING + subject] * 4, continuations) for subject in subjects]
    np.testing.assert_array_equal(accepted, np.eye(4))


def test_samples_are_reviews_and_shuffled_ones_are_not(pairs: list[tuple[str, str]]) -> None:
    prompts, continuations = zip(*pairs[:1_000], strict=True)
    assert all(grammatical(prompts, continuations))
    rng = np.random.default_rng(0)
    shuffled = [" " + " ".join(rng.permutation(text.split())) for text in continuations]
    assert np.mean(grammatical(prompts, shuffled)) <= 0.01


def test_the_language_is_varied(pairs: list[tuple[str, str]]) -> None:
    assert len(set(pairs)) >= 9_500
    assert len({continuation for _, continuation in pairs}) >= 9_000
    words = {word.lower() for pair in pairs for word in re.findall(r"[A-Za-z]+", "".join(pair))}
    assert len(words) >= 500


def test_every_rule_is_used() -> None:
    reached, waiting = set(), {"review", "cut review", "praise"}
    while waiting:
        name = waiting.pop()
        reached.add(name)
        waiting |= {symbol for text in LANGUAGE.rules[name] for symbol in re.findall(r"\{(.*?)\}", text)} - reached
    assert reached == set(LANGUAGE.rules)


# --- the gold reward -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.5),
        (" It runs for two hours.", 0.5),
        (" The acting is superb.", 1),
        (" The acting is dull.", 0),
        (" The plot was not dull.", 1),
        (" It never drags. It is hardly a masterpiece.", 1 / 2),
        (" The songs are far from wonderful.", 0),
        (" The far hills are wonderful.", 1),
        (" There is no dull scene in it.", 1),
        (" The cast is less gripping than the book.", 0),
        (" I cannot recommend it to you.", 0),
        (" Do not miss it.", 1),
        (" Although the plot is thin, the acting is superb.", 1 / 2),
        (" The sets are elegant and not dull. The plot is weak.", 2 / 3),
        # A negator turns one word only, and reaches no further than the clause.
        (" The plot is not dull and dreary.", 1 / 2),
        (" Not now, it is superb.", 1),
        (" It never. Superb.", 1),
        # Whole words, whatever their case; word forms count as their word.
        (" SUPERB! The fundullest.", 1),
        (" It amuses us. It bores me. It delights you. Dullness.", 2 / 3),
    ],
)
def test_gold_by_hand(text: str, expected: float) -> None:
    assert gold(["ignored: dull"], [text], completion_ids=[[]], finish_reason=["stop"]) == [pytest.approx(expected)]


def test_sentiment_is_symmetric_and_broad(pairs: list[tuple[str, str]]) -> None:
    scores = np.array([sentiment(continuation) for _, continuation in pairs])
    assert 0.47 < scores.mean() < 0.53
    assert scores.std() > 0.3
    assert all(np.mean(np.isclose(scores, value)) > 0.02 for value in (0, 1 / 3, 1 / 2, 2 / 3, 1))


def test_sentiment_words_have_one_polarity() -> None:
    good, bad = ({word for words in table.values() for word in words} for table in (lexicon.GOOD, lexicon.BAD))
    assert good.isdisjoint(bad)
    assert good.isdisjoint(lexicon.NEGATORS)
    assert bad.isdisjoint(lexicon.NEGATORS)
    assert len(good) > 100
    assert len(bad) > 100


def test_praise_and_blame_mirror_each_other() -> None:
    rng = np.random.default_rng(0)
    praise, blame = ([sentiment(LANGUAGE.sample(rng, f"{sign}sentence")) for _ in range(1_000)] for sign in "+-")
    assert np.mean(praise) > 0.95
    assert np.mean(blame) < 0.05


# --- the task ------------------------------------------------------------------------------------------------


def test_splits_are_distinct_and_repeatable(task: Task) -> None:
    texts = [prompt.text for split in SPLITS for prompt in task.prompts(split)]
    assert {split: len(prompts) for split, prompts in task.splits.items()} == SPLITS
    assert len(set(texts)) == len(texts) >= 10_000
    assert reviews.__wrapped__().splits == task.splits


def test_prompts_express_no_sentiment_and_references_praise(task: Task) -> None:
    prompts = [*task.prompts("validation"), *task.prompts("test")]
    references = [prompt.columns["reference"] for prompt in prompts]
    assert {sentiment(prompt.text) for prompt in prompts} == {0.5}
    assert set(gold(prompts, references, completion_ids=[[]] * len(prompts))) == {1.0}
    assert all(grammatical([prompt.text for prompt in prompts], references))
    cut = np.mean([not prompt.text.endswith(".") for prompt in prompts])
    assert 0.3 < cut < 0.7


def test_sizes_hold(task: Task, pairs: list[tuple[str, str]]) -> None:
    lengths = [len(prompt.ids) for prompts in task.splits.values() for prompt in prompts]
    assert max(lengths) <= task.max_prompt_length == 24
    continuations = task.tokenizer([continuation for _, continuation in pairs])["input_ids"]
    responses = np.array([len(ids) + 1 for ids in continuations])
    assert np.mean(responses > task.max_new_tokens) < 2e-3
    assert 12 < responses.mean() < 20


def test_tokens_are_words_and_concatenate(task: Task, pairs: list[tuple[str, str]]) -> None:
    tokenizer = task.tokenizer
    for prompt, continuation in pairs[:2_000]:
        ids = tokenizer(prompt)["input_ids"] + tokenizer(continuation)["input_ids"]
        assert tokenizer(prompt + continuation)["input_ids"] == ids
        assert tokenizer.decode(ids) == prompt + continuation
        # A word, the marks around it, or the two quotation marks of a title: never a piece of a word.
        assert not any(left.isalpha() and right.isalpha() for left, right in pairwise(map(tokenizer.decode, ids)))


def test_tokenizer_knows_every_text_and_keeps_pad_apart(task: Task) -> None:
    tokenizer = task.tokenizer
    text = "Žižek’s   naïve 99% 映画\n\t<review>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer) <= 1024
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token_id not in {*task.end_token_ids, None}


# --- the base model ------------------------------------------------------------------------------------------


def test_shipped_folder_is_small_and_names_no_machine() -> None:
    files = sorted(path for path in BASE_MODEL.iterdir())
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    configs = [path.read_text() for path in files if "config" in path.name]
    assert not any("/" in text for text in configs)


def test_config_belongs_to_the_tokenizer(task: Task, model: PreTrainedModel) -> None:
    config = model.config
    assert config.vocab_size == len(task.tokenizer)
    assert (config.eos_token_id,) == (model.generation_config.eos_token_id,) == task.end_token_ids
    assert config.pad_token_id == task.tokenizer.pad_token_id
    assert config.n_positions >= task.max_prompt_length + task.max_new_tokens
    assert config.resid_pdrop == config.embd_pdrop == config.attn_pdrop == 0.0
    assert model.dtype == torch.float32


def test_base_model_writes_reviews(task: Task, model: PreTrainedModel) -> None:
    prompts = [prompt.text for prompt in task.prompts("test")[:200]]
    batch = task.tokenizer(prompts, padding=True, return_tensors="pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        output = model.generate(**batch, do_sample=True, top_k=0, max_new_tokens=task.max_new_tokens)
    completions = task.tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert np.mean(grammatical(prompts, completions)) >= 0.95
    assert 0.4 < np.mean([sentiment(text) for text in completions]) < 0.6
    assert len(set(completions)) >= 190


def test_the_rebuild_command_writes_what_plain_loaders_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: Task
) -> None:
    monkeypatch.setattr(sys, "argv", ["base_model", "--out", str(tmp_path), "--steps", "3"])
    monkeypatch.setattr(base_model, "BATCH", 8)
    state = torch.get_rng_state()
    base_model.main()
    assert torch.equal(torch.get_rng_state(), state)
    # The shipped tokenizer is what the command builds, to the byte.
    assert (tmp_path / "tokenizer.json").read_bytes() == (BASE_MODEL / "tokenizer.json").read_bytes()
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == len(task.tokenizer)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).num_parameters() > 0


def test_training_learns_and_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "BATCH", 16)
    texts = ["".join(pair) for pair in corpus(np.random.default_rng(0), 500)]
    tokenizer = base_model.build_tokenizer(texts)

    def losses(steps: int) -> list[float]:
        return [
            base_model.train(base_model.build_model(tokenizer, 0), tokenizer, np.random.default_rng(1), steps)
            for _ in range(2)
        ]

    (short, _), (long, again) = losses(1), losses(20)
    assert long < short - 0.5
    assert long == again


def test_sharpening_scales_all_logits() -> None:
    tokenizer = base_model.build_tokenizer([OPENING])
    model = base_model.build_model(tokenizer, 0)
    ids = torch.tensor([tokenizer(OPENING)["input_ids"]])
    before = model(input_ids=ids).logits
    base_model.sharpen(model, 1.5)
    torch.testing.assert_close(model(input_ids=ids).logits, 1.5 * before)
