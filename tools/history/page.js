"use strict";
// The page of tools/runs.py: a table that sorts, curves by uPlot, and settings against results.
// All texts of runs go into the page as texts, never as markup: they may come from anybody.

const data = JSON.parse(document.getElementById("data").textContent);
const tip = document.getElementById("tip");
const shown = new Set(data.runs.filter((run) => run.on).map((run) => run.number));
const brushes = new Map(); // by the name of an axis: its two ends, in pixels
let charts = [];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function short(value) {
  if (typeof value !== "number") {
    return value === null ? "" : String(value);
  }
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}

function make(parent, name, attributes = {}, text = "") {
  const isDrawn = parent.namespaceURI === "http://www.w3.org/2000/svg" || name === "svg";
  const element = isDrawn
    ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  element.textContent = text;
  parent.append(element);
  return element;
}

function tell(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const right = Math.max(window.innerWidth - tip.offsetWidth - 8, 0);
  tip.style.left = `${Math.min(event.clientX + 14, right)}px`;
  tip.style.top = `${event.clientY + 14}px`;
}

const hush = () => {
  tip.hidden = true;
};

// --- which runs are shown -----------------------------------------------------------------------

function show(numbers) {
  shown.clear();
  numbers.forEach((number) => shown.add(number));
  for (const { plot, lines } of charts) {
    plot.batch(() => {
      lines.forEach((line, i) => plot.setSeries(i + 1, { show: shown.has(line.run.number) }));
    });
  }
  document.querySelectorAll("[data-run]").forEach((element) => {
    element.classList.toggle("off", !shown.has(Number(element.dataset.run)));
  });
}

function legend() {
  const parent = document.getElementById("legend");
  const all = () => show(data.runs.map((run) => run.number));
  make(parent, "button", {}, "all").addEventListener("click", all);
  make(parent, "button", {}, "none").addEventListener("click", () => show([]));
  for (const run of data.runs) {
    const chip = make(parent, "button", { class: "chip", "data-run": run.number });
    make(chip, "i", { style: `background:${run.colour}` });
    make(chip, "span", {}, run.best ? `★ ${run.label}` : run.label);
    chip.title = "click: on or off; double click: this one alone";
    chip.addEventListener("click", () => {
      const numbers = new Set(shown);
      if (!numbers.delete(run.number)) {
        numbers.add(run.number);
      }
      show([...numbers]);
    });
    chip.addEventListener("dblclick", () => show([run.number]));
    chip.addEventListener("mouseenter", () => emphasize(run.number));
    chip.addEventListener("mouseleave", () => emphasize(null));
  }
}

function emphasize(number) {
  for (const { plot, lines } of charts) {
    const place = lines.findIndex((line) => line.run.number === number);
    plot.setSeries(place < 0 ? null : place + 1, { focus: true });
  }
}

// --- curves -------------------------------------------------------------------------------------

function linesOf(chart) {
  const lines = [];
  for (const run of data.runs) {
    for (const [name, dashed] of chart.series) {
      if (run.series[name]) {
        lines.push({ run, name, dashed, values: run.series[name] });
      }
    }
  }
  return lines.sort((a, b) => a.run.best - b.run.best); // the best lies over the others
}

function aligned(lines) {
  const places = new Set(lines.flatMap((line) => line.run.epochs));
  const x = [...places].sort((a, b) => a - b);
  const rows = lines.map((line) => {
    const found = new Map(line.run.epochs.map((epoch, i) => [epoch, line.values[i]]));
    return x.map((epoch) => found.get(epoch) ?? null);
  });
  return [x, ...rows];
}

function nearest(plot, lines) {
  const { idx, top } = plot.cursor;
  let found = null;
  let least = 40;
  lines.forEach((line, i) => {
    const value = idx === null ? null : plot.data[i + 1][idx];
    if (value === null || value === undefined || !plot.series[i + 1].show) {
      return;
    }
    const apart = Math.abs(plot.valToPos(value, "y") - top);
    if (apart < least) {
      least = apart;
      found = { line, value };
    }
  });
  return found;
}

