"""Runs side by side: intervals and differences that were worked out by hand, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from textgym.benchmarks.analysis.compare_findings import compare_groups, difference, mean_curve, pooled, shared_measures
from textgym.benchmarks.analysis.compare_runs import Group, grouped, read_runs, settings_table
from textgym.cli import main
from textgym.intervals import Estimate

CONFIG = {"command": "train", "task": "textgym/Emit-v0", "algorithm": "ppo", "eval_episodes": 16}
HYPER = {"beta": 0.1, "learning_rate": 1e-3}


def write(path: Path, name: str, content: Any) -> None:
    path.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in content) if name.endswith("l") else json.dumps(content)
    (path / name).write_text(lines, encoding="utf-8")


def entry(mean: float, sem: float = 0.1, n: int = 16) -> dict[str, float]:
    return {"mean": mean, "sem": sem, "n": n}


def make_run(path: Path, seed: int = 0, gold: float | None = 0.5, curve: Sequence[float] = (), **settings: Any) -> Path:
    """Return a run of ``train``, finished unless ``gold`` is None."""
    hyper = {**HYPER, **{name: settings.pop(name) for name in list(settings) if name in HYPER}}
    config = {**CONFIG, "seed": seed, **settings, "hyperparameters": hyper, "versions": {"torch": "2"}}
    write(path, "config.json", config)
    rows = [
        {"iteration": i + 1, "time/total_timesteps": 100 * (i + 1), "rollout/score": y} for i, y in enumerate(curve)
    ]
    write(path, "metrics.jsonl", rows)
    measured = {"score": entry(0.0), "gold": entry(0.0), "kl": entry(0.0, 0.0)}
    evaluation: dict[str, Any] = {"before": measured}
    if gold is not None:
        evaluation["after"] = {"score": entry(2 * gold), "gold": entry(gold), "kl": entry(3.0)}
    write(path, "evaluation.json", evaluation)
    return path


def groups_of(*paths: Path) -> list[Group]:
    return grouped(read_runs(paths))


def two_groups(place: Path, ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[Group]:
    first = [make_run(place / f"a{seed}", seed, gold) for seed, gold in ours.items()]
    return groups_of(*first, *(make_run(place / f"b{s}", s, gold, beta=0.5) for s, gold in theirs.items()))


# -- Groups ------------------------------------------------------------------------------------------


def test_runs_that_differ_by_the_seed_alone_repeat_each_other(tmp_path: Path) -> None:
    groups = two_groups(tmp_path, {1: 0.5, 0: 0.4}, {0: 0.6})
    assert [(group.name, [run.seed for run in group.runs]) for group in groups] == [
        ("beta 0.1", [0, 1]),
        ("beta 0.5", [0]),
    ]


def test_algorithms_are_called_by_their_names_and_their_own_settings_left_out(tmp_path: Path) -> None:
    paths = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", algorithm="rloo", beta=0.5, learning_rate=1.0),
        make_run(tmp_path / "c", algorithm="rloo", beta=0.5, learning_rate=None),
    ]
    assert [group.name for group in groups_of(*paths)] == [
        "ppo",
        "rloo, learning_rate 1.0",
        "rloo, learning_rate unset",
    ]


def test_stages_of_pipelines_with_other_seeds_are_repetitions(tmp_path: Path) -> None:
    """Outputs of other stages of the same pipeline are told by their place, not by their directory."""
    paths = []
    for seed in (0, 1):
        root = tmp_path / f"loop-{seed}"
        stages = [{"name": n, "kind": "train", "directory": n} for n in ("sft", "iteration-1/reward_model", "policy")]
        write(root, "stages.json", stages)
        model, reward = f"{root}/sft/checkpoint", f"rm:loop-{seed}/iteration-1/reward_model,0.5"
        paths.append(make_run(root / "policy", seed, model=model, reward=reward))
    (group,) = groups_of(*paths)
    assert [run.seed for run in group.runs] == [0, 1]
    assert group.runs[0].settings["reward"] == "rm:…/iteration-1/reward_model,0.5"
    with pytest.raises(ValueError, match=r"is a pipeline; give its stages instead: .*sft"):
        read_runs([tmp_path / "loop-0", paths[0]])


def change(path: Path, **settings: Any) -> Path:
    """Write further settings into a run's ``config.json``."""
    config = json.loads((path / "config.json").read_text())
    write(path, "config.json", {**config, **settings})
    return path


