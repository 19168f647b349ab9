"""``textgym play`` from the outside: a person's lines go in, prompts, replies and rewards come out."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import gymnasium as gym
import pytest

from tests.command_lines import ESCAPE
from textgym.cli import main
from textgym.commands.configs.play import PlayConfig
from textgym.commands.play import play_task

OWN = f"""
from tests.helpers import emit, word_tokenizer
from textgym import register_task
from textgym.prompts import encode_prompts
from textgym.rewards.builtin import no_reward
from textgym.tasks.task import Task
from textgym.worlds import Glue, tools

def double(word: str) -> str:
    return f"{{word}} {{word}}"

def hostile() -> str:
    return {ESCAPE!r}

def broken() -> str:
    return 1 / 0

def parse(text):
    from textgym.worlds import Call
    name, _, rest = text.strip().partition(" ")
    calls = {{"w1": Call("double", (rest,)), "w2": Call("hostile"), "w3": Call("broken")}}
    return calls.get(name)

def make() -> Task:
    tokenizer = word_tokenizer()
    return Task(
        "Double", "Call {ESCAPE!r}.", tokenizer, {{"train": encode_prompts(["w9 w9"], tokenizer, 4)}},
        emit(6), (1,), 4, 30, world=tools([double, hostile, broken], parse=parse, cost=0.125),
        turn_end_ids=(15,), glue=Glue(), vocabulary_size=16,
    )

register_task("acme/Double-v0", make)
"""


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


@pytest.fixture
def own_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "played_task.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "played_task:acme/Double-v0"


def test_prompts_and_scores_are_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env = gym.make("textgym/Reviews-v0", reward="length")
    prompts, texts = [], [" I liked it", " so much."]
    for seed in (5, None):
        prompts.append(env.reset(seed=seed)[1]["prompt"])
    typed(monkeypatch, *texts)
    scores = play_task(PlayConfig("Reviews", reward="length", seed=5))
    said = capsys.readouterr().out.replace("␣", " ")
    assert "Tokens:" not in said  # as there are hundreds
    assert "Continue a film review so that it is favourable." in said
    first, second, third = said.split("\n\n")[1:4]
    assert first.startswith(f"{prompts[0]}{prompts[0]} I liked it<eos>\n── return ")
    assert second.startswith(f"{prompts[1]}{prompts[1]} so much.<eos>\n── return ")
    assert first.splitlines()[-1] == f"score {scores[0]:.3f}  length {scores[0]:.3f}"
    assert third.splitlines()[-1] == f"episodes 2  mean score {sum(scores) / 2:.3f}"


def test_a_conversation(own_task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # One of the seven own tokens is w4, with the id 6; each call costs 0.125.
    typed(monkeypatch, "w1 w5", "w2", "w4")
    assert play_task(PlayConfig(own_task)) == [pytest.approx(1 / 7 - 0.25)]
    said = capsys.readouterr().out
    assert "w9 w9w5 w5\n> " in said
    assert "length" not in said  # of a single turn
    assert "own + other 7 + " in said
    assert "world -0.250" in said


def test_what_does_not_fit_is_said(
    monkeypatch: pytest.MonkeyPatch, own_task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "w1 w5 w13 w4 w4", "w4")
    assert len(play_task(PlayConfig(own_task))) == 1
    assert "(the last 2 tokens were left out: turn or response had ended)\nw5 w5\n> " in capsys.readouterr().out


def test_a_word_that_is_no_action_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "nonsense", "\ud800", "b")
    assert len(play_task(PlayConfig("Emit"))) == 1
    said = capsys.readouterr().out
    assert "Tokens: a b c d e f g h i j k l m n o p\n" in said
    assert "action 'nonsense' has the token '<pad>', which is no action of this task\n> " in said
    assert "half a surrogate pair" in said


@pytest.mark.parametrize("lines", [[], [""], ["", "b"]])
def test_an_empty_line_or_the_end_of_the_input_stops(
    lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, *lines)
    main(["play", "Emit"])
    assert "mean score" not in capsys.readouterr().out


def test_what_commands_a_terminal_is_printed_tamely(
    own_task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "w2", "w4")
    main(["play", own_task])
    said = capsys.readouterr().out
    assert "\ufffd[2J" in said
    assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(said)


def test_a_terminal_gets_colours(own_task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    typed(monkeypatch, "w2", "w4")
    with contextlib.redirect_stdout(Terminal()) as shown:
        main(["play", own_task])
    assert "\x1b[38;2;" in shown.getvalue()  # of a token with a reward
    assert "\x1b[2J" not in shown.getvalue()


def test_a_mistake_in_a_tool_ends_with_a_message(
    own_task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, "w3")
    with pytest.raises(SystemExit) as stop:
        main(["play", own_task])
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" in error  # of the tool, which is the user's
    assert "error: tool 'broken' raised ZeroDivisionError: division by zero\nstate: 0\nturn: " in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Emitt"], "did you mean 'Emit'"),
        (["Emit", "--parameters", "arm", "3"], "parameters={'arm': 3}: "),
        (["Emit", "--reward", "lenght"], "did you mean 'length'"),
        (["Emit", "--seed", "-1"], "seed=-1; expected a whole number"),
        ([""], "task='' is empty"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["play", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
