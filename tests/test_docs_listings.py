"""Every listing of README.md and of docs/ is executed: here, or by the test that ``ELSEWHERE`` names.

Python runs as it stands, but for budgets of ``learn``, which are cut. Commands of ``textgym`` run with the flags of
``SMALL`` behind their own. A listing after "Save as `NAME`:" becomes that file.
"""

from __future__ import annotations

import doctest
import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import pytest
import yaml

import textgym
from tests.helpers import tiny_gpt2
from tests.test_tokenization import byte_tokenizer
from textgym.cli import main, parse, with_yaml
from textgym.tasks import TASKS

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {
    "docs/algorithms.md": "tests/test_docs_algorithms.py",
    "docs/diagnostic.md": "tests/test_docs_algorithms.py",
    "docs/policies.md": "tests/test_docs_algorithms.py",
    "docs/tasks.md": "tests/tasks/test_own_task.py",
    "docs/real_tasks.md": "tests/tasks/test_real_data.py",
    "docs/instruct.md": "tests/test_docs_instruct.py",
}
NOT_RUN = {
    "make": "its targets run the tests, or the demo in a clean environment",
    "pip": "needs a network",
    "source": "of a shell",
    "python": "takes hours, and models that are not in the repository",
    "textgym evaluate MODEL --task textgym/CommonGen-v0": "tests/tasks/test_real_data.py has the data, in parts",
    "textgym train --preset": "needs data of others; tests/test_cli_presets.py trains from one",
    "textgym bench report benchmarks/results/": "tests/benchmarks/test_published.py compares every digit",
    "textgym bench tune mini": "tests/benchmarks/test_tuning.py searches, and reports it",
    "textgym bench run reward_noise": "tests/benchmarks/test_reward_noise.py has runs of it",
    "textgym bench run kl_frontier": "tests/benchmarks/test_suites.py has runs of it",
    "textgym bench run references": "tests/benchmarks/test_mini.py has runs of it",
    "textgym bench run diagnostic --algorithms ppo nlpo": "its runs are published, and tests/benchmarks has others",
    "textgym bench run mini": "tests/benchmarks/test_mini.py has runs of it",
    "textgym train --task textgym/Reviews-v0 --reward judge:": "tests/rewards/test_judge.py trains with one",
    "textgym pipeline loop.yaml --labels.labeller page": "waits for people; tests/test_cli_pipeline.py has one",
    "textgym label samples.jsonl": "serves until it is stopped; tests/labelling/test_label_page.py opens the page",
    "textgym bench report bench/mini.jsonl": "the two above make its files",
}
"""Beginnings of commands, and why no test runs them."""
LANGUAGES = {"python", "sh", "yaml", "json", "text", "math"}

EVALUATION = "--eval-episodes 2"
TRAIN = f"--total-timesteps 8 --episodes-per-iteration 4 --minibatch-size 2 {EVALUATION} --max-new-tokens 4"
SMALL = {
    "train": TRAIN,
    "online": "--total-timesteps 64 --episodes-per-iteration 4 --minibatch-size 2 --eval-episodes 8 --labels.count 10 "
    "--labels.completions 2 --labels.oversample 2 --reward-model.epochs 1 --reward-model.ensemble 2",
    "generate": "--max-new-tokens 4",
    "evaluate": "--limit 4 --max-new-tokens 4",
    "compare": "",
    "migrate": "",
    "tamer": "--epochs 1 --heldout 0",
    "label export": "",
    "label report": "",
    "bench list": "",
    "bench run": "--seeds 1 --tasks Emit --jobs 1 --settings episodes 32 episodes-per-iteration 16 minibatch-size 16",
    "bench report": "",
    "pipeline": "--iterations 1 --eval-episodes 8 --sft.count 8 --sft.batch-size 4 --labels.prompts 12 "
    "--labels.completions 2 --reward-model.epochs 1 --train.total-timesteps 64 --train.episodes-per-iteration 4 "
    "--train.minibatch-size 2",
}
BEFORE = {
    "docs/evaluation.md": [f"textgym train --task textgym/Reviews-v0 --algorithm rloo --out runs/mine {TRAIN}"],
    "docs/own_data.md": [
        f"textgym train --task textgym/Emit-v0 --algorithm {algorithm} --seed {seed} --out runs/{algorithm}-{seed} "
        f"--total-timesteps 8 --episodes-per-iteration 4 --minibatch-size 4 {EVALUATION}"
        for algorithm in ("ppo", "rloo")
        for seed in (0, 1)
    ],
}
"""Commands whose runs a page takes for granted."""