PLAIN = {"eval_every": None, "keep_best": None, "stop_score": None, "stop_kl": None, "stop_patience": None}
WATCHED = {"eval_every": 2, "keep_best": "score", "stop_score": 9.0, "stop_kl": 5.0, "stop_patience": 4}


def test_settings_that_change_no_number_split_no_seeds(tmp_path: Path) -> None:
    first = make_run(tmp_path / "a", 0, checkpoint_every=10, keep_last=None, log=[], skip_bad=0, **PLAIN)
    told = {"checkpoint_every": 1, "keep_last": 3, "log": ["wandb"], "skip_bad": 7, "reward_timeout": 9.0}
    (group,) = groups_of(first, make_run(tmp_path / "b", 1, **told, **WATCHED))
    assert [run.seed for run in group.runs] == [0, 1]
    with pytest.raises(ValueError, match=r"the same seed, 0: .*output and logging are ignored"):
        groups_of(first, make_run(tmp_path / "c", 0, **told, **WATCHED))


def test_what_ended_a_run_early_is_a_setting_of_all_its_seeds(tmp_path: Path) -> None:
    """A seed that reached no limit still belongs to the seed that did, and to no run without a limit."""
    plain = [make_run(tmp_path / "a0", 0, **PLAIN)]
    plain.append(make_run(tmp_path / "a1", 1, **{**PLAIN, "eval_every": 3, "keep_best": "score"}))
    other = make_run(tmp_path / "c", 0, beta=0.5, **{**PLAIN, "stop_kl": 7.0})
    limited = [make_run(tmp_path / f"b{seed}", seed, **{**PLAIN, "stop_kl": 5.0, "eval_every": 2}) for seed in (0, 1)]
    evaluation = json.loads((limited[1] / "evaluation.json").read_text())
    write(limited[1], "evaluation.json", {**evaluation, "stopped_early": "kl 6 is above stop_kl 5"})
    groups = groups_of(*plain, *limited, other)
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [0, 1], [0]]
    assert [group.runs[0].settings.get("stop_kl") for group in groups] == [None, 5.0, None]


def test_runs_of_an_earlier_version_are_repetitions_of_those_of_today(tmp_path: Path) -> None:
    """Settings that they lack stand for what they did: no truncation, special tokens parsed, no bonus, no warm-up."""
    former = change(make_run(tmp_path / "a", 0), bad_rows="error")
    today = {"truncation": "error", "special_tokens": "parse", "skip_special_tokens": True, "missing_end_score": None}
    hyper = {**HYPER, "ent_coef": 0.0, "warmup_iterations": 0, "target_kl": 0.0}
    now = change(make_run(tmp_path / "b", 1), **today, hyperparameters=hyper)
    (group,) = groups_of(former, now)
    assert [run.seed for run in group.runs] == [0, 1]
    text = change(make_run(tmp_path / "c", 1), **{**today, "special_tokens": "text"}, hyperparameters=hyper)
    assert [group.name for group in groups_of(former, text)] == ["special_tokens parse", "special_tokens text"]


def test_runs_that_called_beta_kl_coef_are_repetitions_of_those_of_today(tmp_path: Path) -> None:
    """Version 0.1 also kept the settings that an algorithm lacks, as None."""
    lacking = {"clip_range": None, "vf_coef": None, "cg_steps": None}
    then = {"learning_rate": 1e-3, "kl_coef": 0.1, "n_epochs": 1, "kl_in_loss": False, **lacking}
    now = {"learning_rate": 1e-3, "beta": 0.1, "n_epochs": 1, "kl_in_loss": False}
    former = [change(make_run(tmp_path / f"a{i}", i, algorithm="rloo"), hyperparameters=then) for i in range(2)]
    today = change(make_run(tmp_path / "b", 2, algorithm="rloo"), hyperparameters=now)
    other = change(make_run(tmp_path / "c", 0, algorithm="rloo"), hyperparameters={**now, "beta": 0.3})
    groups = groups_of(*former, today, other)
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1, 2], [0]]
    assert [group.name for group in groups] == ["beta 0.1", "beta 0.3"]
    assert settings_table(groups) == [("beta", "0.1", "0.3")]


