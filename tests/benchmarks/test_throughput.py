"""The throughput benchmark runs, does equal work for everyone, and counts as it says. No test asserts a speed."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from textgym.benchmarks.throughput import __main__ as command
from textgym.benchmarks.throughput.peers import Generation, StockIteration, prefilled_conversations
from textgym.benchmarks.throughput.score import Measure, _exponent, measure_table
from textgym.benchmarks.throughput.task import TINY, Collection, Iteration, RankingStep, conversations
from textgym.benchmarks.throughput.timing import Spread, Stopwatch, in_turns


def test_quick_prints_every_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = tmp_path / "throughput.json"
    monkeypatch.setattr(sys, "argv", ["throughput", "--quick", "--json", str(report)])
    command._main()
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(report.read_text(encoding="utf-8"))
    assert [line.split("  ")[0] for line in lines[1:]] == [m["name"] for m in found["measures"]]
    assert len(found["measures"]) == 9
    assert found["versions"]["torch"] == metadata.version("torch")


def test_everyone_samples_from_the_same_distribution() -> None:
    """The same weights, prompts and number of tokens; the stock policy's log-probabilities are ours."""
    episodes, generated = Collection(TINY)(), Generation(TINY)()
    assert episodes.lengths.tolist() == [TINY.new_tokens] * TINY.prompts
    assert generated.shape == episodes.input_ids.shape
    assert (episodes.input_ids[:, : TINY.prompt_length] == generated[:, : TINY.prompt_length].numpy()).all()
    policy = StockIteration(TINY, 1).algorithm.policy
    columns = np.arange(episodes.input_ids.shape[1])
    for t in range(TINY.new_tokens):
        mask = np.broadcast_to(columns < TINY.prompt_length + t, episodes.input_ids.shape)
        observation = {
            "input_ids": torch.from_numpy(episodes.input_ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int8)),
        }
        _, log_probs, _ = policy.evaluate_actions(observation, torch.from_numpy(episodes.actions[:, t]))
        np.testing.assert_allclose(log_probs.detach(), episodes.log_probs[:, t], atol=1e-5)


def test_a_ranking_has_the_same_loss_at_once_and_pair_by_pair() -> None:
    """At K = 4 each text stands in 3 of the 6 pairs."""
    once, pairs = RankingStep(TINY, 4, True), RankingStep(TINY, 4, False)
    assert len(pairs.sequences) == 3 * len(once.sequences)
    pairs.model.model.load_state_dict(once.model.model.state_dict())
    assert once() == pytest.approx(pairs(), rel=1e-5)


def test_replies_are_read_with_and_without_what_stands_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens are drawn. Prompts have 4 tokens, turns and replies 2: a reply is read as 3 tokens, or as all."""
    size = TINY.but(new_tokens=16)
    written, read = [], []
    for played in (conversations(size), prefilled_conversations(size)):
        widths: list[int] = []
        forward = played.model.forward

        def counting(input_ids: torch.Tensor, *, forward=forward, widths=widths, **arguments: Any) -> Any:
            widths.append(input_ids.shape[1])
            return forward(input_ids, **arguments)

        monkeypatch.setattr(played.model, "forward", counting)
        written.append(played())
        read.append(widths)
    assert read == [[4, 1, 3, 1, 3, 1, 3, 1, 3], [4, 1, 8, 1, 12, 1, 16, 1, 20]]
    one, other = written
    np.testing.assert_array_equal(one.input_ids, other.input_ids)
    assert one.own.tolist() == [[True, True, False, False] * 4 + [True]] * 8


def test_everyone_takes_as_many_gradient_steps() -> None:
    ours, stock = Iteration(TINY), StockIteration(TINY, 2)
    counts = []
    for run in (ours, stock):
        steps: list[None] = []
        optimizer = run.algorithm.policy.optimizer
        hook = optimizer.register_step_post_hook(lambda *_, steps=steps: steps.append(None))
        run()
        hook.remove()
        counts.append(len(steps))
    assert counts == [16, 16]
    assert stock.share == 2
    assert stock.algorithm.num_timesteps * stock.share == ours.algorithm.num_timesteps


def test_runs_take_turns() -> None:
    calls: list[str] = []
    seconds = in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert calls == ["a", "b"] * 3
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_stopwatch_passes_everything_on() -> None:
    watch = Stopwatch()
    assert watch.around(lambda a, b=1: a + b)(2, b=3) == 5
    assert watch.seconds >= 0


def test_the_exponent_of_a_power_law() -> None:
    lengths = [32, 64, 128]
    assert _exponent(lengths, 0.1 * np.array(lengths) ** 1.5) == pytest.approx(1.5)


def test_targets_are_judged_by_the_median() -> None:
    spread = Spread.of(np.array([1.0, 3.0, 2.0]))
    assert spread == Spread(2.0, 1.0, 3.0)
    assert Measure("m", "s", spread, 2.0, True).met
    assert not Measure("m", "s", spread, 1.9, False).met
    assert Measure("m", "s", spread, None, True).met is None
    line = measure_table([Measure("m", "s", spread, 2.5, True, "note")]).splitlines()[1]
    assert line.split() == ["m", "s", "2.00", "1.00–3.00", "≥", "2.5", "MISSED", "note"]
