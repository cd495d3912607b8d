// The form above the list: what is asked for, and the choices that the run offers.

import { byId, el, short } from "./dom.js";

const NAMES = ["text", "assistant", "simulator", "fault", "persona", "lowest", "highest", "order", "labelled"];

export class Filters {
  constructor(onChange) {
    this.form = byId("filters");
    this.form.addEventListener("submit", (event) => event.preventDefault());
    let timer = null;
    this.form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(onChange, 120);
      this.count();
    });
    this.form.addEventListener("reset", () => setTimeout(() => { this.count(); onChange(); }, 0));
    if (matchMedia("(min-width: 60rem)").matches) byId("more").open = true;
  }

  query() {
    const query = {};
    for (const name of NAMES) {
      const field = this.form.elements[name];
      const value = field.type === "checkbox" ? field.checked : field.value.trim();
      if (value !== "" && value !== false && field.validity.valid && !(name === "order" && value === "written")) {
        query[name] = value;
      }
    }
    return query;
  }

  count() {
    const active = Object.keys(this.query()).filter((name) => name !== "text").length;
    byId("active").textContent = active ? `(${active})` : "";
  }

  offer(facets) {
    for (const name of ["assistant", "simulator", "fault", "persona"]) {
      const select = this.form.elements[name];
      const counts = Object.entries(facets[name]);
      const choices = [["", "any"]];
      if (name === "fault") choices.splice(0, 1, ["", "with or without"], ["none", "none"], ["any", "any fault"]);
      for (const [value, count] of counts) {
        if (value) choices.push([value, `${name === "simulator" ? short(value) : value} (${count.toLocaleString("en")})`]);
      }
      const chosen = select.value;
      select.replaceChildren(...choices.map(([value, text]) => el("option", { value }, text)));
      select.value = choices.some(([value]) => value === chosen) ? chosen : "";
      select.closest("label").hidden = name === "persona" && choices.length === 1;
    }
  }
}
