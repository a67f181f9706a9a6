import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { tellEvery, watchIdle } from "../src/idle";

const MINUTE = 60_000;

describe("watchIdle", () => {
  let stored: Map<string, string>;
  let page: EventTarget;

  beforeEach(() => {
    vi.useFakeTimers();
    stored = new Map();
    page = new EventTarget();
    vi.stubGlobal("window", page);
    vi.stubGlobal("localStorage", {
      getItem: (name: string) => stored.get(name) ?? null,
      setItem: (name: string, value: string) => stored.set(name, value),
    });
  });

  afterEach(() => {
    vi.unstubAllGlobals();
    vi.useRealTimers();
  });

  it("ends after the timeout, not before", () => {
    const end = vi.fn();
    const stop = watchIdle(10 * MINUTE, () => {}, end);
    vi.advanceTimersByTime(10 * MINUTE - 10_000);
    expect(end).not.toHaveBeenCalled();
    vi.advanceTimersByTime(10_000);
    expect(end).toHaveBeenCalled();
    stop();
  });

  it("starts anew with each key, and tells the proxy", () => {
    const end = vi.fn();
    const tell = vi.fn();
    const stop = watchIdle(10 * MINUTE, tell, end);
    for (let minute = 0; minute < 30; minute++) {
      vi.advanceTimersByTime(MINUTE);
      page.dispatchEvent(new Event("keydown"));
    }
    expect(end).not.toHaveBeenCalled();
    expect(tell).toHaveBeenCalledTimes(30);
    stop();
  });

  it("counts what is done in another tab", () => {
    const end = vi.fn();
    const stop = watchIdle(10 * MINUTE, () => {}, end);
    vi.advanceTimersByTime(9 * MINUTE);
    stored.set("active", String(Date.now()));
    vi.advanceTimersByTime(9 * MINUTE);
    expect(end).not.toHaveBeenCalled();
    vi.advanceTimersByTime(MINUTE);
    expect(end).toHaveBeenCalled();
    stop();
  });

  it("does nothing without a timeout, or once stopped", () => {
    const end = vi.fn();
    watchIdle(0, () => {}, end);
    watchIdle(MINUTE, () => {}, end)();
    vi.advanceTimersByTime(60 * MINUTE);
    expect(end).not.toHaveBeenCalled();
  });

  it("tells often enough that the proxy thinks nobody idle", () => {
    for (const timeout of [10_000, MINUTE, 60 * MINUTE]) expect(tellEvery(timeout)).toBeLessThan(timeout / 2);
  });
});
