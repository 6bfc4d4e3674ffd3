"use strict";
// What a token carries, and how a number becomes a colour. Blue and orange are told apart with any
// colour vision; the sign stands in the underline too, solid above and dotted below the centre. What
// is never above its centre, or never below, has a side, and half a scale.
const FIELDS = [
  { key: "log_prob_gap", symbol: "Δ", name: "Δ, teacher less policy", unit: "nats", centre: 0 },
  { key: "weight", symbol: "w", name: "w, weight of the advantage", unit: "", centre: 1 },
  { key: "group_advantage", symbol: "A", name: "A, advantage of the group", unit: "", centre: 0 },
  { key: "advantage", symbol: "Ã", name: "Ã, advantage of the loss", unit: "", centre: 0 },
  { key: "old_log_prob", symbol: "log π old", name: "log-prob, policy before the update", unit: "nats", centre: 0, side: -1 },
  { key: "new_log_prob", symbol: "log π new", name: "log-prob, last pass of the update", unit: "nats", centre: 0, side: -1 },
  { key: "behaviour_log_prob", symbol: "log π sampler", name: "log-prob, sampler", unit: "nats", centre: 0, side: -1 },
  { key: "teacher_log_prob", symbol: "log π teacher", name: "log-prob, teacher", unit: "nats", centre: 0, side: -1 },
  { key: "episode_skill_log_prob", symbol: "log π skill", name: "log-prob, behind the episode's skill", unit: "nats", centre: 0, side: -1 },
  { key: "step_skill_log_prob", symbol: "log π turn skill", name: "log-prob, behind the turn's skill", unit: "nats", centre: 0, side: -1 },
  { key: "entropy", symbol: "H", name: "entropy of the policy", unit: "nats", centre: 0, side: 1 },
  { key: "in_span", symbol: "span", name: "in the span of its turn", unit: "", centre: 0 },
  { key: "is_scored", symbol: "scored", name: "judged by the teacher", unit: "", centre: 0 },
];
const ABOVE = [0, 114, 178], BELOW = [213, 94, 0], DEEPEST = 0.7, PERCENTILE = 0.95;

/** The distance from the centre that is drawn deepest: the 95th percentile of these tokens. */
function scaleOf(values, field) {
  const distances = values.filter((v) => v !== null && v !== undefined)
    .map((v) => Math.abs(Number(v) - field.centre)).sort((a, b) => a - b);
  if (!distances.length) return 1;
  return distances[Math.min(distances.length - 1, Math.floor(PERCENTILE * distances.length))] || 1;
}

function colourOf(value, field, scale) {
  if (value === null || value === undefined) return "";
  const share = Math.max(-1, Math.min(1, (Number(value) - field.centre) / scale));
  const depth = Math.round(DEEPEST * Math.abs(share) * 1000) / 1000;
  return `rgba(${(share > 0 ? ABOVE : BELOW).join(", ")}, ${depth})`;
}

function written(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  return Number.isInteger(value) ? String(value) : value.toFixed(Math.abs(value) < 10 ? 4 : 2);
}

const shortly = (value) => (value === 0 ? "0" : value.toPrecision(3));

/** An element; texts become text nodes and are never read as markup. */
function el(tag, options = {}, children = []) {
  const node = document.createElement(tag);
  if (options.class) node.className = options.class;
  if (options.text !== undefined) node.textContent = options.text;
  if (options.title) node.title = options.title;
  for (const [name, value] of Object.entries(options.data || {})) node.dataset[name] = value;
  if (options.onclick) node.addEventListener("click", options.onclick);
  node.append(...children.filter((child) => child !== null));
  return node;
}

const block = (id) => JSON.parse(document.getElementById(id).textContent);
const INDEX = block("index");
INDEX.episodes.forEach((episode, i) => { episode.i = i; });
const fieldsOf = (records) => FIELDS.filter((field) => records.some(
  (record) => record.turns.some((turn) => (turn[field.key] || []).some((v) => v !== null))));
const valuesOf = (records, key) => records.flatMap(
  (record) => record.turns.flatMap((turn) => turn[key] || []));
const outcome = (episode) => el("span", {
  class: episode.won ? "won" : "lost", text: `${episode.won ? "✓" : "✗"} ${episode.status}` });
const groupKey = (e) => (e.group === null ? null : `${e.trial}:${e.update}:${e.group}`);
const membersOf = (key) => INDEX.episodes.filter((e) => e.source === "sample" && groupKey(e) === key);

function options(select, values, label) {
  select.replaceChildren(...[["", label], ...values.map((v) => [String(v), String(v)])].map(([value, text]) => {
    const option = el("option", { text });
    option.value = value;
    return option;
  }));
}
