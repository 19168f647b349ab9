"""Hugging Face evaluate metrics as rewards, with a metric made here: no network."""

from __future__ import annotations

import re

import pytest

from textgym.numbers import SettingError
from textgym.rewards import EvaluateReward, RewardError, call_reward, reward_name
from textgym.rewards.functions import check_columns
from textgym.rewards.hf_metrics import EvaluateHub
from textgym.rewards.signatures import signature

TEXTS = ["the cat sat", "a dog"]


@pytest.fixture(scope="module")
def overlap():
    """Share of the reference's words that the prediction has; the best of several references."""
    import datasets
    import evaluate

    class Overlap(evaluate.Metric):
        def _info(self):
            text = datasets.Value("string")
            return evaluate.MetricInfo(
                description="",
                citation="",
                inputs_description="",
                features=[
                    datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                    datasets.Features({"predictions": text, "references": text}),
                ],
            )

        def _compute(self, predictions, references, scale=1.0):
            def share(text, reference):
                return len(set(text.split()) & set(reference.split())) / len(set(reference.split()))

            best = [
                max(share(p, r) for r in ([refs] if isinstance(refs, str) else refs))
                for p, refs in zip(predictions, references, strict=True)
            ]
            return {"overlap": scale * sum(best) / len(best), "each": best, "label": "x"}

    return Overlap(keep_in_memory=True)


def call(reward, **columns):
    return call_reward(reward, ["p", "q"], TEXTS, [[1], [2]], columns)


def test_one_score_for_each_completion(overlap):
    reward = EvaluateReward(overlap, "overlap")
    assert call(reward, reference=["the cat", "a cat"]) == [1.0, 0.5]
    assert reward.name == "overlap"


def test_the_signature_follows_the_metric_its_key_and_its_options(overlap):
    same = signature(EvaluateReward(overlap, "overlap"))
    assert same == signature(EvaluateReward(overlap, "overlap"))
    assert re.fullmatch(
        r"EvaluateReward\(Overlap#[0-9a-f]{8}, key='overlap', reference='reference'; evaluate [\d.]+\)", same
    )

    class Overlap(type(overlap)):
        def _compute(self, predictions, references):
            return {"overlap": 0.0}

    others = [
        EvaluateReward(overlap, "each"),
        EvaluateReward(overlap, "overlap", reference="summary"),
        EvaluateReward(overlap, "overlap", scale=10.0),
        EvaluateReward(Overlap(keep_in_memory=True), "overlap"),
    ]
    assert len({same, *map(signature, others)}) == 5


def test_several_references_another_column_and_options(overlap):
    reward = EvaluateReward(overlap, "overlap", reference="summary", scale=10.0)
    assert call(reward, summary=[["x y", "the cat"], ["dog b c d"]]) == [10.0, 2.5]
    assert call(EvaluateReward(overlap, "each"), reference=["the cat", "a cat"]) == [1.0, 0.5]


def test_missing_column_and_missing_key(overlap):
    with pytest.raises(RewardError, match="column 'reference', got the columns summary"):
        call(EvaluateReward(overlap, "overlap"), summary=["a", "b"])
    with pytest.raises(RewardError, match=r"key 'overlapp' is not in the metric's result, which has \['each', "):
        call(EvaluateReward(overlap, "overlapp"), reference=["a", "b"])


def test_a_metric_that_cannot_be_loaded_names_the_mend(tmp_path):
    with pytest.raises(FileNotFoundError, match="without a network pass the folder of a metric"):
        EvaluateReward(tmp_path / "nothing", "score")


# --- a metric of the hub, by name ------------------------------------------------------------------------------------

METRIC = """
import datasets
import evaluate

class Count(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        return {"count": float(len(predictions[0].split()))OTHER}
"""


def write_metric(folder, other=""):
    folder.mkdir()
    (folder / f"{folder.name}.py").write_text(METRIC.replace("OTHER", other))
    return str(folder)


def test_a_metric_by_its_place_is_loaded_when_it_is_bound(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    reward = EvaluateHub(write_metric(tmp_path / "counted"))
    assert "_reward" not in vars(reward)
    check_columns(reward, ["references"])
    bound = reward.bind(None)
    assert bound == reward
    assert "_reward" in vars(bound)
    assert call(bound, references=["a b", "c"]) == [3.0, 2.0]
    assert reward_name(reward) == "counted"


def test_a_key_is_needed_where_there_are_several(tmp_path):
    place = write_metric(tmp_path / "counted_twice", ", 'other': 7.0")
    with pytest.raises(RewardError, match=r"key '' is not in the metric's result, which has \['count', 'other'\]"):
        call(EvaluateHub(place), references=["a", "b"])
    assert call(EvaluateHub(place, "other", "summary"), summary=["a", "b"]) == [7.0, 7.0]
    assert reward_name(EvaluateHub(place, "other")) == "other"


def test_a_metric_of_the_hub_is_refused_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="cannot be loaded"):
        EvaluateHub(str(tmp_path / "nothing")).bind(None)
    with pytest.raises(ValueError, match="reward 'rouge' requires 'references', which the data does not have"):
        check_columns(EvaluateHub("owner/rouge"), ["summary"])
    with pytest.raises(SettingError, match="metric=' ' is empty"):
        EvaluateHub(" ")
    assert "runs it" in EvaluateHub.__doc__.splitlines()[0]
