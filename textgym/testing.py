"""Checks of tasks. ``check_task`` finds common mistakes; shipped tasks pass it, and yours should.

.. code-block:: python

    from textgym.testing import check_task

    def test_my_task():
        check_task("acme/Jokes-v0")
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from itertools import chain, islice, repeat
from typing import Any, TypeAlias, cast

import numpy as np
from gymnasium.envs.registration import EnvCreator, EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from textgym.env.mdp import reward_columns
from textgym.env.single import TokenEnv
from textgym.env.vector import TokenVectorEnv
from textgym.lm.files.loading import check_fits, load_causal_lm
from textgym.registration import load_task, task_mdp
from textgym.rewards.functions import Batch, Reward, call_reward, check_signature
from textgym.tasks.task import Task
from textgym.tokenization import decode_response
from textgym.types import Completion, FinishReason, Prompt, as_completion
from textgym.worlds.world import World

PROMPTS = 64
"""Number of prompts of each split that are tried, evenly spaced."""
SHOWN = 3
"""Greatest number of problems that are shown per check."""
ROUNDING = 1e-6
"""Numbers that differ by less count as equal: a learned gold reward rounds differently in a larger batch."""

Check: TypeAlias = Callable[[Task], Iterator[str]]
"""Generator of problems, each with its fix."""


class TaskError(ValueError):
    """Error of a task that fails checks; ``problems`` holds one text for each problem."""

    def __init__(self, task: str, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        listed = "".join(f"\n{number}. {problem}" for number, problem in enumerate(problems, start=1))
        super().__init__(f"task {task} has {len(problems)} problem{'s'[: len(problems) != 1]}:{listed}")


def check_task(task: Task | str, **parameters: Any) -> None:
    """Check a task for all known kinds of mistakes.

    Args:
        task: the task, or its id.
        parameters: parameters of the task, if an id is given.

    Raises:
        TaskError: there are problems; the message lists them all.
    """
    loaded = load_task(task, **parameters) if isinstance(task, str) else task
    # One mistake often shows for every prompt, so the number of problems per check is limited.
    problems = [problem for check in CHECKS for problem in islice(_found(check, loaded), SHOWN)]
    if problems:
        raise TaskError(repr(loaded.name if isinstance(task, Task) else task), problems)


def _found(check: Check, task: Task) -> Iterator[str]:
    """Yield a check's problems; an exception counts as one."""
    try:
        yield from check(task)
    except Exception as error:
        yield f"{check.__name__}: {type(error).__name__}: {error}"


# --- prompts and sizes -------------------------------------------------------------------------------------------


def check_splits(task: Task) -> Iterator[str]:
    """Check that there is a split ``train``, that none is empty, and that no prompt occurs twice."""
    if "train" not in task.splits:
        yield f"splits has {sorted(task.splits)}; expected 'train' among them, which environments draw from"
    first: dict[Any, str] = {}
    for split, prompts in task.splits.items():
        if not len(prompts):
            yield f"split {split!r} is empty; leave it out, or give it prompts"
        for number, prompt in enumerate(prompts, start=1):
            place = f"prompt {number} of {split!r}"
            # By tokens, not by text: prompts of different texts may be the same state. A world may begin
            # episodes of equal prompts in different ways, by their columns.
            state = (prompt.ids, None if task.world is None else repr(sorted(prompt.columns.items())))
            before = first.setdefault(state, place)
            if before != place:
                yield f"{place} is {before} again, {prompt.text[:80]!r}; keep one of them"