function drawChart(parent, chart) {
  const lines = linesOf(chart);
  const values = lines.flatMap((line) => line.values).filter((value) => value !== null);
  if (values.length === 0) {
    return;
  }
  const isLog = chart.title.includes("loss") && values.every((value) => value > 0);
  const box = make(parent, "div", { class: "chart" });
  make(box, "h3", {}, chart.title);
  const axis = {
    stroke: colour("--text"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
    font: "11px system-ui, sans-serif",
  };
  const labels = (plot, ticks) => ticks.map((value) => (value === null ? "" : short(value)));
  const pick = (plot, ticks) => ticks.map((value) => (firstDigits(value, ticks) ? value : null));
  const onLog = { filter: pick, grid: { ...axis.grid, filter: pick } };
  onLog.ticks = { ...axis.ticks, filter: pick };
  const plot = new uPlot(
    {
      width: box.clientWidth || 380,
      height: 230,
      legend: { show: false },
      focus: { alpha: 0.2 },
      cursor: { sync: { key: "epochs" }, drag: { x: true, y: false }, points: { size: 6 } },
      scales: { x: { time: false }, y: { distr: isLog ? 3 : 1 } },
      axes: [
        { ...axis, size: 34, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000] },
        { ...axis, size: 58, values: labels, ...(isLog ? onLog : {}) },
      ],
      series: [
        {},
        ...lines.map((line) => ({
          stroke: line.run.colour,
          width: line.run.best ? 3 : 1.5,
          dash: line.dashed ? [6, 4] : undefined,
          spanGaps: true,
          show: shown.has(line.run.number),
          points: { show: line.values.length < 2, size: 7 },
        })),
      ],
    },
    aligned(lines),
    box,
  );
  plot.over.addEventListener("mousemove", (event) => {
    const found = nearest(plot, lines);
    if (!found) {
      hush();
      return;
    }
    const epoch = plot.data[0][plot.cursor.idx];
    tell(event, `${found.line.run.label}\n${found.line.name} ${short(found.value)}\nepoch ${epoch}`);
  });
  plot.over.addEventListener("mouseleave", hush);
  charts.push({ plot, lines });
}

function firstDigits(value, ticks) {
  // On a logarithmic axis: 1, 2 and 5 times a power of ten; all, where there are few.
  if (ticks.length <= 6) {
    return true;
  }
  const first = Math.round(value / 10 ** Math.floor(Math.log10(value) + 1e-9));
  return ticks.length > 30 ? first === 1 : [1, 2, 5].includes(first);
}

function drawCharts() {
  const parent = document.getElementById("charts");
  if (!parent) {
    return;
  }
  charts.forEach(({ plot }) => plot.destroy());
  charts = [];
  parent.replaceChildren();
  data.charts.forEach((chart) => drawChart(parent, chart));
}

// --- settings against results -------------------------------------------------------------------

function scaleOf(axis, from, to) {
  const values = data.runs.map((run) => run.values[axis]).filter((value) => value !== null);
  const areNumbers = values.every((value) => typeof value === "number");
  if (!areNumbers) {
    const names = [...new Set(values.map(String))].sort();
    const at = (value) => {
      const place = names.length > 1 ? names.indexOf(String(value)) / (names.length - 1) : 0.5;
      return from + place * (to - from);
    };
    return { at, ticks: names };
  }
  const least = Math.min(...values);
  const most = Math.max(...values);
  const isLog = least > 0 && most / least > 30;
  const turned = isLog ? Math.log : (value) => value;
  const width = turned(most) - turned(least) || 1;
  const at = (value) => from + ((turned(value) - turned(least)) / width) * (to - from);
  const middle = isLog ? Math.sqrt(least * most) : (least + most) / 2;
  const few = [...new Set(values)].sort((a, b) => a - b);
  return { at, ticks: few.length <= 6 ? few : [least, middle, most] };
}

function shade(run) {
  // From the worst, blue, to the best, orange: by rank, so that one outlier does not hide the rest.
  const hue = 220 - 195 * run.rank;
  return `hsl(${hue} 70% ${colour("--shade")})`;
}

const described = (run) =>
  [run.label, ...data.axes.map((axis) => `${axis} ${short(run.values[axis])}`), run.status]
    .filter((text) => text)
    .join("\n");

function watch(element, run) {
  element.addEventListener("mousemove", (event) => tell(event, described(run)));
  element.addEventListener("mouseleave", hush);
}

