"""Credit of feedback in time: numbers worked out by hand, identities, and files that are refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from textgym.rewards import (
    Feedback,
    ShownResponse,
    SimulatedTrainer,
    Watched,
    credit_weights,
    read_feedback,
    write_feedback,
)
from textgym.rewards.compose import compose
from textgym.rewards.feedback.credit import credited
from textgym.rewards.feedback.delays import Fixed, Gamma, Uniform

HALVES = np.arange(12) / 2


def test_the_known_answer():
    """Delays of 0.2 to 4 s reach the tokens from 2.0 s on: 0.5/3.8 each, and 0.3/3.8 of the newest."""
    weights = credit_weights(HALVES, [6.0], Uniform())
    assert weights[0] == pytest.approx([0] * 4 + [0.5 / 3.8] * 7 + [0.3 / 3.8])
    assert np.round(weights[0], 4).tolist() == [0, 0, 0, 0] + [0.1316] * 7 + [0.0789]
    assert weights.sum() == pytest.approx(1)


def test_rows_are_normalised_where_some_delays_would_mean_nothing():
    """At 1.0 s only delays up to 1.0 s meet a token: 0.3 s of them the second, 0.5 s the first."""
    weights = credit_weights(HALVES, [0.1, 1.0, 0.7, 60.0], Uniform())
    assert weights[0].tolist() == [0] * 12  # before any delay has passed
    assert weights[1, :3] == pytest.approx([0.5 / 0.8, 0.3 / 0.8, 0])
    assert weights[2, :2] == pytest.approx([1, 0])
    assert weights[3] == pytest.approx([0] * 11 + [1])  # the last token stands for ever


@pytest.mark.parametrize("delay", [Uniform(), Gamma(), Uniform(0, 0.3)])
def test_weights_are_the_shares_of_drawn_delays(delay):
    """The token that was the newest at e − d, for 200,000 drawn d."""
    shown, event = np.array([0.0, 0.4, 0.5, 1.7, 1.7, 2.0]), 2.25
    drawn = event - delay.sample(np.random.default_rng(0), 200_000)
    newest = np.searchsorted(shown, drawn[drawn >= 0], side="right") - 1
    shares = np.bincount(newest, minlength=6) / len(newest)
    assert credit_weights(shown, [event], delay)[0] == pytest.approx(shares, abs=0.005)


def test_a_fixed_delay_means_one_token():
    assert credit_weights(HALVES, HALVES + 1.0, Fixed(1.0)).tolist() == np.eye(12).tolist()
    tenths = np.arange(12) * 0.1  # none of which is exact
    assert credit_weights(tenths, tenths + 0.3, Fixed(0.3)).tolist() == np.eye(12).tolist()
    assert credit_weights(HALVES, [2.3], Fixed()).argmax() == 4


def test_weights_depend_on_differences_of_time_alone():
    weights = credit_weights(HALVES, [3.3, 6.0], Gamma(3, 0.4))
    assert credit_weights(HALVES + 1000, [1003.3, 1006.0], Gamma(3, 0.4)) == pytest.approx(weights)


def test_credited_feedback_keeps_its_sum():
    weights = credit_weights(HALVES, [3.0, 5.0, 0.0], Uniform())
    assert credited(weights, [1.0, -3.0, 7.0]).sum() == pytest.approx(-2)  # the event at 0 s means no token
    assert credited(weights[:0], []).tolist() == [0] * 12


@pytest.mark.parametrize(
    ("shown", "events", "message"),
    [
        ([0, 2, 1], [3], r"shown runs backwards: 2 s is followed by 1 s \(entries 2 and 3\)"),
        ([], [3], "shown has the shape"),
        ([0, math.nan], [3], "shown has the shape"),
        ([0, 1], [math.inf], "events has the shape"),
        ([0, 1], 3, "events has the shape"),
    ],
)
def test_bad_times_are_refused(shown, events, message):
    with pytest.raises(ValueError, match=message):
        credit_weights(shown, events, Uniform())


@pytest.mark.parametrize(
    "make",
    [lambda: Uniform(-1), lambda: Uniform(2, 2), lambda: Gamma(0), lambda: Fixed(math.inf), lambda: Gamma(1, -1)],
)
def test_bad_delays_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


# --- simulated trainers ------------------------------------------------------------------------------------------


def test_a_trainer_judges_tokens_after_its_delay():
    trainer = SimulatedTrainer(Fixed(1.0))
    events = trainer.watch([0.5, 0.0, -2.0], [0, 1, 2], np.random.default_rng(0))
    assert events == (Feedback(1.0, 0.5), Feedback(3.0, -2.0))  # nothing is said about 0


def test_a_trainer_responds_at_its_rate_and_in_order_of_time():
    trainer = SimulatedTrainer(Uniform(0, 50), 0.3)
    values = np.arange(1, 2001)
    events = trainer.watch(values, np.arange(2000) / 10, np.random.default_rng(1))
    assert len(events) == pytest.approx(600, abs=60)
    times, judged = np.array(events).T
    assert (np.diff(times) >= 0).all()
    waited = times - (judged - 1) / 10
    assert 0 <= waited.min() <= waited.max() <= 50
    assert waited.mean() == pytest.approx(25, abs=2)
    assert events == trainer.watch(values, np.arange(2000) / 10, np.random.default_rng(1))


def test_a_trainer_with_another_number_of_values_is_refused():
    with pytest.raises(ValueError, match=r"values has the shape \(2,\) and shown \(3,\)"):
        SimulatedTrainer().watch([1, 2], [0, 1, 2], np.random.default_rng(0))


def dense(completion_ids, **_):
    return [[float(i) for i in ids] for ids in completion_ids]


def last(completion_ids, **_):
    return [float(ids[-1]) for ids in completion_ids]


def test_a_watched_reward_without_delay_is_the_reward():
    """Whoever answers at once, always, and is understood so, passes the reward on."""
    ids, columns = [[3, -1, 0, 2], [5]], {"episode_seed": [7, 8]}
    at_once = SimulatedTrainer(Fixed(0.0))
    for reward, expected in ((dense, [[3, -1, 0, 2], [5]]), (last, [[0, 0, 0, 2], [5]])):
        watched = Watched(reward, at_once)
        assert watched(["p", "p"], ["a", "b"], completion_ids=ids, **columns) == expected
        assert compose(watched).logged_names[0] == f"{reward.__name__}_feedback"


def test_a_watched_reward_spreads_feedback_and_draws_from_the_episode_alone():
    ids = [[3, -1, 4, 2]] * 3
    watched = Watched(dense, SimulatedTrainer(Uniform()), tokens_per_second=3)
    first = watched(["p"] * 3, ["a"] * 3, completion_ids=ids, episode_seed=[1, 2, 1])
    assert first[0] == first[2] != first[1]
    assert first[1] == watched(["p"], ["a"], completion_ids=ids[:1], episode_seed=[2])[0]
    for row, seed in zip(first, (1, 2, 1), strict=True):
        events = watched.events([3, -1, 4, 2], seed)
        weights = credit_weights(np.arange(4) / 3, [event.time for event in events], Uniform())
        assert row == pytest.approx(np.array([event.value for event in events]) @ weights)
        assert sum(row) == pytest.approx(sum(event.value for event in events))


# --- files -------------------------------------------------------------------------------------------------------

RESPONSE = ShownResponse(
    "Write a film review.",
    "A fine film.",
    ("A", " fine", " film", ".", ""),
    (0.0, 0.5, 1.0, 1.5, 2.0),
    (Feedback(1.31, 1.0), Feedback(2.9, -1.0)),
    "anna",
)
ROW = {
    "prompt": "Write a film review.",
    "completion": "A fine film.",
    "tokens": ["A", " fine", " film", "."],
    "shown": [0, 0.5, 0.5, 1.5],
    "events": [[1.31, 1], [2.9, -1.0]],
}


def test_files_keep_what_was_written(tmp_path):
    chat = replace(RESPONSE, prompt=[{"role": "user", "content": "Hi"}], events=())
    write_feedback(tmp_path / "f.jsonl", [RESPONSE, chat])
    assert read_feedback(tmp_path / "f.jsonl") == [RESPONSE, chat]
    first = json.loads((tmp_path / "f.jsonl").read_text().splitlines()[0])
    assert first["events"] == [[1.31, 1.0], [2.9, -1.0]]
    assert list(first) == ["prompt", "completion", "tokens", "shown", "events", "labeller"]


def test_a_row_need_not_name_a_labeller(tmp_path):
    (tmp_path / "f.jsonl").write_text(json.dumps(ROW))
    (response,) = read_feedback(tmp_path / "f.jsonl")
    assert response.labeller == ""
    assert [response.shows_end, RESPONSE.shows_end] == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shown": [0, 1, 0.5, 2]}, r"shown runs backwards: 1 s is followed by 0.5 s \(entries 2 and 3\)"),
        ({"events": [[3, 1], [2, 1]]}, "time of events runs backwards: 3 s is followed by 2 s"),
        ({"shown": [0, 1, 2]}, "shown has 3 times and tokens 4 texts"),
        ({"shown": [0, 1, 2, math.nan]}, "shown has the shape"),
        ({"events": [[1, math.inf]]}, "event 1 has the value inf"),
        ({"events": [[1]]}, r"events holds \[1\]; expected pairs"),
        ({"events": [[1, "good"]]}, "events holds 'good'; expected numbers"),
        ({"events": [[1, True]]}, "events holds True; expected numbers"),
        ({"events": 3}, "events=3; expected a list"),
        ({"tokens": ["A", "", " fine film", "."]}, "tokens holds an empty text at 2; only the last may be empty"),
        ({"tokens": ["A", "fine", "film", "."]}, "tokens make 'Afinefilm.', expected the completion, 'A fine film.'"),
        ({"tokens": [], "shown": []}, "expected a list of at least one text"),
        ({"tokens": ["A", 3, " film", "."]}, "expected a list of at least one text"),
        ({"prompt": 3}, "prompt=3; expected a text or a list of messages"),
        ({"completion": ["A"]}, r"completion=\['A'\]; expected a text"),
        ({"labeller": 3}, "labeller=3; expected a text"),
        ({"event": []}, "unknown field 'event'; expected prompt, completion"),
        ({"events": None}, "no field 'events'"),
    ],
)
def test_bad_rows_are_named(tmp_path, change, message):
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + json.dumps({**ROW, **change}))
    with pytest.raises(ValueError, match=f"f.jsonl, (row|line) 2.*{message}"):
        read_feedback(path)


def test_numbers_that_are_not_finite_are_refused_in_python():
    with pytest.raises(ValueError, match="event 1 has the value nan"):
        replace(RESPONSE, events=(Feedback(1.0, math.nan),))
    with pytest.raises(ValueError, match="time of events has the shape"):
        replace(RESPONSE, events=(Feedback(math.inf, 1.0),))