def check_prompts(task: Task) -> Iterator[str]:
    """Check that prompts have 1 to P tokens, all in the tokenizer's vocabulary."""
    for split, prompts in task.splits.items():
        for number, prompt in enumerate(prompts, start=1):
            place = f"prompt {number} of {split!r}"
            if not 1 <= len(prompt.ids) <= task.max_prompt_length:
                yield (
                    f"{place} has {len(prompt.ids)} tokens; expected 1 to max_prompt_length="
                    f"{task.max_prompt_length}: raise it, or shorten {prompt.text[:80]!r}"
                )
            elif not 0 <= min(prompt.ids) <= max(prompt.ids) < len(task.tokenizer):
                yield (
                    f"{place} holds ids from {min(prompt.ids)} to {max(prompt.ids)}, the tokenizer has "
                    f"{len(task.tokenizer)} tokens; encode prompts with the task's own tokenizer"
                )


def check_end_tokens(task: Task) -> Iterator[str]:
    """Check that end tokens are actions, and that PAD is not an end token."""
    outside = [i for i in task.end_token_ids if not 0 <= i < n_actions(task)]
    if outside:
        yield f"end_token_ids {outside} lie outside the {n_actions(task)} actions; leave them out"
    pad = task.tokenizer.pad_token_id
    if pad in task.end_token_ids:
        yield (
            f"PAD is the end token {pad} ({task.tokenizer.pad_token!r}), so that padding would look like an end; give "
            "the tokenizer a pad_token of its own"
        )


def check_base_model(task: Task) -> Iterator[str]:
    """Check that the base model embeds all tokens, and that P + T fits into its context."""
    if task.base_model is None:
        return
    try:
        model = load_causal_lm(task.base_model)
        check_fits(model, task.tokenizer, n_actions(task), task.max_prompt_length + task.max_new_tokens)
    except ValueError as error:
        yield f"base_model: {error}"


def check_environment(task: Task) -> Iterator[str]:
    """Check that the environment checkers of Gymnasium and stable-baselines3 find no problems and give no warnings."""
    mdp = task_mdp(task)

    def make(render_mode: str | None = None) -> TokenEnv:
        return TokenEnv(mdp, render_mode)

    env, entry_point = make(), cast(EnvCreator, make)
    env.spec = EnvSpec("textgym-testing/Task-v0", entry_point=entry_point, disable_env_checker=True)
    # The checkers render for humans, which prints.
    with redirect_stdout(StringIO()), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env)
        check_env_sb3(env)
    for warning in caught:
        text = re.sub(r"\x1b\[\d+m", "", str(warning.message))
        yield f"the environment's checker warns: {text}"


def check_world(task: Task) -> Iterator[str]:
    """Check that the world's replies depend on state, turn and seed alone, in any batch, and that turns fit into T."""
    if task.world is None:
        return
    prompts = _some(task.prompts())[:8]
    for prompt in prompts:
        first, answered = play_turns(task, prompt, silent_turns(task))
        again, _ = play_turns(task, prompt, silent_turns(task))
        if not answered:
            yield (
                f"the world is never asked about prompt {prompt.text[:80]!r}: a turn of {task.max_turn_tokens} tokens "
                f"does not fit into max_new_tokens={task.max_new_tokens}"
            )
        if first.played != again.played:
            yield (
                f"the world answers prompt {prompt.text[:80]!r} in two ways with one seed; take random numbers from "
                "textgym.worlds.turn_generator(seed, turn), and keep nothing outside the state"
            )
    yield from _check_states(task.world, prompts)


def _check_states(world: World, prompts: list[Prompt]) -> Iterator[str]:
    """Check that a state can be answered again, alone, in a batch and in another order."""
    states = world.begin(list(prompts), list(range(len(prompts))))
    turns = [Completion("", (), "length")] * len(prompts)
    together, backwards = world.reply(list(states), turns), world.reply(states[::-1], turns)[::-1]
    for prompt, state, (_, reply), (_, other) in zip(prompts, states, together, backwards, strict=True):
        if not reply == other == world.reply([state], turns[:1])[0][1]:
            yield (
                f"the reply to prompt {prompt.text[:80]!r} depends on the batch, or changes when a state is answered "
                "again; return a new state instead of changing the old one"
            )


