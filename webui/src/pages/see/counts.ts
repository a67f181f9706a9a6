// Numbers by the hour, put together for a plot: by the hour for a day, by the viewer's day for longer. Pure.

export interface Hour {
  hour: string;
  sessions: number;
  commands: number;
  logins: number;
  failed_logins: number;
  denied: number;
}

export type Series = "sessions" | "commands" | "logins" | "failed_logins" | "denied";

export interface Bucket {
  begins: Date;
  label: string;
  values: Record<Series, number>;
}

export const SERIES: readonly { name: Series; label: string }[] = [
  { name: "sessions", label: "Sessions" },
  { name: "commands", label: "Commands" },
  { name: "logins", label: "Logins" },
  { name: "failed_logins", label: "Failed logins" },
  { name: "denied", label: "Refusals" },
];

const HOUR = 3_600_000;

function none(): Record<Series, number> {
  return { sessions: 0, commands: 0, logins: 0, failed_logins: 0, denied: 0 };
}

/** The buckets from `start` until `end`, also empty ones: hours, or days that begin at midnight where the viewer is. */
export function buckets(hours: readonly Hour[], start: Date, end: Date, by: "hour" | "day"): Bucket[] {
  const made: Bucket[] = [];
  const at = new Map<number, Bucket>();
  const first = begin(start, by);
  for (let begins = first; begins < end && made.length < 1000; begins = next(begins, by)) {
    const bucket = { begins, label: label(begins, by), values: none() };
    made.push(bucket);
    at.set(begins.getTime(), bucket);
  }
  for (const hour of hours) {
    const when = new Date(hour.hour);
    if (Number.isNaN(when.getTime())) continue;
    const bucket = at.get(begin(when, by).getTime());
    if (bucket) for (const { name } of SERIES) bucket.values[name] += Number(hour[name]) || 0;
  }
  return made;
}

function begin(when: Date, by: "hour" | "day"): Date {
  if (by === "hour") return new Date(Math.floor(when.getTime() / HOUR) * HOUR);
  return new Date(when.getFullYear(), when.getMonth(), when.getDate());
}

function next(when: Date, by: "hour" | "day"): Date {
  if (by === "hour") return new Date(when.getTime() + HOUR);
  return new Date(when.getFullYear(), when.getMonth(), when.getDate() + 1); // days have 23 to 25 hours
}

function label(when: Date, by: "hour" | "day"): string {
  return by === "hour"
    ? when.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" })
    : when.toLocaleDateString(undefined, { month: "short", day: "numeric" });
}

export function total(made: readonly Bucket[], name: Series): number {
  return made.reduce((sum, bucket) => sum + bucket.values[name], 0);
}

/** A round number at or above `most`, and lines at equal distances up to it. */
export function scale(most: number): { top: number; lines: number[] } {
  if (most <= 4) return { top: 4, lines: [0, 1, 2, 3, 4] };
  const power = 10 ** Math.floor(Math.log10(most / 4));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size * 4 >= most) ?? 10 * power;
  return { top: step * 4, lines: [0, 1, 2, 3, 4].map((times) => times * step) };
}
