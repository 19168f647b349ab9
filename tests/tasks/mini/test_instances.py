"""Instances of the mini tasks: a seed draws prompts that speak of a part of the words."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from functools import lru_cache

import gymnasium as gym
import numpy as np
import pytest

from textgym.registration import load_task
from textgym.tasks.mini.base_model import LANGUAGES
from textgym.tasks.mini.critics import CRITICS
from textgym.tasks.mini.miniature import INSTANCE_SPLITS, KEPT, Miniature, drawn_lexicon
from textgym.tasks.task import Task

SEED = 3
# Digests of all prompts, tokens and columns, computed before tasks had instances.
PUBLISHED = {
    "Reviews": "c0cf476a2f5a5a03",
    "Concepts": "9328b8d88992d637",
    "Summaries": "2883b33b3ccaf625",
    "Captions": "94880b96c1d65b90",
    "Translation": "521ad0b2397e49a0",
    "Stories": "7c3a1ec0939d08b9",
    "Dialogue": "f21ce9df94b6b355",
    "Arithmetic": "d61535bc36a276a0",
}

MINIATURES = (*LANGUAGES, CRITICS)
each_language = pytest.mark.parametrize("mini", MINIATURES, ids=lambda mini: mini.name)


@lru_cache
def instance(mini: Miniature, seed: int) -> Task:
    return load_task(mini.name, seed=seed)


def digest(task: Task) -> str:
    rows = [[split, p.text, list(p.ids), p.columns] for split, prompts in task.splits.items() for p in prompts]
    return hashlib.sha256(json.dumps(rows, default=str).encode()).hexdigest()[:16]


def told(task: Task) -> str:
    """Return all that the prompts of a task tell, in English."""
    prompts = [prompt for prompts in task.splits.values() for prompt in prompts]
    if task.name != "Translation":
        return "\n".join(prompt.text for prompt in prompts)
    names = ("subject", "object", "verb", "place")
    return json.dumps([[prompt.columns[name] for name in names] for prompt in prompts])


@pytest.mark.parametrize("name", PUBLISHED)
def test_without_a_seed_the_task_is_the_published_one(name: str) -> None:
    assert digest(load_task(name)) == PUBLISHED[name]
    assert load_task(name, seed=None).splits == load_task(name).splits


@each_language
def test_an_instance_has_distinct_prompts_in_smaller_splits(mini: Miniature) -> None:
    task = instance(mini, SEED)
    assert {split: len(prompts) for split, prompts in task.splits.items()} == INSTANCE_SPLITS
    texts = [prompt.text for prompts in task.splits.values() for prompt in prompts]
    assert len(set(texts)) == len(texts) == 4_768
    assert max(len(p.ids) for prompts in task.splits.values() for p in prompts) <= task.max_prompt_length


@each_language
def test_references_of_an_instance_are_what_is_wanted(mini: Miniature) -> None:
    prompts = [prompt for prompts in instance(mini, SEED).splits.values() for prompt in prompts]
    assert all(mini.accepts(prompt.text, prompt.columns["reference"]) for prompt in prompts)
    assert {mini.score(prompt.text, prompt.columns["reference"], prompt.columns) for prompt in prompts} == {1.0}


@each_language
def test_prompts_of_an_instance_use_a_part_of_each_kind_of_word(mini: Miniature) -> None:
    """Found by searching the texts for words that belong to one kind only; "at school" has the word of "school"."""
    phrases = [phrase for words in mini.lexicon.values() for phrase in words]
    kinds = {word: sum(re.search(rf"\b{word}\b", phrase) is not None for phrase in phrases) for word in phrases}
    text = told(instance(mini, SEED))
    for kind, words in mini.lexicon.items():
        found = {word for word in words if kinds[word] == 1 and re.search(rf"\b{word}\b", text)}
        assert len(found) <= round(KEPT * len(words)), kind
    everything = told(load_task(mini.name))
    missing = [word for word in kinds if not re.search(rf"\b{word}\b", everything)]
    assert not missing  # the whole task does use them all


@each_language
def test_instances_of_two_seeds_differ(mini: Miniature) -> None:
    """Prompts of all words that survive in both are few; test prompts of one are hardly met in the other's training."""
    one, other = ({p.text for ps in instance(mini, seed).splits.values() for p in ps} for seed in (SEED, SEED + 1))
    assert len(one & other) <= 0.3 * len(one)
    assert told(instance(mini, SEED)) != told(load_task(mini.name))


def test_an_instance_is_the_same_in_another_process() -> None:
    code = (
        "from tests.tasks.mini.test_instances import *\n"
        "print(*[digest(load_task(mini.name, seed=SEED)) for mini in MINIATURES])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest(instance(mini, SEED)) for mini in MINIATURES]


def test_a_drawn_lexicon_is_a_random_part_in_order() -> None:
    whole = {"letter": tuple("abcdefghij"), "digit": tuple("12345")}
    drawn = [drawn_lexicon(whole, np.random.default_rng(seed)) for seed in range(200)]
    assert all((len(one["letter"]), len(one["digit"])) == (6, 3) for one in drawn)
    assert all(list(words) == sorted(words) for one in drawn for words in one.values())
    often = Counter(word for one in drawn for words in one.values() for word in words)
    # Each word is kept with probability 0.6: 120 times of 200, with a standard deviation of 7.
    assert all(90 < often[word] < 150 for words in whole.values() for word in words)


def test_environments_take_the_seed_of_an_instance() -> None:
    env = gym.make("textgym/Concepts-v0", seed=SEED)
    assert env.unwrapped.mdp.prompts == load_task("Concepts", seed=SEED).prompts()
    envs = gym.make_vec("textgym/Concepts-v0", num_envs=2, seed=SEED)
    assert envs.unwrapped.mdp.prompts == load_task("Concepts", seed=SEED).prompts()
    assert load_task("Concepts", seed=np.int64(SEED)) is load_task("Concepts", seed=SEED)


@pytest.mark.parametrize("seed", [True, -1, 1.5, "3", 2**32])
def test_a_seed_that_is_no_whole_number_is_named(seed: object) -> None:
    with pytest.raises(ValueError, match=r"^seed=.*expected a whole number"):
        load_task("Concepts", seed=seed)
