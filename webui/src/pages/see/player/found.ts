// Searching a recording: the lines that it showed, as text, and when.
//
// Output is read as a printer would: a line ends at a line feed, a return or where the cursor is sent elsewhere. That
// finds what programs print; what an editor draws is found line by line as it was drawn.

import type { Track } from "./track";
import { isSize } from "./track";

export interface Line {
  time: number;
  text: string;
}

export const MAX_LINES = 300_000;
export const MAX_TEXT = 24 * 1024 * 1024; // characters of all lines
export const MAX_LINE = 2000;
export const MAX_HITS = 1000;

// What ends a line, a character taken back, and what is only dropped. The sanitiser lets no other sequences through.
const PIECES =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  /([^\x00-\x1f\x7f]+)|(\x1b\[[0-9;:?!]*[HfABCDEFGdJ`aer]|\x1b[DEM]|[\r\n\x0b\x0c])|(\x08)|(\t)|\x1b\[[0-9;:?!]*[ -/]*[@-~]|\x1b[()].|\x1b./g;

export class LineReader {
  readonly lines: Line[] = [];
  private line = "";
  private begun = 0;
  private size = 0;
  private recent: string[] = [];

  feed(time: number, output: string): void {
    for (const [, plain, ends, back, tab] of output.matchAll(PIECES)) {
      if (plain !== undefined || tab !== undefined) {
        if (this.line === "") this.begun = time;
        if (this.line.length < MAX_LINE) this.line += (plain ?? " ").slice(0, MAX_LINE);
      } else if (back !== undefined) this.line = this.line.slice(0, -1);
      else if (ends !== undefined) this.finish();
    }
  }

  /** The line that was begun is one. */
  finish(): void {
    const text = this.line.trim();
    this.line = "";
    if (text === "" || this.recent.includes(text)) return; // drawn again and again
    if (this.lines.length >= MAX_LINES || this.size >= MAX_TEXT) return;
    this.recent.push(text);
    if (this.recent.length > 100) this.recent.shift();
    this.size += text.length;
    this.lines.push({ time: this.begun, text });
  }

  add(time: number, text: string): void {
    this.finish();
    this.lines.push({ time, text });
  }
}

/** All lines of a track, in order; gives way to others between pieces. */
export async function linesOf(track: Track, pause: () => Promise<void>): Promise<Line[]> {
  const reader = new LineReader();
  let since = 0;
  for (const step of track.steps) {
    if (isSize(step)) continue;
    reader.feed(step.time, step.text);
    since += step.text.length;
    if (since > 256 * 1024) {
      since = 0;
      await pause();
    }
  }
  reader.finish();
  const others = [
    ...track.marks
      .filter((mark) => mark.kind !== "typed" && mark.kind !== "size")
      .map((mark) => ({ time: mark.time, text: mark.text })),
    ...track.files.map((file) => ({ time: file.time, text: `${file.action} ${file.path} ${file.target}`.trim() })),
  ];
  return [...reader.lines, ...others].sort((one, other) => one.time - other.time);
}

/** The lines that hold `wanted`, whatever the case; up to `MAX_HITS`. */
export function hits(lines: readonly Line[], wanted: string): Line[] {
  const text = wanted.trim().toLowerCase();
  if (text === "") return [];
  const found: Line[] = [];
  for (const line of lines) {
    if (line.text.toLowerCase().includes(text)) found.push(line);
    if (found.length >= MAX_HITS) break;
  }
  return found;
}

/** The index of the hit that comes after `time`, or before it; around at the ends. -1 when there is none. */
export function nextHit(found: readonly Line[], time: number, back: boolean): number {
  if (found.length === 0) return -1;
  if (back) {
    for (let index = found.length - 1; index >= 0; index--) if ((found[index] as Line).time < time) return index;
    return found.length - 1;
  }
  const index = found.findIndex((line) => line.time > time);
  return Math.max(index, 0);
}
