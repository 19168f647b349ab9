// Watching: a completion appears word by word, and every press of + or − is noted with its time.

import { byId, call, element, isTyping, lookLater, once, Refused, say, show, showTurns } from "./parts.js";

const LATE = 4; // seconds after the last word in which feedback still counts

export async function startWatching(settings, labeller) {
  const view = byId("text");
  let question = null;
  let shown = [];
  let events = [];
  let began = null;
  let timer = null;
  let isOver = false;

  const now = () => (performance.now() - began) / 1000;

  function buttons() {
    const isRunning = began !== null && !isOver;
    byId("start").hidden = began !== null;
    byId("plus").disabled = !isRunning;
    byId("minus").disabled = !isRunning;
    byId("again").disabled = !isOver;
    byId("send-watched").disabled = !isOver;
  }

  function prepare() {
    clearTimeout(timer);
    [shown, events, began, isOver] = [[], [], null, false];
    view.replaceChildren();
    byId("tally").textContent = "";
    buttons();
    byId("start").focus({ preventScroll: true });
  }

  function start() {
    if (began !== null || !question) return;
    began = performance.now();
    const wasFocused = document.activeElement === byId("start");
    buttons();
    if (wasFocused) byId("watch-heading").focus({ preventScroll: true }); // the button is hidden now
    step();
  }

  function step() {
    const { tokens } = question;
    // A tab that was asleep must not show a heap of words at one time, so each waits for the one before.
    if (shown.length < tokens.length) {
      view.append(element("span", { className: "word", textContent: tokens[shown.length] }));
      shown.push(now());
      timer = setTimeout(step, 1000 / settings.watch);
      view.parentElement.scrollTop = view.parentElement.scrollHeight;
      return;
    }
    timer = setTimeout(end, Math.max(0, LATE * 1000 - 1000 / settings.watch));
  }

  function end() {
    isOver = true;
    buttons();
    byId("send-watched").focus({ preventScroll: true });
    say("The text is complete. Send, or watch it again.");
  }

  function press(value) {
    if (began === null || isOver) return;
    events.push([now(), value]);
    const good = events.filter((event) => event[1] > 0).length;
    byId("tally").textContent = `+ ${good}   − ${events.length - good}`;
    view.lastElementChild?.classList.add(value > 0 ? "good" : "bad");
    say(value > 0 ? "Good" : "Bad");
  }

  async function load() {
    try {
      const { question: found, seen } = await call("next-to-watch", { labeller });
      byId("progress").textContent = `${labeller} · ${seen} watched`;
      if (found || byId("done").hidden) ask(found);
    } finally {
      if (!question) lookLater(load, () => question !== null); // also after a request that failed
    }
  }

  function ask(found) {
    question = found;
    if (!question) {
      show("done");
      byId("done-undo").hidden = true;
      byId("done").querySelector("h1").focus();
      return;
    }
    show("watching");
    showTurns(byId("watching"), question.prompt);
    prepare();
  }

  const send = once(async () => {
    if (!question) {
      await load();
      return;
    }
    if (!isOver) throw new Refused("The text is not complete yet.");
    const { id, completion, tokens } = question;
    await call("watched", { labeller, question: id, completion, tokens, shown, events });
    question = null;
    await load();
  });

  byId("start").addEventListener("click", start);
  byId("plus").addEventListener("click", () => press(1));
  byId("minus").addEventListener("click", () => press(-1));
  byId("again").addEventListener("click", prepare);
  byId("send-watched").addEventListener("click", send);
  document.addEventListener("keydown", (event) => {
    if (isTyping(event.target) || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (["+", "="].includes(event.key)) press(1);
    else if (["-", "−", "_"].includes(event.key)) press(-1);
    else if (event.key === " " && !event.target.matches("button")) start();
    else if (event.key === "Enter" && !event.target.matches("button") && isOver) send();
    else return;
    event.preventDefault();
  });
  await load();
}
