"""``textgym rewards``: what can be named as a reward, and what each one is."""

from __future__ import annotations

import pytest

from textgym.cli import main


def told(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    main(["rewards", *argv])
    return capsys.readouterr().out


def test_all_rewards_have_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys).splitlines()
    names = [line.split()[0] for line in lines[: lines.index("")]]
    assert names == sorted(names)
    assert {"length", "distinct", "repetition", "rm", "clf"} <= set(names)
    assert any(line.startswith("length ") and "Count the words of each completion" in line for line in lines)


def test_the_rewards_of_a_task_follow_with_their_signatures(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--task", "textgym/Reviews-v0")
    own = text.partition("of textgym/Reviews-v0:\n")[2]
    assert own.partition("gold")[2].split(":")[1].startswith(" Text"), "its class and settings"
    assert "good_words" in own
    assert "length" not in own.partition("\n\n")[0], "only what the task adds"


def test_one_reward_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "length").startswith("length\n\nCount the words of each completion")


def test_an_unknown_reward_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["rewards", "lenght"])
    assert end.value.code == 2
    assert "unknown reward 'lenght': did you mean 'length'?" in capsys.readouterr().err
