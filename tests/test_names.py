"""The suggestion that messages about unknown names share."""

from __future__ import annotations

import pytest

from textgym.names import suggest


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("grop", ["ppo", "grpo", "rloo"], "did you mean 'grpo'?"),
        ("clip_rang", {"clip_range": 1, "vf_coef": 2}, "did you mean 'clip_range'?"),
        ("foo", ["ppo", "grpo"], ""),
        ("ppo", [], ""),
    ],
)
def test_the_nearest_name_is_suggested_and_nothing_where_none_is_near(name: str, known: list[str], said: str) -> None:
    assert suggest(name, known) == said


def test_the_words_around_stand_only_beside_a_suggestion() -> None:
    assert suggest("pppo", ["ppo"], before="; ", after=" Known: ppo") == "; did you mean 'ppo'? Known: ppo"
    assert suggest("xyz", ["ppo"], before="; ", after=" Known: ppo") == ""


def test_names_are_compared_by_a_key_and_suggested_whole() -> None:
    assert suggest("GLAD", ["Glad", "Sad"], key=str.lower) == "did you mean 'Glad'?"
    assert suggest("GLAD", ["glad"]) == ""
