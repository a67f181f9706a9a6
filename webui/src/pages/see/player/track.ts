// A recording as the player holds it: what was shown and when, and what else happened. Pure: lines in, values out.
//
// Lines are the proxy's (docs/api.md, .../stream). Whatever they hold is text: nothing here makes HTML, links or
// anything else of it (threat T44).

export interface Header {
  sid: string;
  started: string;
  user: string;
  login: string;
  node: string;
  hostname: string;
  command: string;
  client: string;
  interactive: boolean;
  width: number;
  height: number;
}

export interface Output {
  time: number; // microseconds since the start, as everywhere here
  text: string;
}

export interface Size {
  time: number;
  columns: number;
  rows: number;
}

/** Something that is no output: who came, who typed, a command, a forward, a note. */
export interface Mark {
  time: number;
  kind: string;
  text: string;
}

export interface FileMove {
  time: number;
  action: string;
  path: string;
  target: string;
  size: number;
  sha256: string;
  error: string;
}

/** Output and sizes, in order. */
export type Step = Output | Size;

export interface Track {
  header: Header;
  steps: Step[];
  marks: Mark[];
  files: FileMove[];
  end: number;
  problem: string; // why it is not whole; empty when it is
  cut: boolean; // whether it is longer than a page holds
  shown: number; // characters of output
}

export const MAX_SHOWN = 32 * 1024 * 1024; // characters of output that a page holds
export const MAX_STEPS = 1_000_000;
export const MAX_MARKS = 20_000;
const TYPING = 2_000_000; // what one person types in so long is one mark
const JOINED = 8_000; // output this close together is one step
const JOINED_TEXT = 64 * 1024;
const MAX_TIME = 2 ** 48;

export class BadRecording extends Error {}