# --- gold reward, metrics and references -------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """Response that the gold reward must be able to score.

    Attributes:
        prompt: its prompt.
        ids: the policy's tokens.
        text: the policy's text.
        finish_reason: the reason why it ended.
        played: in a task with a world, the arguments that the environment calls a reward with.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    played: Batch | None = None

    def arguments(self, names: Sequence[str], episode_seed: int) -> Batch:
        """Return the arguments of a reward, with the data's columns of the given names."""
        prompts = [self.prompt]
        columns = reward_columns(prompts, [episode_seed], [self.finish_reason], names)
        if self.played is None:
            completion = as_completion(self.prompt.content, self.text)
            return Batch([self.prompt.content], [completion], [list(self.ids)], columns)
        return replace(self.played, columns={**self.played.columns, **columns})


def score(
    reward: Reward, probes: Sequence[Probe], episode_seed: int = 0, extra: Mapping[str, Any] | None = None
) -> list[Any]:
    """Return a reward's scores of probes, called as an environment calls it."""
    names = sorted({name for probe in probes for name in probe.prompt.columns})
    batch = Batch.joined([probe.arguments(names, episode_seed) for probe in probes])
    columns = {**batch.columns, **{name: [value] * len(probes) for name, value in (extra or {}).items()}}
    return call_reward(reward, batch.prompts, batch.completions, batch.completion_ids, columns)


def check_rewards_accept_columns(task: Task) -> Iterator[str]:
    """Check that gold, the paid reward and proxies accept unknown columns."""
    for name, reward in _rewards(task).items():
        try:
            check_signature(reward)
        except TypeError as error:
            yield f"{name}: {error}"
        else:
            score(reward, _probes(task)[:2], extra={"textgym_extra": "anything"})


def check_gold_range(task: Task) -> Iterator[str]:
    """Check that gold is a number in [0, 1] for empty, random, very long and reference texts."""
    for probe in _probes(task):
        (value,) = score(task.gold, [probe])
        if not isinstance(value, float):
            yield f"gold is {value!r} {_for(probe)}; expected one number in [0, 1]"
        elif not -ROUNDING <= value <= 1 + ROUNDING:
            yield f"gold is {value:g} {_for(probe)}; expected a number in [0, 1]: rescale it, or clip it"


def check_gold_is_deterministic(task: Task) -> Iterator[str]:
    """Check that gold depends on the text alone: not on chance, the number of calls or the episode's seed."""
    probes = _probes(task)
    for probe, first, again in zip(
        probes, score(task.gold, probes), score(task.gold, probes, episode_seed=1), strict=True
    ):
        if not _close(first, again):
            yield (
                f"gold is {first} and then {again} {_for(probe)}; make it a function of the text, and let the task's "
                "reward be noisy instead"
            )


def check_gold_keeps_order(task: Task) -> Iterator[str]:
    """Check that a batch, forwards and backwards, is scored like its texts one at a time."""
    probes = _probes(task)
    alone = [score(task.gold, [probe])[0] for probe in probes]
    together, backwards = score(task.gold, probes), score(task.gold, probes[::-1])[::-1]
    for probe, one, *batched in zip(probes, alone, together, backwards, strict=True):
        if not all(_close(one, value) for value in batched):
            yield (
                f"gold is {one} alone, {batched[0]} in a batch and {batched[1]} in the batch backwards {_for(probe)}; "
                "return one score for each completion, in their order"
            )


