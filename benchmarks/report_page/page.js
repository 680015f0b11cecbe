"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const specs = JSON.parse(document.getElementById("specs").textContent);
const root = document.documentElement;
// Curves come as columns, so that every name stands in the file once; charts take rows.
const rowsOf = ({ dataset, learner, ...columns }) => columns.x.map((_, k) => ({
  dataset, learner, ...Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[k]])),
}));
for (const kind of ["curves", "values", "weights"]) data[kind] = data[kind].flatMap(rowsOf);
const shown = { learner: new Set(data.learners), dataset: new Set(data.datasets) };

// Names of learners and datasets may hold anything, so they enter the page as text only.
function element(tag, text, parent) {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function choices(id, kind, names) {
  const place = document.getElementById(id);
  const colors = specs.ranks.layer[0].encoding.color.scale;
  for (const name of names) {
    const label = element("label", "", place);
    const box = element("input", "", label);
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => {
      box.checked ? shown[kind].add(name) : shown[kind].delete(name);
      update();
    });
    if (kind === "learner") {
      const swatch = element("span", "", label);
      swatch.className = "swatch";
      swatch.style.background = colors.range[colors.domain.indexOf(name)];
    }
    element("span", name, label);
  }
}

function visible(row) {
  return (!("learner" in row) || shown.learner.has(row.learner)) &&
    (!("dataset" in row) || shown.dataset.has(row.dataset));
}

async function draw(place) {
  const kind = place.dataset.chart;
  const rows = data[kind].filter(visible);
  const by = rows.length && "dataset" in rows[0] ? "dataset" : "scope";
  const order = by === "dataset" ? data.datasets : rows.map((row) => row[by]);
  const names = [...new Set(order)].filter((name) => rows.some((row) => row[by] === name));
  const made = [];
  place.replaceChildren();
  if (!names.length) element("p", "Nothing to show.", place).className = "note";
  for (const name of names) {
    const chart = element("div", "", place);
    chart.className = "chart";
    element("h4", name, chart);
    const view = element("div", "", chart);
    view.className = "view";
    const spec = structuredClone(specs[kind]);
    spec.datasets = { rows: rows.filter((row) => row[by] === name) };
    if (kind === "ranks") spec.height *= spec.datasets.rows.length / data.learners.length; // as high as it has lines
    if (kind === "curves") {
      spec.datasets.behavior = data.behavior.filter((row) => row.dataset === name && row.behavior !== null);
    }
    const theme = root.classList.contains("dark") ? "dark" : undefined;
    spec.config = { ...spec.config, background: "transparent" };
    made.push(vegaEmbed(view, spec, { actions: false, renderer: "svg", ast: true, theme }));
  }
  await Promise.all(made);
}

function filter() {
  const text = document.getElementById("filter").value.toLowerCase();
  for (const row of document.querySelectorAll("tbody tr")) {
    // A line's first cell names its learner, its dataset, or both ("dataset, learner").
    const name = row.cells[0].textContent;
    const off = (names, on) => names.some((n) => !on.has(n) && (name === n || name.endsWith(", " + n) || name.startsWith(n + ", ")));
    row.hidden = !row.textContent.toLowerCase().includes(text) ||
      off(data.learners, shown.learner) || off(data.datasets, shown.dataset);
  }
}

function sort(table, column, header) {
  const down = header.getAttribute("aria-sort") === "descending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "ascending" : "descending");
  const sign = down ? 1 : -1;
  const key = (row) => {
    const text = row.cells[column].textContent;
    const value = parseFloat(text.replace("−", "-"));
    return Number.isNaN(value) ? (/^[–\s]*$/.test(text) || text === "not run" ? null : text) : value;
  };
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === null || y === null) return (x === null) - (y === null); // what is not known stands last
    return sign * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
  });
  table.tBodies[0].append(...rows);
}

async function update() {
  filter();
  await Promise.all([...document.querySelectorAll("[data-chart]")].map(draw));
  root.dataset.ready = "yes";
}

choices("learners", "learner", data.learners);
choices("datasets", "dataset", data.datasets);
if (matchMedia("(prefers-color-scheme: dark)").matches) root.classList.add("dark");
document.getElementById("filter").addEventListener("input", filter);
document.getElementById("theme").addEventListener("click", () => {
  root.classList.toggle("dark");
  update();
});
for (const header of document.querySelectorAll("thead th")) {
  header.tabIndex = 0;
  const table = header.closest("table");
  const turn = () => sort(table, header.cellIndex, header);
  header.addEventListener("click", turn);
  header.addEventListener("keydown", (event) => event.key === "Enter" && turn());
}
update();
