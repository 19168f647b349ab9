"""Model directories that somebody else made: none of their code runs, and no pickle is opened."""

from __future__ import annotations

import ast
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel

from tests.helpers import tiny_gpt2, word_tokenizer
from textgym.lm.files.adapters import read_tensors
from textgym.lm.files.loading import load_causal_lm, load_lm, names_encoder_decoder
from textgym.lm.parts.lora import add_lora, save_pretrained
from textgym.rewards.models.model import RewardModel
from textgym.tasks.jsonl import jsonl_task
from textgym.tokenization import load_tokenizer

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("textgym", "agents", "rewards", "benchmarks", "scripts")
    for path in (ROOT / folder).rglob("*.py")
)
Open = Callable[[Path], object]


def open_task(directory: Path) -> object:
    """Return a task of three prompts, whose tokenizer and end tokens are the model's."""
    prompts = directory.parent / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "w{i}"}}\n' for i in range(3)))
    return jsonl_task(prompts, model=directory, gold=print, description="Words.")


class _Mark:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture
def ran(tmp_path: Path) -> Iterator[Path]:
    """Return the file that planted code would leave, and checks that it does not stand there afterwards."""
    mark = tmp_path / "RAN"
    yield mark
    assert not mark.exists()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return a whole language model with its tokenizer."""
    tiny_gpt2().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def plant(path: Path, ran: Path) -> None:
    torch.save({"w": _Mark(ran)}, path)
    assert b"touch" in path.read_bytes()


def as_classifier(directory: Path) -> None:
    change(directory / "config.json", architectures=["GPT2ForSequenceClassification"], id2label={"0": "r"})


# --- every door is shut -------------------------------------------------------------------------------------------


def test_no_call_trusts_code_or_takes_pickles() -> None:
    """Every from_pretrained says trust_remote_code=False; one of weights says use_safetensors=True as well."""
    found = 0
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr != "from_pretrained" or ast.unparse(call.func.value) == "PeftConfig":  # a JSON file
                continue
            found += 1
            words = {word.arg: word.value for word in call.keywords}
            said = words.get("trust_remote_code")
            assert isinstance(said, ast.Constant), f"{path}:{call.lineno}"
            assert said.value is False
            if not any(kind in ast.unparse(call.func.value) for kind in ("Tokenizer", "Config")):
                assert ast.unparse(words["use_safetensors"]) == "True", f"{path}:{call.lineno}"
    assert found >= 9


UNPICKLES = {"torch.load", "pickle.load", "pickle.loads", "joblib.load", "dill.load", "yaml.load", "yaml.unsafe_load"}


def test_nothing_unpickles() -> None:
    for path in SOURCES:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                assert ast.unparse(call.func) not in UNPICKLES, f"{path}:{call.lineno}"
                assert "allow_pickle=True" not in ast.unparse(call), f"{path}:{call.lineno}"


# --- pickles ------------------------------------------------------------------------------------------------------


def lone_pickle(directory: Path, ran: Path) -> None:
    (directory / "model.safetensors").unlink()
    plant(directory / "pytorch_model.bin", ran)


def sharded_pickle(directory: Path, ran: Path) -> None:
    (directory / "model.safetensors").unlink()
    plant(directory / "pytorch_model-00001-of-00001.bin", ran)
    names = dict.fromkeys(tiny_gpt2().state_dict(), "pytorch_model-00001-of-00001.bin")
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def index_of_pickles(directory: Path, ran: Path) -> None:
    """The index is that of safetensors, and what it names is none."""
    sharded_pickle(directory, ran)
    (directory / "pytorch_model.bin.index.json").rename(directory / "model.safetensors.index.json")


def named_by_the_config(directory: Path, ran: Path) -> None:
    """transformers opens this one name though it is no safetensors file."""
    plant(directory / "adapter_model.bin", ran)
    change(directory / "config.json", transformers_weights="adapter_model.bin")


@pytest.mark.parametrize("hide", [lone_pickle, sharded_pickle, index_of_pickles, named_by_the_config])
@pytest.mark.parametrize("opened", [load_lm, RewardModel.load])
def test_a_pickle_for_weights_is_refused(
    directory: Path, ran: Path, hide: Callable[[Path, Path], None], opened: Open
) -> None:
    if opened is not load_lm:
        as_classifier(directory)
    hide(directory, ran)
    with pytest.raises(ValueError, match=r"textgym opens .*as a pickle is a program"):
        opened(directory)


def test_the_message_says_how_to_make_safetensors(directory: Path, ran: Path) -> None:
    (directory / "model.safetensors").unlink()
    plant(directory / "pytorch_model.bin", ran)
    with pytest.raises(ValueError, match=r"weights in pytorch_model\.bin and no model\.safetensors.*save_pretrained"):
        load_lm(directory)


def test_a_pickle_beside_safetensors_disturbs_nobody(directory: Path, ran: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        plant(directory / name, ran)
    assert isinstance(load_causal_lm(directory), GPT2LMHeadModel)


def adapters(directory: Path) -> Path:
    pytest.importorskip("peft")
    save_pretrained(add_lora(load_lm(directory), 1, 0, 0), directory.parent / "adapters")
    return directory.parent / "adapters"


@pytest.mark.parametrize("where", ["beside their base", "beside a config", "alone"])
def test_a_pickle_for_adapters_is_refused(directory: Path, ran: Path, where: str) -> None:
    place = adapters(directory)
    if where != "beside their base":
        shutil.rmtree(place / "base")
        change(place / "adapter_config.json", base_model_name_or_path=str(directory))
        (place / "model.safetensors.index.json").unlink()
        (place / "config.json").unlink()
    if where == "beside a config":
        for path in directory.iterdir():
            shutil.copy(path, place)
    load_lm(place)
    (place / "adapter_model.safetensors").unlink()
    plant(place / "adapter_model.bin", ran)
    for opened in (load_lm, read_tensors):
        with pytest.raises(ValueError, match=r"weights in adapter_model\.bin and no adapter_model\.safetensors"):
            opened(place)


def test_a_critic_of_a_checkpoint_is_no_pickle(tmp_path: Path, ran: Path) -> None:
    from textgym.agents.loop.checkpoint import load_value

    trunk = tmp_path / "training" / "value_trunk"
    tiny_gpt2().transformer.save_pretrained(trunk)
    save_file(
        {"linear.weight": torch.zeros(1, 32), "linear.bias": torch.zeros(1)}, trunk.parent / "value_head.safetensors"
    )
    assert load_value(tmp_path) is not None
    (trunk / "model.safetensors").unlink()
    plant(trunk / "pytorch_model.bin", ran)
    with pytest.raises(ValueError, match="as a pickle is a program"):
        load_value(tmp_path)


# --- code ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def coaxing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a yes on standard input, for whoever asks."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 50))


def write_code(directory: Path, ran: Path, known: bool) -> None:
    """Lets a directory's config and tokenizer name classes of their own."""
    own = {"AutoConfig": "own.OwnConfig"} | {
        f"AutoModel{name}": "own.OwnModel" for name in ("", "ForCausalLM", "ForSequenceClassification")
    }
    change(directory / "config.json", auto_map=own, **({} if known else {"model_type": "own"}))
    kind = {} if known else {"tokenizer_class": "OwnTokenizer"}
    change(directory / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]}, **kind)
    (directory / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import GPT2Config as OwnConfig, GPT2LMHeadModel as OwnModel\n"
        "from transformers import PreTrainedTokenizerFast as OwnTokenizer\n"
    )
    (directory / "custom_generate").mkdir()
    shutil.copy(directory / "own.py", directory / "custom_generate" / "generate.py")


