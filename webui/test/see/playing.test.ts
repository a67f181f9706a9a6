import { describe, expect, it } from "vitest";
import { begun, faster, IDLE, pressed, sought, ticked, toggled } from "../../src/pages/see/player/playing";

const SECOND = 1_000_000;
const running = { ...toggled(begun(100 * SECOND)), skipIdle: false };

describe("playing", () => {
  it("goes on with time and speed, and stops at the end", () => {
    expect(ticked(running, 100, null).position).toBe(100_000);
    expect(ticked({ ...running, speed: 8 }, 100, null).position).toBe(800_000);
    const last = ticked({ ...running, position: 100 * SECOND - 10 }, 100, null);
    expect([last.position, last.running]).toEqual([100 * SECOND, false]);
    expect(toggled(last).position).toBe(0);
    expect(ticked({ ...running, running: false }, 100, null).position).toBe(0);
  });

  it("does not jump after its tab was in the background", () => {
    expect(ticked(running, 60_000, null).position).toBe(250_000);
    expect(ticked(running, -5, null).position).toBe(0);
  });

  it("skips pauses but for a second", () => {
    const state = { ...running, skipIdle: true };
    expect(ticked(state, 10, 50 * SECOND).position).toBe(50 * SECOND - IDLE);
    expect(ticked(state, 10, SECOND / 2).position).toBe(10_000);
    expect(ticked(state, 10, null).position).toBe(100 * SECOND - IDLE);
  });

  it("is moved by keys, within its bounds", () => {
    expect(pressed(running, " ")?.running).toBe(false);
    expect(pressed(running, "ArrowRight")?.position).toBe(5 * SECOND);
    expect(pressed(running, "ArrowLeft")?.position).toBe(0);
    expect(pressed(running, "PageUp")?.position).toBe(60 * SECOND);
    expect(pressed(running, "End")?.position).toBe(100 * SECOND);
    expect(pressed(running, "i")?.skipIdle).toBe(true);
    expect(pressed(running, "q")).toBeNull();
    expect(sought(running, 1e15).position).toBe(100 * SECOND);
    expect([faster(running, 1).speed, faster({ ...running, speed: 8 }, 1).speed, faster(running, -1).speed]).toEqual([
      2, 8, 0.5,
    ]);
  });

  it("of nothing does nothing", () => {
    expect(toggled(begun(0)).running).toBe(false);
  });
});
