"""``textgym evaluate`` from the outside."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import save_byte_model, tiny_gpt2, word_tokenizer
from tests.rewards.judge_server import says, serving
from textgym.agents.loop.acting import saved_policy
from textgym.cli import main
from textgym.exact import optimum
from textgym.prompts import encode_prompts
from textgym.registration import load_task, register_task, task_mdp
from textgym.tasks.task import Task

TOKENIZER = word_tokenizer()
ROWS = [
    {
        "prompt": f"w{i} w{j}",
        "reference": f" w{j} w{i}",
        "again": [f"w{i} w{i} w{j}", f"w{j} w{j} w{i}"] if i < 3 else [],
    }
    for i in range(6)
    for j in range(6)
]


def share_of_w5(completions: list[str], **_: Any) -> list[float]:
    return [text.split().count("w5") / max(len(text.split()), 1) for text in completions]


def words_task() -> Task:
    prompts = encode_prompts(ROWS, TOKENIZER, 4)
    bare = encode_prompts(["w1 w2"], TOKENIZER, 4)
    return Task(
        name="Words",
        description="Say w5.",
        tokenizer=TOKENIZER,
        splits={"train": prompts[:20], "test": prompts[20:], "bare": bare},
        gold=share_of_w5,
        end_token_ids=(1,),
        max_prompt_length=4,
        max_new_tokens=6,
        base_model=tiny_gpt2,
    )


register_task("evaluating/Words-v0", words_task)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in (0, 1):
        tiny_gpt2(seed=seed).save_pretrained(tmp_path / f"model{seed}")
        TOKENIZER.save_pretrained(tmp_path / f"model{seed}")
    return tmp_path


def evaluated(*flags: str, model: str = "model1", task: str = "evaluating/Words-v0") -> dict[str, Any]:
    main(["evaluate", model, "--task", task, "--out", "out", *flags])
    found: dict[str, Any] = json.loads(Path("out/results.json").read_text())
    return found


def refused(capsys: pytest.CaptureFixture[str], *flags: str, model: str = "model1") -> str:
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as end:
        main(["evaluate", model, "--task", "evaluating/Words-v0", *flags])
    assert end.value.code == 2
    assert sorted(Path().rglob("*")) == before
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_a_policy_is_measured(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated("--samples", "3", "--at-k", "1", "3", "--fixed-model", "model0", "--reference-perplexity")
    (result,) = found["results"]
    measured = result["measures"]
    assert list(measured) == [
        *("score", "gold", "length", "end_rate", "length_correlation", "distinct_1", "distinct_2", "distinct_3"),
        *("msttr", "self_bleu", "pass@1", "maj@1", "pass@3", "maj@3", "kl", "perplexity", "reference_perplexity"),
    ]
    rows = [json.loads(line) for line in Path("out/samples.jsonl").read_text().splitlines()]
    assert len(rows) == 16 * 3
    assert {row["prompt"] for row in rows} == {row["prompt"] for row in ROWS[20:]}
    assert measured["score"]["value"] == pytest.approx(sum(row["score"] for row in rows) / 48)
    assert measured["end_rate"]["value"] == sum(row["finish_reason"] == "stop" for row in rows) / 48
    assert measured["length"]["value"] == sum(row["length"] for row in rows) / 48
    for name, one in measured.items():
        assert one["low"] <= one["value"] <= one["high"], name
        assert one["n"] == 16
    assert 1 < measured["perplexity"]["value"] < 100
    assert found["settings"]["seed"] == 0
    assert found["reward"] == [{"name": "gold", "weight": 1.0}]
    assert found["asked"] == "16 test prompts of evaluating/Words-v0"
    assert {"textgym", "torch", "python"} <= set(found["versions"])
    assert set(found["inputs"]) == {"model1", "model0"}
    said = capsys.readouterr().out
    assert "MSTTR" in said
    assert "out/report.html" in said
    assert "perplexity of the references, this policy" in Path("out/report.html").read_text()


def test_it_repeats_with_its_seed(place: Path) -> None:
    first, again, other = (evaluated("--seed", seed)["results"] for seed in ("1", "1", "2"))
    assert first == again
    assert first != other


def test_the_kl_of_the_base_model_is_nothing_and_of_another_one_exact(place: Path) -> None:
    assert evaluated(model="model0")["results"][0]["measures"]["kl"]["value"] == pytest.approx(0, abs=1e-6)
    task = load_task("Emit")
    model = task.base_model()  # type: ignore[operator, misc]
    model.lm_head.weight.data *= 1.5
    model.save_pretrained(place / "emit")
    task.tokenizer.save_pretrained(place / "emit")
    found = evaluated("--split", "train", "--samples", "64", model="emit", task="Emit")["results"][0]["measures"]
    mdp = task_mdp(task)
    exact = optimum(mdp, 0.1).evaluate(saved_policy("emit", mdp))
    # Of one token the KL is that of one state, in which every sample begins.
    assert found["kl"]["value"] == pytest.approx(exact.kl, rel=1e-4)
    assert found["score"]["low"] < exact.reward < found["score"]["high"]


def test_shots_are_measured_side_by_side(place: Path) -> None:
    found = evaluated("--shots", "0", "1", "4", "--limit", "8")
    assert [result["shots"] for result in found["results"]] == [0, 1, 4]
    assert len({result["measures"]["score"]["value"] for result in found["results"]}) > 1
    page = Path("out/report.html").read_text()
    assert all(f"{shots}-shot" in page for shots in (0, 1))
    prompts = {json.loads(line)["prompt"] for line in Path("out/samples.jsonl").read_text().splitlines()}
    assert prompts <= {row["prompt"] for row in ROWS}  # without examples
    alone = evaluated("--limit", "8")["results"][0]
    assert found["results"][0] == alone  # the others change nothing of it


def test_a_policy_ties_with_itself_and_not_with_another(place: Path) -> None:
    (same,) = evaluated("--against", "model1")["win_rates"]
    assert (same["rate"]["value"], same["tied"], same["won"]) == (0.5, 1.0, 0.0)
    found = evaluated("--against", "model0", "--samples", "4", "--shots", "0", "1")
    assert [(rate["model"], rate["against"], rate["shots"]) for rate in found["win_rates"]] == [
        ("model1", "model0", 0),
        ("model1", "model0", 1),
    ]
    first = found["win_rates"][0]
    assert first["won"] + first["tied"] + first["lost"] == pytest.approx(1)
    assert first["rate"]["value"] == pytest.approx(first["won"] + first["tied"] / 2)
    turned = evaluated("--against", "model1", "--samples", "4", model="model0")["win_rates"][0]
    assert turned["rate"]["value"] == pytest.approx(1 - first["rate"]["value"])


def test_a_judge_that_always_prefers_the_first_makes_every_pair_a_tie(place: Path) -> None:
    with serving(lambda _: says("Verdict: A")) as server:
        judge = f"{server.url},model=m,key=none,cache=answers"
        found = evaluated("--against", "model0", "--judge", judge, "--samples", "2")
        (rate,) = found["win_rates"]
        assert (rate["rate"]["value"], rate["tied"], rate["won"]) == (0.5, 1.0, 0.0)
        asked = len(server.requests)
        assert asked > 32, "two responses of each policy to 16 prompts, in both orders, but for equal pairs"
        again = evaluated("--against", "model0", "--judge", f"{judge},replay=true", "--samples", "2")
        assert len(server.requests) == asked, "from the cache"
    assert again["win_rates"] == [rate]
    assert found["judge"].startswith("PairwiseJudge(url='http://127.0.0.1")


def test_a_function_judges_pairs_of_texts(place: Path) -> None:
    Path("mine.py").write_text(
        "def longer(prompts, first, second, **_):\n"
        "    return [(len(a) > len(b)) - (len(a) < len(b)) for a, b in zip(first, second)]\n"
    )
    (rate,) = evaluated("--against", "model0", "--judge", "mine.py:longer")["win_rates"]
    rows = [json.loads(line) for line in Path("out/samples.jsonl").read_text().splitlines()]
    texts = {name: [row["completion"] for row in rows if row["model"] == name] for name in ("model1", "model0")}
    lengths = [(len(a), len(b)) for a, b in zip(texts["model1"], texts["model0"], strict=True)]
    assert rate["won"] == pytest.approx(sum(a > b for a, b in lengths) / 16)
    assert rate["lost"] == pytest.approx(sum(a < b for a, b in lengths) / 16)


def test_a_judge_is_checked_before_a_response_is_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("template.txt").write_text("{first} {second} {topic}")
    for flags, message in (
        (["--judge", "http://localhost:1/v1,model=m,key=none"], "judge compares two policies; name the other one"),
        (["--against", "model0", "--judge", "http://localhost:1/v1,key=none"], "name the model that judges"),
        (["--against", "model0", "--judge", "nowhere_at_all:judge"], "cannot import 'nowhere_at_all'"),
        (
            ["--against", "model0", "--judge", "http://localhost:1/v1,model=m,key=none,template=template.txt"],
            "'topic', which is no column of task evaluating/Words-v0; it has reference, again",
        ),
    ):
        assert message in " ".join(refused(capsys, *flags).split())


def test_a_file_may_name_the_model_and_the_command_line_wins(place: Path) -> None:
    Path("given.yaml").write_text("model: model1\ntask: evaluating/Words-v0\nlimit: 2\nout: out\n")
    for words, flags, model, count in (([], ["--limit", "3"], "model1", 3), (["model0"], [], "model0", 2)):
        main(["evaluate", *words, "--config", "given.yaml", *flags])
        (found,) = json.loads(Path("out/results.json").read_text())["results"]
        assert (found["model"], found["measures"]["length"]["n"]) == (model, count)


def test_votes_of_one_question_are_of_all_its_samples(place: Path) -> None:
    found = evaluated("--limit", "1", "--samples", "4", "--at-k", "2", "4")["results"][0]["measures"]
    assert found["pass@2"]["value"] <= found["pass@4"]["value"]


def test_what_a_judge_refuses_loses_no_measure(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda _: says("I cannot say.")) as server, pytest.raises(SystemExit, match="1"):
        evaluated("--against", "model0", "--judge", f"{server.url},model=m,key=none")
    kept = json.loads(Path("out/results.json").read_text())
    assert [one["model"] for one in kept["results"]] == ["model1", "model0"]
    assert kept["win_rates"] == []
    assert "cannot be read, twice" in capsys.readouterr().err


def test_metrics_that_differ_in_a_setting_are_both_measured(place: Path) -> None:
    given = ("--reward", "rouge,references=reference", "--metrics", "rouge,references=reference,stem=true")
    assert {"rougeL", "rougeL_2"} <= set(evaluated(*given)["results"][0]["measures"])


def test_best_of_n_beats_its_samples(place: Path) -> None:
    plain = evaluated("--samples", "8")["results"][0]["measures"]["score"]["value"]
    best = evaluated("--decoding", "best-of-n", "--best-of", "8")["results"][0]["measures"]
    assert best["score"]["value"] > plain + 0.1
    assert "kl" not in best


def test_a_beam_search_of_one_beam_is_greedy(place: Path) -> None:
    greedy, beam, wide = (
        evaluated("--decoding", *way)["results"] for way in (("greedy",), ("beam", "--beams", "1"), ("beam",))
    )
    assert greedy == beam
    assert wide[0]["measures"]["length"]["n"] == 16


def test_paraphrases_come_from_a_column_or_a_file(place: Path) -> None:
    by_column = evaluated("--split", "train", "--paraphrases", "again", "--decoding", "greedy")
    measured = by_column["results"][0]["measures"]
    assert measured["wording_range"]["n"] == 18
    assert measured["wording_range"]["value"] >= measured["wording_deviation"]["value"] > 0
    rows = [{"prompt": row["prompt"], "paraphrases": row["again"]} for row in ROWS]
    Path("others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    by_file = evaluated("--split", "train", "--paraphrases", "others.jsonl", "--decoding", "greedy")
    assert by_file["results"] == by_column["results"]


def test_metrics_are_measured_beside_the_reward(place: Path) -> None:
    found = evaluated("--metrics", "length", "--reward", "length,-1")
    measured = found["results"][0]["measures"]
    assert found["reward"] == [{"name": "length", "weight": -1.0}, {"name": "gold", "weight": 0.0}]
    assert measured["score"]["value"] == pytest.approx(-measured["components/length"]["value"])
    assert measured["length"]["value"] > measured["components/length"]["value"]  # which counts the end token
    named = evaluated("--metrics", "length")["reward"]
    assert named == [{"name": "gold", "weight": 1.0}, {"name": "length", "weight": 0.0}]


# --- models from elsewhere -------------------------------------------------------------------------------------


def test_a_model_of_plain_transformers_with_other_tokens(place: Path) -> None:
    """It reads bytes, knows nothing of textgym, and has an end token of its own."""
    save_byte_model(place / "elsewhere")
    found = evaluated("--shots", "0", "2", "--limit", "4", "--against", "model0", model="elsewhere")
    assert [(r["model"], r["shots"]) for r in found["results"]] == [
        *(("elsewhere", 0), ("elsewhere", 2), ("model0", 0), ("model0", 2))
    ]
    assert "kl" not in found["results"][0]["measures"]  # the base model has other tokens
    assert "kl" in found["results"][2]["measures"]


def test_a_chat_model_is_shown_turns(place: Path) -> None:
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    save_byte_model(place / "chat", template)
    found = evaluated("--limit", "2", "--shots", "1", "--max-new-tokens", "3", model="chat")
    assert found["results"][0]["measures"]["length"]["value"] <= 3


def test_stories260k_in_one_command(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that was trained elsewhere, on its own tokenizer, asked for a mini task's stories."""
    monkeypatch.chdir(tmp_path)
    model = str(assets / "models" / "stories260K")
    found = evaluated("--limit", "8", "--fixed-model", model, model=model, task="textgym/Stories-v0")
    measured = found["results"][0]["measures"]
    assert {"score", "gold", "grammatical", "length", "distinct_2", "self_bleu", "perplexity"} <= set(measured)
    assert "kl" not in measured
    # Its own samples at temperature 1 are much more probable to it than the 512 tokens at random.
    assert 1.5 < measured["perplexity"]["value"] < 60


