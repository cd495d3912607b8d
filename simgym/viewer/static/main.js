// The page: what is open, keys, labels, and looking for new conversations.

import { get, post, takeToken } from "./api.js";
import { conversationView, goalView } from "./conversation.js";
import { byId, el, reward, short } from "./dom.js";
import { Filters } from "./filters.js";
import { List } from "./list.js";

const KEYS = [
  ["j  ↓", "next conversation", () => move(1)],
  ["k  ↑", "previous conversation", () => move(-1)],
  ["/", "search", () => search()],
  ["c", "two side by side, or one again", () => compare()],
  ["→  ←", "side by side: next or previous one on the right", null],
  ["p", "open or close all model calls", () => toggleCalls()],
  ["x", "blind: hide names, rewards, reasons, model calls", () => setBlind(!state.blind)],
  ["b", "side by side: the left one is better", () => label("preference", "better")],
  ["w", "side by side: the left one is worse", () => label("preference", "worse")],
  ["t", "side by side: neither is better", () => label("preference", "tie")],
  ["h", "the user is human", () => label("origin", "human")],
  ["s", "the user is simulated", () => label("origin", "simulated")],
  ["u", "take the label back", () => label(state.right ? "preference" : "origin", null)],
  ["?", "this list", () => byId("help").showModal()],
  ["Esc", "close; back to the list", () => leave()],
];
const ACTIONS = Object.fromEntries(KEYS.filter(([, , run]) => run).flatMap(([keys, , run]) => keys.split("  ").map((key) => [key, run])));
Object.assign(ACTIONS, { ArrowDown: ACTIONS["↓"], ArrowUp: ACTIONS["↑"], ArrowRight: () => beside(1), ArrowLeft: () => beside(-1), Escape: ACTIONS.Esc });

const state = { run: null, left: null, right: null, blind: false, preference: null, answered: 0 };
const unhidden = new Set(); // conversations whose names and outcome were in sight
const list = new List((id) => go(id));
const filters = new Filters(() => refill());

takeToken();
byId("keys").append(...KEYS.map(([keys, meaning]) => el("div", {}, el("dt", {}, ...keys.split("  ").map((key) => el("kbd", {}, key))), el("dd", {}, meaning))));
byId("blind").addEventListener("click", () => setBlind(!state.blind));
byId("help-button").addEventListener("click", () => byId("help").showModal());
addEventListener("hashchange", () => route());
addEventListener("keydown", onKey);
await look();
await refill();
await route();
setTimeout(watch, 1000);

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
  if (typing) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target.name === "text")) {
      event.target.blur();
      event.preventDefault();
    }
    return;
  }
  const action = ACTIONS[event.key];
  if (!action || (event.key.startsWith("Arrow") && event.shiftKey)) return;
  event.preventDefault();
  action();
}

// What the server knows of the run; new conversations come into the list where they belong.
async function look() {
  let run;
  try {
    run = await get("run");
  } catch (error) {
    notice(error.message);
    return false;
  }
  notice(run.unreadable ? `${run.unreadable} line${run.unreadable > 1 ? "s" : ""} cannot be read. ${run.problems[0]}` : "");
  const before = state.run;
  state.run = run;
  byId("title").textContent = run.title;
  document.title = `${run.title} · simgym view`;
  byId("where").textContent = `Labels of ${run.person} go to ${run.labels_file}; ${run.labels} so far.`;
  if (!before || before.version !== run.version) filters.offer(run.facets);
  if (before && before.version !== run.version) await list.load(filters.query(), { keepPlace: true }).catch((error) => notice(error.message));
  showStatus();
  return run.complete;
}

async function watch() {
  const complete = document.hidden || (await look());
  setTimeout(watch, complete ? 2000 : 50);
}

async function refill() {
  try {
    await list.load(filters.query());
    if (list.place !== null) list.reveal(list.place);
    showStatus();
  } catch (error) {
    notice(error.message);
  }
}