class Listing(NamedTuple):
    """One fenced block of a page.

    Attributes:
        saved: name of the file that the page says it is, or "".
        language: the first word behind the fence.
        text: what stands in it.
    """

    saved: str
    language: str
    text: str


def listings(page: str) -> list[Listing]:
    text = (ROOT / page).read_text("utf-8")
    found = re.findall(r"(?:Save as `([\w.]+)`:\s+)?^```(.*?)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Listing(saved, info.split(" ")[0], listing) for saved, info, listing in found]


def commands(listing: str) -> list[str]:
    """Return the lines that a shell would run, without comments."""
    lines = listing.replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


HERE = [page for page in PAGES if page not in ELSEWHERE and any(one.language != "math" for one in listings(page))]


@pytest.mark.parametrize("page", PAGES)
def test_every_listing_names_its_language(page: str) -> None:
    assert {one.language for one in listings(page)} <= LANGUAGES
    assert (ROOT / page).read_text("utf-8").count("```") == 2 * len(listings(page))


@pytest.mark.parametrize(("page", "test"), ELSEWHERE.items())
def test_the_test_of_a_page_names_it(page: str, test: str) -> None:
    assert Path(page).name in (ROOT / test).read_text("utf-8")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    model = tiny_gpt2(len(tokenizer), positions=256)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained("MODEL")
    tokenizer.save_pretrained("MODEL")
    rows = [
        {"prompt": f"The {name} was"} for name in ("film", "score", "cast", "plot", "end", "start", "sound", "hero")
    ]
    Path("prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    Path("vader_lexicon.txt").write_text("good\t1.9\t0.9\nbad\t-2.5\t0.7\n", "utf-8")
    Path("ranked.py").write_text(re.findall(r"```python\n(.*?)^task = ", ALGORITHMS_PAGE, re.DOTALL | re.M)[0], "utf-8")
    return tmp_path


ALGORITHMS_PAGE = (ROOT / "docs" / "algorithms.md").read_text("utf-8")


@pytest.mark.filterwarnings("ignore::textgym.lm.guards.TrainingWarning")
@pytest.mark.parametrize("page", HERE)
def test_the_listings_of_a_page_run(page: str, place: Path) -> None:
    names: dict[str, Any] = {"__name__": "listing", "gym": gym, "textgym": textgym}
    for command in BEFORE.get(page, []):
        main(shlex.split(command)[1:])
    for saved, language, text in listings(page):
        if saved:
            Path(saved).write_text(text, "utf-8")
        elif language == "python" and text.startswith(">>> "):
            check_doctest(Path(page).stem, text)
        elif language == "python":
            exec(compile(re.sub(r"learn\(\s*[\d_]+", "learn(64", text), page, "exec", dont_inherit=True), names)
        elif language == "sh":
            for command in commands(text):
                run_small(command)
        elif language == "yaml":
            Path("settings.yaml").write_text(text, "utf-8")
            assert parse(with_yaml(["pipeline", "--config", "settings.yaml", "--out", "parsed"]))


def run_small(command: str) -> None:
    """Run a command of ``textgym`` with small numbers; pass over those in ``NOT_RUN``."""
    program, *arguments = shlex.split(command)
    if any(" ".join([program, *arguments]).startswith(beginning) for beginning in NOT_RUN):
        return
    assert program == "textgym", f"{command!r} is neither run nor in NOT_RUN"
    if arguments == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            main(arguments)
        return
    name = next(name for name in SMALL if arguments[: len(name.split())] == name.split())
    main([*arguments, *shlex.split(SMALL[name])])


def check_doctest(task: str, text: str) -> None:
    """Run the examples of a task's page with the names of the modules that make the task."""
    textgym.load_task(task)
    names: dict[str, Any] = {}
    for module in [module for name, module in sys.modules.items() if name.startswith("textgym.tasks.mini.")]:
        names |= vars(module)
    names |= vars(import_module(TASKS[task].partition(":")[0]))
    examples = doctest.DocTestParser().get_doctest(text, names, task, None, 0)
    found = doctest.DocTestRunner(verbose=False).run(examples)
    assert found.attempted
    assert not found.failed


def test_a_pipeline_of_people_stands_in_yaml() -> None:
    """Settings of a page are read as a mapping, so that a typing error in the page's YAML shows."""
    read = [yaml.safe_load(one.text) for one in listings("docs/pipeline.md") if one.language == "yaml"]
    assert [one.get("labels", {}).get("labeller") for one in read] == ["gold", "file", "gold"]