# --- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--split", "tset"], "split='tset' is not one of ['bare', 'test', 'train'] of task Words"),
        (["--shots", "20", "--split", "train"], "shots=20 is more than the 19 examples there are beside the prompt"),
        (["--shots", "16"], "of up to 66 tokens; with max_new_tokens=6 they need 72, and the model's context holds 64"),
        (["--shots", "-1"], "shots=-1; expected a whole number, at least 0"),
        (["--shots", "1", "1"], "holds a number twice"),
        (["--shots", "1", "--examples", "bare"], "needs examples with a column 'reference' or 'references'"),
        (["--examples", "elsewhere", "--shots", "1"], "split='elsewhere' is not one of"),
        (["--split", "bare", "--reference-perplexity"], "reference_perplexity needs a column 'reference'"),
        (["--split", "bare", "--metrics", f"{__name__}:needs_references"], "requires 'reference', which the data"),
        (["--decoding", "greedy", "--top-p", "0.9"], "top_p=0.9 is for sampling, and decoding='greedy' draws nothing"),
        (["--decoding", "beam", "--top-k", "5"], "top_k=5 is for sampling, and decoding='beam'"),
        (["--decoding", "beam", "--samples", "2"], "samples=2, and decoding='beam' gives the same response each time"),
        (["--decoding", "greedy", "--reference", "model0"], "reference='model0' is for the KL"),
        (["--decoding", "best-of-n", "--reference", "model0"], "and decoding is 'best-of-n'; leave reference out"),
        (["--beams", "3"], "beams=3 belongs to decoding='beam', and decoding is 'sample'"),
        (["--best-of", "3", "--decoding", "greedy"], "best_of=3 belongs to decoding='best-of-n'"),
        (["--at-k", "2"], "at_k=2 is more than samples=1; pass --samples 2"),
        (["--answer", "x"], "answer='x' is for maj@k; pass --at-k"),
        (["--answer", "(", "--at-k", "1"], "answer='(' is no regular expression"),
        (["--paraphrases", "nowhere"], "neither a file nor a column of the task; its columns are again, reference"),
        (["--paraphrases", "again"], "has other wordings of none of the 16 prompts asked"),
        (["--paraphrases", "reference"], "expected a list of texts"),
        (["--reward", "lenght"], "'length'"),
        (["--metrics", "lenght"], "'length'"),
        (["--metrics", " "], "metrics=(' ',) holds an empty one"),
        (["--against", "nowhere/model"], "nowhere/model"),
        (["--right", "0.5"], "right=0.5 is for pass@k and maj@k"),
        (["--examples", "test"], "examples='test' is for shots"),
        (["--against", "model0", "--reward", "majority"], "would be compared by majority"),
        (["--out", "model0"], "out='model0' exists and is not an evaluation"),
        (["--out", "model0/config.json"], "is a file; expected a directory"),
        (["--out", "model0/config.json/out"], "which is a file; choose another directory"),
    ],
)
def test_bad_input_is_refused_before_anything_is_generated(
    flags: list[str], said: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("a response was asked for")

    monkeypatch.setattr("textgym.commands.evaluate.answer", never)
    assert said in refused(capsys, *flags)


def needs_references(completions: list[str], reference: list[str], **_: Any) -> list[float]:
    return [float(text == other) for text, other in zip(completions, reference, strict=True)]


def test_a_reference_with_other_tokens_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_byte_model(place / "elsewhere")
    assert "reference='elsewhere' has other tokens" in refused(capsys, "--reference", "elsewhere")


def test_a_world_takes_no_examples(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = load_task("Relay")
    task.base_model().save_pretrained(place / "relay")  # type: ignore[operator, misc]
    task.tokenizer.save_pretrained(place / "relay")
    main(["evaluate", "relay", "--task", "Relay", "--split", "train", "--samples", "3"])
    assert "score (the reward)" in capsys.readouterr().out
    for flags, said in (
        (["--shots", "1"], "has a world, so it takes no examples"),
        ([], "a model with its own tokens"),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", "relay" if flags else "model0", "--task", "Relay", "--split", "train", *flags])
        assert said in capsys.readouterr().err


def made_for(model: str) -> Task:
    return replace(words_task(), base_model=model)


def test_a_task_that_is_made_with_a_model_gets_the_policy(place: Path) -> None:
    """Its base model is the policy, from which no distance is measured unless a reference is named."""
    register_task("evaluating/Made-v0", made_for)
    assert "kl" not in evaluated(task="evaluating/Made-v0")["results"][0]["measures"]
    named = evaluated("--reference", "model0", task="evaluating/Made-v0")["results"][0]["measures"]
    assert named["kl"]["value"] == pytest.approx(evaluated()["results"][0]["measures"]["kl"]["value"])


def test_numbers_are_plain_json(place: Path) -> None:
    """A correlation with a constant has no value, and says so in a way that every reader of JSON understands."""
    measured = evaluated("--reward", f"{__name__}:constant")["results"][0]["measures"]
    assert measured["length_correlation"]["value"] is None
    assert not math.isnan(measured["score"]["value"])
    assert "NaN" not in Path("out/results.json").read_text()


def constant(completions: list[str], **_: Any) -> list[float]:
    return [1.0] * len(completions)
