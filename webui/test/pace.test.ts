import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Pace } from "../src/ui/pace";

describe("Pace", () => {
  let pace: Pace;
  let asked: string[];

  beforeEach(() => {
    vi.useFakeTimers();
    pace = new Pace(() => Date.now());
    asked = [];
  });

  afterEach(() => {
    expect(vi.getTimerCount()).toBe(0);
    vi.useRealTimers();
  });

  function type(text: string): void {
    pace.want(() => {
      asked.push(text);
      pace.answering(true);
    });
  }

  function answer(): void {
    pace.answering(false);
  }

  it("asks the first letter at once", () => {
    type("a");
    expect(asked).toEqual(["a"]);
  });

  it("asks what follows together, a moment after the former question", () => {
    type("a");
    answer();
    vi.advanceTimersByTime(30);
    type("al");
    vi.advanceTimersByTime(30);
    type("alp");
    vi.advanceTimersByTime(39);
    expect(asked).toEqual(["a"]);
    vi.advanceTimersByTime(1);
    expect(asked).toEqual(["a", "alp"]);
  });

  it("asks at once again after a pause", () => {
    type("a");
    answer();
    vi.advanceTimersByTime(100);
    type("al");
    expect(asked).toEqual(["a", "al"]);
  });

  it("has one question on its way, and asks the newest when its answer is here", () => {
    type("a");
    vi.advanceTimersByTime(500);
    type("al");
    vi.advanceTimersByTime(200);
    type("alp");
    expect(asked).toEqual(["a"]);
    answer();
    expect(asked).toEqual(["a", "alp"]);
  });

  it("waits for no answer that does not come", () => {
    type("a");
    vi.advanceTimersByTime(10);
    type("al");
    vi.advanceTimersByTime(1989);
    expect(asked).toEqual(["a"]);
    vi.advanceTimersByTime(1);
    expect(asked).toEqual(["a", "al"]);
  });

  it("waits as well for what the page asked by itself", () => {
    pace.answering(true);
    type("a");
    expect(asked).toEqual([]);
    answer();
    expect(asked).toEqual(["a"]);
  });

  it("gives each question its time when none is answered", () => {
    for (const text of ["a", "al", "alp"]) {
      type(text);
      vi.advanceTimersByTime(1000);
    }
    expect(asked).toEqual(["a", "al"]);
    vi.advanceTimersByTime(999);
    expect(asked).toEqual(["a", "al"]);
    vi.advanceTimersByTime(1);
    expect(asked).toEqual(["a", "al", "alp"]);
  });

  it("asks nothing that is not wanted any more", () => {
    type("a");
    answer();
    type("al");
    pace.drop();
    vi.advanceTimersByTime(5000);
    expect(asked).toEqual(["a"]);
  });

  it("asks as often as it may and no more while letters keep coming", () => {
    for (let pressed = 0; pressed < 50; pressed++) {
      type(`${pressed}`);
      answer();
      vi.advanceTimersByTime(20);
    }
    vi.advanceTimersByTime(100);
    expect(asked.at(-1)).toBe("49");
    expect(asked.length).toBeGreaterThanOrEqual(10);
    expect(asked.length).toBeLessThanOrEqual(11);
  });
});