function drawParallel() {
  const parent = document.getElementById("parallel");
  parent.replaceChildren();
  const width = Math.max(parent.clientWidth, 120 * data.axes.length);
  const height = 300;
  const svg = make(parent, "svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  const step = (width - 140) / Math.max(data.axes.length - 1, 1);
  const scales = data.axes.map((axis) => scaleOf(axis, height - 24, 34));
  const ordered = [...data.runs].sort((a, b) => a.rank - b.rank);
  for (const run of ordered) {
    const points = data.axes
      .map((axis, i) => [70 + i * step, run.values[axis], scales[i]])
      .filter(([, value]) => value !== null)
      .map(([x, value, scale]) => `${x},${scale.at(value)}`);
    const path = make(svg, "polyline", {
      points: points.join(" "),
      class: "way",
      "data-run": run.number,
      stroke: shade(run),
      "stroke-width": run.best ? 4 : 1.8,
      "stroke-dasharray": run.status === "finished" ? "none" : "5 4",
    });
    path.classList.toggle("off", !shown.has(run.number));
    watch(path, run);
  }
  data.axes.forEach((axis, i) => {
    const x = 70 + i * step;
    make(svg, "line", { x1: x, x2: x, y1: 34, y2: height - 24, class: "axis" });
    make(svg, "text", { x, y: 16, "text-anchor": "middle", class: "name" }, axis);
    for (const tick of scales[i].ticks) {
      make(svg, "text", { x: x + 6, y: scales[i].at(tick) + 4, class: "tick" }, short(tick));
    }
    brushing(svg, axis, x, height, scales[i]);
  });
}

function brushing(svg, axis, x, height, scale) {
  const area = { x: x - 12, width: 24 };
  const mark = make(svg, "rect", { ...area, y: 0, height: 0, class: "brush" });
  const catcher = make(svg, "rect", { ...area, y: 24, height: height - 38, class: "catcher" });
  make(catcher, "title", {}, "drag: only runs within; double click: all");
  let start = null;
  const place = (event) => event.clientY - svg.getBoundingClientRect().top;
  catcher.addEventListener("pointerdown", (event) => {
    start = place(event);
    catcher.setPointerCapture(event.pointerId);
  });
  catcher.addEventListener("pointermove", (event) => {
    if (start === null) {
      return;
    }
    const ends = [start, place(event)].sort((a, b) => a - b);
    mark.setAttribute("y", ends[0]);
    mark.setAttribute("height", ends[1] - ends[0]);
    brushes.set(axis, { ends, scale });
    choose();
  });
  catcher.addEventListener("pointerup", () => {
    start = null;
  });
  catcher.addEventListener("dblclick", () => {
    brushes.delete(axis);
    mark.setAttribute("height", 0);
    choose();
  });
}

function choose() {
  const within = data.runs.filter((run) =>
    [...brushes].every(([axis, { ends, scale }]) => {
      const value = run.values[axis];
      return value !== null && scale.at(value) >= ends[0] && scale.at(value) <= ends[1];
    }),
  );
  show(within.map((run) => run.number));
}

function drawScatter() {
  const parent = document.getElementById("scatter");
  parent.replaceChildren();
  const result = data.axes[data.axes.length - 1];
  for (const axis of data.axes.slice(0, -1)) {
    const svg = make(parent, "svg", { width: 270, height: 200, viewBox: "0 0 270 200" });
    const across = scaleOf(axis, 62, 254);
    const up = scaleOf(result, 160, 18);
    make(svg, "line", { x1: 52, x2: 260, y1: 168, y2: 168, class: "axis" });
    make(svg, "line", { x1: 52, x2: 52, y1: 12, y2: 168, class: "axis" });
    make(svg, "text", { x: 156, y: 197, "text-anchor": "middle", class: "name" }, axis);
    for (const tick of across.ticks) {
      const place = { x: across.at(tick), y: 182, "text-anchor": "middle", class: "tick" };
      make(svg, "text", place, short(tick));
    }
    for (const tick of up.ticks.length > 3 ? [up.ticks[0], up.ticks.at(-1)] : up.ticks) {
      make(svg, "text", { x: 47, y: up.at(tick) + 4, "text-anchor": "end", class: "tick" }, short(tick));
    }
    make(svg, "text", { x: 4, y: 10, class: "tick" }, result);
    for (const run of data.runs) {
      if (run.values[axis] === null || run.values[result] === null) {
        continue;
      }
      const dot = make(svg, "circle", {
        cx: across.at(run.values[axis]),
        cy: up.at(run.values[result]),
        r: run.best ? 7 : 4.5,
        class: "dot",
        "data-run": run.number,
        fill: run.status === "finished" ? shade(run) : "transparent",
        stroke: shade(run),
      });
      dot.classList.toggle("off", !shown.has(run.number));
      watch(dot, run);
    }
  }
}

function drawSettings() {
  if (document.getElementById("parallel")) {
    drawParallel();
    drawScatter();
  }
}

// --- the table ----------------------------------------------------------------------------------

function sorts(head, column) {
  const valueOf = (row) => {
    const text = row.cells[column].textContent;
    return text === "" || isNaN(text) ? text : Number(text);
  };
  const compare = (first, second) => {
    const x = valueOf(first);
    const y = valueOf(second);
    if (typeof x !== typeof y) { // numbers before texts
      return typeof x === "number" ? -1 : 1;
    }
    return x === y ? 0 : x < y ? -1 : 1;
  };
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const up = head.dataset.up !== "1";
    const rows = [...body.rows].sort((a, b) => (up ? compare(a, b) : compare(b, a)));
    head.dataset.up = up ? "1" : "0";
    rows.forEach((row) => body.append(row));
  });
}

function redraw() {
  brushes.clear();
  drawCharts();
  drawSettings();
}

document.querySelectorAll("table.sorts th").forEach(sorts);
if (document.getElementById("legend")) {
  legend();
}
redraw();
show([...shown]);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let waiting = 0;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(redraw, 150);
});
