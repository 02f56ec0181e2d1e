/* The page: theme, colours of the variants, legend, figures, copying of commands. */

const DATA = JSON.parse(document.getElementById("data").textContent);
const HUES = 8;
const AXIS_LABELS = { step: "step", tokens: "tokens", seconds: "wall time" };

/* A variant's slot in the palette (8 hues solid, then dashed), or -1: grey context, shown thin. */
const few = DATA.labels.length <= 2 * HUES;
const slots = DATA.labels.map((_, v) => DATA.coloured.indexOf(v));
const visible = DATA.labels.map(() => true);

function look(v) {
  const slot = slots[v];
  return {
    name: DATA.labels[v],
    color: slot < 0 ? "var(--faint)" : `var(--c${slot % HUES})`,
    dash: slot >= HUES ? "6 4" : "",
    shown: visible[v],
    focus: slot >= 0,
    many: !few,
  };
}

/* With few variants a click hides or shows one; with many it gives or takes its colour. */
function toggle(v) {
  if (few) visible[v] = !visible[v];
  else if (slots[v] >= 0) slots[v] = -1;
  else {
    const taken = new Set(slots);
    slots[v] = [...DATA.labels.keys()].find((slot) => !taken.has(slot));
  }
  paint();
}

const charts = [];
const legend = document.getElementById("legend");

function paint() {
  for (const swatch of document.querySelectorAll(".swatch")) {
    const { color, dash, focus } = look(Number(swatch.dataset.v));
    swatch.style.color = focus ? color : "transparent";
    swatch.firstElementChild.setAttribute("stroke-dasharray", dash ? "5 3" : "");
  }
  if (legend) {
    for (const button of legend.children) {
      const v = Number(button.dataset.v);
      button.setAttribute("aria-pressed", String(few ? visible[v] : slots[v] >= 0));
    }
  }
  for (const chart of charts) chart.draw();
}

function setUpLegend() {
  if (!legend) return;
  for (const v of DATA.drawn) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.v = v;
    const swatch = element("svg", { class: "swatch", "data-v": v, viewBox: "0 0 18 8", "aria-hidden": "true" });
    element("line", { x1: 1, x2: 17, y1: 4, y2: 4 }, swatch);
    button.append(swatch, DATA.labels[v]);
    button.title = few ? "Click to hide or show" : "Click to colour or not";
    button.addEventListener("click", () => toggle(v));
    for (const [event, to] of [["mouseenter", v], ["mouseleave", null], ["focus", v], ["blur", null]]) {
      button.addEventListener(event, () => charts.forEach((chart) => chart.emphasize(to)));
    }
    legend.append(button);
  }
}

function setUpLearning() {
  const figure = document.getElementById("learning");
  if (!figure) return;
  const chart = new Chart(figure.querySelector(".chart"), look);
  charts.push(chart);
  const role = (name) => figure.querySelector(`[data-role="${name}"]`);
  const update = () => {
    const data = DATA.learning[Number(role("metric").value)];
    const checked = figure.querySelector('[data-role="axis"] input:checked');
    const axis = checked ? checked.value : "step";
    chart.show({
      ylabel: data.ylabel,
      xlabel: AXIS_LABELS[axis],
      xscale: role("logx").checked ? "log" : "linear",
      yscale: role("logy").checked ? "log" : "linear",
      time: axis === "seconds",
      lines: data.lines.map((line) => ({ ...line, x: line.x[axis] })),
    });
  };
  figure.addEventListener("change", update);
  update();
}

function setUpTasks() {
  for (const figure of document.querySelectorAll("[data-task]")) {
    const data = DATA.task[Number(figure.dataset.task)];
    const chart = new Chart(figure.querySelector(".chart"), look);
    charts.push(chart);
    const kin = data.family ? DATA.task.filter((other) => other.family === data.family).flatMap((other) => other.lines) : [];
    chart.show({ ...data, kin, lines: data.lines.map((line) => ({ ...line, x: line.x.x })) });
  }
}

function setUpTheme() {
  const button = document.getElementById("theme");
  const names = ["auto", "light", "dark"];
  let at = 0;
  button.hidden = false;
  button.addEventListener("click", () => {
    at = (at + 1) % names.length;
    button.textContent = `Theme: ${names[at]}`;
    document.documentElement.style.colorScheme = at ? names[at] : "";
  });
}

async function copy(button) {
  const source = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(source.textContent);
    button.textContent = "Copied";
  } catch {
    /* No clipboard for pages opened as files in some browsers: select it for the reader's own keys. */
    getSelection().selectAllChildren(source);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

setUpTables();
setUpLegend();
setUpLearning();
setUpTasks();
setUpTheme();
for (const button of document.querySelectorAll(".copy")) {
  button.hidden = false;
  button.addEventListener("click", () => copy(button));
}
paint();
