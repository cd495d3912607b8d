// Requests to the server. The token comes with the address that `simgym view --web` printed, behind the `#`; it is kept
// for this origin, so that a reload and a second tab work, and is taken out of the address.

const KEY = "simgym-view-token";

export function takeToken() {
  const match = /^#token=([\w-]+)$/.exec(location.hash);
  if (!match) return;
  localStorage.setItem(KEY, match[1]);
  history.replaceState(null, "", location.pathname);
}

async function ask(path, options = {}) {
  const headers = { "X-Simgym-Token": localStorage.getItem(KEY) || "", ...options.headers };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `simgym view --web` still running?");
  }
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(value.detail || value.error?.message || `The server answered ${answer.status}.`);
  return value;
}

export function get(path, parameters = {}, signal = undefined) {
  const given = Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== false);
  return ask(`api/${path}?${new URLSearchParams(given)}`, { signal });
}

export function post(path, value) {
  const headers = { "Content-Type": "application/json" };
  return ask(`api/${path}`, { method: "POST", headers, body: JSON.stringify(value) });
}
