"""``textgym play``: a person plays a task at the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

from textgym.commands.configs.play import PlayConfig
from textgym.commands.train import load_variant, parse_reward
from textgym.env.rendering import styled
from textgym.env.single import TokenEnv
from textgym.env.text_view import TextView
from textgym.registration import task_mdp

_MARK = "> "
FEW_TOKENS = 64
"""Size of a vocabulary that is shown to the player."""
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


def play_task(config: PlayConfig) -> list[float]:
    """Play episodes until the player stops; return their scores.

    Raises:
        ValueError: there is no such task, parameter or reward.
    """
    task = load_variant(config.task, config.parameters)
    mdp = task_mdp(task, None if config.reward is None else parse_reward(config.reward, task))
    env = TokenEnv(mdp, "ansi")
    view = TextView(env)
    print(f"{config.task}: {task.description}")
    if mdp.n_actions <= FEW_TOKENS:
        print("Tokens:", *mdp.tokenizer.convert_ids_to_tokens(list(range(mdp.n_actions))))
    print("An empty line ends the game.")
    scores: list[float] = []
    seed: int | None = config.seed
    while (ending := _episode(view, seed)) is not None:
        seed = None  # further episodes go on in the same random stream
        scores.append(ending["score"])
        _show_end(env, ending)
    print()
    if scores:
        print(f"episodes {len(scores)}  mean score {sum(scores) / len(scores):.3f}")
    return scores


def _episode(view: TextView, seed: int | None) -> Mapping[str, Any] | None:
    """Play an episode; return the info at its end, or None if the player stops."""
    shown, _ = view.reset(seed=seed)
    # The player writes behind the prompt, as the model does: whether a space comes first is part of the text.
    print(f"\n{shown}", end="", flush=True)
    terminated = False
    while not terminated:
        line = sys.stdin.readline().rstrip("\r\n")
        if not line:
            return None
        try:
            reply, _, terminated, _, info = view.step(line)
        except ValueError as error:  # a word that is no action, say, which changes nothing
            print(f"{error}\n{_MARK}", end="", flush=True)
            continue
        if info["cut"]:
            print(f"(the last {info['cut']} tokens were left out: turn or response had ended)")
        if reply:
            print(reply)
        if not terminated:
            print(_MARK, end="", flush=True)
    return info


def _show_end(env: TokenEnv, info: Mapping[str, Any]) -> None:
    """Print a finished episode with the reward of each token, and the parts of its score."""
    picture = str(env.render())
    print(picture if sys.stdout.isatty() else _COLOURS.sub("", picture), file=styled(sys.stdout))
    print(
        "  ".join([f"score {info['score']:.3f}", *(f"{name} {part:.3f}" for name, part in info["components"].items())])
    )
