// Which view is shown (the address behind #), and the keys.
const KEYS = [
  ["j / k", "next, previous episode of the list"], ["n / p", "next, previous turn"],
  ["c", "next colour"], ["g", "the group side by side"], ["l", "the list of episodes"],
  ["o", "the overview"], ["Enter", "open the chosen episode"], ["?", "these keys"],
];

function route() {
  const parts = new Map(location.hash.slice(1).split("&").map((part) => {
    const cut = part.indexOf("=");
    return cut < 0 ? [part, ""] : [part.slice(0, cut), decodeURIComponent(part.slice(cut + 1))];
  }));
  const view = ["episode", "group", "task", "episodes", "compare"].find((name) => parts.has(name)) || "overview";
  const shown = view === "task" ? "group" : view;
  if (!document.getElementById(shown)) { location.hash = "overview"; return; }
  document.querySelectorAll(".view").forEach((main) => { main.hidden = main.id !== shown; });
  document.querySelectorAll("nav a").forEach((a) => a.classList.toggle("here",
    a.dataset.view === view || (a.dataset.view === "episodes" && ["episode", "group"].includes(view)) || (a.dataset.view === "compare" && view === "task")));
  if (view === "episodes") drawEpisodes();
  if (view === "episode") drawEpisode(Number(parts.get("episode")), parts.has("turn") ? Number(parts.get("turn")) : undefined);
  if (view === "group") drawGroup(parts.get("group"));
  if (view === "task") drawTask(parts.get("task"));
  if (view === "compare") drawCompare();
  if (!parts.has("turn")) window.scrollTo(0, 0);
}

function move(by) {
  const at = Math.max(0, Math.min(state.list.length - 1, state.at + by));
  if (!document.getElementById("episode").hidden || document.getElementById("episodes").hidden) { openEpisode(at); return; }
  state.at = at;
  state.shown = Math.max(state.shown, at + 1);
  drawRows();
  document.querySelector("tr.chosen").scrollIntoView({ block: "nearest" });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "SELECT"].includes(event.target.tagName)) return;
  const current = state.list[state.at];
  const turns = [...document.querySelectorAll("#episode .turn")];
  const turn = turns.findIndex((node) => node.classList.contains("current"));
  const does = {
    j: () => move(1), k: () => move(-1),
    n: () => goToTurn(turn + 1, true), p: () => goToTurn(turn - 1, true),
    c: () => nextField(), l: () => { location.hash = "episodes"; }, o: () => { location.hash = "overview"; },
    g: () => { if (current && groupKey(current) && current.source === "sample") location.hash = `group=${groupKey(current)}`; },
    Enter: () => { if (!document.getElementById("episodes").hidden) openEpisode(state.at); },
    "?": () => { help.hidden = !help.hidden; }, Escape: () => { help.hidden = true; },
  }[event.key];
  if (does) { event.preventDefault(); does(); }
}

function nextField() {
  const buttons = [...document.querySelectorAll(".view:not([hidden]) .fields button")];
  const at = buttons.findIndex((button) => button.classList.contains("here"));
  if (buttons.length) buttons[(at + 1) % buttons.length].click();
}

const help = document.getElementById("help");
help.append(el("section", {}, [el("h2", { text: "Keys" }), el("table", {}, [el("tbody", {}, KEYS.map(
  ([key, does]) => el("tr", {}, [el("td", {}, [el("kbd", { text: key })]), el("td", { text: does })])))])]));
help.addEventListener("click", () => { help.hidden = true; });
window.addEventListener("hashchange", route);
document.addEventListener("keydown", onKey);
route();
