// Conveniences; every page works without them. Drafts are saved while one types, a form is sent once, a waiting page
// asks for its replies (the server answers when they are there), and a page from the browser's history is fetched anew.
"use strict";

window.addEventListener("pageshow", (event) => {
  if (event.persisted) window.location.reload();
});

for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", () => {
    // after this turn of the event loop, so that the button's own submission is not stopped
    setTimeout(() => form.querySelectorAll("button").forEach((button) => { button.disabled = true; }), 0);
  });
}

// As simgym/words.py: letters of scripts without spaces between words are words of their own.
const UNSPACED = /(?=\p{L})[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Bopomofo}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}\p{Script=Tibetan}]/gu;

function countWords(text) {
  return text.replace(UNSPACED, " $& ").split(/\s+/).filter((word) => /[\p{L}\p{N}]/u.test(word)).length;
}

for (const area of document.querySelectorAll("textarea[data-draft]")) {
  const form = area.form;
  const count = document.querySelector(`.count[data-for="${area.name}"]`);
  let timer = null;
  let saved = area.value;
  const show = () => { if (count) count.textContent = `Words so far: ${countWords(area.value)}.`; };
  const save = () => {
    if (area.value === saved) return;
    saved = area.value;
    const body = new URLSearchParams({
      token: form.elements.token.value, key: form.elements.key.value, field: area.name, text: area.value,
    });
    fetch("/draft", { method: "POST", body, keepalive: body.toString().length < 60000 }).catch(() => { saved = null; });
  };
  area.addEventListener("input", () => { show(); clearTimeout(timer); timer = setTimeout(save, 800); });
  area.addEventListener("blur", save);
  form.addEventListener("submit", () => clearTimeout(timer));
  show();
}

const problem = document.querySelector(".problem[tabindex]");
if (problem) problem.focus();

const waiting = document.querySelector("[data-wait]");
if (waiting) {
  const look = async () => {
    try {
      const answer = await fetch("/state", { headers: { Accept: "application/json" } });
      const state = await answer.json();
      if (answer.ok && (state.key !== waiting.dataset.wait || state.failed)) return window.location.reload();
    } catch (error) { /* the server is away; ask again */ }
    setTimeout(look, 1000);
  };
  look();
}