def test_runs_from_before_the_estimators_are_of_k3_where_the_kl_is_in_the_loss(tmp_path: Path) -> None:
    def run(name: str, seed: int, **hyper: Any) -> Path:
        return change(make_run(tmp_path / name, seed, algorithm="grpo"), hyperparameters={**HYPER, **hyper})

    ppo = run("a", 0, kl_in_loss=False), run("b", 1, kl_in_loss=False, kl_estimator="exact")
    assert [[one.seed for one in group.runs] for group in groups_of(*ppo)] == [[0, 1]]
    then = {"kl_in_loss": True, "scale_by_std": True}
    groups = groups_of(run("c", 0, **then), run("d", 0, **then, kl_estimator="exact", bessel=True))
    assert sorted(settings_table(groups)) == [("bessel", "false", "true"), ("kl_estimator", "k3", "exact")]


def test_settings_of_today_are_given_to_no_command_that_lacks_them(tmp_path: Path) -> None:
    trained = make_run(tmp_path / "a", truncation="left", special_tokens="parse")
    groups = groups_of(trained, make_run(tmp_path / "b", command="dpo", data="d.jsonl", algorithm="dpo"))
    assert {row[0]: row[1:] for row in settings_table(groups)}["truncation"] == ("left", "–")


def test_files_that_were_edited_are_other_files(tmp_path: Path) -> None:
    """The content of a file decides, not its name: of prompts in which question it is, of others which group."""

    def run(name: str, seed: int, prompts: str, held: str, rewards: str) -> Path:
        inputs = {prompts: held, "rewards.py": rewards}
        return make_run(tmp_path / name, seed, prompts=prompts, reward="rewards.py:long", inputs=inputs)

    first = run("a", 0, "p.jsonl", "1" * 64, "2" * 64)
    (group,) = groups_of(first, run("b", 1, "p.jsonl", "1" * 64, "2" * 64))
    assert [member.seed for member in group.runs] == [0, 1]
    names = [group.name for group in groups_of(first, run("c", 1, "p.jsonl", "1" * 64, "3" * 64))]
    assert names == ["reward (content) 222222222222", "reward (content) 333333333333"]
    assert "score" not in shared_measures(groups_of(first, tmp_path / "c"))  # which another reward gave
    groups_of(first, run("d", 1, "moved/p.jsonl", "1" * 64, "2" * 64))
    with pytest.raises(ValueError, match=r"the file was edited in between: prompts='p.jsonl', SHA-256 4444"):
        groups_of(first, run("e", 1, "p.jsonl", "4" * 64, "2" * 64))


@pytest.mark.parametrize(
    ("setting", "value", "path"),
    [
        ("pretraining", "my data/text.txt", "my data/text.txt"),
        ("model", "./m/", "m"),
        ("reward", "rm:./judge/,too_long=truncate,0.5", "judge"),
        ("reward", "clf:judge,label=good", "judge"),
        ("reward", "./score.py:long,0.5 distinct", "score.py"),
        ("reward", "scores.words:long", "/site/scores/words.py"),
        ("reward", "scores:long", "/site/scores/__init__.py"),
        ("reward", "first.py:f second.py:f", "first.py"),
        ("reward", "first.py:f second.py:f", "second.py"),
    ],
)
def test_edited_inputs_are_found_as_the_run_recorded_them(tmp_path: Path, setting: str, value: str, path: str) -> None:
    others = {"first.py": "0" * 64, "second.py": "0" * 64, "/site/distinct.py": "0" * 64}
    runs = [
        make_run(tmp_path / str(seed), seed, **{setting: value}, inputs={**others, path: digest * 64})
        for seed, digest in enumerate("112")
    ]
    groups = groups_of(*runs)
    assert [[run.seed for run in group.runs] for group in groups] == [[0, 1], [2]]
    assert [row[0] for row in settings_table(groups)] == [f"{setting} (content)"]


