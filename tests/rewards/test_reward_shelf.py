"""The shelf of rewards: names, options as text, a third party's additions, and signatures."""

from __future__ import annotations

import hashlib
import inspect
import shutil
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import nn

from textgym.rewards import compose, length, register_reward, resolve_reward, signature
from textgym.rewards.compose import Named
from textgym.rewards.specs import shelf
from textgym.rewards.specs.options import described_options, with_options
from textgym.rewards.specs.shelf import find_on_shelf, line_about, shelf_names


@dataclass(frozen=True)
class Counted:
    """Count a letter.

    More about it.
    """

    letter: str
    most: int = 10
    scale: float = 1.0
    case: Literal["any", "lower"] = "any"
    signed: bool = False
    book: Path | None = None
    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    cache: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.most < 1:
            raise ValueError(f"most={self.most}; expected at least 1")

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        found = [text if self.case == "lower" else text.lower() for text in completions]
        return [self.scale * min(self.most, text.count(self.letter)) for text in found]


@pytest.fixture
def shelved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_own", {"counted": Counted})


def resolved(spec: str) -> Any:
    return resolve_reward(spec, {"gold": length}).rewards[0]


# --- specifications ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shelved")
@pytest.mark.parametrize(
    ("spec", "wanted", "weight"),
    [
        ("counted:a", Counted("a"), 1.0),
        ("counted,letter=a", Counted("a"), 1.0),
        ("counted:a,most=3,0.5", Counted("a", most=3), 0.5),
        ("counted:a,-2,scale=1e-2,signed=yes", Counted("a", scale=0.01, signed=True), -2.0),
        ("counted:a,case=lower,book=a/b.txt", Counted("a", case="lower", book=Path("a/b.txt")), 1.0),
        ("counted:a,book=none", Counted("a"), 1.0),
        ("counted:a,b", Counted("a,b"), 1.0),
        ("counted,letter=a,b,most=2,0.5", Counted("a,b", most=2), 0.5),
        ("counted:a,book=b,c/d.txt,most=3", Counted("a", book=Path("b,c/d.txt"), most=3), 1.0),
        ("counted:http://host:80/v1,most=2", Counted("http://host:80/v1", most=2), 1.0),
    ],
)
def test_options_become_fields(spec: str, wanted: Counted, weight: float) -> None:
    found = resolve_reward(spec, {})
    assert found.rewards == (wanted,)
    assert found.weights == (weight,)


@pytest.mark.usefixtures("shelved")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("counted", "'counted': 'letter' is missing; write counted:LETTER"),
        ("counted,most=2", "'letter' is missing; write counted:LETTER"),
        ("counted:a,mots=2", "no option 'mots'; did you mean 'most'. it has letter=, most="),
        ("counted:a,letter=b", "the option 'letter' is given twice, once after the colon"),
        ("counted:a,most=2,most=3", "the option 'most' is given twice"),
        ("counted:a,most=2.5", "most='2.5'; expected a whole number"),
        ("counted:a,scale=big", "scale='big'; expected a number"),
        ("counted:a,case=lowre", "case='lowre'; expected one of any, lower; did you mean 'lower'"),
        ("counted:a,signed=1", "signed='1'; expected true or false"),
        ("counted:a,cache=1", "cache cannot be written as text; make the reward in Python"),
        ("counted:a,most=0", "reward 'counted:a,most=0': most=0; expected at least 1"),
        ("counted:a,1,2", "expected one weight at most, got 1.0, 2.0"),
        ("length:3", "'length:3': it has no options, got 3"),
        ("gold,words=3", "'gold,words=3': it has no options, got words="),
        ("count", "unknown reward 'count': did you mean 'counted'"),
        ("rm", "'rm': it is loaded from a directory; write rm:DIR"),
    ],
)
def test_what_is_wrong_is_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolved(spec)


@pytest.mark.usefixtures("shelved")
def test_a_tasks_own_name_hides_that_of_the_shelf() -> None:
    assert resolve_reward("counted", {"counted": length}).rewards == (length,)


def test_a_class_in_a_file_takes_options(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Longer:\n"
        "    than: int = 3\n"
        "    def __call__(self, completions, **_):\n"
        "        return [float(len(text) > self.than) for text in completions]\n"
    )
    reward = resolve_reward(f"{tmp_path}/mine.py:Longer,than=2,3", {})
    assert reward(["p", "p"], ["ab", "abc"], completion_ids=[[1], [1]]) == [0.0, 3.0]


def test_the_first_field_is_the_first_that_has_a_place() -> None:
    @dataclass(frozen=True)
    class Base:
        column: str = field(default="references", kw_only=True)

    @dataclass(frozen=True)
    class Kinds(Base):
        kind: str = "L"

        def __call__(self, completions: list[str], **_: Any) -> list[float]:
            return [0.0 for _ in completions]

    assert with_options("kinds:1", Kinds, "1", {"column": "titles"}) == Kinds("1", column="titles")
    assert described_options(Kinds) == ["kind=L", "column=references"]


