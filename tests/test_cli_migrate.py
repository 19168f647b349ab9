"""``textgym migrate``: no setting is lost, and what is converted trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import save_byte_model, tiny_t5, word_tokenizer
from tests.rl4lms_files import NAMES, SUPERVISED, TABLES, nested, rl4lms_file
from textgym.cli import main, parse, with_yaml
from textgym.commands.configs.migrate import MigrateConfig
from textgym.commands.configs.sft import SFTConfig
from textgym.commands.migrate.command import as_yaml, convert
from textgym.commands.migrate.conversion import flat
from textgym.commands.migrate.rl4lms import convert_rl4lms
from textgym.commands.presets import preset_file
from textgym.commands.yaml_files import read_yaml


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["migrate", *argv])
    assert end.value.code == 2
    return capsys.readouterr().err


def write(name: str, tree: Any) -> str:
    Path(name).write_text(yaml.safe_dump(tree), "utf-8")
    return name


# --- RL4LMs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_hyperparameter_of_rl4lms_is_lost(name: str) -> None:
    """Every leaf of the file is accounted for with its value, once; what is converted is the preset."""
    tree = rl4lms_file(name)
    conversion = convert_rl4lms(tree, name)
    assert conversion.given == dict(flat(tree))
    assert sum(len(item.given) for item in conversion.items) == len(conversion.given)
    unknown = [item.given for item in conversion.of("none") if "does not know" in item.note]
    assert unknown == [], "a published setting is known"
    written = as_yaml(conversion, [name])
    assert yaml.safe_load(written) == conversion.settings == read_yaml(preset_file(f"rl4lms/{name}"))
    assert all(leaf in " ".join(written.split()) for leaf in conversion.given), "the list names it"


@pytest.mark.parametrize("task", TABLES)
def test_the_seven_tasks_have_their_ids(task: str) -> None:
    ids = {
        "imdb": "IMDB",
        "commongen": "CommonGen",
        "cnndm": "CNNDailyMail",
        "totto": "ToTTo",
        "narrativeqa": "NarrativeQA",
        "iwslt": "IWSLT2017",
        "dailydialog": "DailyDialog",
    }
    assert convert_rl4lms(rl4lms_file(f"{task}-ppo"), task).settings["task"] == f"textgym/{ids[task]}-v0"


def test_tokens_become_responses() -> None:
    """IMDB by hand: 10 × 128 = 1,280 tokens are 26.7 responses of 48; 64 are 1.3; 50 iterations are 64,000 tokens.

    0.1 nats a token are 4.8 a response. A controller that moves β by 0.1·0.2 an iteration has a horizon of ten
    iterations of 27 responses.
    """
    settings = convert_rl4lms(rl4lms_file("imdb-ppo"), "file").settings
    assert settings["episodes_per_iteration"] == 27
    assert settings["minibatch_size"] == 1
    assert settings["total_timesteps"] == 64_000
    assert settings["kl_target"] == 4.8
    assert settings["kl_horizon"] == 270


def test_the_controller_moves_as_that_of_rl4lms() -> None:
    from textgym.rewards.kl import AdaptiveKL

    settings = convert_rl4lms(rl4lms_file("totto-ppo"), "file").settings
    ours = AdaptiveKL(settings["beta"], settings["kl_target"], settings["kl_horizon"])
    theirs, target, length = 0.001, 2.0, 50
    for per_token in (0.1, 3.0, 2.1, 1.9):
        theirs *= 1 + 0.1 * min(max((per_token - target) / target, -0.2), 0.2)
        ours.update(per_token * length, settings["episodes_per_iteration"])
    assert ours.beta == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(
    ("reward", "spec"),
    [
        ({"id": "rouge", "args": {"rouge_type": "rougeLsum"}}, "rouge,kind=Lsum,stem=true"),
        ({"id": "sacre_bleu", "args": {"tokenize": "intl"}}, "sacrebleu,tokenize=intl"),
        ({"id": "chrf"}, "chrf"),
        (
            {"id": "learned_reward", "args": {"model_name": "mine", "label_ix": 3}},
            "clf:mine,label=LABEL_3,too_long=truncate",
        ),
        ({"id": "spider", "args": {"spice_coeff": 1.0}}, "FILE.py:function"),
        ({"id": "sentences_with_dates"}, r"regex:\d{4}-\d{2}-\d{2}"),
    ],
)
def test_rewards_by_name(reward: dict[str, Any], spec: str) -> None:
    tree = rl4lms_file("cnndm-ppo") | {"reward_fn": reward}
    conversion = convert_rl4lms(tree, "file")
    assert conversion.settings["reward"] == spec
    assert conversion.given == dict(flat(tree))


def test_what_is_not_as_usual_is_said() -> None:
    tree = rl4lms_file("commongen-nlpo")
    tree["datapool"]["args"]["prefix"] = "use: "
    tree["env"]["args"] |= {"priority_scale": 0.5, "terminate_on_eos": False, "prompt_truncation_side": "left"}
    tree["alg"]["policy"]["args"] |= {"mask_type": "learned_top_k", "top_mask": 50, "weight_decay": 0.1}
    tree["alg"]["policy"]["args"]["generation_kwargs"] |= {"max_new_tokens": 10, "repetition_penalty": 1.2}
    tree["alg"]["args"] |= {"gamma": 0.95, "clip_range": 0.1, "future": {"a": [1, {"b": 2}]}}
    conversion = convert_rl4lms(tree, "file")
    lost = {name for item in conversion.of("none") for name in item.given if "metrics" not in name}
    policy = "alg.policy.args"
    assert lost >= {
        *("datapool.args.prefix", "env.args.priority_scale", "env.args.terminate_on_eos", "alg.args.gamma"),
        *("env.args.prompt_truncation_side", f"{policy}.mask_type", f"{policy}.top_mask", f"{policy}.weight_decay"),
        *(f"{policy}.generation_kwargs.repetition_penalty", "alg.args.future.a[0]", "alg.args.future.a[1].b"),
    }
    assert conversion.given == dict(flat(tree))
    assert conversion.settings["max_new_tokens"] == 10, "the smaller of two lengths"
    assert conversion.settings["clip_range"] == 0.1
    assert "top_mask" not in conversion.settings


def test_a_number_that_yaml_reads_as_a_text_is_a_number() -> None:
    tree = rl4lms_file("imdb-ppo")
    tree["alg"]["args"]["learning_rate"] = "1e-5"
    assert convert_rl4lms(tree, "file").settings["learning_rate"] == 1e-5


def test_trpo_has_settings_of_its_own() -> None:
    tree = rl4lms_file("imdb-ppo")
    tree["alg"] |= {"id": "trpo", "args": {"n_steps": 96, "learning_rate": 1e-5}}
    settings = convert_rl4lms(tree, "file").settings
    assert (settings["target_kl"], settings["cg_steps"], settings["cg_damping"]) == (0.01, 15, 0.1)
    assert (settings["n_epochs"], settings["minibatch_size"]) == (10, 3), "10 critic updates of 128 tokens"


def test_supervised_files_are_for_sft(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = nested(SUPERVISED)
    main(["migrate", "rl4lms", write("t5.yml", tree), "--out", "sft.yaml"])
    assert "next:    textgym sft --config sft.yaml --out runs/NAME" in capsys.readouterr().out
    config = parse(with_yaml(["sft", "--config", "sft.yaml", "--out", "run"]))
    assert isinstance(config, SFTConfig)
    assert (config.task, config.model, config.max_new_tokens) == ("textgym/CommonGen-v0", "t5-base", 20)
    assert (config.settings.epochs, config.settings.batch_size, config.settings.learning_rate) == (4, 8, 1e-5)
    assert convert(MigrateConfig("rl4lms", Path("t5.yml"))).given == dict(flat(tree))


@pytest.mark.parametrize("name", ["imdb-nlpo", "commongen-ppo", "imdb-a2c"])
def test_a_converted_file_trains(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As converted, but for the task, its data, the model and the size of the run."""
    main(["migrate", "rl4lms", write("file.yml", rl4lms_file(name)), "--out", "run.yaml"])
    assert "Converted, with another meaning" in capsys.readouterr().out
    if name == "commongen-ppo":
        tokenizer = word_tokenizer()
        tokenizer.save_pretrained("model")
        tiny_t5(len(tokenizer)).save_pretrained("model")
    else:
        save_byte_model(Path("model"))
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": f"w{i} w3"}) + "\n" for i in range(4)), "utf-8")
    settings = read_yaml("run.yaml")
    del settings["task"]
    settings.pop("parameters", None)
    tiny = {"model": "model", "prompts": "prompts.jsonl", "reward": "length", "total_timesteps": 17, "eval_episodes": 2}
    size = {"max_new_tokens": 4, "min_new_tokens": 2, "episodes_per_iteration": 4, "minibatch_size": 2}
    write("tiny.yaml", {**settings, **tiny, **size})
    main(["train", "--config", "tiny.yaml", "--out", "run"])
    kept = json.loads(Path("run/config.json").read_text("utf-8"))
    assert kept["hyperparameters"]["kl_target"] == settings["kl_target"]
    assert kept["kl_horizon"] == settings["kl_horizon"]
    state = json.loads(Path("run/checkpoint/training/state.json").read_text("utf-8"))
    assert settings["kl_horizon"] in [value for _, value in flat(state)], "the controller has it"


