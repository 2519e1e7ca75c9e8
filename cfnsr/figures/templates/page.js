// Tables scroll within themselves and sort by a click on a column's name; equations are drawn.
"use strict";

const MATH = /\$\$([^$]+)\$\$|\$([^$]+)\$/g;
const here = document.currentScript.src;

function value(row, column) {
  const text = row.cells[column]?.textContent.trim() ?? "";
  const number = parseFloat(text.replace(/,(?=\d{3})/g, "").replace("\u2212", "-"));
  return Number.isNaN(number) ? text : number;
}

// Numbers come before words.
function order(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return typeof a === "number" ? a - b : a.localeCompare(b);
}

// A line such as "Not in the paper", with a name alone, stays between those above and below it.
function divides(row) {
  return [...row.cells].slice(1).every((cell) => !cell.textContent.trim());
}

function sort(header) {
  const table = header.closest("table");
  const sign = header.ariaSort === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.ariaSort = null;
  header.ariaSort = sign === 1 ? "ascending" : "descending";
  const column = header.cellIndex;
  const sorted = [];
  let group = [];
  const close = () => {
    sorted.push(...group.sort((a, b) => sign * order(value(a, column), value(b, column))));
    group = [];
  };
  for (const row of table.tBodies[0].rows) {
    if (divides(row)) {
      close();
      sorted.push(row);
    } else group.push(row);
  }
  close();
  table.tBodies[0].append(...sorted);
}

for (const code of document.querySelectorAll("pre")) code.tabIndex = 0; // it scrolls

for (const table of document.querySelectorAll("table")) {
  const frame = document.createElement("div");
  Object.assign(frame, { className: "scroll", tabIndex: 0, role: "group", ariaLabel: "table" });
  table.replaceWith(frame);
  frame.append(table);
  // Of several header lines, or of spanning cells, no single column can be meant.
  if (table.tHead?.rows.length !== 1) continue;
  for (const header of table.tHead.rows[0].cells) {
    if (!header.textContent.trim()) continue;
    const button = document.createElement("button");
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
  }
}

function load(name) {
  return new Promise((done) => {
    const script = document.createElement("script");
    script.src = new URL(name, here);
    script.addEventListener("load", done);
    document.head.append(script);
  });
}

function mathNodes() {
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode;
    if (node.data.search(MATH) >= 0 && !node.parentElement.closest("pre, code, style")) found.push(node);
  }
  return found;
}

async function drawMath() {
  const nodes = mathNodes();
  if (!nodes.length) return;
  await load("bokeh.min.js");
  await load("bokeh-mathjax.min.js");
  const { tex2svg } = Bokeh.require("models/text/mathjax");
  for (const node of nodes) {
    let end = 0;
    for (const match of node.data.matchAll(MATH)) {
      const display = match[1] !== undefined;
      const drawn = tex2svg(match[1] ?? match[2], { display });
      if (display) Object.assign(drawn, { className: "display", tabIndex: 0 });
      drawn.firstElementChild.ariaLabel = match[0];
      node.before(node.data.slice(end, match.index), drawn);
      end = match.index + match[0].length;
    }
    node.replaceWith(node.data.slice(end));
  }
}

drawMath();
