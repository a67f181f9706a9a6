import { describe, expect, it } from "vitest";
import { buckets, scale, total } from "../../src/pages/see/counts";
import { type AuditEvent, eventsOf, failed, MOST, merged, summary } from "../../src/pages/see/events";
import { fromAddress, NONE, problem, toAddress, toQuery } from "../../src/pages/see/filters";
import { nameOf } from "../../src/pages/see/raw";
import { bytes } from "../../src/pages/see/size";

const NOW = new Date("2026-05-01T10:30:00Z");

describe("filters", () => {
  it("survive the address", () => {
    const filters = { ...NONE, types: ["exec", "user.login"], user: "ann & bob", text: "a=b", range: "7d" };
    const query = new URLSearchParams(Object.entries(toAddress(filters)).filter(([, value]) => value !== ""));
    expect(fromAddress(query)).toEqual(filters);
    expect(Object.values(toAddress(NONE)).join("")).toBe("");
  });

  it("from an address are bounded and known", () => {
    const query = new URLSearchParams({ types: "exec,<script>,..%", range: "never", user: "x".repeat(999) });
    const found = fromAddress(query);
    expect([found.types, found.range, found.user.length]).toEqual([["exec"], "24h", 200]);
  });

  it("become a query with times", () => {
    expect(toQuery(NONE, NOW).toString()).toBe("from=2026-04-30T10%3A30%3A00.000Z");
    expect(toQuery({ ...NONE, range: "all", user: " ann " }, NOW).toString()).toBe("user=ann");
    const custom = { ...NONE, range: "custom", from: "2026-05-01T10:00", to: "2026-05-01T11:00" };
    expect(toQuery(custom, NOW).get("from")).toBe(new Date("2026-05-01T10:00").toISOString());
    expect(problem(custom)).toBe("");
    expect(problem({ ...custom, to: custom.from })).not.toBe("");
    expect(problem({ ...custom, from: "x" })).not.toBe("");
  });
});

describe("events", () => {
  const event = (uid: string, time: string, more: object = {}): AuditEvent => ({
    event: "exec",
    code: "T3002I",
    uid,
    time,
    ...more,
  });

  it("are put together newest first, each once, up to a number", () => {
    const known = [event("b", "2026-01-02"), event("a", "2026-01-01")];
    expect(merged(known, [event("c", "2026-01-03"), event("b", "2026-01-02")]).map((one) => one.uid)).toEqual([
      "c",
      "b",
      "a",
    ]);
    const again = event("a", "2026-01-01", { hash: "of another" });
    expect(merged(known, [again, again])).toHaveLength(3); // a uid that is used again hides nothing
    const many = Array.from({ length: MOST + 10 }, (_, index) => event(String(index), "2026-01-01"));
    expect(merged([], many)).toHaveLength(MOST);
  });

  it("say what happened", () => {
    expect(summary(event("a", "", { command: "ls", login: "root", server_hostname: "web" }))).toBe("ls on root@web");
    expect(summary(event("a", "", { event: "user.login", code: "T1000W", error: "wrong" }))).toBe(
      "Login refused: wrong",
    );
    expect(failed(event("a", "", { code: "T1000W" }))).toBe(true);
    expect(failed(event("a", ""))).toBe(false);
  });

  it("that are damaged are shown, and what is none is not", () => {
    expect(eventsOf([{ event: "damaged", line: "x" }, 7, null]).map((one) => one.uid)).toEqual(["damaged-0"]);
  });
});

describe("numbers", () => {
  it("are put together by hour and by day, empty ones too", () => {
    const none = { commands: 0, logins: 0, failed_logins: 0, denied: 0 };
    const hours = [
      { hour: "2026-05-01T08:00:00Z", sessions: 2, ...none },
      { hour: "2026-05-01T09:00:00Z", sessions: 3, ...none },
    ];
    const made = buckets(hours, new Date("2026-05-01T07:00:00Z"), new Date("2026-05-01T11:00:00Z"), "hour");
    expect(made.map((bucket) => bucket.values.sessions)).toEqual([0, 2, 3, 0]);
    expect(
      total(buckets(hours, new Date("2026-04-25T11:00:00Z"), new Date("2026-05-02T11:00:00Z"), "day"), "sessions"),
    ).toBe(5);
  });

  it("fit below a round top", () => {
    for (const most of [0, 1, 4, 5, 9, 99, 100, 12_345]) {
      const { top, lines } = scale(most);
      expect(top).toBeGreaterThanOrEqual(most);
      expect(lines.at(-1)).toBe(top);
    }
  });
});

it("names of files are plain ones", () => {
  expect(nameOf('attachment; filename="a-1.cast"', "x")).toBe("a-1.cast");
  for (const bad of ['attachment; filename="../x"', 'attachment; filename=".bashrc"', null, "inline"])
    expect(nameOf(bad, "x")).toBe("x");
});

it("sizes are readable", () => {
  expect([0, 1023, 1024, 1_500_000].map(bytes)).toEqual(["0 B", "1023 B", "1.0 KiB", "1.4 MiB"]);
});
