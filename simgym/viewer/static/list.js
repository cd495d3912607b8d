// The list of conversations: as many rows in the document as fit the window, whatever the number of conversations. Rows
// come from the server in pages, which are kept until the query or the run changes.

import { get } from "./api.js";
import { byId, el, reward, short } from "./dom.js";

const HEIGHT = 62; // as in viewer.css
const PAGE = 100;

export class List {
  constructor(onOpen) {
    this.box = byId("list");
    this.rows = byId("rows");
    this.onOpen = onOpen;
    this.query = {};
    this.total = 0;
    this.version = -1;
    this.pages = new Map(); // number of the page -> rows, or a promise of them
    this.current = null; // id of the open conversation
    this.place = null; // where it stands
    this.blind = false;
    this.epoch = 0; // answers to earlier queries are thrown away
    this.box.addEventListener("scroll", () => this.paint(), { passive: true });
    new ResizeObserver(() => this.paint()).observe(this.box);
    this.rows.addEventListener("click", (event) => {
      const row = event.target.closest("[data-id]");
      if (row) this.onOpen(row.dataset.id);
    });
  }

  // A new query, or the same one after the run has grown.
  async load(query, { keepPlace = false } = {}) {
    const epoch = ++this.epoch;
    const start = keepPlace ? Math.floor(this.box.scrollTop / HEIGHT / PAGE) * PAGE : 0;
    const answer = await get("conversations", { ...query, start, rows: PAGE, at: this.current || "" });
    if (epoch !== this.epoch) return;
    this.query = query;
    this.total = answer.total;
    this.version = answer.version;
    this.place = answer.position;
    this.pages = new Map([[start / PAGE, answer.rows]]);
    this.rows.style.height = `${this.total * HEIGHT}px`;
    if (!keepPlace) this.box.scrollTop = 0;
    this.paint();
  }

  async page(number) {
    if (!this.pages.has(number)) {
      const epoch = this.epoch;
      const pages = this.pages;
      const wanted = get("conversations", { ...this.query, start: number * PAGE, rows: PAGE })
        .then((answer) => {
          if (pages === this.pages && epoch === this.epoch) pages.set(number, answer.rows);
          return answer.rows;
        })
        .catch(() => {
          pages.delete(number); // asked for again when it is looked at again
          return [];
        });
      this.pages.set(number, wanted);
    }
    return this.pages.get(number);
  }

  async at(place) {
    if (place < 0 || place >= this.total) return null;
    return (await this.page(Math.floor(place / PAGE)))[place % PAGE] || null;
  }

  select(id) {
    this.current = id;
    this.place = null;
    for (const [number, rows] of this.pages) {
      if (!Array.isArray(rows)) continue;
      const found = rows.findIndex((row) => row.id === id);
      if (found >= 0) this.place = number * PAGE + found;
    }
    if (this.place !== null) this.reveal(this.place);
    this.paint();
  }

  // Where the open conversation stands, if it is in no page that is here.
  async locate() {
    const { position } = await get("conversations", { ...this.query, rows: 0, at: this.current });
    this.place = position;
    if (position !== null) this.reveal(position);
  }

  reveal(place) {
    const top = place * HEIGHT;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    const bottom = top + HEIGHT - this.box.clientHeight;
    if (bottom > this.box.scrollTop) this.box.scrollTop = bottom;
  }

  paint() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / HEIGHT) - 4);
    const last = Math.min(this.total, Math.ceil((this.box.scrollTop + this.box.clientHeight) / HEIGHT) + 4);
    const shown = [];
    for (let place = first; place < last; place += 1) {
      const page = Math.floor(place / PAGE);
      const rows = this.pages.get(page);
      if (Array.isArray(rows)) shown.push(this.row(rows[place % PAGE], place));
      else if (rows === undefined) this.page(page).then(() => this.paint());
    }
    this.rows.replaceChildren(...shown.filter(Boolean));
    const empty = this.total === 0 && this.version >= 0;
    this.box.classList.toggle("empty", empty);
    if (empty) this.rows.replaceChildren(el("p", { class: "soft" }, "No conversation is like that."));
    const current = this.current && byId(`row-${this.current}`);
    if (current) this.box.setAttribute("aria-activedescendant", current.id);
    else this.box.removeAttribute("aria-activedescendant");
  }

  row(row, place) {
    if (!row) return null;
    const details = this.blind
      ? [el("span", {}, `conversation ${place + 1}`)]
      : [
          el("span", { class: "reward" }, reward(row.reward)),
          el("span", { class: "who" }, `${row.assistant} × ${short(row.simulator)}`),
          row.fault ? el("span", { class: "flag" }, row.fault) : "",
        ];
    if (row.origin) details.push(el("span", { class: "mark" }, row.origin));
    const element = el(
      "div",
      {
        class: "row",
        role: "option",
        id: `row-${row.id}`,
        "data-id": row.id,
        "aria-selected": String(row.id === this.current),
        "aria-posinset": place + 1,
        "aria-setsize": this.total,
      },
      el("div", { class: "opening", dir: "auto" }, row.opening || "(nothing was said)"),
      el("div", { class: "small" }, ...details),
    );
    element.style.transform = `translateY(${place * HEIGHT}px)`;
    return element;
  }
}
