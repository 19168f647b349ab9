"""The commands from the outside: what a user types, what stands on disk afterwards, and what bad input says."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields, is_dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from transformers import GPT2Config, GPT2ForSequenceClassification

from tests.helpers import tiny_gpt2, word_tokenizer
from textgym import cli
from textgym.cli import COMMANDS, main
from textgym.commands.configs.train import TrainConfig
from textgym.commands.train import described
from textgym.tasks.mini.miniature import BASE_MODEL

REWARD = '''
import asyncio
from pathlib import Path


def sevens(completions, **kwargs):
    """As TRL has it: texts in, floats out."""
    return [float(text.split().count("w5")) for text in completions]


async def later(completion_ids, **kwargs):
    await asyncio.sleep(0)
    return [float(len(ids)) for ids in completion_ids]


def breaks(completions, **kwargs):
    return [1.0 / len([w for w in text.split() if w == "nowhere"]) for text in completions]


def too_few(completions, **kwargs):
    return [0.0]


def not_a_number(completions, **kwargs):
    return [float("nan") for _ in completions]


def words(completions, **kwargs):
    return ["good" for _ in completions]


CALLS = 0


def fused(completions, **kwargs):
    global CALLS
    CALLS += 1
    if CALLS > 6 and Path("fuse").exists():
        raise RuntimeError("the fuse blew")
    return [float(text.split().count("w5")) for text in completions]


def leaves(completions, **kwargs):
    raise SystemExit(0)

def hangs(completions, **kwargs):
    import time
    time.sleep(1)
    return [0.0 for _ in completions]

def graded(completions, answer, **kwargs):
    return [0.0 for _ in completions]

def breaks_later(completions, **kwargs):
    global CALLS
    CALLS += 1
    if CALLS > 40:
        raise RuntimeError("the service is down")
    return [0.0 for _ in completions]
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's folder: a model with its tokenizer, prompts, and a file of rewards."""
    monkeypatch.chdir(tmp_path)
    tiny_gpt2().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    prompts = [{"prompt": f"w{i} w{i + 1}"} for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(json.dumps(row) for row in prompts))
    (tmp_path / "rewards.py").write_text(REWARD)
    return tmp_path


TRAIN = [
    *("train", "--model", "model", "--prompts", "prompts.jsonl", "--max-new-tokens", "6", "--eval-episodes", "8"),
    *("--episodes-per-iteration", "8", "--minibatch-size", "4", "--checkpoint-every", "1"),
]


def train(*flags: str, reward: str = "rewards.py:sevens", tokens: int = 150, out: str = "run") -> None:
    main([*TRAIN, "--reward", reward, "--total-timesteps", str(tokens), "--out", out, *flags])


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must end with a message; the message."""
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code in (1, 2)
    return re.sub(r"\s+", " ", capsys.readouterr().err)


class Page(HTMLParser):
    """What a report loads, and which tags it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href") and value]


def test_demo_from_start_to_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    main(["demo", "--tiny", "--out", str(out)])
    printed = capsys.readouterr().out
    for name in ("score", "gold", "kl", "grammatical", "length"):
        assert re.search(rf"^{name} +-?\d+\.\d+ ± \d+\.\d+ +-?\d+\.\d+ ± \d+\.\d+", printed, re.MULTILINE), name
    for number, stage in enumerate(("sft", "labels 1", "reward model 1", "policy 1"), start=1):
        assert re.search(rf"^{number}/4 {stage}: .* s\)$", printed, re.MULTILINE), stage
    assert printed.count("before (") == 3

    policy = out / "iteration-1" / "policy"
    evaluation = json.loads((policy / "evaluation.json").read_text())
    assert evaluation["before"]["kl"]["mean"] == pytest.approx(0, abs=1e-6)  # the policy begins as the reference
    assert evaluation["after"]["kl"]["mean"] > 0
    assert re.search(r"RewardModel\(model=\w+#[0-9a-f]{8}", evaluation["reward"]), "what was paid, with its weights"
    metrics = [json.loads(line) for line in (policy / "metrics.jsonl").read_text().splitlines()]
    assert [row["iteration"] for row in metrics] == list(range(1, len(metrics) + 1))
    assert all(row["train/first_minibatch_ratio_error"] < 1e-4 for row in metrics)

    page = (out / "report.html").read_text()
    parsed = Page(page)
    assert "svg" in parsed.tags  # curves
    linked = [load for load in parsed.loads if not load.startswith(("#", "data:"))]
    assert all((out / link).is_file() for link in linked)  # self-contained, but for the pages of the stages
    sample = json.loads((policy / "samples.jsonl").read_text().splitlines()[0])
    assert sample["prompt"].split('"')[0].strip() in page
    assert (out / "iteration-1" / "reward_model" / "checkpoint" / "model.safetensors").is_file()
    assert (policy / "checkpoint" / "model.safetensors").is_file()


