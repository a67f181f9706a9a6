// The recorded screen: xterm.js reads the output, this shows its rows as plain text in spans.
//
// xterm.js is never opened, so there is nothing of it in the page: no keyboard, no links, no clipboard, no title, nothing
// that a recording could reach (threat T44). It is given bounded pieces, and the page has a turn after each; and a screen
// that is costly to draw is drawn less often.
import { type IBuffer, type IBufferCell, Terminal } from "@xterm/xterm";
import { pause } from "./load";
import { dueUntil, isSize, type Step, type Track } from "./track";

const PIECE = 128 * 1024; // characters between two looks at what is wanted now
const SLICE = 4096; // characters given at once: xterm.js lets the page have a turn between slices
const COSTLY = 8; // milliseconds of drawing
const SIZES = 20; // changes of the size between two turns of the page

const BASIC = [
  "#2e3436",
  "#ef5f5f",
  "#6cc04a",
  "#d6b13c",
  "#6fa8ff",
  "#c58af9",
  "#3fc1c9",
  "#d3d7cf",
  "#8a9096",
  "#ff8a8a",
  "#9be870",
  "#ffe27a",
  "#a3c8ff",
  "#e0b3ff",
  "#7ee8ea",
  "#ffffff",
];
const FORE = "#e6eaee";
const BACK = "#0f1419";

export function colour(index: number): string {
  if (index < 16) return BASIC[index] as string;
  if (index > 231) {
    const grey = 8 + (index - 232) * 10;
    return `rgb(${grey}, ${grey}, ${grey})`;
  }
  const level = (value: number) => (value === 0 ? 0 : 55 + value * 40);
  const at = index - 16;
  return `rgb(${level(Math.floor(at / 36))}, ${level(Math.floor(at / 6) % 6)}, ${level(at % 6)})`;
}

interface Run {
  text: string;
  fore: string;
  back: string;
  classes: string;
}

export class Screen {
  private terminal: Terminal;
  private index = 0; // of the next step
  private wanted = 0;
  private working: Promise<void> | null = null;
  private gone = false;
  private shown: string[] = [];
  private rests = 0; // until when nothing is drawn

  constructor(
    private readonly track: Track,
    private readonly root: HTMLElement,
  ) {
    this.terminal = this.fresh();
  }

  /** Shows what was there at `position`. What is asked for meanwhile counts instead. */
  show(position: number): Promise<void> {
    this.wanted = position;
    this.working ??= this.work().finally(() => {
      this.working = null;
    });
    return this.working;
  }

  /** When the next step is due after `position`; null when there is none. */
  due(position: number): number | null {
    return this.track.steps[dueUntil(this.track.steps, position)]?.time ?? null;
  }

  text(): string {
    const buffer = this.terminal.buffer.active;
    const lines: string[] = [];
    for (let y = 0; y < this.terminal.rows; y++)
      lines.push(buffer.getLine(buffer.viewportY + y)?.translateToString(true) ?? "");
    return lines.join("\n").trimEnd();
  }

  get columns(): number {
    return this.terminal.cols;
  }

  dispose(): void {
    this.gone = true;
    this.terminal.dispose();
  }

  private fresh(): Terminal {
    const { interactive, width, height } = this.track.header;
    return new Terminal({
      cols: interactive ? width : 120,
      rows: interactive ? height : 40,
      scrollback: 0,
      convertEol: !interactive,
      logLevel: "off",
    });
  }

  private async work(): Promise<void> {
    for (;;) {
      if (this.gone) return;
      const until = dueUntil(this.track.steps, this.wanted);
      if (until < this.index) {
        this.terminal.dispose();
        this.terminal = this.fresh();
        this.index = 0;
      }
      if (until === this.index) break;
      await this.some(until);
    }
    this.paint();
  }

