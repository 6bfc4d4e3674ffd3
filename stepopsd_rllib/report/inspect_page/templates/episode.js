// One episode: the turns as a chat, the response's tokens in colour, what the teacher was told.
function drawEpisode(i, turnNumber) {
  const view = document.getElementById("episode");
  const e = INDEX.episodes[i];
  if (!e) { view.replaceChildren(el("section", { text: "There is no such episode." })); return; }
  const at = state.list.indexOf(e);
  if (at >= 0) state.at = at;
  if (e.source !== "sample") { view.replaceChildren(evaluationOnly(e)); return; }
  const record = block(`e${i}`);
  const fields = fieldsOf([record]);
  const field = fields.find((f) => f.key === state.field) || fields[0];
  const scale = field ? scaleOf(valuesOf([record], field.key), field) : 1;
  const numbers = el("tbody");
  const chat = el("div", { class: "chat" }, [
    ...record.turns.map((turn, k) => turnOf(record, turn, k, field, scale, numbers)), ending(record, e)]);
  view.replaceChildren(
    el("div", { class: "bar-top" }, [
      el("h2", { text: e.task }), el("span", { class: "muted", text: e.type }), outcome(e),
      el("span", { class: "muted", text: `return ${written(e.return)}${e.score === null ? "" : ` · task score ${written(e.score)}`} · iteration ${e.update} · rollout ${e.rollout}` }),
      fieldButtons(fields, field, () => drawEpisode(i))]),
    el("div", { class: "two" }, [chat, aside(e, record, field, scale, numbers)]));
  chat.addEventListener("mouseover", (event) => {
    const token = event.target.closest(".token");
    if (token) point(record, fields, token, numbers);
  });
  goToTurn(turnNumber || 0, turnNumber !== undefined);
}

function turnOf(record, turn, k, field, scale, numbers) {
  const marks = [];
  if (turn.is_action_valid === false) marks.push(el("span", { class: "badge bad", text: "invalid action" }));
  if (turn.finish_reason === "length") marks.push(el("span", { class: "badge bad", text: "cut at the response limit" }));
  else if (turn.finish_reason) marks.push(el("span", { class: "badge", text: turn.finish_reason }));
  if (turn.reward) marks.push(el("span", { class: "badge good", text: `reward ${written(turn.reward)}` }));
  const parts = [
    el("div", { class: "turn-head" }, [el("b", { text: `Turn ${k + 1}` }), el("span", { text: `${turn.tokens.length} tokens` }), ...marks]),
    el("div", { class: "said env" }, [el("span", { class: "who", text: "environment" }), el("div", { class: "text", text: turn.observation || "" })]),
    turn.prompt === undefined ? null : folded(promptLabel(turn, record, k), (turn.prompt_kept ? `… the first ${turn.prompt_kept} characters as in the turn before …\n` : "") + turn.prompt),
    el("div", { class: "said policy" }, [
      el("span", { class: "who", text: "policy" }),
      el("div", { class: "text" }, turn.tokens.map((text, t) => tokenOf(turn, k, text, t, field, scale))),
      el("div", { class: "action", text: `→ ${turn.action || "(no action was found)"}` })]),
    turn.told ? folded("the skill of this turn", turn.told) : null];
  return el("div", { class: "turn", data: { turn: k } }, parts);
}

const promptLabel = (turn, record, k) => (record.context === "append" && k > 0 ? "what was added to the prompt" : "the prompt");

function folded(label, text) {
  return el("details", { class: "fold" }, [el("summary", { text: label }), el("pre", { text })]);
}

function tokenOf(turn, k, text, t, field, scale) {
  const value = field && turn[field.key] ? turn[field.key][t] : null;
  const token = el("span", { class: "token", text, data: { turn: k, token: t } });
  if (field) {
    token.dataset.value = String(value);
    token.style.backgroundColor = colourOf(value, field, scale);
    const distance = (Number(value) - field.centre) / scale;
    if (value !== null && Math.abs(distance) > 0.05) token.classList.add(distance > 0 ? "up" : "down");
    token.title = `${field.symbol} ${written(value)}`;
  }
  if (turn.in_span && turn.in_span[t] === false) token.classList.add("out");
  return token;
}