def test_train_and_generate_with_ones_own_things(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("--kl-target", "2")
    assert "before" in capsys.readouterr().out
    assert (place / "run" / "report.html").is_file()
    main(["generate", "--model", "run", "--prompt", "w1 w2", "--samples", "3", "--max-new-tokens", "4"])
    assert capsys.readouterr().out.count("w1 w2") == 3
    main(["generate", "--model", "run", "--prompts", "prompts.jsonl", "--out", "texts.jsonl"])
    rows = [json.loads(line) for line in (place / "texts.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [f"w{i} w{i + 1}" for i in range(6)]


def test_generate_repeats_with_its_seed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("0", "0", "1"):
        main(["generate", "--model", "model", "--prompt", "w1", "--samples", "8", "--seed", seed])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_async_reward_and_weights(place: Path) -> None:
    train(reward="rewards.py:later,0.5 rewards.py:sevens length,0.0")
    rows = [json.loads(line) for line in (place / "run" / "samples.jsonl").read_text().splitlines()]
    assert rows
    for row in rows:
        assert row["score"] == pytest.approx(0.5 * row["later"] + row["sevens"])
        assert row["length"] == len(row["completion"].split())


def test_task_with_gold_reward(tmp_path: Path) -> None:
    out = tmp_path / "run"
    flags = ["--total-timesteps", "200", "--eval-episodes", "8", "--episodes-per-iteration", "8"]
    main(["train", "--task", "textgym/Reviews-v0", "--minibatch-size", "8", *flags, "--out", str(out)])
    after = json.loads((out / "evaluation.json").read_text())["after"]
    assert after["score"] == pytest.approx(after["gold"])
    assert "grammatical" in after


def test_yaml_settings_and_flags_that_win(place: Path) -> None:
    (place / "settings.yaml").write_text(
        "model: model\nprompts: prompts.jsonl\nreward: rewards.py:sevens\nmax_new_tokens: 6\nseed: 3\n"
        "total_timesteps: 60\neval_episodes: 8\nepisodes_per_iteration: 8\nminibatch_size: 4\nbeta: 0.2\n"
    )
    main(["train", "--config", "settings.yaml", "--seed", "4", "--out", "run"])
    config = json.loads((place / "run" / "config.json").read_text())
    assert config["seed"] == 4
    assert config["hyperparameters"]["beta"] == 0.2


PARTS = ("sft", "labels", "reward_model", "train", "page")  # of settings that YAML nests


def booleans(kind: Any, part: str = "") -> list[str]:
    """Every setting of a command that is True or False; after its part's name and a dot."""
    hints = get_type_hints(kind)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    inner = [
        found for name, hint in groups.items() for found in booleans(hint, f"{part}{name}." if name in PARTS else part)
    ]
    return inner + [part + name for name, hint in hints.items() if hint is bool]


OF_GRPO = [("train", "scale_by_std"), ("pipeline", "train.scale_by_std")]
FIXED = [("distill", "kl_in_loss")]
"""Settings of a config that are no setting of its command."""
FLAGS = {("distill", "reference"): "teacher"}
"""Settings whose name in a file and on the command line is another than the config's."""
BOOLEANS = [
    (command, name)
    for command, (kind, _) in COMMANDS.items()
    for name in booleans(kind)
    if (command, name) not in FIXED
] + OF_GRPO


def setting(config: Any, name: str) -> Any:
    """Return a setting wherever it stands in a command's configuration."""
    *parts, name = name.split(".")
    for part in parts:
        config = getattr(config, part)
    if hasattr(config, name):
        return getattr(config, name)
    (inner,) = (value for value in vars(config).values() if is_dataclass(value) and hasattr(value, name))
    return getattr(inner, name)


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(("command", "name"), BOOLEANS)
def test_every_boolean_in_yaml(
    command: str, name: str, value: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    kind, _ = COMMANDS[command]
    monkeypatch.setattr(cli, "check_early", lambda _: None)
    monkeypatch.setattr(cli, "run_command", seen.append)
    required = [
        FLAGS.get((command, f.name), f.name)
        for f in fields(kind)
        if f.default is MISSING and f.default_factory is MISSING
    ]
    *parts, last = name.split(".")
    given: dict[str, Any] = {last: value, **({"algorithm": "grpo"} if (command, name) in OF_GRPO else {})}
    for part in reversed(parts):
        given = {part: given}
    settings = {**given, **dict.fromkeys(required, "something")}
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
    main([command, "--config", str(tmp_path / "settings.yaml")])
    assert setting(seen[0], name) is value


def test_the_booleans_of_algorithms_are_among_them() -> None:
    assert {("train", "kl_in_loss"), ("train", "resume")} <= set(BOOLEANS)
    assert {("pipeline", "train.kl_in_loss"), ("pipeline", "sft.enabled"), ("pipeline", "resume")} <= set(BOOLEANS)


def test_train_goes_on_from_a_runs_model(place: Path) -> None:
    train(tokens=50)
    flags = [flag if flag != "model" else "run" for flag in TRAIN]
    main([*flags, "--reward", "rewards.py:sevens", "--total-timesteps", "50", "--out", "next"])
    config = json.loads((place / "next" / "config.json").read_text())
    assert config["model"] == "run/checkpoint"


def test_resume_ends_as_an_uninterrupted_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(out="whole", tokens=400, reward="rewards.py:fused")
    (place / "fuse").touch()
    flags = ["--reward", "rewards.py:fused", "--total-timesteps", "400", "--out", "parts"]
    assert "the fuse blew" in fails(capsys, *TRAIN, *flags)
    (place / "fuse").unlink()
    assert "other settings" in fails(capsys, *TRAIN, "--reward", "length", "--out", "parts", "--resume")
    with (place / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 99}\n')  # of an iteration that no checkpoint saw
    train("--resume", out="parts", tokens=400, reward="rewards.py:fused")

    def result(name: str) -> tuple[bytes, str, list[int]]:
        out = place / name
        lines = (out / "metrics.jsonl").read_text().splitlines()
        weights = (out / "checkpoint" / "model.safetensors").read_bytes()
        return weights, (out / "evaluation.json").read_text(), [json.loads(line)["iteration"] for line in lines]

    assert result("parts") == result("whole")


def test_resume_says_what_it_finds(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("--resume", tokens=50)
    assert "there is no run in 'run', so the run starts from the beginning" in capsys.readouterr().out
    flags = ["--reward", "rewards.py:sevens", "--total-timesteps", "50", "--out", "run", "--resume"]
    said = fails(capsys, *TRAIN, *flags, "--beta", "0.3")
    assert "other settings (beta: 0.05 there, 0.3 here)" in said


def test_run_directory_is_not_overwritten_unasked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tokens=50)
    marker = (place / "run" / "metrics.jsonl").read_text()
    flags = ["--reward", "rewards.py:sevens", "--total-timesteps", "50"]
    assert "--overwrite" in fails(capsys, *TRAIN, *flags, "--out", "run")
    assert (place / "run" / "metrics.jsonl").read_text() == marker
    (place / "mine").mkdir()
    (place / "mine" / "thesis.txt").write_text("years of work")
    for foreign, kept in (("mine", "thesis.txt"), ("model", "model.safetensors")):
        assert "not a run" in fails(capsys, *TRAIN, *flags, "--out", foreign, "--overwrite")
        assert (place / foreign / kept).is_file()


@pytest.mark.parametrize(
    ("flags", "inside"),
    [
        (("train", "--model", "run", "--prompts", "prompts.jsonl", "--reward", "rewards.py:sevens"), "run/checkpoint"),
        ((*TRAIN, "--reward", "run/rewards.py:sevens,0.5"), "run/rewards.py"),
        ((*TRAIN, "--reward", "rm:run/judge,2"), "run/judge"),
        (("sft", "--model", "run/checkpoint", "--data", "data.jsonl"), "run/checkpoint"),
        (("dpo", "--model", "model", "--data", "run/pairs.jsonl"), "run/pairs.jsonl"),
        (("kto", "--model", "model", "--data", "run/pairs.jsonl"), "run/pairs.jsonl"),
        (("reward-model", "--model", "model", "--data", "run/../run/pairs.jsonl"), "run/../run/pairs.jsonl"),
    ],
)
def test_a_run_is_not_overwritten_while_it_holds_what_the_next_one_reads(
    place: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], inside: str
) -> None:
    train(tokens=50)
    (place / "run" / "judge").mkdir()
    (place / "run" / "pairs.jsonl").write_text("{}")
    (place / "data.jsonl").write_text("{}")
    (place / "run" / "rewards.py").write_text((place / "rewards.py").read_text())
    files = sorted(place.rglob("*"))
    said = fails(capsys, *flags, "--out", "run", "--overwrite")
    assert f"{inside!r} lies in out='run', which --overwrite removes" in said
    assert sorted(place.rglob("*")) == files


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompts", "missing.jsonl"], "missing.jsonl"),
        (["--prompts", "empty.jsonl"], "empty"),
        (["--prompts", "torn.jsonl"], "torn.jsonl, line 2"),
        (["--max-prompt-length", "1"], "2 tokens"),
        (["--model", "bare"], "no tokenizer"),
        (["--model", "/nowhere/at/all"], "'/nowhere/at/all': no such directory"),
        (["--model", "narrow"], "16 tokens, the model embeds 8"),
        (["--max-new-tokens", "80"], "context of 64"),
        (["--task", "textgym/Revues-v0"], "Reviews-v0"),
        (["--reward", "lenght"], "'length'"),
        (["--reward", "rewards.py:seven"], "sevens"),
        (["--reward", "rm:nowhere"], "nowhere"),
        (["--reward", "clf:nowhere,label=good"], "nowhere"),
        (["--reward", "rm:model,too_lang=error"], "did you mean 'too_long'"),
        (["--reward", "rewards.py:graded"], "'graded' requires 'answer', which the data does not have"),
        (["--reward-timeout", "0"], "reward_timeout=0.0; expected a finite number, more than 0"),
        (["--algorithm", "pppo"], "'ppo'"),
        (["--algorithm", "xyz"], "algorithm='xyz' is unknown; Known: ppo"),
        (["--algorithm", "dpo"], "algorithm='dpo' is a command of its own, which learns from data: textgym dpo"),
        (["--algorithm", "ipo"], "textgym dpo --loss ipo"),
        (["--algorithm", "kto"], "textgym kto"),
        (["--temperature", "0"], "temperature"),
        (["--minibatch-size", "9"], "minibatch_size=9"),
        (["--max-new-tokens", "0"], "max_new_tokens=0"),
        (["--eval-episodes", "0"], "eval_episodes=0"),
        (["--checkpoint-every", "0"], "checkpoint_every=0"),
        (["--seed", "-1"], "seed=-1"),
        (["--max-grad-norm", "-1"], "max_grad_norm=-1"),
    ],
)
def test_bad_input_stops_before_anything_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    (place / "empty.jsonl").write_text("")
    (place / "torn.jsonl").write_text('{"prompt": "w1"}\n{"prompt": "w\n')
    tiny_gpt2().save_pretrained(place / "bare")
    tiny_gpt2(vocabulary_size=8).save_pretrained(place / "narrow")
    word_tokenizer().save_pretrained(place / "narrow")
    base = [*TRAIN, "--reward", "rewards.py:sevens", "--out", "run"]
    assert message in fails(capsys, *base, *flags)
    assert not (place / "run").exists()


def test_a_foreign_vocabulary_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "train", "--task", "Emit", "--model", str(BASE_MODEL), "--out", "run")
    assert re.search(r"a vocabulary of \d+ tokens, which is not that of task Emit, of \d+ tokens", said)