@pytest.mark.usefixtures("coaxing")
@pytest.mark.parametrize("opened", [load_lm, load_tokenizer, RewardModel.load, open_task])
def test_a_models_own_code_never_runs(directory: Path, ran: Path, opened: Open) -> None:
    write_code(directory, ran, known=False)
    with pytest.raises((ValueError, FileNotFoundError), match="needs code of its own, which textgym never runs"):
        opened(directory)
    assert not names_encoder_decoder(directory)


@pytest.mark.usefixtures("coaxing")
def test_what_transformers_knows_is_opened_without_the_code_beside_it(directory: Path, ran: Path) -> None:
    write_code(directory, ran, known=True)
    assert type(load_causal_lm(directory)) is GPT2LMHeadModel
    assert len(load_tokenizer(directory)) == 16


# --- damaged ------------------------------------------------------------------------------------------------------

DEEP = "[" * 200_000
FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "text", ["", DEEP, '{"a": ', "[1]", '"\\ud800"', '{"vocab_size": "x", "eos_token_id": {}}', "9" * 5000]
)
def test_damage_is_named(directory: Path, name: str, text: str) -> None:
    """A message, or a model: no error of another kind, whatever a file of the directory holds."""
    (directory / name).write_text(text)
    for opened in (load_lm, open_task, RewardModel.load):
        try:
            opened(directory)
        except (ValueError, FileNotFoundError) as error:
            assert str(directory.parent) in str(error)  # noqa: PT017 - it need not be raised