@pytest.mark.parametrize(
    "spec",
    [
        "judge:http://localhost:1/v1,model=m,key=sk-abcDEF0123456789abcdef",
        "judge:http://localhost:1/v1,model=m,key=sk-abcDEF0123456789abcdef,temprature=1",
        "judge:http://localhost:1/v1,key=sk-abcDEF0123456789abcdef,key=sk-abcDEF0123456789abcdef",
        "judge:http://localhost:1/v1,model=m,key=sk-abcDEF0123456789abcdef,1,2",
        "judge:http://me:sk-abcDEF0123456789abcdef@localhost:1/v1,model=m",
        "judge:http://me:sk-abcDEF0123456789abcdef@localhost:1/v1,modle=m",
        "judge:http://localhost:1/v1,model=m,api_key=sk-abcDEF0123456789abcdef",
        "judge:localhost:1/v1,key=sk-abcDEF0123456789abcdef,model=a,b",
    ],
)
def test_no_message_repeats_a_key(spec: str) -> None:
    with pytest.raises(ValueError, match=r"^reward '?judge") as caught:
        resolved(spec)
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "sk-abc" not in str(chain)
        chain = chain.__cause__


def test_a_mistyped_prefix_repeats_no_password() -> None:
    with pytest.raises(ValueError, match="did you mean 'judge'") as caught:
        resolved("jugde:http://me:secret@localhost:1/v1,model=m")
    assert "secret" not in str(caught.value)


def test_what_a_class_of_a_file_lacks_is_given_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Longer:\n"
        "    than: int\n"
        "    def __call__(self, completions, **_):\n"
        "        return [float(len(text) > self.than) for text in completions]\n"
    )
    with pytest.raises(ValueError, match="'than' is missing; write than=…"):
        resolve_reward(f"{tmp_path}/mine.py:Longer", {})


def test_a_missing_column_names_the_option_that_names_another() -> None:
    reward = resolve_reward("token_f1", {})
    with pytest.raises(ValueError, match=r"requires 'references'.*or name another one with references=COLUMN"):
        reward.check_columns(["reference"])


# --- third parties -------------------------------------------------------------------------------------------------


def test_a_third_party_adds_a_reward_by_decorator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "_own", {})

    @register_reward("shouting")
    def shouting(completions: list[str], **_: Any) -> list[float]:
        """Pay for capitals."""
        return [float(text.isupper()) for text in completions]

    assert "shouting" in shelf_names()
    assert line_about("shouting") == "Pay for capitals."
    assert resolved("shouting") is shouting
    register_reward("shouting")(shouting)  # as when a notebook's cell runs again
    with pytest.raises(ValueError, match=r"name='shouting' is taken by .*test_reward_shelf:.*shouting; choose another"):
        register_reward("shouting")(length)
    with pytest.raises(ValueError, match=r"name='length' is taken by textgym\.rewards\.builtin:length"):
        register_reward("length")
    for name in ("", "a b", "a,b", "a:b", "a=b"):
        with pytest.raises(ValueError, match="expected a name without spaces, commas, colons"):
            register_reward(name)


def test_an_installed_package_adds_a_reward_by_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "their_rewards.py").write_text(
        "def vowels(completions, **_):\n"
        "    'Count vowels.'\n"
        "    return [sum(map(text.count, 'aeiou')) for text in completions]\n"
    )
    made = tmp_path / "theirs-1.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (made / "entry_points.txt").write_text(
        "[textgym.rewards]\nvowels = their_rewards:vowels\nabsent = nowhere_at_all:x\nlength = their_rewards:vowels\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    shelf._addresses.cache_clear()
    try:
        assert resolve_reward("vowels,2", {})(["p"], ["audio"], completion_ids=[[1]]) == [8.0]
        assert line_about("vowels") == "Count vowels."
        assert line_about("absent").startswith("(cannot be imported: ")
        assert resolved("length") is length, "a name of the package stays the package's"
    finally:
        monkeypatch.undo()
        shelf._addresses.cache_clear()


# --- what is told about them ---------------------------------------------------------------------------------------


def test_every_reward_of_the_shelf_has_a_line_and_can_be_made() -> None:
    for name in shelf_names():
        found = find_on_shelf(name)
        line = line_about(name)
        assert line.endswith("."), name
        assert not line.startswith("("), name
        options = described_options(found)
        required = [one for one in options if one.isupper()]
        assert required == options[: len(required)], f"{name}: what is required is written after the colon"
        assert len(required) <= 1, name
        if isinstance(found, type) and not required:
            with_options(name, found, None, {"judge": {"key": "none", "model": "m"}}.get(name, {}))


