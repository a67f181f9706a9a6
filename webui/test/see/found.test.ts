import { describe, expect, it } from "vitest";
import { hits, type Line, LineReader, linesOf, MAX_HITS, MAX_LINE, nextHit } from "../../src/pages/see/player/found";
import type { Track } from "../../src/pages/see/player/track";

function read(...output: string[]): Line[] {
  const reader = new LineReader();
  for (const [index, text] of output.entries()) reader.feed(index, text);
  reader.finish();
  return reader.lines;
}

describe("lines of a recording", () => {
  it("are those that were shown, without colours, with their time", () => {
    expect(read("pass\x1b[31mwo", "rd\x1b[0m accepted\r\nnext")).toEqual([
      { time: 0, text: "password accepted" },
      { time: 1, text: "next" },
    ]);
  });

  it("end where the cursor is sent elsewhere; what was taken back is none", () => {
    expect(read("one\x1b[5;7Htwo\x1b[2Jthr\b\b\bee\ttabs").map((line) => line.text)).toEqual(["one", "two", "ee tabs"]);
  });

  it("that are drawn again and again are told once", () => {
    expect(
      read(
        ..."x"
          .repeat(50)
          .split("")
          .map(() => "same\r\n"),
      ),
    ).toHaveLength(1);
  });

  it("are bounded, whatever comes", () => {
    expect(read("y".repeat(100_000))[0]?.text.length).toBeLessThanOrEqual(MAX_LINE);
    const begun = performance.now();
    read("\x1b[".repeat(200_000), "\x1b".repeat(200_000), "\x1b[1;".repeat(100_000));
    expect(performance.now() - begun).toBeLessThan(3000);
  });

  it("come with what else happened", async () => {
    const track = {
      steps: [
        { time: 5, text: "shown" },
        { time: 6, columns: 80, rows: 24 },
      ],
      marks: [
        { time: 1, kind: "exec", text: "ls" },
        { time: 2, kind: "typed", text: "ann typed 2 bytes" },
      ],
      files: [{ time: 9, action: "write", path: "/tmp/x", target: "" }],
    } as unknown as Track;
    expect((await linesOf(track, async () => {})).map((line) => line.text)).toEqual(["ls", "shown", "write /tmp/x"]);
  });
});

describe("searching", () => {
  const lines = ["Alpha", "beta", "ALPHA 2", "gamma"].map((text, time) => ({ time, text }));

  it("finds whatever the case, bounded", () => {
    expect(hits(lines, " alpha ").map((line) => line.time)).toEqual([0, 2]);
    expect(hits(lines, " ")).toEqual([]);
    expect(hits(Array(MAX_HITS + 5).fill(lines[0]), "a")).toHaveLength(MAX_HITS);
  });

  it("goes on and back, around at the ends", () => {
    const found = hits(lines, "alpha");
    expect([nextHit(found, -1, false), nextHit(found, 0, false), nextHit(found, 2, false)]).toEqual([0, 1, 0]);
    expect([nextHit(found, 3, true), nextHit(found, 2, true), nextHit(found, 0, true)]).toEqual([1, 0, 1]);
    expect(nextHit([], 0, false)).toBe(-1);
  });
});
