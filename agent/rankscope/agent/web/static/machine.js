// The node: its GPUs with the ranks on them, and the agent's own health.

import { bar, bytes, el, number, percent, seconds, show } from "./dom.js";

function gpu(found) {
  const ranks = found.ranks.map((rank) => `rank ${rank.rank}`).join(", ");
  const hot = found.throttled.length ? el("span", { class: "chip critical" }, `throttled: ${found.throttled.join(", ")}`) : null;
  return el("div", { class: "card" },
    el("div", { class: "head" }, el("b", {}, `GPU ${found.gpu}`), el("span", { class: "dim" }, ranks || "no rank")),
    el("div", { class: "dim" }, found.name, found.simulated ? el("span", { class: "warning" }, " simulated") : ""),
    el("div", { class: "pair" }, el("span", {}, "busy"), el("span", {}, percent(found.utilization))), bar(found.utilization),
    el("div", { class: "pair" }, el("span", {}, "memory"),
      el("span", {}, `${bytes(found.memory_used_bytes)} of ${bytes(found.memory_size_bytes)}`)),
    bar(found.memory_used_bytes / found.memory_size_bytes),
    el("div", { class: "pair" },
      el("span", {}, "power"), el("span", {}, `${number(found.power_watts, 3)} of ${number(found.power_limit_watts, 3)} W`),
      el("span", {}, "temperature"), el("span", {}, `${number(found.temperature_celsius, 3)} °C`)),
    hot);
}

function row(name, value, kind) {
  return el("tr", {}, el("td", {}, name), el("td", { class: kind || "" }, value));
}

export function machine(state) {
  document.getElementById("simulated").hidden = !state.gpus.some((found) => found.simulated);
  show("gpus", state.gpus.length ? el("div", { class: "cards" }, state.gpus.map(gpu))
    : el("p", { class: "dim" }, "No GPU is sampled on this node."));
  const memory = state.system.memory_size_bytes - state.system.memory_available_bytes;
  const dropped = Object.entries(state.dropped).filter(([, count]) => count > 0);
  const blind = Object.entries(state.samplers).filter(([, sampler]) => !sampler.up);
  show("agent", el("table", {}, el("tbody", {},
    row("load, 1 min", `${number(state.system.load1, 3)} on ${number(state.system.cpus)} CPUs`),
    row("memory in use", `${bytes(memory)} of ${bytes(state.system.memory_size_bytes)}`),
    row("version", `${state.version}, up ${seconds(state.time - state.started)}`),
    row("series exported", number(state.series, 6)),
    row("samplers", blind.length ? blind.map(([name, sampler]) => `${name}: ${sampler.failure}`).join("; ")
      : `all ${Object.keys(state.samplers).length} work`, blind.length ? "critical" : "good"),
    row("dropped", dropped.length ? dropped.map(([reason, count]) => `${reason}: ${count}`).join(", ") : "nothing",
      dropped.length ? "warning" : "good"))));
}