  private async some(until: number): Promise<void> {
    const { steps, header } = this.track;
    let text = "";
    let sizes = 0;
    while (this.index < until && text.length < PIECE) {
      const step = steps[this.index] as Step;
      if (isSize(step)) {
        const next = steps[this.index + 1];
        const last = !(next && isSize(next)) || this.index + 1 === until;
        if (last && header.interactive) {
          if (text !== "" || sizes === SIZES) break; // the size holds for what comes after it
          this.terminal.resize(step.columns, step.rows);
          sizes += 1;
        }
      } else text += step.text;
      this.index += 1;
    }
    if (text === "") return pause();
    for (let at = 0; at + SLICE < text.length; at += SLICE) this.terminal.write(text.slice(at, at + SLICE));
    const rest = text.slice(Math.floor((text.length - 1) / SLICE) * SLICE);
    await new Promise<void>((resolve) => this.terminal.write(rest, resolve));
  }

  /** Whether it may be drawn again already. */
  ready(now: number): boolean {
    return now >= this.rests;
  }

  private paint(): void {
    const begun = performance.now();
    const { terminal, root } = this;
    const buffer = terminal.buffer.active;
    while (root.childElementCount > terminal.rows) root.lastElementChild?.remove();
    this.shown.length = Math.min(this.shown.length, terminal.rows);
    while (root.childElementCount < terminal.rows) root.append(document.createElement("div"));
    const cell = buffer.getNullCell();
    for (let y = 0; y < terminal.rows; y++) {
      const runs = runsOf(buffer, y, terminal.cols, cell);
      const key = JSON.stringify(runs);
      if (this.shown[y] === key) continue;
      this.shown[y] = key;
      root.children[y]?.replaceChildren(...(runs.length > 0 ? runs.map(spanOf) : [" "]));
    }
    const took = performance.now() - begun;
    if (took > COSTLY) this.rests = begun + took * 6; // the browser takes time for it, too
  }
}

function runsOf(buffer: IBuffer, y: number, columns: number, cell: IBufferCell): Run[] {
  const line = buffer.getLine(buffer.viewportY + y);
  const runs: Run[] = [];
  if (!line) return runs;
  const cursor = y === buffer.cursorY ? buffer.cursorX : -1;
  let last: Run | null = null;
  for (let x = 0; x < columns; x++) {
    const found = line.getCell(x, cell);
    if (!found) break;
    if (found.getWidth() === 0) continue; // the second half of a wide character
    const next = styled(found, x === cursor);
    if (last && last.fore === next.fore && last.back === next.back && last.classes === next.classes)
      last.text += next.text;
    else {
      last = next;
      runs.push(next);
    }
  }
  const end = runs.at(-1);
  if (end && end.back === "" && end.classes === "") {
    end.text = end.text.trimEnd();
    if (end.text === "") runs.pop();
  }
  return runs;
}

function styled(cell: IBufferCell, cursor: boolean): Run {
  let fore = cell.isFgDefault() ? "" : cell.isFgRGB() ? rgb(cell.getFgColor()) : colour(cell.getFgColor());
  let back = cell.isBgDefault() ? "" : cell.isBgRGB() ? rgb(cell.getBgColor()) : colour(cell.getBgColor());
  if (cell.isInverse()) [fore, back] = [back || BACK, fore || FORE];
  const classes: string[] = [];
  if (cell.isBold()) classes.push("bold");
  if (cell.isDim()) classes.push("dim");
  if (cell.isItalic()) classes.push("italic");
  if (cell.isUnderline()) classes.push("underline");
  if (cell.isStrikethrough()) classes.push("strike");
  if (cursor) classes.push("cursor");
  return { text: cell.isInvisible() ? " " : cell.getChars() || " ", fore, back, classes: classes.join(" ") };
}

function rgb(value: number): string {
  return `#${value.toString(16).padStart(6, "0")}`;
}

function spanOf(run: Run): HTMLElement {
  const span = document.createElement("span");
  span.textContent = run.text;
  if (run.classes) span.className = run.classes;
  if (run.fore) span.style.color = run.fore;
  if (run.back) span.style.backgroundColor = run.back;
  return span;
}
