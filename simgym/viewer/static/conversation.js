// One conversation, or two beside each other.

import { el, reward, short } from "./dom.js";

// What the reader sees of a conversation. `blind` hides who takes part, the outcome and the model calls.
export function conversationView(talk, { blind, side = "", goal = true }) {
  const view = el("article", { class: "talk" });
  if (side) view.append(el("h3", {}, blind ? side : `${side}: ${talk.assistant} × ${short(talk.simulator)}`));
  if (!blind) view.append(facts(talk, side));
  if (goal) view.append(goalView(talk));
  for (const turn of talk.turns) view.append(turnView(turn, blind));
  if (talk.user_reply) view.append(el("p", { class: "soft" }, "The user's last words, which nobody answered: ", el("q", { dir: "auto" }, talk.user_reply)));
  if (blind) return view;
  if (talk.later.length) view.append(callsView(talk.later, `${talk.later.length} more model call${talk.later.length > 1 ? "s" : ""}: ${[...new Set(talk.later.map((call) => call.role))].join(", ")}`));
  view.append(endView(talk));
  view.append(details("Fingerprints", () => [el("pre", {}, talk.fingerprints)]));
  return view;
}

export const goalView = (talk) => el("p", { class: "intent" }, el("span", {}, "The user wants to"), el("span", { dir: "auto" }, talk.goal));

function facts(talk, side) {
  const rows = [
    ["Assistant", talk.assistant],
    ["Simulator", talk.simulator],
    ["Persona", talk.persona],
    ["Scenario", talk.scenario],
    ["Seed", talk.seed],
    ["File", side ? "" : talk.file],
  ];
  return el("dl", { class: "facts" }, rows.filter(([, value]) => value).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

function endView(talk) {
  const parts = [el("p", {}, el("b", {}, reward(talk.reward)), ` reward; ${talk.end}.`)];
  if (talk.components.length) parts.push(el("p", { class: "soft" }, `Mean of ${talk.components.map(reward).join(", ")}.`));
  for (const reason of talk.reasons.filter(Boolean)) parts.push(el("p", { class: "reason", dir: "auto" }, reason));
  if (talk.fault) parts.push(el("p", { class: "flag" }, talk.fault));
  const tokens = Object.entries(talk.tokens).map(([role, count]) => `${role} ${count.prompt.toLocaleString("en")} read, ${count.completion.toLocaleString("en")} written`);
  if (tokens.length) parts.push(el("p", { class: "soft" }, `Tokens: ${tokens.join("; ")}.`));
  return el("div", { class: talk.fault ? "end bad" : "end" }, parts);
}

function turnView(turn, blind) {
  const box = el("div", { class: `turn ${turn.role}` }, el("b", {}, turn.role), el("div", { class: "said", dir: "auto" }, turn.text));
  if (turn.cut && !blind) box.append(el("span", { class: "flag" }, turn.cut));
  const faults = turn.calls.filter((call) => call.fault);
  if (faults.length && !blind) box.append(el("span", { class: "flag" }, `${faults.length} attempt${faults.length > 1 ? "s" : ""} not used`));
  if (!blind && turn.calls.length) box.append(callsView(turn.calls, turn.calls.length > 1 ? `${turn.calls.length} model calls` : "model call"));
  return box;
}

function callsView(calls, title) {
  return details(title, () => calls.map(callView), "calls");
}

function callView(call) {
  const parts = [
    el("h4", {}, `${call.role}, seed ${call.seed}`, call.finish_reason ? `, ended by ${call.finish_reason}` : ""),
    call.fault ? el("p", { class: "flag" }, `Not used: ${call.fault}`) : "",
    part(`Prompt (${call.prompt_tokens.toLocaleString("en")} tokens)`, call.messages ? call.messages.map((said) => el("div", {}, el("h5", {}, said.role), text(said.text))) : [text(call.prompt)]),
    call.reasoning ? part("Reasoning", [text(call.reasoning)]) : "",
    part(`Output (${call.completion_tokens.toLocaleString("en")} tokens)`, [text(call.output)]),
  ];
  return el("div", { class: "call" }, parts);
}

const text = (said) => el("pre", { dir: "auto" }, said);

const part = (title, children) => el("div", { class: "part" }, el("h5", {}, title), children);

// Filled when it is opened: prompts are long, and most are never looked at.
function details(title, fill, name = "") {
  const box = el("details", { class: name }, el("summary", {}, title));
  box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(...fill().flat()); });
  return box;
}
