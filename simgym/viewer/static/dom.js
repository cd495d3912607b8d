// Elements from values. Texts become text nodes, never HTML.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export const byId = (id) => document.getElementById(id);

export const reward = (value) => (value === null ? "–" : value.toFixed(3));

// Letters and digits break anywhere, so that names are cut where words end: UserSim-Persona-v0 is Persona.
export const short = (name) => name.replace(/^UserSim-/, "").replace(/-v\d+$/, "");