def test_edited_prompts_are_other_prompts_however_their_path_is_written(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / digest, seed, prompts="./my data/p.jsonl", inputs={"my data/p.jsonl": digest * 64})
        for seed, digest in enumerate("12")
    ]
    with pytest.raises(ValueError, match=r"the file was edited in between: prompts='./my data/p.jsonl', SHA-256 2222"):
        groups_of(*runs)


def test_stages_lie_in_pipelines_whose_directories_have_spaces(tmp_path: Path) -> None:
    paths = []
    for seed in (0, 1):
        root = tmp_path / f"loop {seed} of 2"
        write(root, "stages.json", [{"name": "sft", "kind": "sft", "directory": "sft"}])
        model = f"{root}/sft/checkpoint"
        paths.append(make_run(root / "policy", seed, model=model, inputs={model: f"{seed}" * 64}))
    (group,) = groups_of(*paths)
    assert [run.seed for run in group.runs] == [0, 1]


def test_versions_are_a_setting_where_nothing_else_differs(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name) for name in "ab"]
    config = json.loads((paths[1] / "config.json").read_text())
    write(paths[1], "config.json", {**config, "versions": {"torch": "3"}})
    assert [group.name for group in groups_of(*paths)] == ["version.torch 2", "version.torch 3"]


# -- Numbers -----------------------------------------------------------------------------------------


def test_over_seeds_the_interval_is_students(tmp_path: Path) -> None:
    golds = [0.4, 0.5, 0.9]
    group, _ = two_groups(tmp_path, dict(enumerate(golds)), {0: 0.1})
    found = pooled(group, "gold")
    assert found is not None
    assert isinstance(found.cell, Estimate)
    low, high = stats.t.interval(0.95, 2, np.mean(golds), stats.sem(golds))
    assert (found.cell.value, found.cell.low, found.cell.high) == pytest.approx((0.6, low, high))
    assert found.over == "3 seeds"


def test_two_seeds_have_an_interval_as_wide_as_it_must_be(tmp_path: Path) -> None:
    group, _ = two_groups(tmp_path, {0: 0.4, 1: 0.6}, {0: 0.1})
    found = pooled(group, "gold")
    assert found is not None
    assert isinstance(found.cell, Estimate)
    assert found.cell.high - 0.5 == pytest.approx(12.706 * 0.1, rel=1e-4)


def test_of_one_seed_the_interval_is_over_its_episodes_and_says_so(tmp_path: Path) -> None:
    _, group = two_groups(tmp_path, {0: 0.4, 1: 0.6}, {0: 0.1})
    found = pooled(group, "gold")
    assert found is not None
    assert isinstance(found.cell, Estimate)
    assert found.cell.high - 0.1 == pytest.approx(2.131 * 0.1, rel=1e-3)  # t of 15 degrees of freedom
    assert found.over == "16 episodes of one seed"


def test_differences_are_taken_seed_by_seed(tmp_path: Path) -> None:
    """Seeds differ far more than the two groups do: only pairs can tell them apart."""
    theirs = {0: 0.1, 1: 0.5, 2: 0.9}
    ours = {0: 0.21, 1: 0.60, 2: 1.02}
    a, b = two_groups(tmp_path, ours, theirs)
    found = difference(a, b, "gold")
    assert found is not None
    gaps = [0.11, 0.10, 0.12]
    assert found.mean == pytest.approx(0.11)
    assert found.half == pytest.approx(4.303 * stats.sem(gaps), rel=1e-3)
    assert found.p == pytest.approx(stats.ttest_1samp(gaps, 0).pvalue)
    assert found.basis == "paired, 3 seeds"
    assert found.clear()
    assert not unpaired_is_clear(ours, theirs)


def unpaired_is_clear(ours: Mapping[int, float], theirs: Mapping[int, float]) -> bool:
    return bool(stats.ttest_ind(list(ours.values()), list(theirs.values()), equal_var=False).pvalue < 0.05)