function showStatus() {
  if (!state.run) return;
  if (byId("place")) byId("place").textContent = place();
  const number = (count) => count.toLocaleString("en");
  const all = `${number(state.run.conversations)} conversation${state.run.conversations === 1 ? "" : "s"}`;
  const shown = list.total === state.run.conversations ? all : `${number(list.total)} of ${all}`;
  const reading = state.run.complete ? "" : ", reading …";
  const waiting = state.run.conversations ? "" : "; they appear here as the run goes on";
  byId("status").textContent = `${shown}${reading}${waiting}`;
}

// The address behind the `#` says what is open: /ID, or /ID/ID for two.
function go(left, right = null) {
  location.hash = left ? `/${left}${right ? `/${right}` : ""}` : "";
}

async function route() {
  const [, left, right] = location.hash.split("/");
  if (!left) {
    Object.assign(state, { left: null, right: null });
    document.body.classList.remove("reading");
    byId("reader").replaceChildren(welcome());
    return;
  }
  const asked = ++state.answered;
  try {
    const [first, second] = await Promise.all([get(`conversations/${left}`, { beside: right || "" }), right ? get(`conversations/${right}`) : null]);
    if (asked !== state.answered) return; // another one was opened meanwhile
    Object.assign(state, { left: first, right: second, preference: first.preference ?? null });
    notice("");
    list.select(left);
    if (list.place === null) await list.locate();
    document.body.classList.add("reading");
    paint();
    byId("reader").scrollTop = 0;
  } catch (error) {
    notice(error.message);
  }
}

function welcome() {
  return el("p", { class: "soft welcome" }, "Choose a conversation, or press ", el("kbd", {}, "j"), ". All keys: ", el("kbd", {}, "?"), ".");
}

// Blind, who stands on the left is drawn by the conversations, so that no side is always the reference.
function sides() {
  if (!state.right) return [state.left];
  const [first, second] = [state.left, state.right];
  const turned = state.blind && [...[first.id, second.id].sort().join("")].reduce((sum, sign) => sum + sign.charCodeAt(0), 0) % 2 === 1;
  const ordered = state.blind ? [first, second].sort((a, b) => (a.id < b.id ? -1 : 1)) : [first, second];
  return turned ? ordered.reverse() : ordered;
}

function paint() {
  if (!state.left) return;
  const shown = sides();
  if (!state.blind) shown.forEach((talk) => unhidden.add(talk.id));
  if (shown.length === 1) { // who guesses whether a user is human is not told what that user was to do
    byId("reader").replaceChildren(bar(), el("div", { class: "alone" }, conversationView(shown[0], { blind: state.blind, goal: !state.blind })), labelBar());
    return;
  }
  const shared = shown[0].goal === shown[1].goal;
  const views = shown.map((talk, side) => conversationView(talk, { blind: state.blind, goal: !shared, side: ["Left", "Right"][side] }));
  byId("reader").replaceChildren(bar(), ...(shared ? [goalView(shown[0])] : []), el("div", { class: "beside" }, views), labelBar());
}

function bar() {
  const button = (text, title, run, disabled = false) => el("button", { type: "button", title, "aria-label": title, disabled, onclick: run }, text);
  const choices = [el("option", { value: "" }, state.left.partners.length ? "one alone" : "no other of this scenario")];
  for (const other of state.left.partners) {
    const name = state.blind ? `conversation ${choices.length}` : `${other.assistant} × ${short(other.simulator)}, ${reward(other.reward)}`;
    choices.push(el("option", { value: other.id }, `${name}${other.same_seed ? "" : ` (seed ${other.seed})`}`));
  }
  const select = el("select", { "aria-label": "Side by side with", title: "Side by side with (c)", disabled: !state.left.partners.length, onchange: (event) => go(state.left.id, event.target.value) }, choices);
  select.value = state.right ? state.right.id : "";
  return el("div", { class: "bar" }, button("←", "Back to the list (Esc)", () => leave()), el("span", { class: "soft", id: "place" }, place()), button("↑", "Previous (k)", () => move(-1), list.place === 0), button("↓", "Next (j)", () => move(1), list.place === list.total - 1), el("label", { class: "with" }, "beside", select));
}

