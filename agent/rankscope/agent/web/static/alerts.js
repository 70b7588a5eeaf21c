// What fires, why, and what to do about it.

import { el, seconds, show } from "./dom.js";

const open = new Set(); // alerts whose causes are unfolded

function card(alert, now) {
  const { alertname, severity, run, gpu } = alert.labels;
  const key = `${alert.fingerprint}${alert.activeAt}`;
  const since = Date.parse(alert.startsAt || alert.activeAt) / 1000;
  const over = alert.state === "resolved";
  const ranks = alert.annotations.ranks;
  const where = [run, ranks && `${/^\d+$/.test(ranks) ? "rank" : "ranks"} ${ranks}`, gpu && `GPU ${gpu}`];
  const causes = (alert.causes || []).map((cause) =>
    el("li", {}, el("b", {}, cause.cause), cause.evidence ? ` ${cause.evidence}` : "", cause.fix ? el("p", {}, `→ ${cause.fix}`) : null));
  const details = el("details", open.has(key) ? { open: "" } : {}, el("summary", {}, `${causes.length} likely cause${causes.length === 1 ? "" : "s"}`), el("ul", {}, causes));
  details.addEventListener("toggle", () => (details.open ? open.add(key) : open.delete(key)));
  return el("div", { class: `card alert ${over ? "good" : severity}` },
    el("div", { class: "head" },
      el("span", { class: "name" }, el("a", { href: `#rule-${alertname}` }, alertname), " ", el("span", { class: "dim" }, where.filter(Boolean).join(" · "))),
      el("span", { class: "dim" }, `${alert.state}${alert.silencedBy.length ? ", silenced" : ""} · ${seconds(Math.max(1, Math.round(now - since)))} ago`)),
    el("p", {}, alert.annotations.summary || ""),
    causes.length ? details : null);
}

export function alerts(state) {
  const firing = state.alerts.filter((alert) => alert.state === "firing");
  const pending = state.alerts.filter((alert) => alert.state === "pending");
  const lately = state.resolved.filter((alert) => state.time - Date.parse(alert.endsAt) / 1000 < 3600);
  document.title = firing.length ? `(${firing.length}) Rankscope` : "Rankscope";
  show("alerts",
    firing.length ? firing.map((alert) => card(alert, state.time)) : el("div", { class: "calm good" }, "✓ No alert fires."),
    pending.length ? el("p", { class: "dim" }, `Watching: ${pending.map((alert) => alert.labels.alertname).join(", ")}`) : null,
    lately.length ? el("details", open.has("resolved") ? { open: "", id: "resolved" } : { id: "resolved" },
      el("summary", { class: "dim" }, `${lately.length} resolved in the last hour`), lately.map((alert) => card(alert, state.time))) : null);
  const resolved = document.getElementById("resolved");
  resolved?.addEventListener("toggle", () => (resolved.open ? open.add("resolved") : open.delete("resolved")));
}