def check_references(task: Task) -> Iterator[str]:
    """Check that references, if there are any, exist for every prompt, fit into T and are grammatical.

    In a task with a world, a reference is the text of one turn, or a list of the turns' texts.
    """
    grammatical = task.metrics.get("grammatical")
    for split, prompts in task.splits.items():
        with_reference = [prompt for prompt in prompts if "reference" in prompt.columns]
        if with_reference and len(with_reference) < len(prompts):
            yield (
                f"{len(prompts) - len(with_reference)} of {len(prompts)} prompts of {split!r} lack the column "
                "'reference'; give it to all, or to none"
            )
        # In a task with a world references are played, and the environment keeps them within T.
        for prompt in with_reference if task.world is None else ():
            probe = reference_probe(task, prompt)
            if len(probe.ids) > task.max_new_tokens:
                yield (
                    f"a reference has {len(probe.ids)} tokens, its end included, max_new_tokens is "
                    f"{task.max_new_tokens}: {_for(probe)}; raise it, or shorten the reference"
                )
        for prompt in _some(with_reference):
            text = reference_probe(task, prompt).text
            if grammatical is not None and grammatical([prompt.text], [text]) != [1.0]:
                yield f"the reference {text!r} of {prompt.text!r} is not grammatical; fix one of the two"


def check_metrics(task: Task) -> Iterator[str]:
    """Check that each metric returns one finite number for each completion."""
    probes = _probes(task)
    for name, metric in task.metrics.items():
        values = metric([probe.prompt.text for probe in probes], [probe.text for probe in probes])
        if len(values) != len(probes) or not np.isfinite(np.asarray(values, np.float64)).all():
            yield f"metric {name!r} gave {values!r:.200} for {len(probes)} completions; expected a finite number each"


def check_proxies(task: Task) -> Iterator[str]:
    """Check that a proxy scores its hack at least as high as the reference text, and gold scores it lower."""
    for name, proxy in task.proxies.items():
        for prompt in _some(task.prompts()):
            if "reference" not in prompt.columns:
                yield f"proxy {name!r} has no reference text to be compared with; give prompts a column 'reference'"
                break
            reference, hack = reference_probe(task, prompt), text_probe(task, prompt, proxy.hack(prompt))
            pair = [reference, hack]
            (paid, paid_hack), (true, true_hack) = score(proxy.reward, pair), score(task.gold, pair)
            if paid_hack < paid - ROUNDING:
                yield (
                    f"proxy {name!r} pays {paid_hack:g} {_for(hack)}, its hack, and {paid:g} for the reference "
                    f"{reference.text!r}; find a better hack"
                )
            if true_hack >= true - ROUNDING:
                yield (
                    f"gold is {true_hack:g} {_for(hack)}, the hack of {name!r}, and {true:g} for the reference "
                    f"{reference.text!r}; a completion that gold prefers is not a hack"
                )
            if len(hack.ids) > task.max_new_tokens:
                yield f"the hack of {name!r} has {len(hack.ids)} tokens, max_new_tokens is {task.max_new_tokens}"


CHECKS: tuple[Check, ...] = (
    check_splits,
    check_prompts,
    check_end_tokens,
    check_base_model,
    check_environment,
    check_world,
    check_rewards_accept_columns,
    check_gold_range,
    check_gold_is_deterministic,
    check_gold_keeps_order,
    check_references,
    check_metrics,
    check_proxies,
)
"""Checks of :func:`check_task`; each may be called alone."""


# --- responses to try --------------------------------------------------------------------------------------------


def play_turns(task: Task, prompt: Prompt, turns: Iterator[Sequence[int]], seed: int = 0) -> tuple[Probe, int]:
    """Play a conversation in a task's world; return it, and the number of turns that the world has answered.

    Args:
        task: the task.
        prompt: the prompt.
        turns: the policy's tokens in each turn, as long as the episode goes on; the last turn ends by an end token.
        seed: seed of the world.
    """
    env = TokenVectorEnv(task_mdp(task, prompts=(prompt,)), 1, AutoresetMode.DISABLED)
    env.reset(seed=seed, options={"prompt_index": np.zeros(1, int), "episode": np.zeros(1, int)})
    info: dict[str, Any] = {}
    for turn in turns:
        for token in turn:
            _, terminated, infos = env.advance(np.array([token]), score=False)
            info = infos.get(0, {})
            if terminated[0]:
                batch: Batch = info["unscored"]
                ids = tuple(batch.completion_ids[0])
                played = len(batch.columns["turn_rewards"][0])
                return Probe(prompt, ids, info["completion"], info["finish_reason"], batch), played
            if "reply" in info:
                break  # the rest of a turn that the task's limit has ended is not said
    raise ValueError("the turns ended before the episode; expected turns up to its end")


