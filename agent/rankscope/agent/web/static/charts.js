// Curves over steps, one line a rank; where a value was no number, a red tick says so.

import { el, number } from "./dom.js";

const COLOURS = ["#3b9eff", "#f29e38", "#3dbb7d", "#e0607e", "#a78bfa", "#2bb5c9", "#c9a227", "#8f9bb3"];
const LINES = 16; // ranks drawn before only the extremes would be seen

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function table(curves) {
  // uPlot wants ascending x: after a resume the newest value of a step counts.
  const tables = curves.map((curve) => {
    const byStep = new Map();
    curve.step.forEach((step, i) => byStep.set(step, curve.value[i]));
    const steps = [...byStep.keys()].sort((a, b) => a - b);
    return [steps, steps.map((step) => byStep.get(step))];
  });
  const joined = uPlot.join(tables);
  const broken = [];
  for (const values of joined.slice(1)) {
    values.forEach((value, i) => {
      if (typeof value === "string") { broken.push(joined[0][i]); values[i] = null; }
    });
  }
  return { data: joined, broken };
}

export class Chart {
  constructor(title, log = false) {
    this.log = log;
    this.plot = null;
    this.key = "";
    const box = el("input", { type: "checkbox", ...(log ? { checked: "" } : {}) });
    box.addEventListener("change", () => { this.log = box.checked; this.key = ""; this.set(this.curves); });
    this.body = el("div", {});
    this.element = el("div", { class: "card chart" },
      el("div", { class: "head" }, el("h3", {}, title), el("label", { class: "dim" }, box, " log")), this.body);
  }

  set(curves) {
    this.curves = curves;
    this.element.hidden = !curves.length;
    if (!curves.length) return;
    const shown = curves.slice(0, LINES);
    const { data, broken } = table(shown);
    this.broken = broken;
    const width = Math.max(200, this.body.clientWidth || 420);
    const key = JSON.stringify([shown.map((curve) => curve.label), this.log, document.documentElement.dataset.theme, width]);
    if (key === this.key) { this.plot.setData(data); return; }
    this.key = key;
    this.plot?.destroy();
    const axis = { stroke: css("--dim"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line") } };
    this.plot = new uPlot({
      width, height: 230,
      cursor: { sync: { key: "steps" } },
      scales: { x: { time: false }, y: { distr: this.log ? 3 : 1 } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map((tick) => number(tick)) },
        { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : number(tick, 3))) }],
      series: [{ label: "step" }, ...shown.map((curve, i) => ({
        label: curve.label, stroke: COLOURS[i % COLOURS.length], width: 1.5, spanGaps: true, dash: curve.dashed ? [6, 4] : undefined,
        value: (_, value) => number(value, 5), points: { show: curve.step.length < 40, size: 4 },
      }))],
      hooks: { draw: [(plot) => this.ticks(plot)] },
    }, data, this.body);
  }

  ticks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = css("--critical");
    ctx.lineWidth = 2;
    for (const step of this.broken) {
      const x = Math.round(plot.valToPos(step, "x", true));
      ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke();
    }
    ctx.restore();
  }
}