# --- TRL -------------------------------------------------------------------------------------------------------

EARLIER = """
from dataclasses import dataclass, field
from trl import PPOConfig, PPOTrainer

raise SystemExit("it was executed")


@dataclass
class ScriptArguments:
    learning_rate: float = field(default=1.41e-5, metadata={"help": "the rate"})
    mini_batch_size: int = 16


parser.add_argument("--init-kl-coef", "-k", type=float, default=0.3)
args = parser.parse_args()
NAME = "lvwerra/gpt2-imdb"
config = PPOConfig(
    model_name=NAME, learning_rate=args.learning_rate, batch_size=128, mini_batch_size=args.mini_batch_size,
    gradient_accumulation_steps=2, ppo_epochs=3, init_kl_coef=args.init_kl_coef, target=4, horizon=5000, gamma=1,
    lam=0.9, cliprange=0.1, cliprange_value=0.3, vf_coef=0.2, steps=1000, early_stopping=True, target_kl=0.5,
    seed=int(7), log_with="wandb", score_clip=3.0, kl_penalty="full", tracker_project_name="trl",
)
kwargs = {"min_length": -1, "top_k": 0.0, "top_p": 0.9, "do_sample": True, "pad_token_id": tokenizer.eos_token_id}
ppo_trainer = PPOTrainer(config, model, dataset=dataset)
ppo_trainer.generate(query, max_new_tokens=20, **kwargs)
tokenizer.generate(other=1)
"""
LATER = {
    "learning_rate": "3e-6",
    "output_dir": "runs/tldr",
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 4,
    "num_mini_batches": 2,
    "num_ppo_epochs": 3,
    "total_episodes": 1000,
    "response_length": 53,
    "stop_token": "eos",
    "missing_eos_penalty": 1.0,
    "kl_coef": 0.07,
    "kl_estimator": "k3",
    "cliprange": 0.1,
    "cliprange_value": 0.3,
    "vf_coef": 0.2,
    "lam": 0.9,
    "gamma": 1.0,
    "temperature": 0.9,
    "sft_model_path": "my/sft",
    "reward_model_path": "my/reward",
    "model_name_or_path": "base",
    "bf16": True,
    "eval_strategy": "steps",
    "eval_steps": 100,
    "save_steps": 50,
    "seed": 3,
    "dataset_name": "trl-lib/tldr",
    "whiten_rewards": False,
    "report_to": ["wandb"],
    "lr_scheduler_type": "cosine",
    "nonsense": None,
}


