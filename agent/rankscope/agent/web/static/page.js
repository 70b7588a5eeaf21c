// Listens to the agent and draws what it says.

import { alerts } from "./alerts.js";
import { el, show } from "./dom.js";
import { machine } from "./machine.js";
import { runs } from "./runs.js";

let state = null;

function draw() {
  if (!state) return;
  document.getElementById("host").textContent = state.hostname;
  alerts(state);
  runs(state, draw);
  machine(state);
}

function link(text, kind) {
  const element = document.getElementById("link");
  element.textContent = text;
  element.className = kind;
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
}

theme(new URLSearchParams(location.search).get("theme") || localStorage.getItem("theme")
  || (matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"));
document.getElementById("theme").addEventListener("click", () => {
  theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  draw();
});
addEventListener("resize", draw);

const events = new EventSource("/api/v1/stream");
events.addEventListener("snapshot", (event) => {
  state = JSON.parse(event.data);
  link("● live", "good");
  draw();
});
events.addEventListener("error", () => link("○ the agent does not answer; trying again …", "warning"));

// An alert's runbook leads to #rule-LossNaN.
async function explain() {
  const name = /^#rule-(\w+)$/.exec(location.hash)?.[1];
  const answer = name ? await fetch(`/api/v1/rules/${name}`) : null;
  const rule = answer?.ok ? await answer.json() : null;
  show("rule", rule ? el("div", { class: "card" }, el("h2", {}, `What ${rule.name} means`), el("p", { class: "text" }, rule.documentation),
    rule.needs.length ? el("p", { class: "dim" }, `It needs: ${rule.needs.join(", ")}.`) : null) : null);
}
addEventListener("hashchange", explain);
explain().catch(() => {});
