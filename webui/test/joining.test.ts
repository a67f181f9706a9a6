import { beforeEach, expect, test, vi } from "vitest";
import { chooses, follows, wasChosen } from "../src/joining";

class Kept {
  private readonly all = new Map<string, string>();
  getItem(name: string): string | null {
    return this.all.get(name) ?? null;
  }
  setItem(name: string, value: string): void {
    this.all.set(name, value);
  }
  removeItem(name: string): void {
    this.all.delete(name);
  }
}

function tab(): void {
  vi.stubGlobal("sessionStorage", new Kept());
}

beforeEach(() => {
  vi.stubGlobal("localStorage", new Kept());
  tab();
});

test("an address alone is no choice", () => {
  expect(wasChosen("s1", "moderator")).toBe(false);
});

test("a choice holds for its session, its mode and its tab", () => {
  chooses("s1", "observer");
  expect(wasChosen("s1", "observer")).toBe(true);
  expect(wasChosen("s1", "moderator")).toBe(false);
  expect(wasChosen("s2", "observer")).toBe(false);
  tab();
  expect(wasChosen("s1", "observer")).toBe(false);
});

test("a link of ours counts once, in the tab that it opens, and soon", () => {
  follows("s1", "peer");
  expect(wasChosen("s1", "moderator")).toBe(false);
  expect(wasChosen("s1", "peer")).toBe(true);
  expect(wasChosen("s1", "peer")).toBe(true); // after a reload
  tab();
  expect(wasChosen("s1", "peer")).toBe(false);
  vi.useFakeTimers();
  follows("s1", "peer");
  vi.advanceTimersByTime(61_000);
  expect(wasChosen("s1", "peer")).toBe(false);
  vi.useRealTimers();
});

test("what is stored and cannot be read is no choice", () => {
  for (const odd of ["{", "1", '["s1"]', '["s1","peer","x"]', '["s1","peer",null,1]']) {
    localStorage.setItem("joining", odd);
    expect(wasChosen("s1", "peer")).toBe(false);
  }
});