BY_NAME = {
    # for the completions "The answer is 4", "" and "{}", what each pays
    "length": [4, 0, 1],
    "distinct": [1, 0, 1],
    "distinct-n,n=2": [1, 0, 0],
    "repetition": [0, 0, 0],
    "repeated-n": [0, 0, 0],
    "length-budget:2": [-1, 0, 0],
    "regex:^The": [1, 0, 0],
    "keywords": [0.5, 0, 0],
    "rouge,kind=1": [1, 0, 0],
    "bleu": [1, 0, 0],
    "sacrebleu": [1, 0, 0],
    "chrf": [1, 0, 0],
    "ter": [0, -1, -1],
    "meteor": [1 - 0.5 / 4**3, 0, 0],
    "exact_match": [1, 0, 0],
    "token_f1": [1, 0, 0],
    "answer": [1, 0, 0],
    "math-verify": [1, 0, 0],
    "json-schema:{schema}": [0, 0, 1],
    "majority": [1 / 2, 0, 1 / 2],
    "relative-length": [-0.5, 0.5, 1 / 6],
}
"""Specifications of the rewards that need no model and no server."""
NEEDS_MODEL_OR_SERVER = {"rm", "clf", "tamer", "naturalness", "judge", "remote", "evaluate-hub"}
NOVELTY = {"novelty"}  # its number is that of self-BLEU, which its own tests compute


def test_every_reward_scores_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "schema").write_text('{"type": "object"}')
    names = {spec.partition(":")[0].partition(",")[0] for spec in BY_NAME}
    assert names | NEEDS_MODEL_OR_SERVER | NOVELTY == set(shelf_names())
    texts = ["The answer is 4", "", "{}"]
    columns = {"references": [["The answer is 4"]] * 3, "concepts": [["answer", "five"]] * 3, "answer": ["4"] * 3}
    for spec, wanted in BY_NAME.items():
        reward = resolve_reward([spec.replace("{schema}", f"{tmp_path}/schema")], {})
        scored = reward.score(["p"] * 3, texts, [[1] * 4, [1], [1, 1]], {**columns, "finish_reason": ["stop"] * 3})
        assert scored.totals == pytest.approx(wanted), spec


def test_options_are_described() -> None:
    wanted = ["LETTER", "most=10", "scale=1.0", "case=any", "signed=False", "book=None"]
    assert described_options(Counted)[:-1] == wanted
    assert described_options(length) == []


# --- signatures ----------------------------------------------------------------------------------------------------


def test_signatures_show_settings_and_versions() -> None:
    numpy = metadata.version("numpy")
    shown = f"Counted(letter='a', most=10, scale=1.0, case='any', signed=False, book=None; numpy {numpy})"
    assert signature(Counted("a", cache={"hidden": 1})) == shown
    assert signature(compose([(Counted("a"), 0.5), (Named(Counted("a"), "first"), -1)])) == (
        f"0.5·{shown} + -1·first: {shown}"
    )


def test_a_functions_signature_follows_its_source() -> None:

    digest = hashlib.sha256(inspect.getsource(length).encode()).hexdigest()[:8]
    assert signature(length) == f"textgym.rewards.builtin:length#{digest}"
    assert signature(partial(length, scale=2)) == f"textgym.rewards.builtin:length#{digest}(scale=2)"


def test_a_files_signature_follows_its_content(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Read:
        source: Path

    file, folder = tmp_path / "a" / "schema.json", tmp_path / "folder"
    file.parent.mkdir()
    file.write_text("{}")
    digest = hashlib.sha256(f"schema.json {hashlib.sha256(b'{}').hexdigest()}\n".encode()).hexdigest()[:8]
    assert signature(Read(file)) == f"Read(source='schema.json'#{digest})"
    file.write_text('{"type": "object"}')
    assert digest not in signature(Read(file))
    assert signature(Read(Path("owner/model"))) == "Read(source='owner/model')"  # an id on a hub

    folder.mkdir()
    (folder / "weights").write_bytes(b"\0")
    first = signature(Read(folder))
    shutil.copytree(folder, tmp_path / "elsewhere" / "folder")
    assert signature(Read(tmp_path / "elsewhere" / "folder")) == first
    (folder / "weights").rename(folder / "other")
    assert signature(Read(folder)) != first

    # A run is its model, whatever else is written into it.
    shutil.copytree(folder, tmp_path / "run" / "checkpoint")
    run = signature(Read(tmp_path / "run"))
    (tmp_path / "run" / "metrics.jsonl").write_text("{}")
    assert signature(Read(tmp_path / "run")) == run
    (tmp_path / "run" / "checkpoint" / "other").write_bytes(b"\1")
    assert signature(Read(tmp_path / "run")) != run


def test_a_models_signature_follows_its_weights() -> None:
    @dataclass(frozen=True)
    class Scored:
        model: nn.Module
        name: str = "scored"

    torch.manual_seed(0)
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    second.load_state_dict(first.state_dict())
    assert signature(Scored(first)) == signature(Scored(second))
    with torch.no_grad():
        second.weight[0, 0] += 1e-7
    assert signature(Scored(first)) != signature(Scored(second))
    assert signature(Scored(first)).startswith("Scored(model=Linear#")


def test_a_reward_may_sign_for_itself() -> None:
    class Remote:
        signature = "remote v2"

        def __call__(self, completions: list[str], **_: Any) -> list[float]:
            return [0.0 for _ in completions]

    assert signature(compose([Remote()])) == "remote v2"

    class Both(Remote):
        signature = "one + two"

    assert signature(compose([(Both(), 0.5), Remote()])) == "0.5·(one + two) + remote v2"
