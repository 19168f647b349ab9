"""The list of mutations fits the code, and the runner tells a mutation that a test sees from one that none sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.mutants.__main__ import KILLED, SURVIVED, Outcome, run_tests, table, try_mutation
from scripts.mutants.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[1]


def test_there_are_enough_of_them_and_their_names_differ() -> None:
    assert len(MUTATIONS) >= 80
    assert len({one.name for one in MUTATIONS}) == len(MUTATIONS)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_mutation_changes_one_place_of_valid_code(mutation: Mutation) -> None:
    changed = mutation.apply((ROOT / mutation.path).read_text("utf-8"))
    compile(changed, mutation.path, "exec")
    assert all((ROOT / test.split("::")[0]).exists() for test in mutation.tests)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "doubling.py").write_text("def double(x):\n    return 2 * x\n")
    (tmp_path / "test_zero.py").write_text("from doubling import double\ndef test_it(): assert double(0) == 0\n")
    (tmp_path / "test_two.py").write_text("from doubling import double\ndef test_it(): assert double(2) == 4\n")
    (tmp_path / "test_none.py").write_text("")
    return tmp_path


@pytest.mark.parametrize(("test", "seen"), [("test_two.py", KILLED), ("test_zero.py", SURVIVED)])
def test_a_mutation_is_seen_by_the_test_that_it_fails(toy: Path, test: str, seen: str) -> None:
    code = (toy / "doubling.py").read_text()
    outcome = try_mutation(Mutation("code-1", "doubling.py", "2 * x", "3 * x", "triples", (test,)), toy, 60)
    assert outcome.seen == seen
    assert outcome.by == ("test_two.py::test_it" if seen == KILLED else "")
    assert (toy / "doubling.py").read_text() == code


def test_no_test_is_an_error(toy: Path) -> None:
    with pytest.raises(RuntimeError, match="ran nothing"):
        run_tests(toy, ("test_none.py",), 60)


def test_a_text_that_stands_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"code-1: 'x' stands 2 times in doubling\.py; expected once"):
        Mutation("code-1", "doubling.py", "x", "y", "", ()).apply("x = x")


def test_the_table_says_what_survives_and_why() -> None:
    one = Mutation("code-1", "doubling.py", "2", "3", "triples", (), survives="equal but for rounding")
    two = Mutation("code-2", "doubling.py", "2", "4", "quadruples", ())
    text = table([Outcome(one, SURVIVED, "", 1.0), Outcome(two, KILLED, "test_two.py::test_it", 1.0)])
    assert text.startswith("1 of 2 mutations are seen by a test (50.0%).")
    assert "| code-1 | `doubling.py` | triples | **nothing**: equal but for rounding |" in text
    assert "| code-2 | `doubling.py` | quadruples | `test_two.py::test_it` |" in text
