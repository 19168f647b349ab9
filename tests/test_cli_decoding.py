"""``textgym generate --decoding``: what is written, and options that do not fit together, told before a model loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import moved, tiny_gpt2, word_tokenizer
from textgym.cli import main
from textgym.commands.configs.generate import GenerateConfig

MODEL = moved(tiny_gpt2(), 0.2)
PROMPTS = ["w1 w2", "w3", "w4 w5 w6"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    MODEL.save_pretrained("model")
    word_tokenizer().save_pretrained("model")
    Path("prompts.jsonl").write_text("\n".join(json.dumps({"prompt": text}) for text in PROMPTS))
    return tmp_path


def written(*flags: str) -> list[dict[str, str]]:
    """Return the rows that a command writes."""
    out = Path(f"{len(list(Path().glob('*.said')))}.said")
    words = ("--model", "model", "--prompts", "prompts.jsonl", "--max-new-tokens", "6", "--out", str(out))
    main(["generate", *words, *flags])
    return [json.loads(line) for line in out.read_text().splitlines()]


def generated(prompt: str, **settings: Any) -> list[str]:
    tokenizer = word_tokenizer()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    found = MODEL.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, **settings)
    return [tokenizer.decode(row[ids.shape[1] :], skip_special_tokens=True).strip() for row in found]


def texts(rows: list[dict[str, str]]) -> list[str]:
    return [row["completion"].replace("<pad>", "").strip() for row in rows]


def test_greedy_and_beam_are_those_of_generate(place: Path) -> None:
    assert texts(written("--decoding", "greedy")) == [generated(prompt)[0] for prompt in PROMPTS]
    four = {"num_beams": 4, "num_return_sequences": 1}
    assert texts(written("--decoding", "beam")) == [generated(prompt, **four)[0] for prompt in PROMPTS]
    flags = ("--beams", "6", "--length-penalty", "-2", "--samples", "3")
    rows = written("--decoding", "beam", *flags)
    three = {"num_beams": 6, "num_return_sequences": 3, "length_penalty": -2.0}
    assert texts(rows) == [text for prompt in PROMPTS for text in generated(prompt, **three)]
    assert [row["prompt"] for row in rows] == [prompt for prompt in PROMPTS for _ in range(3)]


def test_the_best_of_n(place: Path) -> None:
    """The reward is the number of tokens."""
    few, many = (written("--decoding", "best-of-n", "--reward", "length", "--best-of", n) for n in ("1", "12"))
    assert texts(few) == texts(written())
    drawn = written("--samples", "12")
    for i, row in enumerate(many):
        assert row in drawn[12 * i : 12 * i + 12]
        assert len(row["completion"].split()) >= max(len(one["completion"].split()) for one in drawn[12 * i :][:12])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--decoding beam --top-k 5", "top_k=5 is for sampling, and decoding='beam' draws nothing; leave top_k out"),
        ("--decoding beam --top-p 0.5", "top_p=0.5 is for sampling, and decoding='beam'"),
        ("--decoding greedy --top-k 5", "top_k=5 is for sampling, and decoding='greedy'"),
        ("--decoding greedy --temperature 2", "temperature=2.0 is for sampling, and decoding='greedy'"),
        ("--decoding beam --samples 5", "samples=5, and decoding='beam' ends with beams=4 continuations; raise beams"),
        ("--decoding beam --beams 2 --samples 3", "samples=3, and decoding='beam' ends with beams=2"),
        ("--decoding greedy --samples 2", "samples=2, and decoding='greedy' gives the same continuation each time"),
        ("--decoding best-of-n --reward length --samples 5", "chooses among best_of=4; raise best_of"),
        ("--decoding best-of-n", "reward=None, and decoding='best-of-n' chooses by a reward; pass --reward REWARD"),
        ("--beams 2", "beams=2 belongs to decoding='beam', and decoding is 'sample'; add --decoding beam"),
        ("--decoding best-of-n --length-penalty 2", "length_penalty=2.0 belongs to decoding='beam'"),
        ("--decoding beam --best-of 2", "best_of=2 belongs to decoding='best-of-n'"),
        ("--reward length", "reward='length' belongs to decoding='best-of-n'"),
        ("--decoding beam --beams 0", "beams=0; expected a whole number, at least 1"),
        ("--decoding beam --length-penalty inf", "length_penalty=inf; expected a finite number"),
        ("--decoding best-of-n --reward nothing-such", "nothing-such"),
    ],
)
def test_options_that_do_not_fit(
    flags: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no model here, and that is not what the message is about."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--model", "absent", "--prompt", "w1", *flags.split()])
    assert stop.value.code == 2
    assert said in re.sub(r"\s+", " ", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_options_that_fit() -> None:
    for settings in (
        {"decoding": "beam", "temperature": 0.7, "min_new_tokens": 2, "samples": 4},
        {"decoding": "greedy"},
    ):
        GenerateConfig("model", ("w1",), **settings)