def test_a_script_of_trl_is_read_and_not_executed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("ppo.py").write_text(EARLIER, "utf-8")
    conversion = convert(MigrateConfig("trl-ppo", Path("ppo.py")))
    expected = {
        "model": "lvwerra/gpt2-imdb",
        "learning_rate": 1.41e-5,
        "episodes_per_iteration": 128,
        "minibatch_size": 32,
        "n_epochs": 3,
        "beta": 0.3,
        "kl_target": 4.0,
        "kl_horizon": 5000.0,
        "gae_lambda": 0.9,
        "clip_range": 0.1,
        "clip_range_vf": 0.3,
        "vf_coef": 0.2,
        "target_kl": 0.5,
        "log": ["wandb"],
        "total_timesteps": 20_000,
        "max_new_tokens": 20,
        "top_k": 0,
        "top_p": 0.9,
        "max_grad_norm": 1e6,
        "warmup_iterations": 0,
        "seed": 0,
        "value": "trunk",
        "algorithm": "ppo",
        "reward": "FILE.py:function",
    }
    assert conversion.settings == expected
    lost = {name for item in conversion.of("none") for name in item.given}
    assert lost == {"seed", "score_clip", "kl_penalty"}
    assert conversion.given["seed"] == "int(7)", "an expression is quoted"
    assert conversion.given["PPOTrainer.dataset"] == "dataset"
    assert len(conversion.given) == 22 + 6 + 1, "keywords of PPOConfig, of generate, and of PPOTrainer"
    main(["migrate", "trl-ppo", "ppo.py"])
    assert yaml.safe_load(capsys.readouterr().out) == expected


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_later_names_of_trl(suffix: str, place: Path) -> None:
    Path(f"ppo{suffix}").write_text(json.dumps(LATER) if suffix == ".json" else yaml.safe_dump(LATER), "utf-8")
    conversion = convert(MigrateConfig("trl-ppo", Path(f"ppo{suffix}")))
    assert conversion.settings == {
        "model": "my/sft",
        "reward": "rm:my/reward",
        "value": "my/reward",
        "algorithm": "ppo",
        "out": "runs/tldr",
        "learning_rate": 3e-6,
        "episodes_per_iteration": 64,
        "minibatch_size": 32,
        "n_epochs": 3,
        "beta": 0.07,
        "total_timesteps": 53_000,
        "max_new_tokens": 53,
        "missing_end_score": -1.0,
        "temperature": 0.9,
        "clip_range": 0.1,
        "clip_range_vf": 0.3,
        "vf_coef": 0.2,
        "gae_lambda": 0.9,
        "max_grad_norm": 1e6,
        "eval_every": 100,
        "checkpoint_every": 50,
        "seed": 3,
        "log": ["wandb"],
        "target_kl": 0.0,
        "warmup_iterations": 0,
    }
    lost = {name for item in conversion.of("none") for name in item.given}
    assert lost == {"kl_estimator", "bf16", "dataset_name", "lr_scheduler_type", "nonsense"}
    assert conversion.given == LATER


