"""Language task: prompts, reference texts, a gold reward, metrics and sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from textgym.lm.files.loading import ModelSource
from textgym.rewards.functions import reward_name
from textgym.tasks.reasoning import reasoning_gym_fields
from textgym.tasks.text_env import arena_world, text_env_fields
from textgym.types import Prompt, RewardFunction, completion_text
from textgym.worlds.glue import Glue
from textgym.worlds.text_env import Opponent, from_text_env
from textgym.worlds.world import World

TextMetric: TypeAlias = Callable[[Sequence[str], Sequence[str]], list[float]]
"""``metric(prompts, completions)``: one number per completion."""


@dataclass(frozen=True)
class Proxy:
    """Reward that looks plausible but can be hacked.

    Attributes:
        reward: a reward function.
        temptation: one sentence: why it looks plausible.
        hack: maps a prompt to a completion that this reward scores at least as high as the reference text, while the
            gold reward scores it lower.
    """

    reward: RewardFunction
    temptation: str
    hack: Callable[[Prompt], str]


TextScore: TypeAlias = Callable[[str, str, Mapping[str, Any]], float]
"""``score(prompt, completion, columns)``: the score of one completion's text."""


@dataclass(frozen=True)
class TextReward:
    """Adapter from a score of one completion's text to the signature of a reward; it has the name of the score.

    It can be pickled if the score can: a function of a module can, a lambda cannot.
    """

    score: TextScore

    @property
    def name(self) -> str:
        """Name in logs."""
        return reward_name(self.score)

    def __call__(
        self,
        prompts: list[Any],
        completions: list[Any],
        *,
        completion_ids: list[list[int]],
        **columns: list[Any],
    ) -> list[float]:
        """Return one score for each completion."""
        rows = ({name: values[row] for name, values in columns.items()} for row in range(len(completions)))
        return [self.score(*row) for row in zip(prompts, map(completion_text, completions), rows, strict=True)]


def per_text(score: TextScore) -> RewardFunction:
    """Make a reward function from ``score(prompt, completion, columns)``, which sees one completion at a time."""
    return TextReward(score)


