"""What a user writes on the command line."""

from __future__ import annotations

import sys

import pytest
import torch

from textgym.rewards import RewardModel, distinct, length, resolve_reward
from textgym.rewards.specs.addresses import model_directory

NAMED = {"gold": distinct, "length": length}
FILE = """
from dataclasses import dataclass

@dataclass
class Settings:
    scale: float = 3.0

def scaled(completions, **_):
    return [Settings().scale * len(text) for text in completions]

class judges:
    @staticmethod
    def strict(completions, **_):
        return [0.0 for _ in completions]

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_rewards.py"
    path.write_text(FILE)
    return path


def resolved(spec):
    return resolve_reward(spec, NAMED)


@pytest.mark.parametrize(
    ("spec", "names", "weights"),
    [
        ("gold", ("distinct",), (1.0,)),
        ("gold,0.5", ("distinct",), (0.5,)),
        ("gold,0.5 length,-1e-2", ("distinct", "length"), (0.5, -0.01)),
        (["gold,2", "length"], ("distinct", "length"), (2.0, 1.0)),
        (length, ("length",), (1.0,)),
        (("gold", 3), ("distinct",), (3.0,)),
        ([length, ("gold,2", 3)], ("length", "distinct"), (1.0, 6.0)),
        ("textgym.rewards.builtin:repetition", ("repetition",), (1.0,)),
    ],
)
def test_specs(spec, names, weights):
    reward = resolved(spec)
    assert reward.names == names
    assert reward.weights == weights


def test_a_reward_from_a_file(file):
    reward = resolved(f"{file}:scaled,2 {file}:judges.strict")
    assert reward.names == ("scaled", "strict")
    assert reward(["p"], ["abcd"], completion_ids=[[1]]) == [2 * 3.0 * 4]
    assert sys.path.count(str(file.parent)) == 0


def test_a_reward_model_from_its_directory(tmp_path, lm, tokenizer):
    RewardModel.from_causal_lm(lm(), tokenizer, torch.Generator()).save(tmp_path / "rm")
    reward = resolved(f"rm:{tmp_path / 'rm'},2")
    assert isinstance(reward.rewards[0], RewardModel)
    assert reward.names == ("reward_model",)
    assert reward.weights == (2.0,)


def test_options_of_a_reward_model_and_its_weight_in_any_order(tmp_path, lm, tokenizer):
    RewardModel.from_causal_lm(lm(), tokenizer, torch.Generator()).save(tmp_path / "rm,a=b")
    (tmp_path / "x=1").symlink_to(tmp_path / "rm,a=b")
    place = tmp_path / "x=1"
    for spec, weight, too_long in (
        (f"rm:{place},too_long=truncate", 1.0, "truncate"),
        (f"rm:{place},too_long=truncate,-2", -2.0, "truncate"),
        (f"rm:{place},0.5,too_long=error", 0.5, "error"),
    ):
        reward = resolved(spec)
        assert reward.weights == (weight,)
        assert reward.rewards[0].too_long == too_long
    for spec, message in (
        (f"rm:{place},too_lnog=error", "'rm:' has no option 'too_lnog'; did you mean 'too_long'"),
        (f"rm:{place},label=x", "'rm:' has no option 'label'; it has too_long="),
        (f"rm:{place},too_long=cut", "too_long: expected 'error' or 'truncate', got 'cut'"),
        (f"rm:{place},too_long=error,too_long=error", "the option 'too_long' is given twice"),
        (f"rm:{place},1,2", r"expected one weight at most, got 1\.0, 2\.0"),
        (f"rm:{place},much", "there is no directory .*after a comma expected a number, .*got 'much'"),
        (f"rm:{tmp_path}/rm,a=b", "there is a directory '.*/rm,a=b', whose name ends like an option or a weight"),
    ):
        with pytest.raises(ValueError, match=message):
            resolved(spec)


def test_a_directory_with_commas_in_its_name(tmp_path, lm, tokenizer):
    RewardModel.from_causal_lm(lm(), tokenizer, torch.Generator()).save(tmp_path / "a,1,b=c d,e")
    assert resolve_reward([f"rm:{tmp_path}/a,1,b=c d,e"], {}).weights == (1.0,)
    assert resolve_reward([f"rm:{tmp_path}/a,1,b=c d,e,3"], {}).weights == (3.0,)


def test_the_directory_that_a_text_names():
    assert model_directory("rm:a/b,2") == "a/b"
    assert model_directory("clf:a,b,label=x,2,score=logit") == "a,b"
    assert model_directory("rm:a=b") == "a=b"
    assert model_directory("gold,2") is None
    assert model_directory("file.py:f") is None


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("glod", ValueError, "unknown reward 'glod': did you mean 'gold'. Known are gold, length; or write"),
        ("gold,much", ValueError, "'gold,much': expected a number after the comma, got 'much'"),
        ("", ValueError, "expected at least one of: gold, length"),
        ("nowhere.at_all:f", ImportError, "cannot import 'nowhere.at_all'"),
        ("textgym.rewards.builtin:lenght", AttributeError, "has no 'lenght'; did you mean 'length'"),
        ("textgym.rewards.builtin:NAMED", TypeError, "'textgym.rewards.builtin:NAMED': .*callable, got dict"),
        ("{file}:nothing", AttributeError, "has no 'nothing'"),
        ("{file}:number", TypeError, "must be callable, got int"),
        ("{file}s.py:scaled", FileNotFoundError, "there is no file"),
        ("rm:{file}.missing", FileNotFoundError, "there is no such directory"),
        ("clf:{file}.missing,label=x", FileNotFoundError, "there is no such directory"),
    ],
)
def test_mistakes(spec, error, message, file):
    with pytest.raises(error, match=message):
        resolved(spec.format(file=file))


def test_an_error_inside_the_file_is_told(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    with pytest.raises(ImportError, match="raised ZeroDivisionError"):
        resolved(f"{path}:f")
    assert "textgym_reward_file_broken" not in sys.modules
