import { describe, expect, it } from "vitest";
import { Blink, type Lamp } from "../../src/pages/terminal/blink";

// A cursor, and a clock that the test winds.
class Stage implements Lamp {
  changes: boolean[] = [];
  calm = false;
  private timers: (() => void)[] = [];

  later(_milliseconds: number, act: () => void) {
    this.timers.push(act);
    return () => {
      this.timers = this.timers.filter((one) => one !== act);
    };
  }
  light = (on: boolean) => this.changes.push(on);
  still = () => this.calm;

  passes(times = 1): void {
    for (let at = 0; at < times; at++) {
      const due = this.timers;
      this.timers = [];
      for (const act of due) act();
    }
  }
  get waits() {
    return this.timers.length;
  }
}

describe("blinking", () => {
  it("goes off and on while the terminal has the focus, and no longer", () => {
    const stage = new Stage();
    const blink = new Blink(stage);
    expect(stage.waits).toBe(0);
    blink.begin();
    stage.passes(3);
    expect(stage.changes).toEqual([false, true, false]);
    blink.end();
    expect(stage.changes).toEqual([false, true, false, true]);
    expect(stage.waits).toBe(0);
  });

  it("lights a cursor that moves at once, and changes nothing while it goes on moving", () => {
    const stage = new Stage();
    const blink = new Blink(stage);
    blink.begin();
    stage.passes();
    blink.moved();
    expect(stage.changes).toEqual([false, true]);
    for (let at = 0; at < 5; at++) {
      blink.moved();
      stage.passes();
    }
    expect(stage.changes).toEqual([false, true]);
    stage.passes();
    expect(stage.changes).toEqual([false, true, false]);
  });

  it("leaves the cursor alone for who asked for little motion, from when they ask", () => {
    const stage = new Stage();
    const blink = new Blink(stage);
    blink.begin();
    stage.passes();
    stage.calm = true;
    stage.passes(4);
    expect(stage.changes).toEqual([false, true]);
  });

  it("has one timer, however often the focus comes", () => {
    const stage = new Stage();
    const blink = new Blink(stage);
    blink.begin();
    blink.begin();
    expect(stage.waits).toBe(1);
  });
});
