// Finds out who answers and what is asked, and hands over to the ranking or to the watching of completions.

import { attempt, byId, call, complain, keepToken, show } from "./parts.js";
import { startRanking } from "./ranking.js";
import { startWatching } from "./watching.js";

async function labellerOf(settings) {
  if (settings.labeller) return settings.labeller;
  // Of this tab alone: two people may use one browser.
  const known = sessionStorage.getItem("labeller");
  byId("change").addEventListener("click", () => {
    sessionStorage.removeItem("labeller");
    location.reload();
  });
  if (known) {
    byId("change").hidden = false;
    return known;
  }
  show("name-form");
  byId("name").focus();
  return new Promise((done) => {
    byId("name-form").querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = byId("name").value.trim();
      if (!name) return;
      sessionStorage.setItem("labeller", name);
      byId("change").hidden = false;
      done(name);
    });
  });
}

function prepareHelp(isWatching) {
  // A browser presses a button, or sends a form, for each Enter of a key that is held.
  document.addEventListener("keydown", (event) => {
    if (event.repeat && event.key === "Enter") event.preventDefault();
  });
  byId(isWatching ? "ranking-keys" : "watching-keys").remove();
  byId("help-button").hidden = false;
  byId("help-button").addEventListener("click", () => byId("help").showModal());
  document.addEventListener("keydown", (event) => {
    if (event.key === "?" && !event.target.matches("input") && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      byId("help").showModal();
    }
  });
}

await attempt(async () => {
  keepToken();
  const settings = await call("about");
  const labeller = await labellerOf(settings);
  complain(null);
  prepareHelp(settings.watch !== null);
  await (settings.watch === null ? startRanking(settings, labeller) : startWatching(settings, labeller));
});
