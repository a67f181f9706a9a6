import { describe, expect, it } from "vitest";
import { built } from "../../src/pages/see/player/load";
import {
  BadRecording,
  clock,
  dueUntil,
  isSize,
  MAX_SHOWN,
  spoken,
  TrackBuilder,
} from "../../src/pages/see/player/track";

const HEADER = { header: { sid: "s", user: "ann", login: "root", interactive: true, width: 80, height: 24 } };

function track(...lines: unknown[]) {
  const builder = new TrackBuilder();
  for (const line of [HEADER, ...lines]) builder.take(JSON.stringify(line));
  if (!builder.track) throw new Error("no track");
  return builder.track;
}

describe("a recording, line by line", () => {
  it("has output, sizes, marks and files in order", () => {
    const made = track(
      ["o", 1_000_000, "one"],
      ["r", 2_000_000, 100, 30],
      ["p", 2_500_000, "joined", "bob", "peer", "192.0.2.7:1"],
      ["o", 3_000_000, "two"],
      ["f", 4_000_000, { action: "write", path: "/tmp/x", size: 7, sha256: "ab" }],
      ["d", 5_000_000, "exec", "ls"],
      { end: 6_000_000, problem: "" },
    );
    expect(made.steps).toEqual([
      { time: 1_000_000, text: "one" },
      { time: 2_000_000, columns: 100, rows: 30 },
      { time: 3_000_000, text: "two" },
    ]);
    expect(made.marks.map((mark) => mark.text)).toEqual(["100 × 30", "bob joined as peer from 192.0.2.7:1", "ls"]);
    expect(made.files[0]).toMatchObject({ action: "write", path: "/tmp/x", size: 7, error: "" });
    expect([made.end, made.problem, made.cut]).toEqual([6_000_000, "", false]);
    expect([0, 1_000_000, 2_999_999, 9e9].map((time) => dueUntil(made.steps, time))).toEqual([0, 1, 2, 3]);
  });

  it("puts what is typed within moments into one mark for each person", () => {
    const made = track(
      ["t", 0, "ann", 1],
      ["t", 500_000, "ann", 1],
      ["t", 600_000, "bob", 3],
      ["t", 9_000_000, "bob", 1],
    );
    expect(made.marks.map((mark) => mark.text)).toEqual(["ann typed 2 bytes", "bob typed 3 bytes", "bob typed 1 byte"]);
  });

  it("joins output that comes at once, and keeps pauses", () => {
    const made = track(["o", 0, "a"], ["o", 1000, "b"], ["o", 500_000, "c"]);
    expect(made.steps.map((step) => (isSize(step) ? "" : step.text))).toEqual(["ab", "c"]);
  });

  it("believes nothing", () => {
    const made = track(
      ["o", 5, "x"],
      ["o", -1, 7],
      ["r", 4, 1e9, -3],
      ["t", null, null, "x"],
      ["f", 6, "x"],
      ["f", 7, { path: 1, size: "x" }],
      ["new kind", 8, {}],
      [],
      null,
      { header: { sid: "another" } },
      { end: "x", problem: 3 },
    );
    expect(made.header.sid).toBe("s");
    expect(made.steps.every((step, index, all) => index === 0 || step.time >= (all[index - 1]?.time ?? 0))).toBe(true);
    expect(made.steps.find(isSize)).toEqual({ time: 5, columns: 500, rows: 24 });
    expect(made.problem).toBe("");
    const builder = new TrackBuilder();
    expect(() => builder.take("<html>")).toThrow(BadRecording);
    expect(() => builder.take('["o",0,"x"]')).toThrow(BadRecording);
  });

  it("holds a bounded part of a long one, and says so", () => {
    const builder = new TrackBuilder();
    builder.take(JSON.stringify(HEADER));
    const piece = JSON.stringify(["o", 0, "x".repeat(1024 * 1024)]);
    let taken = 0;
    while (builder.take(piece)) taken += 1;
    expect(taken).toBe(MAX_SHOWN / 1024 / 1024);
    expect(builder.track?.cut).toBe(true);
  });
});

it("changes of the size at once are the last of them", () => {
  const made = track(["r", 0, 80, 24], ["r", 1000, 90, 24], ["r", 2000, 91, 25], ["o", 3000, "x"], ["r", 4000, 80, 24]);
  expect(made.steps.filter(isSize).map((size) => size.columns)).toEqual([91, 80]);
});

describe("its bytes", () => {
  async function from(bytes: Uint8Array, size: number, breaks = false) {
    let at = 0;
    return built(
      async () => {
        const value = bytes.slice(at, at + size);
        at += size;
        if (breaks && value.length === 0) throw new TypeError("network error");
        return { done: value.length === 0, value };
      },
      () => {},
    );
  }
  const lines = [HEADER, ["o", 1, "grüße ✓"], ["o", 2_000_000, "b"], { end: 2_000_000, problem: "" }];
  const bytes = new TextEncoder().encode(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));

  it("may come in any pieces", async () => {
    for (const size of [1, 2, 3, 7, 64, 4096]) {
      const made = await from(bytes, size);
      expect(made.steps).toEqual([
        { time: 1, text: "grüße ✓" },
        { time: 2_000_000, text: "b" },
      ]);
    }
  });

  it("may break off: what came is shown, and that it is not all", async () => {
    expect((await from(bytes, 10, true)).problem).toMatch(/broke off/);
    await expect(from(new Uint8Array(), 10)).rejects.toThrow(BadRecording);
  });
});

it("times are written and spoken", () => {
  expect([0, 61_000_000, 3_723_000_000].map(clock)).toEqual(["0:00", "1:01", "1:02:03"]);
  expect(spoken(3_723_000_000)).toBe("1 hour 2 minutes 3 seconds");
  expect(spoken(0)).toBe("0 seconds");
});