def test_a_script_that_leaves_all_to_its_command_line_has_the_defaults_of_trl(place: Path) -> None:
    Path("ppo.py").write_text("parser = HfArgumentParser((ScriptArguments, PPOConfig, ModelConfig))\n", "utf-8")
    settings = convert(MigrateConfig("trl-ppo", Path("ppo.py"))).settings
    assert (settings["beta"], settings["learning_rate"], settings["temperature"]) == (0.05, 5e-5, 0.7)
    assert (settings["max_new_tokens"], settings["episodes_per_iteration"], settings["n_epochs"]) == (53, 8, 4)


def test_a_converted_script_trains(place: Path) -> None:
    Path("ppo.py").write_text(EARLIER, "utf-8")
    main(["migrate", "trl-ppo", "ppo.py", "--out", "run.yaml"])
    save_byte_model(Path("model"))
    Path("prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n', "utf-8")
    tiny = (
        "--model model --prompts prompts.jsonl --reward length --total-timesteps 9 --max-new-tokens 4 --eval-episodes 2"
    )
    smaller = f"{tiny} --episodes-per-iteration 4 --minibatch-size 2 --out run".split()
    settings = {name: value for name, value in read_yaml("run.yaml").items() if name != "log"}
    main(["train", "--config", write("quiet.yaml", settings), *smaller])
    assert json.loads(Path("run/config.json").read_text("utf-8"))["kl_horizon"] == 5000


# --- bad input -------------------------------------------------------------------------------------------------


def test_what_is_no_file_of_rl4lms(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = rl4lms_file("imdb-ppo")
    assert "no file of RL4LMs: expected the sections tokenizer" in refused(
        capsys, "rl4lms", write("a.yml", {"beta": 1})
    )
    part = {name: tree[name] for name in ("tokenizer", "datapool", "alg")}
    assert "lacks reward_fn, env, train_evaluation" in refused(capsys, "rl4lms", write("a.yml", part))
    nameless = {**tree, "alg": {"args": {}}}
    assert "lacks alg.id" in refused(capsys, "rl4lms", write("a.yml", nameless))
    more = {**tree, "reward_func": {}}
    assert "'reward_func' is unknown; did you mean 'reward_fn'?" in refused(capsys, "rl4lms", write("a.yml", more))
    assert "'env' is 3; expected a mapping" in refused(capsys, "rl4lms", write("a.yml", {**tree, "env": 3}))
    dqn = {**tree, "alg": {**tree["alg"], "id": "pp0"}}
    assert "alg.id='pp0'; expected one of ppo" in refused(capsys, "rl4lms", write("a.yml", dqn))
    many = {**tree, "alg": {**tree["alg"], "args": {"n_steps": "many"}}}
    assert "a.yml: alg.args.n_steps='many'; expected a whole number" in refused(capsys, "rl4lms", write("a.yml", many))
    low = {**tree, "alg": {**tree["alg"], "args": {"learning_rate": -1}}}
    assert "learning_rate=-1" in refused(capsys, "rl4lms", write("a.yml", low))
    Path("a.yml").write_text("[1", "utf-8")
    assert "is not YAML" in refused(capsys, "rl4lms", "a.yml")
    assert "file='nowhere.yml': no such file" in refused(capsys, "rl4lms", "nowhere.yml")


def test_scripts_that_cannot_be_read(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, said in (
        ("def f(:\n", "is not a Python script that can be read"),
        ("import trl\n", "has no PPOConfig(…)"),
        ("a = PPOConfig(seed=1)\nb = trl.PPOConfig(seed=2)\n", "calls PPOConfig 2 times, in lines 1, 2"),
        ("PPOConfig(seed=-1, ppo_epochs=2)", "seed=-1; expected a whole number"),
    ):
        Path("a.py").write_text(text, "utf-8")
        assert said in refused(capsys, "trl-ppo", "a.py")
    Path("a.txt").write_text("x")
    assert "expected a script, .py, or settings in .yaml" in refused(capsys, "trl-ppo", "a.txt")
    assert "holds no setting of TRL's PPOConfig" in refused(capsys, "trl-ppo", write("a.yaml", {"beta": 1}))
    Path("a.json").write_text("[1]")
    assert "expected a mapping of settings, got list" in refused(capsys, "trl-ppo", "a.json")


def test_nothing_is_overwritten(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("a.yml", rl4lms_file("imdb-ppo"))
    Path("mine.yaml").write_text("mine")
    assert "out='mine.yaml' exists" in refused(capsys, "rl4lms", "a.yml", "--out", "mine.yaml")
    assert Path("mine.yaml").read_text() == "mine"
    assert "there is no directory 'no'" in refused(capsys, "rl4lms", "a.yml", "--out", "no/a.yaml")


def test_names_and_values_of_others_stay_in_comments(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line break in a value must not begin a setting."""
    tree = rl4lms_file("imdb-ppo")
    tree["alg"]["args"] |= {"x\nseed: 7\u2028y": "a\nbeta: 9\x85\x1b[2J", "z": [1, "b\u2028seed: 8"]}
    tree["alg"]["policy"]["args"]["model_name"] = "m\nseed: 9"
    main(["migrate", "rl4lms", write("a.yml", tree)])
    out = capsys.readouterr().out
    read = yaml.safe_load(out)
    assert read == {**read_yaml(preset_file("rl4lms/imdb-ppo")), "model": "m\nseed: 9"}
    assert "\x1b" not in out
