// The list of episodes with its filters, a group side by side, and the comparison of runs.
const state = { filters: {}, sort: null, shown: 200, list: INDEX.episodes, at: 0, field: null };
const FILTERS = [
  ["trial", "run", (e) => INDEX.trials[e.trial]],
  ["source", "from", (e) => e.source],
  ["update", "iteration", (e) => e.update],
  ["group", "group", (e) => e.group],
  ["outcome", "outcome", (e) => (e.won ? "won" : "lost")],
  ["type", "task type", (e) => e.type],
  ["status", "status", (e) => e.status],
];
const COLUMNS = [
  ["iteration", (e) => e.update, "n"], ["from", (e) => e.source, "short"],
  ["group", (e) => e.group, "n"], ["rollout", (e) => e.rollout, "n"], ["task", (e) => e.task, ""],
  ["task type", (e) => e.type, "short"], ["outcome", (e) => e.status, "short"], ["return", (e) => e.return, "n"],
  ["turns", (e) => e.turns, "n"], ["tokens", (e) => e.tokens, "n"], ["invalid", (e) => e.invalid, "n"],
];
const IS_GRADED = INDEX.episodes.some((e) => e.score !== null);
if (IS_GRADED) COLUMNS.splice(8, 0, ["score", (e) => e.score, "n"]);
if (INDEX.trials.length > 1) COLUMNS.unshift(["run", (e) => INDEX.trials[e.trial], ""]);

const order = (a, b) => (a === b ? 0 : a === null ? -1 : b === null ? 1 : a < b ? -1 : 1);

function filtered() {
  const wanted = FILTERS.filter(([name]) => state.filters[name]);
  const text = (state.filters.text || "").toLowerCase();
  const found = INDEX.episodes.filter((e) =>
    wanted.every(([name, , value]) => String(value(e)) === state.filters[name])
    && (!text || e.task.toLowerCase().includes(text)));
  if (state.sort) {
    const [value, sign] = state.sort;
    found.sort((a, b) => sign * order(value(a), value(b)) || a.i - b.i);
  }
  return found;
}

function drawEpisodes() {
  const view = document.getElementById("episodes");
  if (!view.firstChild) view.append(el("section", {}, [
    el("div", { class: "filters" }, filterControls()),
    el("p", { class: "caption count" }), el("div", { class: "rows" })]));
  drawRows();
}

function filterControls() {
  const controls = FILTERS.map(([name, label, value]) => {
    const found = [...new Set(INDEX.episodes.map(value))].filter((v) => v !== null && v !== "").sort(order);
    if (found.length < 2) return null;
    const select = el("select", { data: { filter: name } });
    options(select, found, "all");
    select.addEventListener("change", () => { state.filters[name] = select.value; refilter(); });
    return el("label", { text: label }, [select]);
  });
  const text = el("input", { data: { filter: "text" } });
  text.placeholder = "part of a task's name";
  text.addEventListener("input", () => { state.filters.text = text.value; refilter(); });
  const clear = el("button", { text: "clear", onclick: () => {
    state.filters = {};
    document.querySelectorAll("[data-filter]").forEach((control) => { control.value = ""; });
    refilter();
  } });
  return [...controls, el("label", { text: "task" }, [text]), clear];
}

function refilter() { state.at = 0; state.shown = 200; drawRows(); }

function drawRows() {
  const view = document.getElementById("episodes");
  state.list = filtered();
  view.querySelector(".count").textContent = INDEX.episodes.length
    ? `${state.list.length} of ${INDEX.episodes.length} episodes. Sampled ones have texts and credit; evaluations their outcome.`
    : "No episode is recorded in this run.";
  const head = el("tr", {}, COLUMNS.map(([label, value, kind]) => el("th", { class: kind, text: label, onclick: () => {
    state.sort = [value, state.sort && state.sort[0] === value ? -state.sort[1] : 1];
    drawRows();
  } })));
  const rows = state.list.slice(0, state.shown).map((e, at) => el("tr", {
    class: at === state.at ? "chosen" : "", data: { episode: e.i }, onclick: () => openEpisode(at),
  }, COLUMNS.map(([label, value, kind]) => el("td", { class: kind },
    [label === "outcome" ? outcome(e) : document.createTextNode(cell(value(e)))]))));
  const more = state.list.length > state.shown ? el("button", {
    class: "more", text: `show ${Math.min(400, state.list.length - state.shown)} more`,
    onclick: () => { state.shown += 400; drawRows(); } }) : null;
  view.querySelector(".rows").replaceChildren(
    el("table", { class: "plain list" }, [el("thead", {}, [head]), el("tbody", {}, rows)]), ...(more ? [more] : []));
}

const cell = (value) => (typeof value === "string" ? value : written(value));

function openEpisode(at) {
  state.at = at;
  if (state.list[at]) location.hash = `episode=${state.list[at].i}`;
}