def test_truncated_weights_are_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = place / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    said = fails(capsys, *TRAIN, "--reward", "rewards.py:sevens", "--out", "run")
    assert "cannot be loaded" in said
    assert not (place / "run").exists()


def test_damaged_checkpoint_is_named_on_resume(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tokens=50)
    weights = place / "run" / "checkpoint" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    flags = ["--reward", "rewards.py:sevens", "--total-timesteps", "50", "--out", "run", "--resume"]
    assert "model.safetensors is damaged" in fails(capsys, *TRAIN, *flags)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ("breaks", "division by zero"),
        ("too_few", "1"),
        ("not_a_number", "nan"),
        ("words", "good"),
        ("leaves", "Exit: 0"),
    ],
)
def test_wrong_rewards_stop_the_run(place: Path, capsys: pytest.CaptureFixture[str], reward: str, message: str) -> None:
    said = fails(capsys, *TRAIN, "--reward", f"rewards.py:{reward}", "--out", "run")
    assert message in said
    assert reward in said


def test_a_reward_that_takes_too_long_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, *TRAIN, "--reward", "rewards.py:hangs", "--reward-timeout", "0.1", "--out", "run")
    assert "error: reward 'hangs' took longer than its time limit of 0.1 seconds on 8 completions" in said
    assert re.search(r"prompt: 'w\d w\d'", said)
    assert "Traceback" not in said
    # A run may go on with another limit.
    assert described(TrainConfig(Path("run"), reward_timeout=60)) == described(TrainConfig(Path("run")))


