"""Hugging Face evaluate metrics as rewards, with a metric made here: no network."""

from __future__ import annotations

import pytest

from textgym.rewards import EvaluateReward, RewardError, call_reward

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
