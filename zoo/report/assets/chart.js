/* Line charts in SVG: mean and band for each variant, names at the line ends, values on pointing. */

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (parent) parent.append(made);
  return made;
}

/* Push labels apart without changing their order; returns nothing where they cannot all fit. */
function spread(labels, low, high, gap) {
  if (labels.length * gap > high - low + gap) return false;
  labels.sort((a, b) => a.y - b.y);
  let least = low;
  for (const label of labels) {
    label.y = Math.max(label.y, least);
    least = label.y + gap;
  }
  let most = high;
  for (const label of [...labels].reverse()) {
    label.y = Math.min(label.y, most);
    most = label.y - gap;
  }
  return true;
}

class Chart {
  /* `look(v)` gives a variant's {name, color, dash, shown, focus}. */
  constructor(box, look) {
    this.box = box;
    this.look = look;
    this.groups = new Map();
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    this.tip.setAttribute("role", "status");
    this.at = null;
    new ResizeObserver(() => this.draw()).observe(box);
  }

  show(view) {
    this.view = view;
    this.draw();
  }

  draw() {
    const width = this.box.clientWidth;
    const height = this.box.clientHeight;
    if (!this.view || !width || !height) return;
    this.hide();
    this.groups.clear();
    this.box.replaceChildren(this.tip);
    const { xscale, yscale } = this.view;
    const usable = (x, y) =>
      x !== null && y !== null && (xscale !== "log" || x > 0) && (yscale !== "log" || y > 0);
    const lines = this.view.lines
      .filter((line) => line.x && this.look(line.v).shown)
      .map((line) => ({ ...line, points: line.x.map((_, i) => i).filter((i) => usable(line.x[i], line.y[i])) }))
      .filter((line) => line.points.length);
    if (!lines.length) return this.nothing();
    /* Focused lines are drawn last, above their context. */
    lines.sort((a, b) => this.look(a.v).focus - this.look(b.v).focus);
    const pick = (axis) => lines.flatMap((line) => line.points.map((i) => line[axis][i]));
    const xs = pick("x");
    const [x0, x1] = extent(xs, xscale);
    const kin = (this.view.kin || []).filter((line) => this.look(line.v).shown).flatMap((line) => line.y);
    const [y0, y1] = padded(usefulExtent(lines, kin, yscale), yscale, 0.06);
    this.cut = pick("y").some((value) => value > y1);
    const names = lines.filter((line) => this.look(line.v).focus).map((line) => this.look(line.v).name);
    const margin = 14 + 6.6 * Math.min(24, Math.max(0, ...names.map((name) => name.length)));
    const roomy = names.length > 0 && margin <= 0.22 * width;
    const frame = { left: 54, right: width - (roomy ? margin : 12), top: 18, bottom: height - 40 };
    const x = makeScale(xscale, x0, x1, frame.left, frame.right);
    const y = makeScale(yscale, y0, y1, frame.bottom, frame.top);
    this.lines = lines;
    this.place = { x, y, frame };
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0 }, this.box);
    svg.setAttribute("aria-label", `${this.view.ylabel} against ${this.view.xlabel}, ${lines.length} lines. Arrow keys move between points.`);
    this.axes(svg, frame, { x0, x1, y0, y1, own: [...new Set(xs)].sort((a, b) => a - b) });
    const id = `clip-${Chart.count++}`;
    const clip = element("clipPath", { id }, element("defs", {}, svg));
    element("rect", { x: frame.left - 3, y: frame.top - 3, width: Math.max(0, frame.right - frame.left + 6), height: frame.bottom - frame.top + 6 }, clip);
    /* Many bands on top of each other show nothing: they fade as lines join, and appear on pointing. */
    const opacity = this.look(lines[0].v).many ? 0 : Math.min(0.15, 0.8 / lines.length);
    const plot = element("g", { "clip-path": `url(#${id})`, style: `--band: ${opacity}` }, svg);
    /* All bands lie below all lines. */
    const layers = [element("g", {}, plot), element("g", {}, plot)];
    for (const line of lines) this.line(layers, line, y0, y1);
    if (roomy) this.names(svg, lines, frame);
    this.dot = element("circle", { r: 4, visibility: "hidden", stroke: "var(--paper)", "stroke-width": 1.5 }, svg);
    svg.addEventListener("pointermove", (event) => this.point(event));
    svg.addEventListener("pointerleave", () => this.hide());
    svg.addEventListener("blur", () => this.hide());
    svg.addEventListener("keydown", (event) => this.key(event));
    this.svg = svg;
  }

  nothing() {
    const note = document.createElement("div");
    note.className = "nothing";
    note.textContent = "Nothing to draw: no variant shown, or no positive value on a log axis.";
    this.box.append(note);
    this.svg = null;
  }

  axes(svg, frame, { x0, x1, y0, y1, own }) {
    const { xscale, yscale, xlabel, ylabel, time } = this.view;
    const { x, y } = this.place;
    const down = yscale === "log" ? logTicks(y0, y1, 8) : linearTicks(y0, y1, 5);
    for (const tick of down) {
      element("line", { class: "grid", x1: frame.left, x2: frame.right, y1: y(tick), y2: y(tick) }, svg);
      element("text", { x: frame.left - 8, y: y(tick) + 4, "text-anchor": "end" }, svg).textContent = showNumber(tick);
    }
    const count = Math.max(2, Math.floor((frame.right - frame.left) / 64));
    const unit = !time ? 1 : x1 < 120 ? 1 : x1 < 7200 ? 60 : 3600;
    const across = xscale === "log" ? logTicks(x0, x1, count, own) : linearTicks(x0 / unit, x1 / unit, Math.min(count, 6)).map((t) => t * unit);
    element("line", { class: "axis", x1: frame.left, x2: frame.right, y1: frame.bottom, y2: frame.bottom }, svg);
    for (const tick of across) {
      element("line", { class: "axis", x1: x(tick), x2: x(tick), y1: frame.bottom, y2: frame.bottom + 4 }, svg);
      element("text", { x: x(tick), y: frame.bottom + 17, "text-anchor": "middle" }, svg).textContent = showNumber(tick / unit);
    }
    const suffix = time ? { 1: ", s", 60: ", min", 3600: ", h" }[unit] : "";
    element("text", { x: (frame.left + frame.right) / 2, y: frame.bottom + 35, "text-anchor": "middle" }, svg).textContent = xlabel + suffix;
    element("text", { x: 0, y: 9 }, svg).textContent = ylabel + (this.cut ? " (axis cut above)" : "");
  }

  line(layers, line, y0, y1) {
    const { x, y } = this.place;
    const look = this.look(line.v);
    const kind = (look.focus ? "focus" : "context") + (line.whole ? "" : " partial");
    const [under, group] = layers.map((layer) => element("g", { class: kind, style: `color:${look.color}` }, layer));
    this.groups.set(line.v, [under, group]);
    const inside = (value) => Math.min(Math.max(value, y0), y1);
    let path = "";
    let last = -2;
    let upper = [];
    let lower = [];
    const band = () => {
      if (upper.length > 1) element("path", { class: "band", fill: "currentColor", d: `M${upper.join("L")}L${lower.reverse().join("L")}Z` }, under);
      upper = [];
      lower = [];
    };
    for (const i of line.points) {
      const px = x(line.x[i]).toFixed(1);
      path += `${i === last + 1 ? "L" : "M"}${px} ${y(line.y[i]).toFixed(1)}`;
      if (i !== last + 1 || line.h[i] === null) band();
      if (look.focus && line.h[i] !== null) {
        upper.push(`${px} ${y(inside(line.y[i] + line.h[i])).toFixed(1)}`);
        lower.push(`${px} ${y(inside(line.y[i] - line.h[i])).toFixed(1)}`);
      }
      last = i;
    }
    band();
    const drawn = element("path", { class: "line", stroke: "currentColor", d: path }, group);
    if (look.dash) drawn.setAttribute("stroke-dasharray", look.dash);
    if (line.points.length <= 16) {
      for (const i of line.points) element("circle", { cx: x(line.x[i]), cy: y(line.y[i]), r: look.focus ? 2.4 : 1.5, fill: "currentColor" }, group);
    }
  }

  names(svg, lines, frame) {
    const { x, y } = this.place;
    const labels = lines.filter((line) => this.look(line.v).focus).map((line) => {
      const i = line.points[line.points.length - 1];
      const at = Math.min(Math.max(y(line.y[i]), frame.top), frame.bottom);
      return { v: line.v, x: x(line.x[i]), y: at };
    });
    /* A line that stops early carries its name at its own end, the others share the margin. */
    const early = labels.filter((label) => label.x < frame.right - 30);
    const margin = labels.filter((label) => label.x >= frame.right - 30);
    for (const label of margin) label.x = frame.right;
    const placed = spread(margin, frame.top, frame.bottom, 14) ? [...margin, ...early] : early;
    for (const label of placed) {
      const look = this.look(label.v);
      const name = look.name.length > 24 ? `${look.name.slice(0, 23)}…` : look.name;
      element("text", { class: "name", x: label.x + 8, y: label.y + 4, style: `color:${look.color}` }, svg).textContent = name;
    }
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    let best = { far: 60 };
    for (const line of this.lines) {
      for (const i of line.points) {
        const [dx, dy] = [this.place.x(line.x[i]) - px, this.place.y(line.y[i]) - py];
        const far = Math.hypot(dx, dy) + (this.look(line.v).focus ? 0 : 6);
        if (far < best.far) best = { far, line, i };
      }
    }
    if (best.line) this.mark(best.line, best.i);
    else this.hide();
  }

  key(event) {
    const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (event.key === "Escape") this.hide();
    if (!move) return;
    event.preventDefault();
    const ranked = [...this.lines].sort((a, b) => a.y[a.points.at(-1)] - b.y[b.points.at(-1)]);
    if (!this.at) return this.mark(ranked[0], ranked[0].points.at(-1));
    const row = (ranked.indexOf(this.at.line) + move[1] + ranked.length) % ranked.length;
    const line = ranked[row];
    const here = line.points.findIndex((i) => line.x[i] >= this.at.line.x[this.at.i]);
    const place = (here < 0 ? line.points.length - 1 : here) + move[0];
    this.mark(line, line.points[Math.min(Math.max(place, 0), line.points.length - 1)]);
  }

  mark(line, i) {
    this.at = { line, i };
    this.emphasize(line.v);
    const look = this.look(line.v);
    const [px, py] = [this.place.x(line.x[i]), this.place.y(line.y[i])];
    for (const [key, value] of Object.entries({ cx: px, cy: py, fill: look.color, visibility: "visible" })) this.dot.setAttribute(key, value);
    const half = line.h[i] === null ? "" : ` ± ${showNumber(Number(line.h[i].toPrecision(2)))}`;
    const where = this.view.time ? showTime(line.x[i]) : `${this.view.xlabel} ${showNumber(line.x[i])}`;
    const seeds = line.n === 1 ? "1 seed" : `${line.n} seeds`;
    this.tip.replaceChildren();
    const name = document.createElement("b");
    name.textContent = look.name + (line.whole ? "" : " (unfinished)");
    this.tip.append(name, document.createElement("br"), `${showNumber(line.y[i])}${half}`, document.createElement("br"), `${where}, ${seeds}`);
    this.tip.hidden = false;
    const left = Math.min(Math.max(0, px + 12), this.box.clientWidth - this.tip.offsetWidth);
    const above = py - this.tip.offsetHeight - 12;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${above < 0 ? py + 14 : above}px`;
  }

  hide() {
    this.at = null;
    this.tip.hidden = true;
    if (this.dot) this.dot.setAttribute("visibility", "hidden");
    this.emphasize(null);
  }

  emphasize(v) {
    for (const [each, groups] of this.groups) {
      for (const group of groups) {
        group.classList.toggle("active", each === v);
        group.classList.toggle("dimmed", v !== null && this.groups.has(v) && each !== v);
      }
    }
  }
}
Chart.count = 0;