const place = () => (list.place === null ? "" : `${(list.place + 1).toLocaleString("en")} of ${list.total.toLocaleString("en")}`);

function labelBar() {
  const button = (text, key, kind, answer, given) => el("button", { type: "button", "aria-pressed": String(given === answer), title: `${text} (${key})`, onclick: () => label(kind, answer) }, text, el("kbd", {}, key));
  const buttons = [];
  if (state.right) {
    const given = turnedAnswer(state.preference);
    buttons.push(button("left better", "b", "preference", "better", given), button("left worse", "w", "preference", "worse", given), button("tie", "t", "preference", "tie", given));
  } else {
    buttons.push(button("human", "h", "origin", "human", state.left.origin), button("simulated", "s", "origin", "simulated", state.left.origin));
  }
  const note = isBlind() ? "" : el("span", { class: "soft" }, "not blind: figures leave it out");
  return el("div", { class: "labels", role: "group", "aria-label": "Label" }, buttons, note);
}

const isBlind = () => state.blind && sides().every((talk) => !unhidden.has(talk.id));

// The server knows what the first of the address is beside the second; the page may have turned them round.
function turnedAnswer(answer) {
  const turned = { better: "worse", worse: "better" };
  return sides()[0] === state.left ? answer : turned[answer] || answer;
}

async function label(kind, answer) {
  if (!state.left) return;
  if (kind === "preference" && !state.right) return toast("Put two side by side first (c).");
  if (kind === "origin" && state.right) return toast("Open one alone first (c).");
  const shown = sides();
  const blind = isBlind();
  try {
    await post("labels", { kind, answer, blind, conversations: shown.map((talk) => talk.id) });
  } catch (error) {
    toast(error.message);
    return;
  }
  if (kind === "origin") {
    state.left.origin = answer;
    for (const rows of list.pages.values()) if (Array.isArray(rows)) rows.filter((row) => row.id === state.left.id).forEach((row) => { row.origin = answer; });
    list.paint();
  } else state.preference = turnedAnswer(answer);
  const buttons = byId("reader").querySelector(".labels");
  buttons.replaceWith(labelBar());
  toast(answer === null ? "Label taken back." : blind ? `Kept: ${answer}.` : `Kept: ${answer}. Not blind, so figures leave it out.`);
}

async function move(by) {
  const place = list.place === null ? (by > 0 ? 0 : list.total - 1) : list.place + by;
  const row = (await list.at(place)) || (!state.left && (await list.at(place - by)));
  if (row) go(row.id);
}

function search() {
  document.body.classList.remove("reading");
  const field = byId("filters").elements.text;
  field.focus();
  field.select();
}

function compare() {
  if (!state.left) return;
  if (state.right) return go(state.left.id);
  const partner = state.left.partners[0];
  if (partner) go(state.left.id, partner.id);
  else toast("There is no other conversation of this scenario.");
}

function beside(by) {
  if (!state.right) return;
  const partners = state.left.partners;
  const place = partners.findIndex((other) => other.id === state.right.id) + by;
  if (partners[place]) go(state.left.id, partners[place].id);
}

function toggleCalls() {
  const boxes = [...byId("reader").querySelectorAll("details.calls")];
  const open = boxes.some((box) => !box.open);
  boxes.forEach((box) => { box.open = open; });
}

function leave() {
  if (state.right) go(state.left.id);
  else go("");
  list.box.focus({ preventScroll: true });
}

function setBlind(on) {
  state.blind = list.blind = on;
  byId("blind").setAttribute("aria-pressed", String(on));
  const order = byId("filters").elements.order; // files are ordered by who takes part
  if (on && order.value === "written") order.value = "shuffled";
  else if (!on && order.value === "shuffled") order.value = "written";
  filters.count();
  refill();
  paint();
}

function notice(sentence) {
  byId("notice").hidden = !sentence;
  byId("notice").textContent = sentence;
}

let fading = null;
function toast(sentence) {
  byId("toast").textContent = sentence;
  byId("toast").hidden = false;
  clearTimeout(fading);
  fading = setTimeout(() => { byId("toast").hidden = true; }, 3000);
}