@dataclass(frozen=True, repr=False)
class Task:
    """Definition of a language task; an environment is one task with a reward.

    Attributes:
        name: the name in its id, ``"Reviews"`` for ``textgym/Reviews-v0``.
        description: one sentence: the task of the policy.
        tokenizer: its length is the number of actions ``V``.
        splits: prompts by split; environments draw from ``"train"``. A prompt's column ``reference`` holds a good
            completion.
        gold: the true reward, in [0, 1].
        end_token_ids: tokens that end a response.
        max_prompt_length: ``P``.
        max_new_tokens: ``T``, the horizon.
        metrics: additional measures of a completion, for instance whether it is grammatical.
        base_model: the model that policies start from, and the KL reference: a directory, or a function that builds a
            new one.
        reward: the default reward of environments if it is not the gold reward: with noise, on a different scale, a
            proxy.
        vocabulary_size: ``V``, if prompts use tokens that are no actions; None for the tokenizer's length.
        proxies: rewards that look like the gold one and can be hacked; environments know them by name.
        beta: the KL coefficient at which the task is scored, if its optimum is known.
        world: the other side of an episode, which replies to the policy's turns; None for a single turn.
        turn_end_ids: tokens that end a turn of the policy.
        max_turn_tokens: greatest number of tokens in a turn; None for no limit but T.
        glue: what stands around a reply; None for that of the tokenizer's chat template.
    """

    name: str
    description: str
    tokenizer: PreTrainedTokenizerBase
    splits: Mapping[str, Sequence[Prompt]]
    gold: RewardFunction
    end_token_ids: tuple[int, ...]
    max_prompt_length: int
    max_new_tokens: int
    metrics: Mapping[str, TextMetric] = field(default_factory=dict)
    base_model: ModelSource | None = None
    reward: RewardFunction | None = None
    vocabulary_size: int | None = None
    proxies: Mapping[str, Proxy] = field(default_factory=dict)
    beta: float | None = None
    world: World | None = None
    turn_end_ids: tuple[int, ...] = ()
    max_turn_tokens: int | None = None
    glue: Glue | None = None

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {len(prompts)}" for name, prompts in self.splits.items())
        n_actions = self.vocabulary_size or len(self.tokenizer)
        sizes = f"V={n_actions}, P={self.max_prompt_length}, T={self.max_new_tokens}"
        return f"Task({self.name!r}, {sizes}, prompts={{{counts}}})"

    @staticmethod
    def from_reasoning_gym(
        name: str,
        size: int = 500,
        seed: int = 0,
        *,
        model: str | Path,
        answer_after: str | None = None,
        settings: Mapping[str, Any] | None = None,
        max_prompt_length: int | None = None,
        max_new_tokens: int = 48,
    ) -> Task:
        """Make a task of a data set of the ``reasoning-gym`` package; registered as ``textgym/ReasoningGym-v0``.

        Gold is the score of the data set's verifier. A question is a user's message if the model has a chat template,
        and a text otherwise.

        Args:
            name: the data set, such as ``"chain_sum"``.
            size: number of questions; one that occurs twice is kept once.
            seed: seed of the questions, and of the draw of ``validation`` and ``test``, a tenth each.
            model: the model that policies start from, with its tokenizer: a directory or a hub id.
            answer_after: a mark, such as ``"Answer:"``: what follows its last occurrence is the answer, and a
                completion without it scores 0. By default the whole completion is the answer. White space around an
                answer is left out.
            settings: settings of the data set, such as ``{"max_terms": 3}``.
            max_prompt_length: ``P``; by default the length of the longest question.
            max_new_tokens: ``T``.

        Raises:
            ImportError: reasoning-gym is not installed.
            ValueError: there is no such data set, or it refuses its settings; a question is longer than
                ``max_prompt_length``.
        """
        fields = reasoning_gym_fields(name, size, seed, model, answer_after, settings or {}, max_prompt_length)
        return Task(
            name=name,
            description=f"Answer questions of the data set {name}.",
            max_new_tokens=max_new_tokens,
            **fields,
        )

    @staticmethod
    def from_text_env(
        make: Callable[[], Any],
        size: int = 500,
        seed: int = 0,
        *,
        model: str | Path,
        name: str,
        description: str,
        max_prompt_length: int | None = None,
        max_new_tokens: int = 256,
        max_turn_tokens: int | None = 32,
    ) -> Task:
        """Make a task of a text environment; see :func:`textgym.worlds.from_text_env`.

        Each prompt is the first observation of an environment that was reset with the seed in its column ``env_seed``:
        a user's message if the model has a chat template, and a text otherwise. Each end token of the model ends a
        turn, and none the episode: that is for the environment to do. The environment pays the reward, and gold is 0.

        Args:
            make: returns a new environment.
            size: number of prompts.
            seed: seed of the environments' seeds, and of the draw of ``validation`` and ``test``, a tenth each.
            model: the model that policies start from, with its tokenizer: a directory or a hub id.
            name: name of the task.
            description: one sentence: the task of the policy.
            max_prompt_length: ``P``; by default the length of the longest prompt.
            max_new_tokens: ``T``, which bounds all turns and observations together.
            max_turn_tokens: greatest number of tokens in a turn.

        Raises:
            ValueError: an observation is longer than ``max_prompt_length``; or the model's chat template changes
                earlier messages.
        """
        fields = text_env_fields(from_text_env(make), size, seed, model, name, max_prompt_length)
        return Task(
            name=name, description=description, max_new_tokens=max_new_tokens, max_turn_tokens=max_turn_tokens, **fields
        )

    @staticmethod
    def from_textarena(
        game: str,
        size: int = 500,
        seed: int = 0,
        *,
        model: str | Path,
        players: int = 1,
        opponent: str | Opponent | None = None,
        max_prompt_length: int | None = None,
        max_new_tokens: int = 256,
        max_turn_tokens: int | None = 32,
    ) -> Task:
        """Make a task of a game of the ``textarena`` package; registered as ``textgym/TextArena-v0``.

        See :meth:`from_text_env`. The policy is player 0.

        Args:
            game: id of the game, such as ``"GuessTheNumber-v0"``.
            size: number of prompts.
            seed: see :meth:`from_text_env`.
            model: see :meth:`from_text_env`.
            players: number of players.
            opponent: plays all others: a function of the text that a player has read, or its name,
                ``module:function``. By default moves are drawn from those that the game lists in brackets.
            max_prompt_length: see :meth:`from_text_env`.
            max_new_tokens: see :meth:`from_text_env`.
            max_turn_tokens: see :meth:`from_text_env`.

        Raises:
            ImportError: textarena is not installed.
            ValueError: there is no such game, or it has another number of players; see also :meth:`from_text_env`.
        """
        world = arena_world(game, players, opponent)
        return Task(
            name=game.partition("-v")[0],
            description=f"Play {game} of TextArena.",
            max_new_tokens=max_new_tokens,
            max_turn_tokens=max_turn_tokens,
            **text_env_fields(world, size, seed, model, game, max_prompt_length),
        )

    def prompts(self, split: str = "train") -> Sequence[Prompt]:
        """Return the prompts of a split.

        Raises:
            ValueError: there is no such split; the message names those that exist.
        """
        if split not in self.splits:
            raise ValueError(f"split={split!r} is not one of {sorted(self.splits)} of task {self.name}")
        return self.splits[split]
