"""Candidates: choosing one of k proposed utterances in each turn of a dialogue.

The miniature of dynamic planning (Cohen 2022, arXiv 2208.02294). A fact, a joke and a question can be said; ``k``
candidates are drawn from them in each turn, all with equal chance. To those who listen (they said "nice") a fact pays
1 / (turns − 1), and one in four of them stops listening. To others ("hm") it pays nothing. A joke pays 3 tenths of that
to everyone, and one in four leaves ("bye"). A question pays nothing; after it three in four listen.

So it pays to plan. With two candidates and three turns, and without KL, an even choice earns 0.239, the candidate that
pays most in its own turn 0.317, the optimum 0.409 (value iteration on two moods and three turns).

An action is the number of a candidate. The prompt and the replies list the candidates as text, so that a language model
can read them. With ``menu=False`` the policy writes the utterance itself, word by word. ``CandidateEnv`` makes the same
choice of that task, or of any other language task, for algorithms that read vectors: this DQN reaches the optimum.

```python
from stable_baselines3 import DQN

from textgym.agents.stock import CandidateDQNPolicy
from textgym.env import CandidateEnv

dialogue = gym.make("textgym/Candidates-v0", menu=False)
env = CandidateEnv(dialogue, k=2, utterances=["a fact", "a joke", "a question"])
schedule = {"learning_starts": 200, "train_freq": 1, "target_update_interval": 200, "exploration_fraction": 0.5}
dqn = DQN(CandidateDQNPolicy, env, 1e-3, buffer_size=5_000, gamma=1.0, seed=0, **schedule)
dqn.learn(1_000)
```

Without ``utterances`` a frozen language model writes the candidates: here the task's base model, which says such
utterances in most turns; in other tasks any causal model, as in
``CandidateEnv(gym.make("textgym/Reviews-v0"), k=4, generator=model)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np

from textgym.prompts import encode_prompts
from textgym.rewards.builtin import no_reward
from textgym.tasks.diagnostic.build import CONTEXT, PAD, chain, uniform, word_tokenizer
from textgym.tasks.diagnostic.model import markov_gpt2
from textgym.tasks.task import Task
from textgym.types import Completion, FloatArray, Prompt
from textgym.worlds.glue import Glue
from textgym.worlds.menu import Menu, numbered
from textgym.worlds.world import KnownWorld, Outcome, Reply

BETA = 0.05
GREETING, COLD, WARM, GONE, STOP = "hi", "hm", "nice", "bye", "."
FACT, JOKE, QUESTION = UTTERANCES = ("a fact", "a joke", "a question")
JOY = 0.3
"""Reward of a joke, in units of that of a fact."""
LEAVES, WARMS, COOLS = 0.25, 0.75, 0.25
"""Chances that a joke ends the dialogue, that a question wins the other side, and that a fact loses it."""
CARE = 0.98
"""Probability with which the base model, when it writes utterances, continues as an utterance does."""


def candidates(k: int = 2, turns: int = 3, menu: bool = True) -> Task:
    """Make a dialogue of ``turns`` turns in which the policy chooses among ``k`` proposed utterances.

    With ``menu`` an action is a number: the prompt and the replies list the candidates. Without it the policy writes
    the utterance itself, word by word; :class:`textgym.env.CandidateEnv` then makes the same choice of it.
    """
    if turns < 2:
        raise ValueError(f"turns={turns}; expected at least 2, so that there is something to plan")
    dialogue = Chat(turns)
    return _menu(dialogue, k) if menu else _written(dialogue)


# --- the other side ------------------------------------------------------------------------------------------


class Mood(NamedTuple):
    """State of a :class:`Chat`.

    Attributes:
        warm: True if the other side listens.
        turn: number of turns so far.
    """

    warm: bool = False
    turn: int = 0


@dataclass(frozen=True)
class Chat(KnownWorld):
    """Dialogue of at most ``turns`` turns; its best return is 1.

    What is no utterance pays nothing, and then nobody listens.
    """

    turns: int

    def start(self, prompt: Prompt) -> Mood:
        return Mood()

    def outcomes(self, state: Mood, turn: Completion) -> list[Outcome]:
        unit = 1 / (self.turns - 1)
        said = turn.text.strip()
        if said == FACT and state.warm:
            return self._moods(state, 1 - COOLS, unit)
        if said == QUESTION:
            return self._moods(state, WARMS, 0.0)
        if said == JOKE:
            gone = (LEAVES, state, Reply(GONE, JOY * unit, done=True))
            stays = self._moods(state, float(state.warm), JOY * unit)
            return [gone, *((chance * (1 - LEAVES), after, reply) for chance, after, reply in stays)]
        return self._moods(state, 0.0, 0.0)

    def _moods(self, state: Mood, warm: float, reward: float) -> list[Outcome]:
        """Return the moods that can follow, given the chance of the warm one."""
        turn = state.turn + 1
        moods = ((warm, True, WARM), (1 - warm, False, COLD))
        return [(p, Mood(mood, turn), Reply(word, reward, turn == self.turns)) for p, mood, word in moods if p > 0]


# --- the two tasks -------------------------------------------------------------------------------------------


def _menu(dialogue: Chat, k: int) -> Task:
    """Make the task whose actions are the numbers of utterances."""
    offers = list(product(UTTERANCES, repeat=k))
    return _task(
        f"Choose among {k} utterances in each turn of a dialogue, and make the other side listen before you inform it.",
        Menu(dialogue, UTTERANCES),
        words=[str(number) for number in range(1, k + 1)],
        prompts=[{"prompt": f"{GREETING} {numbered(offer)}", "offer": list(offer)} for offer in offers],
        turn=1,
        # A choice in each turn; between two turns a word of reply and an offer.
        horizon=dialogue.turns + (dialogue.turns - 1) * (1 + 3 * k),
        chances=uniform(k),
    )


def _written(dialogue: Chat) -> Task:
    """Make the task in which the policy writes utterances, each with a full stop."""
    words = [STOP, *sorted({word for utterance in UTTERANCES for word in utterance.split()})]
    longest = 1 + max(len(utterance.split()) for utterance in UTTERANCES)
    return _task(
        "Write an utterance in each turn of a dialogue, and make the other side listen before you inform it.",
        dialogue,
        words=words,
        prompts=[{"prompt": GREETING}],
        turn=longest,
        horizon=dialogue.turns * longest + dialogue.turns - 1,
        chances=_habits(words),
        turn_end_ids=(words.index(STOP),),
    )


def _task(
    description: str,
    world: KnownWorld,
    *,
    words: list[str],
    prompts: list[dict[str, Any]],
    turn: int,
    horizon: int,
    chances: FloatArray,
    turn_end_ids: tuple[int, ...] = (),
) -> Task:
    spoken = " ".join([GREETING, COLD, WARM, GONE, *UTTERANCES])
    tokenizer = word_tokenizer([*words, *sorted(set(spoken.split()) - set(words)), PAD], None)
    longest = max(len(row["prompt"].split()) for row in prompts)
    paid_by_world: Any = no_reward
    return Task(
        name="Candidates",
        description=description,
        tokenizer=tokenizer,
        splits={"train": encode_prompts(prompts, tokenizer, longest)},
        gold=paid_by_world,
        end_token_ids=(),
        max_prompt_length=longest,
        max_new_tokens=horizon,
        base_model=partial(markov_gpt2, chain(chances, len(tokenizer)), max(CONTEXT, longest + horizon)),
        vocabulary_size=len(words),
        beta=BETA,
        world=world,
        turn_end_ids=turn_end_ids,
        max_turn_tokens=turn,
        glue=Glue(),
    )


def _habits(words: list[str]) -> FloatArray:
    """Return ``[V, V]`` probabilities of the next word: with probability ``CARE`` as in an utterance.

    The first row, which also follows a reply, is that of the full stop.
    """
    follows: dict[str, set[str]] = {word: set() for word in words}
    for utterance in UTTERANCES:
        text = [STOP, *utterance.split(), STOP]
        for word, following in pairwise(text):
            follows[word].add(following)
    usual = np.array([[(other in follows[word]) / len(follows[word]) for other in words] for word in words])
    return CARE * usual + (1 - CARE) / len(words)
