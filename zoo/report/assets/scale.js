/* Numbers, ticks and scales of the figures. */

function showNumber(value) {
  if (value === null || !isFinite(value)) return "—";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) {
    const [digits, power] = value.toExponential(2).split("e");
    if (size >= 1e12 || size < 1) return `${Number(digits)}e${Number(power)}`.replace("-", "−");
    const step = size >= 1e9 ? [1e9, "G"] : [1e6, "M"];
    return (Number((value / step[0]).toPrecision(3)) + step[1]).replace("-", "−");
  }
  const text = Number(value.toPrecision(4));
  return text.toLocaleString("en", { maximumFractionDigits: 6 }).replace("-", "−");
}

function showTime(seconds) {
  if (seconds < 120) return `${showNumber(seconds)} s`;
  if (seconds < 7200) return `${showNumber(seconds / 60)} min`;
  return `${showNumber(seconds / 3600)} h`;
}

/* Round ticks, as near to `count` intervals as steps of 1, 2 or 5 times a power of ten allow. */
function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const misfit = (step) => Math.abs(Math.log(step / rough));
  const step = [1, 2, 5, 10].map((m) => m * power).reduce((a, b) => (misfit(b) < misfit(a) ? b : a));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

/* The data's own values when they are few (lengths 256 … 4096), else 1-2-5 or powers of ten. */
function logTicks(low, high, count, own) {
  if (own && own.length >= 2 && own.length <= 2 * count) {
    const stride = Math.ceil(own.length / count);
    return own.filter((_, i) => (own.length - 1 - i) % stride === 0);
  }
  for (const steps of [[1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) {
      for (const m of steps) {
        const tick = Number(`${m}e${p}`);
        if (tick >= low * 0.9999 && tick <= high * 1.0001) ticks.push(tick);
      }
    }
    if (ticks.length <= count) return ticks.length >= 2 ? ticks : linearTicks(low, high, 3).filter((t) => t > 0);
  }
  const first = Math.ceil(Math.log10(low));
  const stride = Math.ceil((Math.log10(high) - first + 1) / count);
  const ticks = [];
  for (let p = first; p <= Math.log10(high); p += stride) ticks.push(10 ** p);
  return ticks;
}

function makeScale(kind, low, high, from, to) {
  const turn = kind === "log" ? Math.log10 : (value) => value;
  const a = turn(low);
  const width = turn(high) - a || 1;
  return (value) => from + ((turn(value) - a) / width) * (to - from);
}

/* The extent of all values; a single value gets room on both sides. */
function extent(values, kind) {
  const usable = values.filter((v) => v !== null && (kind !== "log" || v > 0));
  const low = usable.reduce((a, b) => Math.min(a, b), Infinity);
  const high = usable.reduce((a, b) => Math.max(a, b), -Infinity);
  if (low < high) return [low, high];
  if (kind === "log") return [low / 2, high * 2];
  const room = Math.abs(low) * 0.1 || 1;
  return [low - room, high + room];
}

/* The first points of long lines tower over the rest (an untrained model, a first token): where
   leaving out each line's first 3% halves the range, a linear axis is cut there. */
function usefulExtent(lines, extra, kind) {
  const values = (from) => [...lines.flatMap((line) => line.points.slice(from(line)).map((i) => line.y[i])), ...extra];
  const whole = extent(values(() => 0), kind);
  const later = extent(values((line) => (line.points.length > 40 ? Math.ceil(0.03 * line.points.length) : 0)), kind);
  return kind !== "log" && later[1] - later[0] < 0.5 * (whole[1] - whole[0]) ? later : whole;
}

function padded([low, high], kind, part) {
  if (kind === "log") {
    const factor = (high / low) ** part;
    return [low / factor, high * factor];
  }
  return [low - (high - low) * part, high + (high - low) * part];
}
