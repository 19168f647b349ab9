"""The labelling page in a real browser: what is done there is what the database holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from scripts.label_pictures import CHAT, SETTINGS, WIDTHS, browser, browser_path, example, served, take
from tests.labelling.label_questions import question
from textgym.labelling.assignment import shown_order
from textgym.labelling.rows import export_feedback
from textgym.labelling.server import PageSettings
from textgym.labelling.store import Answer, LabelStore, question_id
from textgym.rewards.labels.labelling import Question
from textgym.types import Prompt

pytest.importorskip("playwright", reason="NOT TESTED: the labelling page, as playwright is not installed")
if browser_path() is None:
    pytest.skip("NOT TESTED: the labelling page, as no chromium is installed", allow_module_level=True)

ANNA = PageSettings(labeller="anna")


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browser() as found:
        yield found


@pytest.fixture
def page(opened: Any) -> Iterator[Any]:
    """Yield a page that may speak to this machine alone, and may report no error."""
    context = opened.new_context()
    context.set_default_timeout(20_000)
    found = context.new_page()
    foreign: list[str] = []
    errors: list[str] = []
    found.on("request", lambda request: foreign.append(request.url) if is_foreign(request.url) else None)
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("dialog", lambda dialog: errors.append(dialog.message))
    yield found
    assert foreign == []
    assert errors == []
    context.close()


def is_foreign(url: str) -> bool:
    return urlsplit(url).hostname != "127.0.0.1"


def stored(tmp_path: Path, *questions: Question) -> Path:
    path = tmp_path / "answers.sqlite"
    with LabelStore(path) as store:
        store.add(questions)
    return path


def answers(path: Path) -> tuple[Answer, ...]:
    with LabelStore(path) as store:
        return store.answers()


def press(page: Any, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def wait_for_prompt(page: Any, text: str) -> None:
    page.locator("#ranking .turns", has_text=text).wait_for()


def letters(page: Any) -> str:
    return "".join(page.locator(".card .letter").all_text_contents())


def test_three_rankings_by_keyboard_and_one_by_dragging(page: Any, tmp_path: Path) -> None:
    asked = [question(f"Question {i}.", 4) for i in range(4)]
    path = stored(tmp_path, *asked)
    with served(path, ANNA) as address:
        page.goto(address)
        wait_for_prompt(page, "Question 0.")
        assert letters(page) == "ABCD"
        # D to the top, then B below it: D B A C
        press(page, "ArrowDown", "ArrowDown", "ArrowDown", "ArrowDown", "1", "ArrowDown", "ArrowDown", "2")
        assert letters(page) == "DBAC"
        press(page, "Enter")
        wait_for_prompt(page, "Question 1.")
        # C to the top by steps, D tied with B: C A B=D
        press(page, "ArrowDown", "ArrowDown", "ArrowDown", "Shift+ArrowUp", "Shift+ArrowUp")
        press(page, "ArrowDown", "ArrowDown", "ArrowDown", "=")
        assert letters(page) == "CABD"
        press(page, "Enter")
        wait_for_prompt(page, "Question 2.")
        press(page, "Enter")  # nothing was moved: the page asks
        page.get_by_text("You have moved nothing").wait_for()
        press(page, "Enter")
        wait_for_prompt(page, "Question 3.")
        # A is dragged below C: B C A D
        handle = page.locator(".card", has=page.get_by_text("A", exact=True)).locator(".handle")
        start, target = handle.bounding_box(), page.locator(".card").nth(2).bounding_box()
        page.mouse.move(start["x"] + 5, start["y"] + 5)
        page.mouse.down()
        page.mouse.move(start["x"] + 5, target["y"] + target["height"] - 4, steps=6)
        page.mouse.up()
        assert letters(page) == "BCAD"
        page.get_by_role("button", name="Send").click()
        page.get_by_role("heading", name="No question is left for you").wait_for()
    by_place = [(2, 1, 3, 0), (1, 2, 0, 2), (0, 1, 2, 3), (2, 0, 1, 3)]  # of A, B, C, D
    found = answers(path)
    assert [answer.labeller for answer in found] == ["anna"] * 4
    for answer, own, ranks in zip(found, asked, by_place, strict=True):
        which = question_id(own.prompt.content, own.completions)
        assert answer.question == which
        assert answer.order == shown_order(0, which, "anna", 0, 4)
        assert tuple(answer.ranks[i] for i in answer.order) == ranks  # type: ignore[index]
        assert 0 < answer.seconds < 60
    assert len({answer.order for answer in found}) > 1


def test_moves_of_tied_cards_by_hand(page: Any, tmp_path: Path) -> None:
    """Rows are written best first, places by letter, with = before a card that is tied with the one above."""
    with served(stored(tmp_path, question("p")), ANNA) as address:
        page.goto(address)
        page.locator(".card").first.wait_for()
        for before, source, target, after in (
            ("A B C", 0, 2, "B C A"),
            ("A B C", 2, 0, "C A B"),
            ("A =B C", 0, 2, "B C A"),  # who was tied with A alone has a rank of its own
            ("A =B =C", 0, 2, "B =C A"),  # those who were tied with A stay tied
            ("A =B =C", 1, 0, "B A =C"),
            ("A =B C", 2, 1, "A =C =B"),  # between two tied cards it joins them
            ("A =B C", 1, 1, "A B C"),  # a place of its own
            ("A =B C", 2, 0, "C A =B"),
        ):
            found = page.evaluate(MOVED, [before, source, target])
            assert found["after"] == after, (before, source, target)
        assert page.evaluate(MOVED, ["B =D A C", 0, 0])["ranks"] == [2, 0, 3, 0]
        assert page.evaluate(MOVED, ["B =D A =C", 0, 0])["again"] == "B =D A =C"


MOVED = """async ([row, from, to]) => {
  const { moved, ranksOf, itemsOf } = await import("/ranking.js");
  const read = (text) => text.split(" ").map((word) => ({ place: word.charCodeAt(word.length - 1) - 65,
    tied: word[0] === "=" }));
  const write = (items) => items.map((item) => (item.tied ? "=" : "") + "ABCD"[item.place]).join(" ");
  const items = read(row);
  return { after: write(moved(items, from, to)), ranks: ranksOf(items), again: write(itemsOf(ranksOf(items))) };
}"""


def test_markup_is_shown_as_text_and_does_not_run(page: Any, tmp_path: Path) -> None:
    hostile = "<script>document.title = 'run'; alert(1)</script><img src=x onerror=\"alert(2)\">"
    path = stored(tmp_path, Question((hostile, "<b>bold</b>"), Prompt(hostile, "", ())))
    with served(path, ANNA) as address:
        response = page.goto(address)
        wait_for_prompt(page, hostile)
        assert sorted(page.locator("#cards .text").all_text_contents()) == sorted([hostile, "<b>bold</b>"])
        assert page.title() == "textgym label"
        assert page.locator("main img, main script, main b").count() == 0
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert page.evaluate("document.cookie") == ""  # scripts cannot read the session
        assert "token" not in page.url


def test_a_wrong_token_is_refused(page: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, question("p"))
    with served(path, ANNA) as address:
        assert page.goto(address.partition("?")[0]).status == 403
        assert page.goto(address[:-1]).status == 403
        assert page.goto(address).status == 200
        assert page.goto(address.partition("?")[0]).status == 200  # the session lasts


def test_two_servers_in_one_browser_do_not_disturb_each_other(page: Any, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    path, other = stored(tmp_path, question("First.", 2), question("Second.", 2)), stored(tmp_path / "other")
    with served(path, ANNA) as address, served(other, ANNA) as later:
        page.goto(address)
        wait_for_prompt(page, "First.")
        second = page.context.new_page()
        second.goto(later)
        second.get_by_role("heading", name="No question is left").wait_for()
        press(page, "ArrowDown", "2", "Enter")
        wait_for_prompt(page, "Second.")
        page.reload()
        wait_for_prompt(page, "Second.")
        second.goto(address.partition("?")[0])  # another tab without the token
        second.get_by_text("This page has no valid token").wait_for()


def test_undo_takes_back_moves_and_then_answers(page: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, question("First.", 3), question("Second.", 3))
    with served(path, ANNA) as address:
        page.goto(address)
        wait_for_prompt(page, "First.")
        press(page, "ArrowDown", "3", "ArrowUp", "=", "u", "u")
        assert letters(page) == "ABC"
        press(page, "1", "Enter")  # the focus is on C still
        wait_for_prompt(page, "Second.")
        press(page, "u")
        wait_for_prompt(page, "First.")
        assert answers(path) == ()
        assert letters(page) == "CAB"  # as it was sent
        page.get_by_role("button", name="Send").click()
        wait_for_prompt(page, "Second.")
        page.get_by_role("button", name="Undo").click()
        wait_for_prompt(page, "First.")
        page.reload()  # nothing is lost but the arrangement of this question
        wait_for_prompt(page, "First.")
    with LabelStore(path) as store:
        assert store.answers() == ()
        assert store.rows("SELECT count(*) FROM answers") == [(2,)]


def test_an_undoing_whose_reply_is_lost_takes_back_one_answer(page: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, *(question(f"Question {i}.", 2) for i in range(3)))
    lost: list[str] = []

    def lose_the_first(route: Any) -> None:
        reply = route.fetch()
        if lost:
            route.fulfill(response=reply)
        else:
            lost.append(route.request.url)
            route.abort()

    with served(path, ANNA) as address:
        page.route("**/api/undo", lose_the_first)
        page.goto(address)
        for number in range(2):
            wait_for_prompt(page, f"Question {number}.")
            press(page, "ArrowDown", "2", "Enter")
        wait_for_prompt(page, "Question 2.")
        press(page, "u")
        wait_for_prompt(page, "Question 1.")
    assert len(lost) == 1
    assert len(answers(path)) == 1


HOLD = """async ([key, times]) => {
  for (let i = 0; i < times; i += 1) {
    const target = document.activeElement;
    const down = new KeyboardEvent("keydown", { key, repeat: i > 0, bubbles: true, cancelable: true });
    if (target.dispatchEvent(down) && key === "Enter" && target.matches("button")) target.click();
    await new Promise((done) => setTimeout(done, 60));
  }
}"""
"""A key that is held; a browser clicks a button at each Enter that nobody has prevented."""


def test_a_key_that_is_held_acts_once(page: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, question("First.", 3), question("Second.", 3), question("Third.", 3))
    with served(path, ANNA) as address:
        page.goto(address)
        wait_for_prompt(page, "First.")
        page.get_by_role("button", name="Send").focus()
        page.evaluate(HOLD, ["Enter", 5])
        page.get_by_text("You have moved nothing").wait_for()
        assert answers(path) == ()
        press(page, "ArrowDown", "Enter")
        wait_for_prompt(page, "Second.")
        press(page, "ArrowDown", "2", "3", "Enter")
        wait_for_prompt(page, "Third.")
        page.evaluate(HOLD, ["u", 5])
        wait_for_prompt(page, "Second.")
        page.evaluate(HOLD, ["Enter", 5])
        wait_for_prompt(page, "Third.")
        press(page, "ArrowUp")
        page.evaluate(HOLD, ["ArrowUp", 5])
        assert page.evaluate("document.activeElement.dataset.letter") == "A"
    assert len(answers(path)) == 2


def test_a_move_to_the_same_place_changes_nothing(page: Any, tmp_path: Path) -> None:
    with served(stored(tmp_path, question("p", 3)), ANNA) as address:
        page.goto(address)
        wait_for_prompt(page, "p")
        press(page, "ArrowDown", "ArrowDown", "=")  # A =B C
        press(page, "2", "ArrowUp", "1", "Shift+ArrowUp")
        page.get_by_role("status").get_by_text("Completion A is there already", exact=True).wait_for()
        assert page.locator(".rank").all_text_contents() == ["1", "1", "3"]
        press(page, "u")  # the tie was the last step
        assert page.locator(".rank").all_text_contents() == ["1", "2", "3"]


def test_capital_letters_are_keys_too(page: Any, tmp_path: Path) -> None:
    with served(stored(tmp_path, question("p", 3)), ANNA) as address:
        page.goto(address)
        wait_for_prompt(page, "p")
        press(page, "ArrowDown", "3", "U")
        assert letters(page) == "ABC"
        press(page, "S")
        page.get_by_role("dialog", name="Why do you skip").wait_for()


def test_the_page_goes_on_after_requests_that_failed(page: Any, tmp_path: Path) -> None:
    """The answer is saved and the next question is not told; later nothing is left, and a look for more fails."""
    path = stored(tmp_path, question("First.", 2), question("Second.", 2))
    broken: list[str] = []

    def fail(route: Any) -> None:
        broken.append(route.request.url)
        route.fulfill(status=500, content_type="text/plain", body="Internal Server Error")

    with served(path, ANNA) as address:
        page.goto(address)
        wait_for_prompt(page, "First.")
        page.route("**/api/next", fail, times=1)
        press(page, "ArrowDown", "2", "Enter")
        page.get_by_text("The server could not answer (500)").wait_for()
        page.get_by_role("button", name="Send").click()
        wait_for_prompt(page, "Second.")
        page.get_by_role("alert").wait_for(state="hidden")
        press(page, "ArrowDown", "2", "Enter")
        page.get_by_role("heading", name="No question is left").wait_for()
        page.route("**/api/next", fail, times=1)
        page.get_by_text("The server could not answer (500)").wait_for()
        with LabelStore(path) as store:
            store.add([question("Third.", 2)])
        wait_for_prompt(page, "Third.")
    assert len(broken) == 2
    assert len(answers(path)) == 2


def test_skipping_by_keyboard_alone(page: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, question("First."), question("Second."), question("Third."))
    with served(path, ANNA) as address:
        page.goto(address)
        wait_for_prompt(page, "First.")
        press(page, "s", "ArrowDown", "Enter")
        wait_for_prompt(page, "Second.")
        press(page, "s", "Escape", "s", "Tab", "Tab", "Enter")  # to the text, and to Cancel
        page.get_by_role("dialog").wait_for(state="hidden")
        press(page, "s", "Enter")
        wait_for_prompt(page, "Third.")
    assert [answer.skipped for answer in answers(path)] == ["The prompt makes no sense", "I cannot judge this"]


def test_skipping_needs_a_reason(page: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, question("First."), question("Second."), question("Third."))
    with served(path, ANNA) as address:
        page.goto(address)
        wait_for_prompt(page, "First.")
        press(page, "s")
        page.get_by_label("The prompt makes no sense").check()
        page.get_by_role("button", name="Skip", exact=True).click()
        wait_for_prompt(page, "Second.")
        page.get_by_role("button", name="Skip…").click()
        page.get_by_role("textbox", name="Another reason").fill("in a language that I cannot read")
        page.get_by_role("button", name="Skip", exact=True).click()
        wait_for_prompt(page, "Third.")
        press(page, "s")
        page.get_by_role("button", name="Cancel").click()
        wait_for_prompt(page, "Third.")
    found = answers(path)
    assert [answer.skipped for answer in found] == ["The prompt makes no sense", "in a language that I cannot read"]
    assert [answer.ranks for answer in found] == [None, None]


def test_flags_and_scores_are_of_the_completion_they_stand_by(page: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, question("p", 3))
    with served(path, PageSettings(labeller="anna", axes=("true", "harmless"), scores=True)) as address:
        page.goto(address)
        wait_for_prompt(page, "p")
        page.get_by_role("listitem", name="Completion B").get_by_role("checkbox", name="harmless").check()
        page.get_by_role("group", name="Overall score, 7 is best of completion C").get_by_label("6").check()
        press(page, "3")  # a digit chooses no place while a score has the focus
        assert letters(page) == "ABC"
        page.get_by_role("button", name="Move completion B up").click()
        page.get_by_role("button", name="Tie completion A with the one above").click()
        page.get_by_role("button", name="Send").click()
        page.get_by_role("heading", name="No question is left").wait_for()
    (found,) = answers(path)
    shown = [found.order.index(i) for i in range(3)]  # the place of each completion
    assert [found.flags["harmless"][i] for i in found.order] == [False, True, False]
    assert found.flags["true"] == (False, False, False)
    assert found.scores == tuple(6 if place == 2 else None for place in shown)
    assert found.ranks == tuple((0, 0, 2)[place] for place in shown)


def test_two_people_in_two_browsers_share_the_work(opened: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, *(question(f"Question {i}.", 2) for i in range(4)))
    with served(path, PageSettings()) as address:
        pages = {}
        for name in ("anna", "ben"):
            pages[name] = opened.new_context().new_page()
            pages[name].goto(address)
            pages[name].get_by_label("Your name").fill(name)
            pages[name].get_by_role("button", name="Begin").click()
            pages[name].locator("#ranking .turn").wait_for()
        for number, name in enumerate(("anna", "ben", "anna", "ben")):
            wait_for_prompt(pages[name], f"Question {number}.")
            press(pages[name], "ArrowDown", "2", "Enter")
        for found in pages.values():
            found.get_by_role("heading", name="No question is left").wait_for()
        with LabelStore(path) as store:  # a question that is added while they look
            store.add([question("New.", 2)])
        wait_for_prompt(pages["anna"], "New.")
        for found in pages.values():
            found.context.close()
    assert [answer.labeller for answer in answers(path)] == ["anna", "ben", "anna", "ben"]


def test_the_page_says_what_a_screen_reader_needs(page: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, Question(("yes", "no"), Prompt(CHAT, "", ())))
    with served(path, ANNA) as address:
        page.goto(address)
        page.locator(".card").first.wait_for()
        tree = page.locator("body").aria_snapshot()
        for line in (
            '- heading "Prompt" [level=1]',
            '- heading "User" [level=3]',
            '- heading "Assistant" [level=3]',
            '- region "Order the completions, best first"',
            '- listitem "Completion A, rank 1 of 2"',
            '- listitem "Completion B, rank 2 of 2"',
            '- button "Move completion B up"',
            '- button "Tie completion B with the one above"',
            '- button "Send"',
        ):
            assert line in tree, tree
        assert page.evaluate("document.activeElement.id") == "prompt-title"
        press(page, "ArrowDown", "ArrowDown", "1")
        page.get_by_role("status").get_by_text("Completion B moved to rank 1 of 2", exact=True).wait_for()
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Completion B, rank 1 of 2"
        described = "document.getElementById(document.activeElement.getAttribute('aria-describedby')).textContent"
        assert page.evaluate(described) in ("yes", "no")
        page.evaluate(WATCH_STATUS)
        press(page, "ArrowDown", "=", "ArrowUp", "=", "=")  # the first card cannot be tied
        # Said twice in a row; the line is cleared before each time, so that a screen reader says it again.
        page.wait_for_timeout(300)  # a text stands 50 ms after the last key
        assert page.evaluate("seen.slice(-2)") == ["", "The first completion has none above it"]
        press(page, "?")
        page.get_by_role("dialog", name="Keys").wait_for()


WATCH_STATUS = """() => {
  window.seen = [];
  const status = document.getElementById("live");
  new MutationObserver(() => seen.push(status.textContent)).observe(status, { childList: true, characterData: true });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_and_controls_have_contrast(page: Any, tmp_path: Path, scheme: str) -> None:
    """WCAG 2.2, level AA: 4.5 to 1 for text on its own background."""
    path = stored(tmp_path, Question(("yes", "no"), Prompt(CHAT, "", ())))
    with served(path, SETTINGS) as address:
        page.emulate_media(color_scheme=scheme)
        page.goto(address)
        page.locator(".card").first.wait_for()
        press(page, "ArrowDown", "2", "=")
        found = page.evaluate(CONTRASTS)
        assert len(found) > 15
        assert {text: ratio for text, ratio in found if ratio < 4.5} == {}


CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = numbers(getComputedStyle(at).backgroundColor);
      if (colour[3] !== 0) return colour;
    }
    return [255, 255, 255];
  };
  const own = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  return [...document.querySelectorAll("body *")]
    .filter((node) => own(node) && node.checkVisibility() && !node.disabled && !node.closest(".unseen"))
    .map((node) => {
      const [one, two] = [light(numbers(getComputedStyle(node).color)), light(behind(node))];
      return [node.textContent.trim(), (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05)];
    });
}"""


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_at_any_width(page: Any, tmp_path: Path, width: int) -> None:
    texts = (
        "مرحبا بالعالم، هذا نص من اليمين إلى اليسار",
        "👩‍👩‍👧‍👦 🏳️‍🌈 emoji",
        "word " * 2000,
        "x" * 5000,
        *(f"completion {i}" for i in range(5)),
    )
    path = stored(tmp_path, Question(texts, Prompt("עברית and English", "", ())))
    with served(path, SETTINGS) as address:
        page.set_viewport_size({"width": width, "height": 844})
        page.goto(address)
        page.locator(".card").nth(8).wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        long = page.locator(".card", has_text="word word")
        folded = long.bounding_box()["height"]
        assert folded < 600
        long.get_by_role("button", name="Show all").click()
        assert long.bounding_box()["height"] > 2 * folded
        arabic = page.locator(".card .text", has_text="مرحبا")
        assert arabic.evaluate("node => getComputedStyle(node).direction") == "rtl"
        last = page.locator(".card").nth(8)
        last.focus()
        press(page, "1", "Enter")
        page.get_by_role("heading", name="No question is left").wait_for()
    (found,) = answers(path)
    assert found.ranks is not None
    assert found.ranks[found.order[8]] == 0
    assert sorted(found.ranks) == list(range(9))


def test_watching_stores_words_with_their_times_and_the_keys(page: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, Question(("A fine  film.\n", "Dull."), Prompt("Write a review.", "", ())))
    with served(path, PageSettings(labeller="anna", watch=20.0)) as address:
        page.goto(address)
        page.get_by_role("button", name="Start").wait_for()
        press(page, "Space")
        page.locator(".word", has_text="film").wait_for()
        press(page, "+", "+", "-")
        page.get_by_role("button", name="Send").and_(page.locator(":enabled")).wait_for()
        press(page, "+")  # too late
        page.get_by_role("button", name="Watch again").click()
        page.get_by_role("button", name="Start").click()
        assert page.evaluate("document.activeElement.id") == "watch-heading"  # and not the button that is gone
        page.locator(".word", has_text="fine").wait_for()
        page.get_by_role("button", name="Bad").click()
        page.locator("#send-watched:enabled").click()
        page.get_by_text("anna · 1 watched").wait_for()
    with LabelStore(path) as store:
        (found,) = store.watched()
        assert export_feedback(store, tmp_path / "feedback.jsonl") == 1
    assert found.tokens == ("A", " fine", "  film.\n")
    assert found.shown[0] < 0.5
    assert all(0.04 < later - earlier < 5 for earlier, later in zip(found.shown, found.shown[1:], strict=False))
    ((at, value),) = found.events
    assert value == -1
    assert at >= found.shown[1]


def test_pictures_can_be_taken(opened: Any, tmp_path: Path) -> None:
    path = stored(tmp_path, example())
    with served(path, SETTINGS) as address:
        for name, size in WIDTHS.items():
            take(opened, address, size, tmp_path / name)
            assert 10_000 < (tmp_path / name).stat().st_size < 150_000