def test_other_seeds_are_compared_by_welch(tmp_path: Path) -> None:
    ours, theirs = {0: 0.4, 1: 0.6, 2: 0.5}, {3: 0.1, 4: 0.4}
    a, b = two_groups(tmp_path, ours, theirs)
    found = difference(a, b, "gold")
    test = stats.ttest_ind(list(ours.values()), list(theirs.values()), equal_var=False)
    assert found is not None
    assert found.p == pytest.approx(test.pvalue)
    low, high = test.confidence_interval(0.95)
    assert (found.mean - (found.half or 0), found.mean + (found.half or 0)) == pytest.approx((low, high))
    assert found.basis == "unpaired, 3 and 2 seeds"


def test_seeds_that_all_agree_are_as_sure_as_coins(tmp_path: Path) -> None:
    a, b = two_groups(tmp_path, {0: 0.5, 1: 0.5}, {0: 0.25, 1: 0.25})
    found = difference(a, b, "gold")
    assert found is not None
    assert (found.half, found.p, found.clear()) == (0.0, 0.5, False)


def test_one_seed_each_proves_nothing(tmp_path: Path) -> None:
    a, b = two_groups(tmp_path, {0: 0.9}, {0: 0.1})
    found = difference(a, b, "gold")
    assert found is not None
    assert (found.half, found.p) == (None, None)
    assert "other seeds may reverse the order" in compare_groups([a, b]).headline


def test_many_groups_raise_the_bar_of_the_headline(tmp_path: Path) -> None:
    """The same pair of groups is clearly apart alone, and not among ten of them."""

    def some(count: int) -> list[Group]:
        paths = []
        for arm in range(count):
            gold = {0: 0.9, 1: 0.8}.get(arm, 0.1)
            spread = (0.0, 0.012, -0.02) if arm == 0 else (0.0, 0.0, 0.0)
            for seed, more in enumerate(spread):
                paths.append(make_run(tmp_path / f"{count}-{arm}-{seed}", seed, gold + more, beta=arm + 1.0))
        return groups_of(*paths)

    assert ": clearly different (paired, 3 seeds)" in compare_groups(some(2)).headline
    assert ": not clearly different (paired, 3 seeds)" in compare_groups(some(10)).headline


def test_curves_of_other_lengths_meet_where_all_are_known(tmp_path: Path) -> None:
    (group,) = groups_of(
        make_run(tmp_path / "a", 0, curve=[0.0, 1.0, 2.0]), make_run(tmp_path / "b", 1, curve=[1.0, 2.0])
    )
    line = mean_curve(group, "rollout/score", "tokens")
    assert line is not None
    x, y = np.asarray(line.x), np.asarray(line.y)
    assert (x[0], x[-1]) == (100, 200)
    np.testing.assert_allclose(y, x / 100 - 0.5)
    # The two are 1 apart everywhere: half a band is t(1) times their standard error, ½.
    np.testing.assert_allclose(np.asarray(line.high) - y, 12.706 / 2, rtol=1e-4)


def test_a_run_that_died_shortens_no_curve_of_those_that_finished(tmp_path: Path) -> None:
    finished = [make_run(tmp_path / str(seed), seed, 0.5, [float(seed)] * 100) for seed in (0, 2)]
    died = make_run(tmp_path / "died", 4, None, [50.0] * 4)
    groups = groups_of(*finished, died)
    line = mean_curve(groups[0], "rollout/score", "tokens")
    assert line is not None
    np.testing.assert_allclose(np.asarray(line.x), 100 * np.arange(1, 101))
    np.testing.assert_allclose(np.asarray(line.y), 1.0)  # of 0 and 2
    captions = {figure.title: figure.caption for figure in compare_groups(groups).figures}
    assert "left out of the means of finished ones: 1 run." in captions["Score by tokens"]
    others = groups_of(*finished, make_run(tmp_path / "b", 0, None, [1.0] * 3, beta=0.5))
    assert mean_curve(others[1], "rollout/score", "tokens") is not None  # whose group has no other
    assert all("left out" not in figure.caption for figure in compare_groups(others).figures)


