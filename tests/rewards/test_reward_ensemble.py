"""Ensembles: the three combinations by hand, files, and the loss of labels."""

from __future__ import annotations

import math

import pytest
import torch

from textgym.rewards import RewardEnsemble, RewardModel, binary_loss, call_reward, combine_scores, load_reward_model

SCORES = [[1.0, 4.0], [2.0, 0.0], [6.0, 2.0]]  # 3 members, 2 completions


def members(lm, tokenizer, n=3):
    model = lm()
    return tuple(RewardModel.from_causal_lm(model, tokenizer, torch.Generator().manual_seed(i)) for i in range(n))


def test_combinations_by_hand():
    assert combine_scores(SCORES, "mean").tolist() == [3.0, 2.0]
    assert combine_scores(SCORES, "min").tolist() == [1.0, 0.0]
    # Variances: (4 + 1 + 9)/3 and (4 + 4 + 0)/3.
    assert combine_scores(SCORES, "uncertainty", 0.3).tolist() == pytest.approx([3 - 0.3 * 14 / 3, 2 - 0.3 * 8 / 3])
    assert combine_scores(SCORES, "mean", 0.3).tolist() == [3.0, 2.0]  # the weight is of uncertainty alone


@pytest.mark.parametrize("combine", ["mean", "min", "uncertainty"])
def test_an_ensemble_combines_what_its_members_say(combine, lm, tokenizer):
    own = members(lm, tokenizer)
    own[1].set_offset(-2.0)
    ensemble = RewardEnsemble(own, combine, 0.5)
    arguments = (["the cat", "a dog"], [" sat", " ran"], [[9, 3], [10, 3]])
    said = [member.score(*arguments[:2]) for member in own]
    expected = combine_scores(said, combine, 0.5).tolist()
    assert ensemble.score(*arguments[:2]) == pytest.approx(expected)
    assert call_reward(ensemble, *arguments, {}) == pytest.approx(expected)
    columns = {"prompt_ids": [[4, 6], [5, 7]], "finish_reason": ["stop", "stop"]}
    bound = ensemble.bind(tokenizer)
    assert all(member.same_tokenizer for member in bound.members)
    assert call_reward(bound, *arguments, columns) == pytest.approx(expected, abs=1e-6)


def test_save_and_load_round_trip(tmp_path, lm, tokenizer):
    from transformers import AutoModelForSequenceClassification

    ensemble = RewardEnsemble(members(lm, tokenizer, 2), "min", 0.7)
    for _ in range(2):  # the second replaces the first
        ensemble.save(tmp_path / "run" / "checkpoint")
    expected = ensemble.score(["the cat"], [" sat"])
    for place in (tmp_path / "run", tmp_path / "run" / "checkpoint"):
        loaded = load_reward_model(place, device="cpu")
        assert isinstance(loaded, RewardEnsemble)
        assert (loaded.combine, loaded.uncertainty_weight) == ("min", 0.7)
        assert loaded.score(["the cat"], [" sat"]) == pytest.approx(expected, abs=1e-6)
    other = RewardEnsemble.load(tmp_path / "run" / "checkpoint", combine="mean", uncertainty_weight=0.2)
    assert (other.combine, other.uncertainty_weight) == ("mean", 0.2)
    member = tmp_path / "run" / "checkpoint" / "member_1"
    assert isinstance(load_reward_model(member), RewardModel)
    plain = AutoModelForSequenceClassification.from_pretrained(member).eval()
    with torch.no_grad():
        score = plain(torch.tensor([[4, 6, 9, 3]])).logits.item()
    assert score == pytest.approx(ensemble.members[1].score(["the cat"], [" sat"])[0], abs=1e-6)


def test_mistakes(tmp_path, lm, tokenizer):
    own = members(lm, tokenizer, 1)
    with pytest.raises(ValueError, match="members: got none"):
        RewardEnsemble(())
    with pytest.raises(ValueError, match="combine='max' is not one of mean, min, uncertainty"):
        RewardEnsemble(own, "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="uncertainty_weight=nan"):
        RewardEnsemble(own, "mean", math.nan)
    with pytest.raises(FileNotFoundError, match=r"it has no ensemble\.json"):
        RewardEnsemble.load(tmp_path)
    (tmp_path / "ensemble.json").write_text("{}")
    with pytest.raises(ValueError, match="is damaged"):
        RewardEnsemble.load(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="is not a saved ensemble"):
        RewardEnsemble(own).save(tmp_path / "mine")


def test_binary_loss_by_hand():
    loss = binary_loss(torch.tensor([2.0, -1.0]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(-1))) / 2, abs=1e-6)
    assert binary_loss(torch.tensor([1e4]), torch.tensor([False])).item() == pytest.approx(1e4)
