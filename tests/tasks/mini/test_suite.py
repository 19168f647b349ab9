"""What every mini task promises, whatever its language."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest

from textgym.registration import load_task
from textgym.tasks import MINI
from textgym.tasks.mini.base_model import LANGUAGES
from textgym.tasks.mini.critics import CRITICS
from textgym.tasks.mini.miniature import SPLITS, Miniature, build
from textgym.tasks.task import Task

MINIATURES = (*LANGUAGES, CRITICS)
pytestmark = pytest.mark.parametrize("mini", MINIATURES, ids=lambda mini: mini.name)


@lru_cache
def task_of(mini: Miniature) -> Task:
    return load_task(mini.name)


@lru_cache
def corpus_of(mini: Miniature) -> list[tuple[str, str]]:
    rng = np.random.default_rng(5)
    return [mini.corpus(rng) for _ in range(2_000)]


def shuffle(text: str, rng: np.random.Generator) -> str:
    """Return the words in another order than their own, where they have any."""
    orders = (" " + " ".join(rng.permutation(text.split())) for _ in range(20))
    return next((order for order in orders if order != text), "")


def test_it_is_registered_under_its_name(mini: Miniature) -> None:
    assert mini.name in MINI
    assert len(MINI) == len(MINIATURES)


def test_splits_are_distinct_disjoint_and_repeatable(mini: Miniature) -> None:
    task = task_of(mini)
    texts = [prompt.text for split in SPLITS for prompt in task.prompts(split)]
    assert {split: len(prompts) for split, prompts in task.splits.items()} == SPLITS
    assert len(set(texts)) == len(texts) >= 10_000
    assert build(mini).splits == task.splits


def test_references_are_what_is_wanted(mini: Miniature) -> None:
    for split in SPLITS:
        prompts = task_of(mini).prompts(split)
        assert all(mini.accepts(prompt.text, prompt.columns["reference"]) for prompt in prompts)
        scores = {mini.score(prompt.text, prompt.columns["reference"], prompt.columns) for prompt in prompts}
        assert scores == {1.0}


def test_shuffled_references_are_no_texts_of_the_language(mini: Miniature) -> None:
    rng = np.random.default_rng(0)
    prompts = task_of(mini).prompts("test")
    shuffled = [shuffle(prompt.columns["reference"], rng) for prompt in prompts]
    accepted = [mini.accepts(prompt.text, text) for prompt, text in zip(prompts, shuffled, strict=True)]
    assert np.mean(accepted) <= 0.01


def test_no_other_text_earns_more_than_half(mini: Miniature) -> None:
    if mini.name == "Reviews":
        pytest.skip("its gold reward is the sentiment alone")
    rng = np.random.default_rng(0)
    for prompt in task_of(mini).prompts("test")[:200]:
        reference = prompt.columns["reference"]
        first, *others = reference.split()
        denial = " ".join(["", first, "never", *others])
        for text in (shuffle(reference, rng), denial, reference[1:], reference[:-1]):
            assert mini.accepts(prompt.text, text) or mini.score(prompt.text, text, prompt.columns) <= 0.5


def test_the_corpus_is_in_the_language_and_leaves_much_to_learn(mini: Miniature) -> None:
    assert all(mini.accepts(*pair) for pair in corpus_of(mini))


def test_a_proxy_likes_its_hack_and_the_gold_reward_does_not(mini: Miniature) -> None:
    assert mini.proxies
    prompts = task_of(mini).prompts("test")[:200]
    columns = {name: [prompt.columns[name] for prompt in prompts] for name in prompts[0].columns}
    for proxy in mini.proxies.values():
        hacks = [proxy.hack(prompt) for prompt in prompts]
        texts, ids = [prompt.text for prompt in prompts], [[] for _ in prompts]
        hacked, honest = (
            np.array(proxy.reward(texts, answers, completion_ids=ids, **columns), float)
            for answers in (hacks, columns["reference"])
        )
        assert (hacked >= honest).all()
        gold = [mini.score(p.text, hack, p.columns) for p, hack in zip(prompts, hacks, strict=True)]
        assert max(gold) <= 0.5


@pytest.mark.parametrize("completion", ["", " ", " zzz", " a" * 300, "\n.,?", " 9 % 映画"])
def test_gold_is_defined_for_any_text(mini: Miniature, completion: str) -> None:
    for prompt in task_of(mini).prompts("test")[:20]:
        assert 0 <= mini.score(prompt.text, completion, prompt.columns) <= 1
        assert not mini.accepts(prompt.text, completion)


def test_sizes_hold(mini: Miniature) -> None:
    task = task_of(mini)
    lengths = [len(prompt.ids) for prompts in task.splits.values() for prompt in prompts]
    assert max(lengths) <= mini.max_prompt_length <= max(lengths) + 4
    references = [prompt.columns["reference"] for prompt in task.prompts()]
    assert max(map(len, task.tokenizer(references)["input_ids"])) < mini.max_new_tokens
    continuations = task.tokenizer([continuation for _, continuation in corpus_of(mini)])["input_ids"]
    assert np.mean([len(ids) >= mini.max_new_tokens for ids in continuations]) < 5e-3


def test_tokens_are_words_and_concatenate(mini: Miniature) -> None:
    tokenizer = task_of(mini).tokenizer
    for prompt, continuation in corpus_of(mini):
        ids = tokenizer(prompt)["input_ids"] + tokenizer(continuation)["input_ids"]
        assert tokenizer(prompt + continuation)["input_ids"] == ids
        assert tokenizer.decode(ids) == prompt + continuation
        # A word, or the marks around it: never a piece of a word.
        assert not any(left.isalpha() and right.isalpha() for left, right in pairwise(map(tokenizer.decode, ids)))
