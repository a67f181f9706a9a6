// Texts of forms and of lists; pure.
import type { Touches } from "./types";

// `a, b c` as a list: names, separated by commas or spaces.
export function listed(text: string): string[] {
  return text.split(/[\s,]+/).filter((part) => part !== "");
}

// Labels or traits as lines `key = a, b`; what cannot be read is named.
export function readPairs(text: string): { pairs: Record<string, string[]>; problem: string } {
  const pairs: Record<string, string[]> = {};
  for (const line of text.split("\n")) {
    if (line.trim() === "") continue;
    const at = line.indexOf("=");
    const key = line.slice(0, at).trim();
    if (at < 0 || key === "") return { pairs, problem: `“${line.trim()}” is not written as key = value` };
    if (Object.hasOwn(pairs, key)) return { pairs, problem: `“${key}” stands there twice` };
    const values = line
      .slice(at + 1)
      .split(",")
      .map((part) => part.trim())
      .filter((part) => part !== "");
    if (values.length === 0) return { pairs, problem: `“${key}” has no value` };
    pairs[key] = values;
  }
  return { pairs, problem: "" };
}

export function writePairs(pairs: Record<string, unknown>): string {
  return Object.entries(pairs)
    .map(([key, values]) => `${key} = ${(Array.isArray(values) ? values : [values]).join(", ")}`)
    .join("\n");
}

// Labels of tokens have one value each.
export function readLabels(text: string): { labels: Record<string, string>; problem: string } {
  const { pairs, problem } = readPairs(text);
  const labels: Record<string, string> = {};
  for (const [key, values] of Object.entries(pairs)) labels[key] = values.join(",");
  return { labels, problem };
}

export function counted(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

// A span in seconds as people say it.
export function span(seconds: number): string {
  const whole = Math.round(Math.abs(seconds));
  if (whole < 60) return counted(whole, "second");
  if (whole < 7200) return counted(Math.round(whole / 60), "minute");
  if (whole < 172_800) return counted(Math.round(whole / 3600), "hour");
  return counted(Math.round(whole / 86_400), "day");
}

// How two clocks differ: what one may know of it, given how long asking took.
export function clocks(ahead: number, whose: string, than: string): string {
  if (Math.abs(ahead) < 1) return `${whose} and ${than} agree.`;
  return `${whose} is ${span(ahead)} ${ahead > 0 ? "ahead of" : "behind"} ${than}.`;
}

// What storing a role does to those who hold it.
export function touched(touches: Touches): string[] {
  const found = [
    `${counted(touches.users.length, "user")} with this role, ${counted(touches.open_sessions, "open session")}.`,
  ];
  const show = (one: { user: string; login: string; hostname: string }) =>
    `${one.user} as ${one.login} on ${one.hostname}`;
  const gained = touches.changes.filter((one) => one.gained);
  const lost = touches.changes.filter((one) => !one.gained);
  if (gained.length > 0) found.push(`Gained: ${some(gained.map(show))}.`);
  if (lost.length > 0) found.push(`Lost: ${some(lost.map(show))}.`);
  if (gained.length + lost.length === 0) found.push("Nobody gains or loses a login on a host.");
  if (touches.more) found.push("There are more changes than are listed.");
  if (touches.ending.length > 0) found.push(`Sessions that end: ${some(touches.ending.map(show))}.`);
  if (touches.hosts_left_out > 0)
    found.push(`Nothing is said of ${counted(touches.hosts_left_out, "host")} that you may not list.`);
  return found;
}

const MOST = 6;

function some(texts: string[]): string {
  const rest = texts.length - MOST;
  return texts.slice(0, MOST).join("; ") + (rest > 0 ? `; and ${rest} more` : "");
}

// Whether a refusal may be overridden: the proxy says that nobody would be left to run the cluster.
export function isLastAdministrator(message: string): boolean {
  return message.startsWith("nobody would be left who may edit roles");
}
