// Elements and figures; text goes in as text only, whatever a run is called.

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.assign(element.style, value);
    else if (name === "onclick") element.addEventListener("click", value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function show(id, ...children) {
  document.getElementById(id).replaceChildren(...children.flat().filter(Boolean));
}

// The API writes NaN and infinities as strings.
export function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumSignificantDigits: digits });
}

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${number(value * 1000, 3)} ms`;
  if (value < 120) return `${number(value, 3)} s`;
  if (value < 7200) return `${Math.round(value / 60)} min`;
  return value < 172800 ? `${number(value / 3600, 3)} h` : `${number(value / 86400, 3)} d`;
}

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const power = value < 1 ? 0 : Math.min(5, Math.floor(Math.log2(value) / 10));
  return `${number(value / 2 ** (10 * power), 3)} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][power]}`;
}

export const percent = (ratio) => (ratio === null || ratio === undefined ? "–" : `${Math.round(ratio * 100)} %`);

export function bar(ratio) {
  const width = `${Math.max(0, Math.min(1, ratio || 0)) * 100}%`;
  return el("div", { class: "bar", role: "meter", "aria-valuenow": Math.round((ratio || 0) * 100) }, el("i", { style: { width } }));
}

const STATES = { running: "good", finished: "info", silent: "warning", failed: "critical" };
export const chip = (state) => el("span", { class: `chip ${STATES[state] || "info"}` }, state);