/** All numbers of the token under the pointer. */
function point(record, fields, token, numbers) {
  document.querySelectorAll(".token.pointed").forEach((other) => other.classList.remove("pointed"));
  token.classList.add("pointed");
  const turn = record.turns[token.dataset.turn];
  numbers.replaceChildren(
    el("tr", {}, [el("td", { text: "token" }), el("td", { text: JSON.stringify(turn.tokens[token.dataset.token]) })]),
    ...fields.map((f) => el("tr", {}, [el("td", { text: f.name }), el("td", { text: written((turn[f.key] || [])[token.dataset.token]) })])));
}

function ending(record, e) {
  return el("div", { class: "turn" }, [
    record.final_observation ? el("div", { class: "said env" }, [el("span", { class: "who", text: "environment" }), el("div", { class: "text", text: record.final_observation })]) : null,
    el("div", { class: "turn-head" }, [el("b", { text: "End" }), el("span", { class: `badge ${e.won ? "good" : "bad"}`, text: e.status.replaceAll("_", " ") }), el("span", { text: `return ${written(e.return)}` })])]);
}

function aside(e, record, field, scale, numbers) {
  numbers.append(el("tr", {}, [el("td", { class: "muted", text: "Point at a token." })]));
  const ramp = el("div", { class: "ramp" });
  const ends = field ? [field.side === 1 ? field.centre : field.centre - scale, field.side === -1 ? field.centre : field.centre + scale] : [];
  if (field) ramp.style.background = `linear-gradient(90deg, ${[...new Set([ends[0], field.centre, ends[1]])].map((v) => (v === field.centre ? "#fff" : colourOf(v, field, scale))).join(", ")})`;
  const members = membersOf(groupKey(e));
  return el("aside", {}, [
    field ? el("section", {}, [el("h3", { text: `Colour: ${field.name}${field.unit ? `, ${field.unit}` : ""}` }),
      el("div", { class: "scale" }, [el("span", { text: shortly(ends[0]) }), ramp, el("span", { text: shortly(ends[1]) })])]) : null,
    el("section", {}, [el("h3", { text: "The token" }), el("table", { class: "numbers" }, [numbers])]),
    el("section", { class: "told" }, [el("h3", { text: "What the teacher was told" }),
      record.told ? el("pre", { text: record.told }) : el("p", { class: "caption", text: "Nothing beyond what the policy read." })]),
    members.length > 1 ? el("section", {}, [el("h3", { text: "The group" }),
      el("div", { class: "siblings" }, members.map((other) => el("button", { class: other === e ? "here" : "", text: `${other.rollout} ${other.won ? "✓" : "✗"}`, onclick: () => { location.hash = `episode=${other.i}`; } }))),
      el("p", { class: "caption" }, [el("button", { text: "side by side", onclick: () => { location.hash = `group=${groupKey(e)}`; } })])]) : null]);
}

function evaluationOnly(e) {
  const others = INDEX.episodes.filter((o) => o.source === "evaluation" && o.task === e.task);
  const sampled = INDEX.episodes.some((o) => o.source === "sample" && o.task === e.task);
  return el("section", {}, [
    el("div", { class: "bar-top" }, [el("h2", { text: e.task }), el("span", { class: "muted", text: e.type })]),
    el("p", { class: "caption", text: "Evaluations record the outcome of every task, not its turns." }),
    el("table", { class: "plain" }, [el("thead", {}, [el("tr", {}, ["run", "iteration", "outcome", "return", ...(IS_GRADED ? ["task score"] : []), "turns"].map((text) => el("th", { text })))]),
      el("tbody", {}, others.map((o) => el("tr", {}, [el("td", { text: INDEX.trials[o.trial] }), el("td", { text: String(o.update) }), el("td", {}, [outcome(o)]), el("td", { text: written(o.return) }), IS_GRADED ? el("td", { text: written(o.score) }) : null, el("td", { text: written(o.turns) })])))]),
    sampled ? el("button", { class: "more", text: "sampled episodes of this task", onclick: () => { location.hash = `task=${encodeURIComponent(e.task)}`; } }) : null]);
}

function goToTurn(number, scrolls) {
  const turns = [...document.querySelectorAll("#episode .turn")];
  if (!turns.length) return;
  const k = Math.max(0, Math.min(turns.length - 1, number));
  turns.forEach((turn, i) => turn.classList.toggle("current", i === k));
  if (scrolls) turns[k].scrollIntoView({ block: "start" });
}
