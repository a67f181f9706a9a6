// What the audit page asks for, and how that stands in its address, so that a view can be kept and sent. Pure.

export interface Filters {
  types: string[];
  user: string;
  host: string;
  text: string;
  sid: string;
  range: string; // a preset, or "custom"
  from: string; // of a custom range, as `datetime-local` has it, in the viewer's zone
  to: string;
}

export const RANGES: readonly { value: string; label: string; minutes: number }[] = [
  { value: "1h", label: "Last hour", minutes: 60 },
  { value: "24h", label: "Last 24 hours", minutes: 24 * 60 },
  { value: "7d", label: "Last 7 days", minutes: 7 * 24 * 60 },
  { value: "30d", label: "Last 30 days", minutes: 30 * 24 * 60 },
  { value: "all", label: "Any time", minutes: 0 },
  { value: "custom", label: "From … to …", minutes: 0 },
];

export const NONE: Filters = { types: [], user: "", host: "", text: "", sid: "", range: "24h", from: "", to: "" };

const MAX = 200;

export function fromAddress(query: URLSearchParams): Filters {
  const get = (name: string) => (query.get(name) ?? "").slice(0, MAX);
  const range = get("range");
  return {
    types: (query.get("types") ?? "")
      .split(",")
      .filter((type) => /^[a-z0-9_.]{1,64}$/.test(type))
      .slice(0, 50),
    user: get("user"),
    host: get("host"),
    text: get("text"),
    sid: get("sid"),
    range: RANGES.some((one) => one.value === range) ? range : NONE.range,
    from: get("from"),
    to: get("to"),
  };
}

/** What stands in the address. */
export function toAddress(filters: Filters): Record<string, string> {
  const custom = filters.range === "custom";
  return {
    types: filters.types.join(","),
    user: filters.user,
    host: filters.host,
    text: filters.text,
    sid: filters.sid,
    range: filters.range === NONE.range ? "" : filters.range,
    from: custom ? filters.from : "",
    to: custom ? filters.to : "",
  };
}

/** What is wrong with them, in words; empty when nothing is. */
export function problem(filters: Filters): string {
  if (filters.range !== "custom") return "";
  const from = moment(filters.from);
  const to = moment(filters.to);
  if (filters.from !== "" && from === null) return "The beginning is no time.";
  if (filters.to !== "" && to === null) return "The end is no time.";
  if (from !== null && to !== null && from >= to) return "The end is before the beginning.";
  return "";
}

function moment(text: string): Date | null {
  const found = new Date(text);
  return text === "" || Number.isNaN(found.getTime()) ? null : found;
}

/** The query of `events/search` and `events/export`. */
export function toQuery(filters: Filters, now: Date): URLSearchParams {
  const query = new URLSearchParams();
  if (filters.types.length > 0) query.set("include", filters.types.join(","));
  for (const name of ["user", "host", "text", "sid"] as const) {
    const value = filters[name].trim();
    if (value !== "") query.set(name, value);
  }
  if (filters.range === "custom") {
    const from = moment(filters.from);
    const to = moment(filters.to);
    if (from !== null) query.set("from", from.toISOString());
    if (to !== null) query.set("to", to.toISOString());
  } else {
    const minutes = RANGES.find((one) => one.value === filters.range)?.minutes ?? 0;
    if (minutes > 0) query.set("from", new Date(now.getTime() - minutes * 60_000).toISOString());
  }
  return query;
}