def test_a_curve_leaves_out_what_is_no_number(tmp_path: Path) -> None:
    (group,) = groups_of(
        make_run(tmp_path / "a", 0, curve=[0.0, math.nan, 2.0]), make_run(tmp_path / "b", 1, curve=[math.nan] * 3)
    )
    line = mean_curve(group, "rollout/score", "tokens")
    assert line is not None
    assert (list(line.x), list(line.y), line.low) == ([100, 300], [0, 2], None)


# -- Other commands ----------------------------------------------------------------------------------


def test_fine_tuning_is_ranked_by_the_loss_of_the_kept_epoch(tmp_path: Path) -> None:
    paths = []
    for epochs, losses in ((1, [3.0, 2.0]), (2, [3.0, 1.5, 2.5])):
        path = tmp_path / str(epochs)
        config = {"command": "sft", "algorithm": "sft", "data": "d.jsonl", "seed": 0, "settings": {"epochs": epochs}}
        write(path, "config.json", config)
        write(path, "metrics.jsonl", [{"iteration": i, "validation/loss": loss} for i, loss in enumerate(losses)])
        write(path, "kept.json", {"epoch": 1, "by": "loss"})
        write(path, "evaluation.json", {stage: {"kl": entry(1.0)} for stage in ("before", "after")})
        paths.append(path)
    found = compare_groups(groups_of(*paths))
    assert found.headline.startswith("epochs 2 has the lowest validation loss, 1.50; epochs 1 has 2")
    assert "Each seed holds out different prompts of the data" in found.tables[0].note


def make_dpo(path: Path, seed: int, gold: float, command: str = "dpo", named: str = "dpo", **settings: Any) -> Path:
    """Return a run of ``dpo`` or ``kto`` on a task, with what it reached on preferences that were held out."""
    make_run(path, seed, gold, command=command, algorithm=named, **settings)
    held = {"validation/accuracy": 0.75, "validation/margin": 1.5, "validation/loss": 0.5, "validation/prompts": 40}
    write(path, "metrics.jsonl", [{"iteration": i, "train/loss": 0.6, **held} for i in range(2)])
    return path


@pytest.mark.parametrize("named", ["data", "validation"])
def test_accuracies_on_other_pairs_are_not_compared(tmp_path: Path, named: str) -> None:
    """Gold was measured on the prompts of one task, held-out accuracy on pairs of two files."""
    inputs = {"d.jsonl": "0" * 64}

    def run(name: str, seed: int, pairs: str, content: str, beta: float) -> Path:
        given = {"data": "d.jsonl", named: pairs, "inputs": {**inputs, pairs: content * 64}}
        return make_dpo(tmp_path / name, seed, beta, **given, beta=beta)

    one, other = run("a", 0, "p.jsonl", "1", 0.1), run("b", 0, "moved.jsonl", "1", 0.2)
    same = groups_of(one, other)
    assert {"gold", "held-out accuracy", "held-out margin", "held-out loss"} <= {*shared_measures(same)}
    assert "Held-out accuracy by epochs" in [figure.title for figure in compare_groups(same).figures]
    for edited in (run("c", 0, "p.jsonl", "2", 0.2), run("d", 0, "q.jsonl", "2", 0.2)):
        found = compare_groups(groups := groups_of(one, edited))
        assert [name for name in shared_measures(groups) if name.startswith("held-out")] == []
        assert "beta 0.2" in found.headline.partition(" has the highest gold")[0]
        assert "has the highest gold" in found.headline
        assert not [figure.title for figure in found.figures if "Held-out" in figure.title]
        assert f"{edited}: Held-out accuracy, margin and loss are left out: {one} held out other pairs." in [
            notice.partition(" (")[0] + "." for notice in found.notices
        ]
        assert "Training loss by epochs" in [figure.title for figure in found.figures]