def test_a_classifier_is_a_reward_by_its_label(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = GPT2Config(vocab_size=16, n_embd=32, n_layer=1, n_head=2, n_positions=64, pad_token_id=0)
    config.id2label = {0: "NEGATIVE", 1: "POSITIVE"}
    GPT2ForSequenceClassification(config).save_pretrained("judge")
    word_tokenizer().save_pretrained("judge")
    said = fails(capsys, *TRAIN, "--reward", "rm:judge", "--out", "run")
    assert "NEGATIVE, POSITIVE. Name the label that is rewarded: clf:judge,label=POSITIVE" in said
    assert "labels are: NEGATIVE, POSITIVE" in fails(capsys, *TRAIN, "--reward", "clf:judge,label=GOOD", "--out", "run")
    assert "labels are: NEGATIVE, POSITIVE" in fails(capsys, *TRAIN, "--reward", "clf:judge", "--out", "run")
    assert not Path("run").exists()
    train(reward="clf:judge,label=POSITIVE clf:judge,label=NEGATIVE,-0.5,score=logit", tokens=40)
    measured = json.loads(Path("run/evaluation.json").read_text())["after"]
    p, odds = measured["POSITIVE"]["mean"], measured["NEGATIVE"]["mean"]
    assert 0 < p < 1
    assert measured["score"]["mean"] == pytest.approx(p - 0.5 * odds, abs=1e-5)


def test_a_reward_that_breaks_later_leaves_the_last_checkpoint(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, *TRAIN, "--reward", "rewards.py:breaks_later", "--total-timesteps", "5000", "--out", "run")
    assert "the service is down" in said
    assert re.search(r"prompt[^\n]*w\d w\d", said)
    main(["generate", "--model", "run", "--prompt", "w1"])


def test_generate_without_prompts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--prompt" in fails(capsys, "generate", "--model", "model")


def test_help_explains_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("demo", "pipeline", "train", "generate"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
    assert "Published: 0.95" in re.sub(r"\s+", " ", capsys.readouterr().out)