/** Siblings in columns: what each did in each turn, and where they parted. */
function sideBySide(members, title, captions) {
  const records = members.map((e) => block(`e${e.i}`));
  const fields = fieldsOf(records);
  const field = fields.find((f) => f.key === state.field) || fields.find((f) => f.key === "advantage") || fields[0];
  const scale = field ? scaleOf(valuesOf(records, field.key), field) : 1;
  const path = (record, k) => record.turns.slice(0, k + 1).map((turn) => turn.action).join("\u0000");
  const depth = Math.max(...records.map((record) => record.turns.length));
  const rows = [];
  for (let k = 0; k < depth; k += 1) {
    const alike = (record) => records.every((other) => other.turns.length > k && path(other, k) === path(record, k));
    rows.push(el("tr", {}, [el("th", { class: "turn-number", text: String(k + 1) }), ...records.map((record, m) => {
      const turn = record.turns[k];
      if (!turn) return el("td", { class: "empty" });
      const before = k === 0 || records.every((other) => other.turns.length >= k && path(other, k - 1) === path(record, k - 1));
      const values = field ? (turn[field.key] || []).filter((v) => v !== null).map(Number) : [];
      const mean = values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;
      const td = el("td", { class: alike(record) ? "same" : before ? "parted" : "", title: turn.response || "",
        onclick: () => { location.hash = `episode=${members[m].i}&turn=${k}`; } }, [
        el("span", { class: "value", text: mean === null ? "" : (Math.abs(mean) < 0.005 ? 0 : mean).toFixed(2) }),
        document.createTextNode(turn.action || "(no action)"),
        turn.is_action_valid === false ? el("span", { class: "badge bad", text: "invalid" }) : null]);
      td.style.backgroundColor = mean === null ? "" : colourOf(mean, field, scale);
      return td;
    })]));
  }
  const heads = members.map((e, m) => el("th", {}, [
    el("div", { text: captions ? captions(e) : `rollout ${e.rollout}` }), outcome(e),
    el("div", { class: "muted", text: `return ${written(e.return)}, ${records[m].turns.length} turns` })]));
  return el("section", {}, [
    el("div", { class: "bar-top" }, [el("h2", { text: title }), fieldButtons(fields, field, () => route())]),
    el("div", { class: "side" }, [el("table", {}, [el("thead", {}, [el("tr", {}, [el("th", { class: "turn-number" }), ...heads])]), el("tbody", {}, rows)])]),
    el("p", { class: "caption", text: `Dotted: all did the same so far. Thick edge: here they part. Numbers and colours: mean ${field ? field.name : "–"} over the turn's tokens.` })]);
}

function fieldButtons(fields, current, then) {
  return el("div", { class: "fields" }, fields.map((f) => el("button", {
    class: f === current ? "here" : "", text: f.symbol, title: f.name, data: { field: f.key },
    onclick: () => { state.field = f.key; then(); } })));
}

function drawGroup(key) {
  const members = membersOf(key);
  const view = document.getElementById("group");
  if (!members.length) { view.replaceChildren(el("section", { text: "No such group was sampled." })); return; }
  const e = members[0];
  view.replaceChildren(sideBySide(members, `${e.task}, iteration ${e.update}, group ${e.group}`));
}

const PRESENT = 24; // most columns side by side

function drawTask(task) {
  const found = INDEX.episodes.filter((e) => e.source === "sample" && e.task === task);
  const each = Math.max(1, Math.floor(PRESENT / new Set(found.map((e) => e.trial)).size));
  const members = found.filter((e) => found.filter((o) => o.trial === e.trial && o.i < e.i).length < each);
  const title = members.length < found.length ? `${task}: ${members.length} of ${found.length} episodes, as many of each run` : task;
  document.getElementById("group").replaceChildren(members.length
    ? sideBySide(members, title, (e) => `${INDEX.trials[e.trial]}, iteration ${e.update}, rollout ${e.rollout}`)
    : el("section", { text: "No episode of this task was sampled." }));
}

function drawCompare() {
  const place = document.getElementById("compare-tasks");
  if (place.firstChild) return;
  place.append(comparedTasks("sample", "Sampled training tasks that several runs have"),
    comparedTasks("evaluation", "Tasks of the last evaluations"));
}

function comparedTasks(source, title) {
  const last = INDEX.trials.map((_, t) => Math.max(...INDEX.episodes.filter((e) => e.trial === t && e.source === source).map((e) => e.update)));
  const tasks = new Map();
  for (const e of INDEX.episodes) {
    if (e.source !== source || (source === "evaluation" && e.update !== last[e.trial])) continue;
    if (!tasks.has(e.task)) tasks.set(e.task, INDEX.trials.map(() => []));
    tasks.get(e.task)[e.trial].push(e);
  }
  const rows = [...tasks].filter(([, by]) => by.filter((list) => list.length).length > 1);
  const rate = (list) => list.filter((e) => e.won).length / list.length;
  const differs = ([, by]) => new Set(by.filter((list) => list.length).map(rate)).size > 1;
  rows.sort((a, b) => differs(b) - differs(a) || order(a[0], b[0]));
  const body = rows.map(([task, by]) => el("tr", { data: { task }, onclick: () => { if (source === "sample") location.hash = `task=${encodeURIComponent(task)}`; } },
    [el("td", { text: task, class: source === "sample" ? "link" : "" }), ...by.map((list) => el("td", {
      class: !list.length ? "" : rate(list) === 1 ? "won" : rate(list) === 0 ? "lost" : "",
      text: !list.length ? "–" : source === "sample" ? `${list.filter((e) => e.won).length} of ${list.length} won` : list[0].won ? "✓" : `✗ ${list[0].status}` }))]));
  return el("section", {}, [el("h2", { text: title }), rows.length
    ? el("table", { class: "plain list" }, [el("thead", {}, [el("tr", {}, [el("th", { text: "task" }), ...INDEX.trials.map((name) => el("th", { text: name }))])]), el("tbody", {}, body)])
    : el("p", { class: "caption", text: "There is none." })]);
}
