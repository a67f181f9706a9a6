"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const steps = data.steps, lines = data.lines;
  const IDLE = 1000, MOST_FOUND = 500;
  const LIGHT = ["#24292f", "#b31d28", "#116329", "#7d4e00", "#0550ae", "#8250df", "#1b7c83", "#6e7781",
    "#57606a", "#cf222e", "#1a7f37", "#9a6700", "#0969da", "#a475f9", "#3192aa", "#8c959f"];
  const DARK = ["#484f58", "#ff7b72", "#3fb950", "#d29922", "#58a6ff", "#bc8cff", "#39c5cf", "#b1bac4",
    "#6e7681", "#ffa198", "#56d364", "#e3b341", "#79c0ff", "#d2a8ff", "#56d4dd", "#ffffff"];
  const WIDE = /([\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|[\ud83c-\ud83e][\udc00-\udfff]|[\ud840-\ud87f][\udc00-\udfff])/;

  // --- what the screen shows

  const screen = $("screen");
  let at = 0, rows = new Map(), order = [], size = data.size, cursor = [0, 0, 1];
  let drawn = [];

  const forget = () => { at = 0; rows = new Map(); order = data.order; size = data.size; cursor = [0, 0, 1]; };

  const take = (step) => {
    cursor = [step[1], step[2], step[3]];
    for (const [number, runs, wrapped] of step[4]) rows.set(number, { runs, wrapped });
    if (step[5]) order = step[5];
    if (step[6]) size = step[6];
  };

  const goTo = (count) => {
    if (count < at) forget();
    while (at < count) take(steps[at++]);
    draw();
  };

  const dark = () => document.documentElement.dataset.theme === "dark";

  const colour = (value) => {
    if (!value) return "";
    if (typeof value === "string") return value;
    const index = value - 1;
    if (index < 16) return (dark() ? DARK : LIGHT)[index];
    if (index >= 232) { const grey = 8 + 10 * (index - 232); return `rgb(${grey},${grey},${grey})`; }
    const part = (n) => (n ? 55 + 40 * n : 0), cube = index - 16;
    return `rgb(${part(Math.floor(cube / 36))},${part(Math.floor(cube / 6) % 6)},${part(cube % 6)})`;
  };

  const piece = (text, style) => {
    const span = document.createElement("span");
    const [foreground, background, flags] = data.styles[style];
    const ink = colour(foreground), paper = colour(background);
    span.className = ["b", "d", "i", "u", "", "s"].filter((name, bit) => name && flags & (1 << bit)).join(" ");
    if (flags & 16) {
      span.style.color = paper || "var(--screen)";
      span.style.backgroundColor = ink || "var(--ink)";
    } else {
      if (ink) span.style.color = ink;
      if (paper) span.style.backgroundColor = paper;
    }
    if (flags & 64) span.style.color = "transparent";
    for (const part of text.split(WIDE)) {
      if (!WIDE.test(part)) { span.append(part); continue; }
      const wide = document.createElement("span");
      wide.className = "w";
      wide.textContent = part;
      span.append(wide);
    }
    return span;
  };

  const pairs = (row) => {
    if (!row) return [];
    return typeof row.runs === "string" ? [[row.runs, 0]] : row.runs;
  };

  const textOf = (row) => pairs(row).map(([text]) => text).join("");

  // the pieces of a row, cut so that the cursor's cell stands alone
  const withCursor = (found, column) => {
    const out = [];
    let x = 0, done = false;
    for (const [text, style] of found) {
      let before = "", under = "", after = "";
      for (const char of text.match(/[\s\S][\u0300-\u036f\ufe00-\ufe0f]*/gu) || []) {
        const width = WIDE.test(char) ? 2 : 1;
        if (!done && column < x + width) { under = char; done = true; } else if (done && under) after += char; else if (done) after += char; else before += char;
        x += width;
      }
      if (before) out.push([before, style]);
      if (under) out.push([under, style, true]);
      if (after) out.push([after, style]);
    }
    if (!done) out.push([" ".repeat(Math.max(0, column - x)), 0], [" ", 0, true]);
    return out;
  };

  const draw = () => {
    const [x, y, visible] = cursor;
    while (screen.children.length > size[1]) screen.lastChild.remove();
    while (screen.children.length < size[1]) screen.append(document.createElement("div"));
    screen.style.width = `${size[0]}ch`;
    for (let line = 0; line < size[1]; line++) {
      const row = rows.get(order[line]);
      const mark = visible && line === y ? x : -1;
      const before = drawn[line];
      if (before && before.row === row && before.mark === mark && before.dark === dark()) continue;
      drawn[line] = { row, mark, dark: dark() };
      const found = mark >= 0 ? withCursor(pairs(row), mark) : pairs(row);
      screen.children[line].replaceChildren(...found.map(([text, style, under]) => {
        const span = piece(text, style);
        if (under) span.classList.add("cursor");
        return span;
      }));
    }
  };

  // --- time

  const end = data.end;
  let time = 0, playing = false, last = 0;

  const clock = (ms) => {
    const seconds = Math.floor(ms / 1000), two = (n) => String(n).padStart(2, "0");
    const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
    return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
  };

  // the number of steps that happened by then
  const stepsBy = (when) => {
    let low = 0, high = steps.length;
    while (low < high) { const middle = (low + high) >> 1; if (steps[middle][0] <= when) low = middle + 1; else high = middle; }
    return low;
  };

  const show = () => {
    goTo(stepsBy(time));
    $("seek").value = String(time);
    $("clock").textContent = `${clock(time)} / ${clock(end)}`;
    $("play").textContent = playing ? "Pause" : "Play";
    document.body.dataset.state = playing ? "playing" : time >= end ? "ended" : "paused";
  };

  const seek = (to) => { time = Math.min(Math.max(0, to), end); show(); };

  // to where a line was on the screen: the first step that has it
  const seekTo = (when) => {
    const next = steps[Math.max(0, stepsBy(when - 1))];
    seek(next ? Math.max(when, next[0]) : when);
  };

  const tick = (now) => {
    if (!playing) return;
    time += Math.min(now - last, 1000) * Number($("speed").value);
    last = now;
    const next = steps[stepsBy(time)];
    if ($("skip").checked && next && next[0] - time > IDLE) time = next[0] - IDLE;
    if (time >= end) { time = end; playing = false; }
    show();
    if (playing) requestAnimationFrame(tick);
  };

  const toggle = () => {
    playing = !playing;
    if (playing) {
      if (time >= end) time = 0;
      last = performance.now();
      requestAnimationFrame(tick);
    }
    show();
  };

  // --- finding and copying

  let hits = [], hit = -1;

  const find = () => {
    const wanted = $("query").value.trim().toLowerCase();
    hits = wanted ? lines.filter((line) => line[2].toLowerCase().includes(wanted)) : [];
    hit = -1;
    $("found").replaceChildren(...hits.slice(0, MOST_FOUND).map((line, number) => {
      const item = document.createElement("li"), button = document.createElement("button"), when = document.createElement("b");
      button.type = "button";
      when.textContent = clock(line[0]);
      button.append(when, (line[1] === "screen" ? "" : `[${line[1]}] `) + line[2]);
      button.addEventListener("click", () => pick(number));
      item.append(button);
      return item;
    }));
    $("note").textContent = wanted ? `${hits.length} ${hits.length === 1 ? "line" : "lines"}` : "";
  };

  const pick = (number) => {
    if (!hits.length) return;
    hit = (number + hits.length) % hits.length;
    playing = false;
    seekTo(hits[hit][0]);
    $("note").textContent = `${hit + 1} of ${hits.length}`;
  };

  const copy = async (text) => {
    let done = true;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
    }
    $("note").textContent = done ? "Copied." : "The browser did not allow it.";
  };

  const screenText = () => order.slice(0, size[1]).map((number) => textOf(rows.get(number))).join("\n").replace(/\s+$/, "") + "\n";
  const allText = () => lines.map((line) => (line[1] === "screen" ? "" : `[${line[1]}] `) + line[2]).join("\n") + "\n";

  // --- the page

  const theme = (name) => { document.documentElement.dataset.theme = name; draw(); };
  const preferred = window.matchMedia("(prefers-color-scheme: dark)");
  preferred.addEventListener("change", () => theme(preferred.matches ? "dark" : "light"));

  for (const [name, value] of data.facts) {
    const term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = name;
    said.textContent = value;
    $("facts").append(term, said);
  }
  if (data.problem) { $("problem").textContent = data.problem; $("problem").hidden = false; }
  $("seek").max = String(end);
  $("play").addEventListener("click", toggle);
  $("seek").addEventListener("input", () => seek(Number($("seek").value)));
  $("query").addEventListener("input", find);
  $("next").addEventListener("click", () => pick(hit + 1));
  $("previous").addEventListener("click", () => pick(hit < 0 ? -1 : hit - 1));
  $("copy").addEventListener("click", () => copy(screenText()));
  $("copy-all").addEventListener("click", () => copy(allText()));
  $("theme").addEventListener("click", () => theme(dark() ? "light" : "dark"));
  $("search").addEventListener("submit", (event) => { event.preventDefault(); pick(hit + 1); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || /^(INPUT|SELECT|TEXTAREA|BUTTON)$/.test(event.target.tagName)) return;
    const act = {
      " ": toggle, ArrowRight: () => seek(time + 5000), ArrowLeft: () => seek(time - 5000), "]": () => seek(time + 60000),
      "[": () => seek(time - 60000), Home: () => seek(0), End: () => seek(end), "/": () => $("query").focus(),
      n: () => pick(hit + 1), N: () => pick(hit < 0 ? -1 : hit - 1),
    }[event.key];
    if (act) { event.preventDefault(); act(); }
  });
  forget();
  document.documentElement.dataset.theme = preferred.matches ? "dark" : "light";
  show();
})();
