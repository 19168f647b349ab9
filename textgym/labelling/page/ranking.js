// Ranking: cards that are moved by keys, buttons or dragging.
//
// The state is a list of items, best first: {place, tied}. `place` is where the completion stood when the question was
// shown; `tied` is true where the item shares the rank of the one above it.

import { byId, call, element, isBusy, isTyping, lookLater, once, Refused, say, show, showTurns } from "./parts.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const KEPT_EVERY = 30_000; // milliseconds
const EDGE = 70; // pixels at the window's edges in which dragging scrolls

// --- the list ------------------------------------------------------------------------------------------------------

export function moved(items, from, to) {
  const rest = items.map((item) => ({ ...item }));
  const [item] = rest.splice(from, 1);
  // Who was tied with the item that leaves, and not with the one above it, begins a rank of its own.
  if (rest[from]?.tied && !item.tied) rest[from].tied = false;
  // A card that is put between two tied ones joins them.
  rest.splice(to, 0, { ...item, tied: to > 0 && Boolean(rest[to]?.tied) });
  return rest;
}

export function ranksOf(items) {
  const ranks = [];
  items.forEach((item, index) => {
    ranks[item.place] = item.tied ? ranks[items[index - 1].place] : index;
  });
  return ranks;
}

export function itemsOf(ranks) {
  const places = ranks.map((_, place) => place).sort((a, b) => ranks[a] - ranks[b] || a - b);
  return places.map((place, index) => ({ place, tied: index > 0 && ranks[place] === ranks[places[index - 1]] }));
}

// --- the page ------------------------------------------------------------------------------------------------------