def test_losses_of_different_kinds_are_not_compared(tmp_path: Path) -> None:
    """DPO and IPO judge the same pairs by the same accuracy; their losses are different functions."""
    one = make_dpo(tmp_path / "a", 0, 0.5, data="d.jsonl", loss="sigmoid")
    other = make_dpo(tmp_path / "b", 0, 0.6, data="d.jsonl", loss="ipo", named="ipo")
    found = compare_groups(groups := groups_of(one, other))
    assert {"held-out accuracy", "held-out margin"} <= {*shared_measures(groups)}
    assert "held-out loss" not in shared_measures(groups)
    assert f"{one}: Losses are left out: those of dpo and ipo are different functions." in found.notices
    titles = [figure.title for figure in found.figures]
    assert not [title for title in titles if "loss" in title]
    assert "Held-out accuracy by epochs" in titles
    earlier = make_dpo(tmp_path / "c", 1, 0.5, data="d.jsonl")  # a run from before there were two losses
    assert len(groups_of(one, earlier)) == 1


def test_pairs_and_labels_are_judged_in_different_ways(tmp_path: Path) -> None:
    one = make_dpo(tmp_path / "a", 0, 0.5, data="d.jsonl")
    other = make_dpo(tmp_path / "b", 0, 0.6, data="d.jsonl", command="kto", named="kto")
    found = compare_groups(groups := groups_of(one, other))
    assert "gold" in shared_measures(groups)
    assert not [name for name in shared_measures(groups) if name.startswith("held-out")]
    why = f"{one}: Held-out accuracy, margin and loss are left out: {other} is a run of kto, which measures them"
    assert [notice for notice in found.notices if notice.startswith(why)]
    labels = [make_dpo(tmp_path / f"k{seed}", seed, 0.5, data="d.jsonl", command="kto", named="kto") for seed in (0, 1)]
    assert {"held-out accuracy", "held-out margin", "held-out loss"} <= {*shared_measures(groups_of(*labels))}


def test_seeds_that_hold_out_other_pairs_of_a_file_say_so(tmp_path: Path) -> None:
    groups = groups_of(*(make_dpo(tmp_path / str(seed), seed, 0.5, data="d.jsonl") for seed in (0, 1)))
    assert "held-out accuracy" in shared_measures(groups)
    assert "Each seed holds out different prompts of the data" in compare_groups(groups).tables[0].note


def test_reward_models_keep_the_interval_of_their_prompts(tmp_path: Path) -> None:
    paths = []
    for size, accuracy in (("s", 0.7), ("l", 0.8)):
        path = tmp_path / size
        write(path, "config.json", {"command": "reward-model", "data": "d.jsonl", "model": size, "seed": 0})
        measured = {"accuracy": accuracy, "accuracy_interval": [accuracy - 0.2, accuracy + 0.1], "prompts": 40}
        write(path, "evaluation.json", {**measured, "pairs": 90, "length_baseline": 0.6, "loss": 0.5})
        paths.append(path)
    found = compare_groups(groups_of(*paths))
    rows = {row[0]: row for row in found.tables[0].rows}
    assert rows["model l"][1] == Estimate(0.8, pytest.approx(0.6), pytest.approx(0.9))
    assert rows["model l"][-1] == "40 prompts of one seed"


# -- What is noted, and what is refused ----------------------------------------------------------------


def test_runs_that_are_not_finished_are_noted_and_count_in_no_mean(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / str(seed), seed, 0.5) for seed in (0, 1)]
    paths += [make_run(tmp_path / "2", 2, None, [1.0]), make_run(tmp_path / "3", 3, None, [1.0, 2.0])]
    write(paths[3], "stopped.json", {"iteration": 2, "reason": "training diverged"})
    (group,) = groups_of(*paths)
    found = compare_groups([group])
    assert f"{paths[2]}: Not finished: 1 iteration so far, and nothing was measured afterwards." in found.notices
    assert f"{paths[3]}: Stopped at iteration 2: training diverged." in found.notices
    assert found.tables[0].rows[0][-3:] == (2, 4, "2 seeds")


def test_of_nothing_but_unfinished_runs_only_curves_are_compared(tmp_path: Path) -> None:
    groups = groups_of(*(make_run(tmp_path / str(seed), seed, None, [1.0, 2.0]) for seed in (0, 1)))
    found = compare_groups(groups)
    assert found.headline == "2 runs in 1 group: none of them is finished."
    assert [figure.title for figure in found.figures] == ["Score by tokens"]