def silent_turns(task: Task) -> Iterator[Sequence[int]]:
    """Yield turns of an end token alone; if turns have none, of one action as often as the limit allows."""
    other = next(i for i in range(n_actions(task)) if i not in task.end_token_ids)
    return repeat(task.turn_end_ids[:1] or (other,) * (task.max_turn_tokens or 1))


def text_probe(task: Task, prompt: Prompt, text: str | Sequence[str]) -> Probe:
    """Return a text as a response, with an end token if the task has one; of turns, a list of texts."""
    if task.world is not None:
        words = [text] if isinstance(text, str) else text
        said = [
            (*task.tokenizer(each, add_special_tokens=False)["input_ids"], *task.turn_end_ids[:1]) for each in words
        ]
        return play_turns(task, prompt, chain(said, silent_turns(task)))[0]
    assert isinstance(text, str), "turns need a world"
    ids = (*task.tokenizer(text, add_special_tokens=False)["input_ids"], *task.end_token_ids[:1])
    return Probe(prompt, ids, text, "stop" if task.end_token_ids else "length")


def reference_probe(task: Task, prompt: Prompt) -> Probe:
    """Return the reference text as a response."""
    return text_probe(task, prompt, prompt.columns["reference"])


def random_probe(task: Task, prompt: Prompt, rng: np.random.Generator, may_end: bool = True) -> Probe:
    """Sample a response of a uniform random policy; without an end token unless it ``may_end``."""
    ends = set(task.end_token_ids)
    actions = [i for i in range(n_actions(task)) if may_end or i not in ends]
    if task.world is not None:
        return play_turns(task, prompt, ([int(rng.choice(actions))] for _ in range(task.max_new_tokens)))[0]
    ids: list[int] = rng.choice(actions, task.max_new_tokens).tolist()
    end = next((place for place, i in enumerate(ids) if i in ends), None)
    ids = ids if end is None else ids[: end + 1]
    text = decode_response(task.tokenizer, prompt.ids, ids, task.end_token_ids)
    return Probe(prompt, tuple(ids), text, "length" if end is None else "stop")


def _probes(task: Task) -> list[Probe]:
    """Return empty, random, very long and reference responses to prompts of all splits.

    Without an end token every response has T tokens, so there is no empty one.
    """
    rng = np.random.default_rng(0)
    probes: list[Probe] = []
    for prompt in (prompt for prompts in task.splits.values() for prompt in _some(prompts)):
        probes += [text_probe(task, prompt, "")] if task.end_token_ids or task.world is not None else []
        probes += [random_probe(task, prompt, rng), random_probe(task, prompt, rng, may_end=False)]
        probes += [reference_probe(task, prompt)] if "reference" in prompt.columns else []
    return probes


def _some(prompts: Sequence[Prompt]) -> list[Prompt]:
    # Evenly spaced rather than the first ones, which may be alike.
    step = max(1, len(prompts) // PROMPTS)
    return list(prompts[::step])[:PROMPTS]


def _rewards(task: Task) -> dict[str, Reward]:
    paid = {} if task.reward is None else {"reward": task.reward}
    return {"gold": task.gold, **paid, **{f"proxy {name!r}": proxy.reward for name, proxy in task.proxies.items()}}


def n_actions(task: Task) -> int:
    """Return ``V``."""
    return len(task.tokenizer) if task.vocabulary_size is None else task.vocabulary_size


def _close(one: Any, other: Any) -> bool:
    """Return True if two scores are equal up to rounding."""
    return type(one) is type(other) and np.allclose(one, other, rtol=0, atol=ROUNDING)


def _for(probe: Probe) -> str:
    return f"for prompt {probe.prompt.text[:80]!r} and completion {probe.text[:200]!r}"
