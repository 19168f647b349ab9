// Requests, elements and messages. Texts of questions reach the page through textContent alone.

export const byId = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export class Refused extends Error {}

// The token of the address is kept for this tab and this port. A cookie would go to every program of the machine that
// listens at some port.
export function keepToken() {
  const token = new URLSearchParams(location.search).get("token");
  if (token) sessionStorage.setItem("token", token);
  history.replaceState(null, "", "/"); // it stays out of bookmarks and of pictures of the screen
}

const TRIES = 4;
const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// Answers are recorded and taken back once however often that is sent, so a request may be repeated.
export async function call(name, body = {}) {
  let response;
  for (let tries = 1; ; tries += 1) {
    try {
      response = await fetch(`/api/${name}`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          authorization: `Bearer ${sessionStorage.getItem("token")}`,
        },
        body: JSON.stringify(body),
      });
      break;
    } catch (error) {
      if (tries === TRIES) throw new Refused("The server does not answer. Is textgym label still running?");
      await pause(400 * tries);
    }
  }
  if (response.status === 403) {
    throw new Refused(
      "This page has no valid token, or is from an earlier start of the server. Open the address that it has printed.",
    );
  }
  const content = await response.json().catch(() => ({})); // another program's page is no JSON
  if (!response.ok) throw new Refused(content.error ?? `The server could not answer (${response.status}). Try again.`);
  return content;
}

export function complain(error) {
  const box = byId("message");
  box.textContent = error ? error.message : "";
  box.hidden = !error;
}

// Runs an action of the reader; what fails is told, and can be tried again.
export async function attempt(action) {
  try {
    await action();
    complain(null);
  } catch (error) {
    complain(error);
  }
}

let busy = false;
export const isBusy = () => busy;

const LOOKED_EVERY = 4_000; // milliseconds
let looking = null;

// Load again after a while, unless a question has come meanwhile.
export function lookLater(load, isAsking) {
  clearTimeout(looking);
  looking = setTimeout(() => {
    if (isBusy()) lookLater(load, isAsking);
    else if (!isAsking()) once(load)();
  }, LOOKED_EVERY);
}

// One action of the reader at a time: while one is going on, another is left out.
export const once = (action) => async () => {
  if (busy) return;
  busy = true;
  await attempt(action);
  busy = false;
};

let saying = null;

export function say(text) {
  // A text that was there already is not announced, so the line is cleared first.
  byId("live").textContent = "";
  clearTimeout(saying);
  saying = setTimeout(() => {
    byId("live").textContent = text;
  }, 50);
}

const SHEETS = ["name-form", "done", "ranking", "watching"];

export function show(sheet) {
  for (const id of SHEETS) byId(id).hidden = id !== sheet;
}

const ROLES = { user: "User", assistant: "Assistant", system: "System", tool: "Tool" };

export function showTurns(section, turns) {
  section.querySelector(".turns").replaceChildren(
    ...turns.map((turn) => {
      const text = element("div", { className: "text", dir: "auto" });
      text.textContent = turn.text;
      if (!turn.role) return element("div", { className: "turn" }, text);
      const role = element("h3", { className: "role", textContent: ROLES[turn.role] ?? turn.role });
      return element("div", { className: `turn ${turn.role === "user" ? "user" : "other"}` }, role, text);
    }),
  );
}

export const isTyping = (target) =>
  target.matches("input:not([type=checkbox]):not([type=radio]), textarea, select") || document.querySelector("dialog[open]");