function text(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function count(value: unknown): number {
  return typeof value === "number" && Number.isFinite(value) && value >= 0 ? Math.min(Math.floor(value), MAX_TIME) : 0;
}

export function isSize(step: Step): step is Size {
  return "rows" in step;
}

function headerOf(found: Record<string, unknown>): Header {
  return {
    sid: text(found.sid),
    started: text(found.started),
    user: text(found.user),
    login: text(found.login),
    node: text(found.node),
    hostname: text(found.hostname),
    command: text(found.command),
    client: text(found.client),
    interactive: found.interactive === true,
    width: bounded(count(found.width), 80, 500),
    height: bounded(count(found.height), 24, 200),
  };
}

function bounded(value: number, otherwise: number, most: number): number {
  return value === 0 ? otherwise : Math.min(value, most);
}

/** Takes lines, one after the other; `take` says whether more are wanted. */
export class TrackBuilder {
  track: Track | null = null;
  private typing: { user: string; mark: Mark; last: number; bytes: number } | null = null;
  private last = 0;

  take(line: string): boolean {
    let found: unknown;
    try {
      found = JSON.parse(line);
    } catch {
      throw new BadRecording("the recording came in a form that this page does not know");
    }
    if (Array.isArray(found)) {
      if (this.track === null) throw new BadRecording("the recording came without its beginning");
      return this.entry(this.track, found);
    }
    if (typeof found !== "object" || found === null) return true;
    const said = found as Record<string, unknown>;
    if (this.track === null) {
      const header = said.header;
      if (typeof header !== "object" || header === null)
        throw new BadRecording("the recording came without its beginning");
      this.track = {
        header: headerOf(header as Record<string, unknown>),
        steps: [],
        marks: [],
        files: [],
        end: 0,
        problem: "",
        cut: false,
        shown: 0,
      };
    } else if ("end" in said) {
      this.track.end = Math.max(this.track.end, count(said.end));
      this.track.problem = text(said.problem);
    }
    return true;
  }

  private entry(track: Track, entry: unknown[]): boolean {
    const time = Math.max(count(entry[1]), this.last); // times never go back
    this.last = time;
    track.end = Math.max(track.end, time);
    switch (entry[0]) {
      case "o":
        return this.output(track, time, text(entry[2]));
      case "r": {
        if (track.steps.length >= MAX_STEPS) {
          track.cut = true;
          return false;
        }
        const columns = bounded(count(entry[2]), 80, 500);
        const rows = bounded(count(entry[3]), 24, 200);
        const last = track.steps.at(-1);
        if (last && isSize(last) && time - last.time < JOINED) track.steps.pop(); // while a window is being drawn larger
        track.steps.push({ time, columns, rows });
        this.mark(track, { time, kind: "size", text: `${columns} × ${rows}` });
        break;
      }
      case "t":
        this.typed(track, time, text(entry[2]), count(entry[3]));
        break;
      case "p": {
        const action = entry[2] === "left" ? "left" : entry[2] === "joined" ? "joined" : "is there";
        const from = text(entry[5]) === "" ? "" : ` from ${text(entry[5])}`;
        this.mark(track, { time, kind: "party", text: `${text(entry[3])} ${action} as ${text(entry[4])}${from}` });
        break;
      }
      case "f":
        this.file(track, time, entry[2]);
        break;
      case "d":
        this.mark(track, { time, kind: text(entry[2]), text: text(entry[3]) });
        break;
      default: // of a later version
    }
    return true;
  }

  private output(track: Track, time: number, shown: string): boolean {
    if (track.shown + shown.length > MAX_SHOWN || track.steps.length >= MAX_STEPS) {
      track.cut = true;
      return false;
    }
    track.shown += shown.length;
    const last = track.steps.at(-1);
    if (last && !isSize(last) && time - last.time < JOINED && last.text.length + shown.length < JOINED_TEXT) {
      last.text += shown;
    } else {
      track.steps.push({ time, text: shown });
    }
    return true;
  }

  private typed(track: Track, time: number, user: string, bytes: number): void {
    const typing = this.typing;
    if (typing && typing.user === user && time - typing.last < TYPING) {
      typing.last = time;
      typing.bytes += bytes;
      typing.mark.text = typedText(user, typing.bytes);
      return;
    }
    const mark = { time, kind: "typed", text: typedText(user, bytes) };
    this.typing = { user, mark, last: time, bytes };
    this.mark(track, mark);
  }

  private file(track: Track, time: number, found: unknown): void {
    if (typeof found !== "object" || found === null || track.files.length >= MAX_MARKS) return;
    const said = found as Record<string, unknown>;
    track.files.push({
      time,
      action: text(said.action),
      path: text(said.path),
      target: text(said.target),
      size: count(said.size),
      sha256: text(said.sha256),
      error: text(said.error),
    });
  }

  private mark(track: Track, mark: Mark): void {
    if (track.marks.length < MAX_MARKS) track.marks.push(mark);
  }
}

function typedText(user: string, bytes: number): string {
  return `${user} typed ${bytes} ${bytes === 1 ? "byte" : "bytes"}`;
}

/** How many steps are due until `time`. */
export function dueUntil(steps: readonly Step[], time: number): number {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((steps[middle] as Step).time <= time) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** `1:02:03` or `2:03`, of microseconds. */
export function clock(time: number): string {
  const seconds = Math.floor(time / 1_000_000);
  const two = (value: number) => String(value).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor(seconds / 60) % 60;
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

/** A time in words, for who does not see the slider. */
export function spoken(time: number): string {
  const seconds = Math.floor(time / 1_000_000);
  const parts: string[] = [];
  const say = (value: number, word: string) => {
    if (value > 0) parts.push(`${value} ${word}${value === 1 ? "" : "s"}`);
  };
  say(Math.floor(seconds / 3600), "hour");
  say(Math.floor(seconds / 60) % 60, "minute");
  say(seconds % 60, "second");
  return parts.length > 0 ? parts.join(" ") : "0 seconds";
}