def test_where_rewards_differ_gold_is_compared_and_no_score(tmp_path: Path) -> None:
    groups = groups_of(
        make_run(tmp_path / "a", gold=0.4, curve=[1.0], reward="length"),
        make_run(tmp_path / "b", gold=0.6, curve=[9.0], reward="distinct"),
    )
    assert shared_measures(groups) == ["gold", "kl"]
    found = compare_groups(groups)
    assert found.headline.startswith("reward distinct has the highest gold")
    assert not [figure.title for figure in found.figures if "Score" in figure.title]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "textgym/Copy-v0"}, r"other prompts than .*task='textgym/Copy-v0'; there task='textgym/Emit-v0'"),
        ({"prompts": "mine.jsonl"}, r"other prompts than .*prompts='mine.jsonl'"),
        ({"command": "reward-model", "data": "p.jsonl"}, "other prompts"),
        (
            {"command": "pipeline"},
            r"is a run of 'pipeline'; compared are runs of train, .*, kto, distill, reward-model",
        ),
        ({"command": None}, r"compared are runs of"),
        ({}, r"have the same settings and the same seed, 0: one run done twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    config = json.loads((second / "config.json").read_text())
    write(second, "config.json", {**config, **change})
    with pytest.raises(ValueError, match=message):
        groups_of(first, second)


def test_where_rewards_differ_unfinished_runs_show_no_scores_either(tmp_path: Path) -> None:
    groups = groups_of(*(make_run(tmp_path / r, gold=None, curve=[1.0], reward=r) for r in ("length", "distinct")))
    assert compare_groups(groups).figures == ()


def test_other_rewards_without_gold_are_refused(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name, reward=f"{name}.py:r", task=None, prompts="p.jsonl") for name in "ab"]
    for path in paths:
        write(path, "evaluation.json", {stage: {"score": entry(1.0)} for stage in ("before", "after")})
    with pytest.raises(ValueError, match=r"rewards of these runs differ \(a.py:r; b.py:r\).* has no gold"):
        groups_of(*paths)


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    with pytest.raises(ValueError, match="1 run given; expected at least two"):
        read_runs([path])
    with pytest.raises(ValueError, match="is given twice"):
        read_runs([path, tmp_path / "b" / ".." / "a"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is not a run: it has no config.json"):
        read_runs([path, tmp_path / "empty"])
    (tmp_path / "empty" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json' is damaged"):
        read_runs([path, tmp_path / "empty"])


# -- The command -------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / f"a{seed}", seed, 0.5 + seed / 10, [0.1, 0.2 + seed]) for seed in (0, 1)]
    runs += [make_run(tmp_path / f"b{seed}", seed, 0.1, [0.1, 0.2], algorithm="<b>|=1") for seed in (0, 1)]
    out = tmp_path / "page"
    for _ in range(2):  # an earlier comparison is replaced
        main(["compare", *map(str, runs), "--out", str(out)])
    said = capsys.readouterr().out
    assert "ppo has the highest gold" in said
    assert re.search(r"ppo +0\.\d+ \(", said)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<b>|" not in page
    assert not re.search(r"https?:|@import|\bsrc=", page)
    assert "&lt;b&gt;\\|=1" in (out / "report.md").read_text(encoding="utf-8")
    tables = [list(csv.reader(path.read_text(encoding="utf-8").splitlines())) for path in sorted(out.glob("*.csv"))]
    groups = next(table for table in tables if table[0][0] == "group" and "runs" in table[0])
    assert [row[0] for row in groups[1:]] == ["ppo", "<b>|=1"]


@pytest.mark.parametrize(
    ("out", "message"), [("a/page", "lies in the run"), ("full", "is not a comparison"), ("file", "is a file")]
)
def test_the_page_takes_nobodys_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, message: str
) -> None:
    runs = [make_run(tmp_path / name, seed) for seed, name in enumerate("ab")]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as end:
        main(["compare", *map(str, runs), "--out", str(tmp_path / out)])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["compare", str(make_run(tmp_path / "a")), "nowhere", "--out", str(tmp_path / "page")])
    assert end.value.code == 2
    assert "'nowhere'" in capsys.readouterr().err
