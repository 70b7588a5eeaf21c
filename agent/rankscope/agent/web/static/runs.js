// The runs on this node, and one of them in detail: curves, ranks, phases.

import { Chart } from "./charts.js";
import { bar, chip, el, number, seconds, show } from "./dom.js";

const PHASES = { data: "#f29e38", forward: "#3b9eff", backward: "#2465b8", optimizer: "#3dbb7d", eval: "#a78bfa", comm: "#e0607e", checkpoint: "#c9a227" };
const CHARTS = [
  ["Loss", [["loss", "train"], ["val_loss", "validation"]]],
  ["Learning rate", [["lr", "lr"]]],
  ["Gradient norm", [["grad_norm", "norm"]]],
  ["Seconds a step", [["step_seconds", "step"]]],
];

let chosen = new URLSearchParams(location.search).get("run") || decodeURIComponent(location.hash.slice(1));
let charts = null;
let shownRun = null;
let shownStep = null;
let facts = null;
let archive = []; // runs that are over, from disk
let asked = 0;

async function remember(redraw) {
  if (Date.now() - asked < 30_000) return;
  asked = Date.now();
  const answer = await fetch("/api/v1/runs");
  if (answer.ok) { archive = (await answer.json()).archive; redraw(); }
}

function earlier(select) {
  if (!archive.length) return null;
  const row = (run) => el("tr", {}, el("td", {}, el("button", { type: "button", onclick: () => select(run.id) }, run.id)), el("td", {}, run.project),
    el("td", {}, chip(run.state)), el("td", {}, new Date(run.started * 1000).toLocaleString()));
  const open = document.getElementById("earlier")?.open || archive.some((run) => run.id === shownRun);
  return el("details", { id: "earlier", ...(open ? { open: "" } : {}) },
    el("summary", {}, `${archive.length} earlier run${archive.length === 1 ? "" : "s"} on disk`), el("table", {}, el("tbody", {}, archive.map(row))));
}

function progress(run) {
  const step = Math.max(-1, ...run.ranks.map((rank) => rank.step ?? -1));
  return { step: step < 0 ? null : step, ratio: run.target_steps ? (step + 1) / run.target_steps : null };
}

function card(run, select) {
  const { step, ratio } = progress(run);
  const first = run.ranks[0];
  return el("button", { class: "card", type: "button", "aria-pressed": String(run.id === shownRun), onclick: () => select(run.id) },
    el("div", { class: "head" }, el("b", {}, run.name || run.id), chip(run.state)),
    el("div", { class: "dim" }, `${run.project} · ${run.ranks.length} of ${run.world_size} ranks here${run.attempt ? ` · attempt ${run.attempt}` : ""}`),
    ratio === null ? null : bar(ratio),
    el("div", { class: "pair" },
      el("span", {}, "step"), el("span", {}, `${number(step, 8)}${run.target_steps ? ` of ${number(run.target_steps, 8)}` : ""}`),
      el("span", {}, "loss"), el("span", {}, number(first?.loss)),
      el("span", {}, "a step takes"), el("span", {}, seconds(first?.step_seconds))));
}

function phases(rank) {
  const entries = Object.entries(rank.phase_shares); // of the whole step: what is in no phase stays empty
  if (!entries.length) return el("span", { class: "dim" }, "–");
  const open = 1 - entries.reduce((sum, [, share]) => sum + share, 0);
  const title = [...entries, ...(open > 0.005 ? [["in no phase", open]] : [])].map(([name, share]) => `${name} ${Math.round(share * 100)} %`).join(", ");
  return el("div", { class: "bar", title, style: { minWidth: "12rem" } },
    entries.map(([name, share]) => el("i", { style: { width: `${(share * 100).toFixed(2)}%`, background: PHASES[name] || "#8f9bb3" } })));
}

function ranks(run, now) {
  const head = ["rank", "state", "GPU", "step", "loss", "gradient norm", "a step takes", "last step", "time by phase"];
  const numeric = new Set([3, 4, 5, 6, 7]);
  const cell = (content, i, tag = "td") => el(tag, { class: numeric.has(i) ? "number" : "" }, content);
  const legend = Object.entries(PHASES).filter(([name]) => run.ranks.some((rank) => name in rank.phase_seconds));
  return [el("table", {},
    el("thead", {}, el("tr", {}, head.map((name, i) => cell(name, i, "th")))),
    el("tbody", {}, run.ranks.map((rank) => el("tr", {}, [
      String(rank.rank), chip(rank.exit && rank.exit !== "finished" ? "failed" : rank.state), rank.gpu ?? "–", number(rank.step, 8), number(rank.loss),
      number(rank.grad_norm), seconds(rank.step_seconds),
      rank.last_step_time ? `${seconds(Math.max(0, now - rank.last_step_time))} ago` : "–", phases(rank),
    ].map((content, i) => cell(content, i)))))),
  el("p", { class: "dim" }, legend.map(([name, colour]) => [el("span", { style: { color: colour } }, "■ "), `${name}  `]).flat())];
}

async function curves(run, names) {
  const found = await Promise.all(names.map(async ([name, label]) => {
    const answer = await fetch(`/api/v1/runs/${encodeURIComponent(run.id)}/series?name=${name}&points=600`);
    const { series } = answer.ok ? await answer.json() : { series: [] };
    return series.map((curve) => ({ ...curve, label: `${label}, rank ${curve.rank}`, dashed: name === "val_loss" }));
  }));
  return found.flat();
}

async function detail(run) {
  if (!charts) {
    charts = CHARTS.map(([title, names]) => [new Chart(title), names]);
    show("charts", charts.map(([chart]) => chart.element));
  }
  if (facts !== run.id) {
    facts = run.id;
    const all = await (await fetch(`/api/v1/runs/${encodeURIComponent(run.id)}`)).json();
    const rows = (given) => Object.entries(given || {}).map(([name, value]) =>
      el("tr", {}, el("td", {}, name), el("td", {}, typeof value === "object" ? JSON.stringify(value) : String(value))));
    show("facts", el("table", {}, el("tbody", {}, rows(all.config))), el("table", {}, el("tbody", {}, rows(all.environment))));
  }
  await Promise.all(charts.map(async ([chart, names]) => chart.set(await curves(run, names))));
}

export function runs(state, redraw) {
  const select = (id) => { chosen = id; location.hash = encodeURIComponent(id); shownStep = null; redraw(); };
  remember(redraw).catch(() => {});
  const past = archive.find((other) => other.id === chosen);
  const run = state.runs.find((other) => other.id === chosen) || past || state.runs[0];
  shownRun = run?.id;
  show("runs", state.runs.length ? el("div", { class: "cards" }, state.runs.map((other) => card(other, select)))
    : el("p", { class: "dim" }, "No run here now: call sdk.init() and sdk.log() in a training on this machine."), earlier(select));
  document.getElementById("run").hidden = !run;
  if (!run) return;
  document.getElementById("run-title").textContent = run.id;
  const live = Array.isArray(run.ranks);
  show("ranks", live ? ranks(run, state.time) : el("p", { class: "dim" }, `This run is over: ${run.state}.`));
  const step = `${run.id} ${live ? progress(run).step : "over"} ${document.documentElement.dataset.theme} ${innerWidth}`;
  if (step !== shownStep) {
    shownStep = step;
    detail(run).catch(() => { shownStep = null; });
  }
}