export async function startRanking(settings, labeller) {
  const list = byId("cards");
  let question = null;
  let items = [];
  let cards = []; // by place
  let history = [];
  let confirmed = false;
  let sent = null; // the last request, which is repeated as it was if its reply is lost
  let last = null; // number of the last answer, which can be taken back
  let clock = { since: null, seconds: 0 };

  const seconds = () => clock.seconds + (clock.since === null ? 0 : (performance.now() - clock.since) / 1000);
  document.addEventListener("visibilitychange", () => {
    clock = { seconds: seconds(), since: document.hidden ? null : performance.now() };
  });
  setInterval(() => question && call("keep", { labeller, question: question.id }).catch(() => {}), KEPT_EVERY);

  function tell(progress) {
    last = progress.last;
    const mean = progress.seconds === null ? "" : ` · ${progress.seconds.toFixed(1)} s each`;
    byId("progress").textContent = `${labeller} · ${progress.answered} answered · ${progress.left} left${mean}`;
  }

  // --- a card ------------------------------------------------------------------------------------------------------

  function button(sign, label, action) {
    const made = element("button", { type: "button", className: "small", textContent: sign, title: label });
    made.setAttribute("aria-label", label);
    made.addEventListener("click", action);
    return made;
  }

  function makeCard(text, place) {
    const letter = LETTERS[place] ?? `${place + 1}`;
    const index = () => items.findIndex((item) => item.place === place);
    const name = `completion ${letter}`;
    const body = element("div", { className: "text", dir: "auto", id: `text-${place}` });
    body.textContent = text;
    const handle = element("span", { className: "handle", textContent: "⠿", title: "Drag" });
    handle.setAttribute("aria-hidden", "true");
    const card = element(
      "li",
      { className: "card", tabIndex: 0 },
      element(
        "div",
        { className: "head" },
        handle,
        element("span", { className: "rank" }),
        element("span", { className: "letter", textContent: letter }),
        element("span", { className: "tie-note" }),
        element(
          "span",
          { className: "buttons" },
          button("↑", `Move ${name} up`, () => move(index(), index() - 1)),
          button("↓", `Move ${name} down`, () => move(index(), index() + 1)),
          button("=", `Tie ${name} with the one above`, () => tie(index())),
        ),
      ),
      body,
    );
    card.dataset.letter = letter;
    card.setAttribute("aria-describedby", body.id);
    card.append(...extras(name));
    handle.addEventListener("pointerdown", (event) => drag(event, card, handle, index()));
    return card;
  }

  function legend(text, name) {
    return element("legend", {}, text, element("span", { className: "unseen", textContent: ` of ${name}` }));
  }

  function extras(name) {
    const made = [];
    if (settings.axes.length) {
      const boxes = settings.axes.map((axis) => {
        const box = element("input", { type: "checkbox", className: "flag" });
        box.dataset.axis = axis;
        return element("label", { className: "chip" }, box, ` ${axis}`);
      });
      made.push(element("fieldset", { className: "flags" }, legend("Flags", name), ...boxes));
    }
    if (settings.scores) {
      const group = `score-${name}`;
      const radios = [1, 2, 3, 4, 5, 6, 7].map((value) =>
        element("label", { className: "chip" }, element("input", { type: "radio", name: group, value }), ` ${value}`),
      );
      made.push(element("fieldset", { className: "scores" }, legend("Overall score, 7 is best", name), ...radios));
    }
    return made.length ? [element("div", { className: "extras" }, ...made)] : [];
  }

  // Long texts are folded, so that the other cards stay in reach.
  function fold(card) {
    const body = card.querySelector(".text");
    card.classList.add("folded");
    if (body.scrollHeight <= body.clientHeight + 8) {
      card.classList.remove("folded");
      return;
    }
    const toggle = element("button", { type: "button", className: "small fold", textContent: "Show all" });
    toggle.setAttribute("aria-expanded", "false");
    toggle.addEventListener("click", () => {
      const isFolded = card.classList.toggle("folded");
      toggle.textContent = isFolded ? "Show all" : "Show less";
      toggle.setAttribute("aria-expanded", String(!isFolded));
    });
    body.after(toggle);
  }

  // --- changes -----------------------------------------------------------------------------------------------------

  function draw() {
    const ranks = ranksOf(items);
    const focused = document.activeElement;
    const shown = items.map((item) => cards[item.place]);
    if (shown.some((card, index) => list.children[index] !== card)) list.replaceChildren(...shown);
    items.forEach((item, index) => {
      const card = cards[item.place];
      const isTied = item.tied || Boolean(items[index + 1]?.tied);
      card.classList.toggle("tied", item.tied);
      card.querySelector(".rank").textContent = ranks[item.place] + 1;
      card.querySelector(".tie-note").textContent = isTied ? "tied" : "";
      card.setAttribute(
        "aria-label",
        `Completion ${card.dataset.letter}, rank ${ranks[item.place] + 1} of ${items.length}${isTied ? ", tied" : ""}`,
      );
      const [up, down, equal] = card.querySelectorAll(".buttons button");
      up.disabled = index === 0;
      down.disabled = index === items.length - 1;
      equal.disabled = index === 0;
      equal.setAttribute("aria-pressed", String(item.tied));
    });
    byId("undo").title = history.length ? "Undo the last move" : "Take back the last answer";
    if (list.contains(focused) && document.activeElement !== focused) {
      // A button that can do no more cannot be focused.
      (focused.disabled ? focused.closest(".card") : focused).focus({ preventScroll: true });
    }
  }

  function change(next, place, what) {
    history.push(items);
    items = next;
    confirmed = true;
    draw();
    const card = cards[place];
    card.scrollIntoView({ block: "nearest" });
    say(`Completion ${card.dataset.letter} ${what(ranksOf(items)[place] + 1)}`);
  }

  function move(from, to) {
    const target = Math.max(0, Math.min(items.length - 1, to));
    const place = items[from].place;
    if (target === from) {
      say(`Completion ${cards[place].dataset.letter} is there already`);
      return;
    }
    change(moved(items, from, target), place, (rank) => `moved to rank ${rank} of ${items.length}`);
  }

  function tie(index) {
    if (index === 0) {
      say("The first completion has none above it");
      return;
    }
    const next = items.map((item) => ({ ...item }));
    next[index].tied = !next[index].tied;
    const above = cards[items[index - 1].place].dataset.letter;
    const word = next[index].tied ? `tied with ${above}` : `no longer tied with ${above}`;
    change(next, items[index].place, (rank) => `${word}, rank ${rank} of ${items.length}`);
  }

  // --- dragging ----------------------------------------------------------------------------------------------------

  function drag(event, card, handle, from) {
    if (event.button !== 0) return;
    event.preventDefault();
    handle.setPointerCapture(event.pointerId);
    const others = items.filter((_, index) => index !== from).map((item) => cards[item.place]);
    const start = event.clientY + window.scrollY;
    let y = event.clientY;
    let target = from;
    card.classList.add("dragged");

    function follow() {
      card.style.translate = `0 ${y + window.scrollY - start}px`;
      const middles = others.map((other) => {
        const box = other.getBoundingClientRect();
        return box.top + box.height / 2;
      });
      target = middles.filter((middle) => middle < y).length;
      others.forEach((other, index) => {
        other.classList.toggle("drop-above", index === target);
        other.classList.toggle("drop-below", index === others.length - 1 && target === others.length);
      });
    }

    let frame = requestAnimationFrame(function scroll() {
      const beyond = Math.min(0, y - EDGE) + Math.max(0, y - (window.innerHeight - EDGE));
      if (beyond) {
        window.scrollBy(0, beyond / 4);
        follow();
      }
      frame = requestAnimationFrame(scroll);
    });

    function onMove(moving) {
      y = moving.clientY;
      follow();
    }

    function end(ending) {
      cancelAnimationFrame(frame);
      handle.removeEventListener("pointermove", onMove);
      handle.removeEventListener("pointerup", end);
      handle.removeEventListener("pointercancel", end);
      card.classList.remove("dragged");
      card.style.translate = "";
      for (const other of others) other.classList.remove("drop-above", "drop-below");
      card.focus({ preventScroll: true });
      if (ending.type === "pointerup" && target !== from) move(from, target);
    }

    handle.addEventListener("pointermove", onMove);
    handle.addEventListener("pointerup", end);
    handle.addEventListener("pointercancel", end);
  }

  // --- questions and answers ---------------------------------------------------------------------------------------

  function ask(found) {
    question = found;
    if (!question) {
      show("done");
      byId("done").querySelector("h1").focus();
      return;
    }
    show("ranking");
    const given = question.given ?? {};
    const size = question.completions.length;
    history = [];
    sent = null;
    confirmed = Boolean(given.ranks);
    clock = { seconds: 0, since: document.hidden ? null : performance.now() };
    items = itemsOf(given.ranks ?? Array.from({ length: size }, (_, place) => place));
    cards = question.completions.map(makeCard);
    showTurns(byId("ranking"), question.prompt);
    list.replaceChildren(...items.map((item) => cards[item.place]));
    cards.forEach((card, place) => {
      for (const box of card.querySelectorAll(".flag")) box.checked = Boolean(given.flags?.[box.dataset.axis]?.[place]);
      for (const radio of card.querySelectorAll(".scores input")) {
        radio.checked = given.scores?.[place] === Number(radio.value);
      }
      fold(card);
    });
    draw();
    window.scrollTo(0, 0);
    byId("prompt-title").focus({ preventScroll: true });
  }

  async function load() {
    try {
      const { question: found, progress } = await call("next", { labeller });
      tell(progress);
      if (found || byId("done").hidden) ask(found);
    } finally {
      if (!question) lookLater(load, () => question !== null); // also after a request that failed
    }
  }

  const flags = () =>
    Object.fromEntries(
      settings.axes.map((axis) => [
        axis,
        cards.map((card) => [...card.querySelectorAll(".flag")].find((box) => box.dataset.axis === axis).checked),
      ]),
    );
  const scores = () =>
    cards.map((card) => {
      const chosen = card.querySelector(".scores input:checked");
      return chosen ? Number(chosen.value) : null;
    });

  async function record(outcome) {
    const answer = {
      labeller,
      question: question.id,
      repeat: question.repeat,
      order: question.order,
      flags: flags(),
      scores: settings.scores ? scores() : null,
      ...outcome,
    };
    // A reply that was lost must not make another answer of the same one, so its time stays what it was.
    const same = sent && JSON.stringify({ ...sent, seconds: 0 }) === JSON.stringify({ ...answer, seconds: 0 });
    sent = same ? sent : { ...answer, seconds: seconds() };
    const { progress } = await call("answer", sent);
    tell(progress);
    question = null;
    say(outcome.ranks ? "Saved. Next question." : "Skipped. Next question.");
    await load();
  }

  const send = once(async () => {
    if (!question) {
      await load();
      return;
    }
    if (!confirmed) {
      confirmed = true;
      throw new Refused("You have moved nothing. Send once more to keep this order.");
    }
    await record({ ranks: ranksOf(items), skipped: null });
  });

  const undo = once(async () => {
    if (history.length) {
      items = history.pop();
      draw();
      say("Last move undone");
      return;
    }
    if (last === null) throw new Refused("There is no answer to take back.");
    // By its number, so that a request that is sent twice takes back one answer.
    const { question: found, progress } = await call("undo", { labeller, number: last });
    tell(progress);
    ask(found);
    say("Your last answer was taken back. Change it and send it again.");
  });

  function openSkip() {
    if (isBusy() || !question) return;
    byId("skip-dialog").returnValue = "";
    byId("skip-dialog").querySelector("form").reset(); // the reason belongs to the question before
    byId("skip-dialog").showModal();
  }

  const skip = once(async () => {
    const chosen = byId("skip-dialog").querySelector("input[name=reason]:checked").value;
    const reason = chosen || byId("reason").value.trim() || "another reason";
    await record({ ranks: null, skipped: reason });
  });

  byId("skip-dialog").addEventListener("close", () => {
    if (byId("skip-dialog").returnValue === "skip") skip();
  });
  byId("skip-cancel").addEventListener("click", () => byId("skip-dialog").close());
  byId("reason").addEventListener("input", () => {
    byId("skip-dialog").querySelector("input[value='']").checked = true;
  });
  byId("skip").addEventListener("click", openSkip);
  byId("send").addEventListener("click", send);
  byId("undo").addEventListener("click", undo);
  byId("done-undo").addEventListener("click", undo);

  // --- keys --------------------------------------------------------------------------------------------------------

  function choose(step) {
    const current = items.findIndex((item) => cards[item.place].contains(document.activeElement));
    const next = current < 0 ? (step > 0 ? 0 : items.length - 1) : current + step;
    const card = cards[items[Math.max(0, Math.min(items.length - 1, next))].place];
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  function onCard(action) {
    const current = items.findIndex((item) => cards[item.place].contains(document.activeElement));
    if (current < 0) say("Choose a card first, with the arrow keys");
    else action(current);
  }

  document.addEventListener("keydown", (event) => {
    const { target } = event;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key; // Caps Lock
    const step = { ArrowDown: 1, ArrowUp: -1 }[key];
    if (isTyping(target) || (event.repeat && !step)) return;
    const isUndo = (event.ctrlKey || event.metaKey) && key === "z";
    if ((event.ctrlKey || event.metaKey || event.altKey) && !isUndo) return;
    if (isUndo || key === "u") {
      event.preventDefault();
      undo();
      return;
    }
    if (!question && key !== "Enter") return;
    if (step && target.type !== "radio") {
      event.preventDefault();
      if (event.shiftKey) onCard((current) => move(current, current + step));
      else choose(step);
    } else if (/^[1-9]$/.test(key) && target.type !== "radio") {
      event.preventDefault();
      onCard((current) => move(current, Number(key) - 1));
    } else if (key === "=") {
      event.preventDefault();
      onCard(tie);
    } else if (key === "s") {
      event.preventDefault();
      openSkip();
    } else if (key === "Enter" && !target.matches("button")) {
      event.preventDefault();
      send();
    }
  });

  await load();
}
