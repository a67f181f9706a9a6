import { describe, expect, it } from "vitest";
import { decode, encode, json } from "../../src/pages/terminal/codec";
import { type Around, GRANTED, type Heard, Link, MOST_TYPED, type State } from "../../src/pages/terminal/link";

// A proxy that the test plays, and a clock that it winds.
class Stage implements Around {
  sockets: { heard: Heard; sent: { type: string; payload: Uint8Array }[]; open: boolean }[] = [];
  states: State[] = [];
  parsed: (() => void)[] = [];
  shown: string[] = [];
  resume = "-";
  time = 0;
  timers: { at: number; act: () => void }[] = [];
  tokens = ["first", "second"];
  columns = 80;

  open(heard: Heard) {
    const made = { heard, sent: [] as { type: string; payload: Uint8Array }[], open: true };
    this.sockets.push(made);
    return {
      send: (data: Uint8Array) => {
        if (made.open) made.sent.push(decode(data));
      },
      close: () => {
        made.open = false;
      },
    };
  }
  token = async () => this.tokens[0] as string;
  renew = async () => this.tokens[1] as string;
  now = () => this.time;
  later(milliseconds: number, act: () => void) {
    const timer = { at: this.time + milliseconds, act };
    this.timers.push(timer);
    return () => {
      this.timers = this.timers.filter((one) => one !== timer);
    };
  }
  size = () => ({ columns: this.columns, rows: 24 });
  output(data: Uint8Array, parsed: () => void) {
    this.shown.push(new TextDecoder().decode(data));
    this.parsed.push(parsed);
  }
  anew = () => this.shown.push("(anew)");
  state = (state: State) => this.states.push(state);
  event = (message: string) => this.shown.push(`(${message})`);
  kept = (resume: string) => {
    this.resume = resume;
  };

  get last() {
    const found = this.sockets[this.sockets.length - 1];
    if (!found) throw new Error("no socket was opened");
    return found;
  }
  get is() {
    return this.states[this.states.length - 1]?.is;
  }
  says(type: string, payload: object | Uint8Array) {
    this.last.heard.message(encode(type, payload));
  }
  told(type: string) {
    return this.last.sent.filter((one) => one.type === type).map(({ payload }) => json(payload));
  }
  typed() {
    return this.last.sent.filter(({ type }) => type === "r").reduce((sum, { payload }) => sum + payload.length, 0);
  }
  async greeted() {
    this.last.heard.opened();
    await Promise.resolve();
    await Promise.resolve();
    await Promise.resolve();
  }
  async begun(more: object = {}) {
    await this.greeted();
    const s = { sid: "s1", server_id: "h", login: "root", mode: "peer", credit: 65536, resume: "r1", lives_for: 120 };
    this.says("s", { ...s, resumed: false, ...more });
  }
  wind(milliseconds: number) {
    this.time += milliseconds;
    const due = this.timers.filter(({ at }) => at <= this.time);
    this.timers = this.timers.filter(({ at }) => at > this.time);
    for (const { act } of due) act();
  }
}

async function running(more: object = {}) {
  const stage = new Stage();
  const link = new Link(stage);
  link.connect();
  await stage.begun(more);
  return { stage, link };
}

const text = (words: string) => new TextEncoder().encode(words);

describe("a terminal's connection", () => {
  it("greets with the token and credit, and tells its size", async () => {
    const { stage } = await running();
    expect(stage.told("h")).toEqual([{ token: "first", credit: GRANTED }]);
    expect(stage.told("w")).toEqual([{ event: "resize", size: "80:24" }]);
    expect(stage.states.map(({ is }) => is)).toEqual(["connecting", "running"]);
    expect(stage.resume).toBe("r1");
  });

  it("grants credit for what was parsed, and for no more", async () => {
    const { stage } = await running();
    const piece = new Uint8Array(48 * 1024);
    stage.says("r", piece);
    stage.says("r", piece);
    expect(stage.told("k")).toEqual([]);
    stage.parsed[0]?.();
    expect(stage.told("k")).toEqual([]);
    stage.parsed[1]?.();
    expect(stage.told("k")).toEqual([{ bytes: 96 * 1024 }]);
  });

  it("types as far as it was granted, in order", async () => {
    const { stage, link } = await running({ credit: 10 });
    link.type(text("0123456789abc"));
    link.type(text("def"));
    expect(stage.typed()).toBe(10);
    stage.says("k", { bytes: 4 });
    expect(stage.typed()).toBe(14);
    stage.says("k", { bytes: 100 });
    const sent = stage.last.sent
      .filter(({ type }) => type === "r")
      .map(({ payload }) => new TextDecoder().decode(payload));
    expect(sent.join("")).toBe("0123456789abcdef");
    expect(link.type(new Uint8Array(MOST_TYPED + 1))).toBe(false);
  });

  it("comes back with what it was given, and puts the terminal back first", async () => {
    const { stage, link } = await running();
    stage.says("r", text("before"));
    stage.last.heard.closed(1006);
    expect(stage.is).toBe("waiting");
    link.type(text("typed meanwhile"));
    stage.wind(0);
    await stage.begun({ resumed: true, resume: "r2" });
    expect(stage.told("h")).toEqual([{ token: "first", credit: GRANTED, resume: "r1" }]);
    expect(stage.shown).toEqual(["before", "(anew)"]);
    expect(stage.typed()).toBe("typed meanwhile".length);
    stage.parsed[0]?.();
    expect(stage.told("k")).toEqual([]);
    expect(stage.resume).toBe("r2");
  });

  it("tries again after longer and longer pauses, for two minutes", async () => {
    const { stage } = await running();
    const pauses: number[] = [];
    while (stage.time < 130_000) {
      stage.last.heard.closed(1006);
      if (stage.is !== "waiting") break;
      const due = stage.timers[0]?.at ?? 0;
      pauses.push(due - stage.time);
      stage.wind(due - stage.time + 1);
    }
    expect(pauses.slice(0, 8)).toEqual([0, 500, 1000, 2000, 4000, 5000, 5000, 5000]);
    expect(stage.is).toBe("failed");
    expect(stage.resume).toBe("");
  });

  it("hurries when it is told that the network is back", async () => {
    const { stage, link } = await running();
    for (const _ of [1, 2, 3]) {
      stage.last.heard.closed(1006);
      stage.wind(10_000);
    }
    stage.last.heard.closed(1012);
    const before = stage.sockets.length;
    link.hurry();
    expect(stage.sockets.length).toBe(before + 1);
    link.hurry();
    expect(stage.sockets.length).toBe(before + 1);
    stage.wind(60_000);
    expect(stage.sockets.length).toBe(before + 1);
  });

  it("never begins another shell by itself when it cannot come back", async () => {
    const { stage } = await running({ resume: "" });
    stage.last.heard.closed(1006);
    expect(stage.is).toBe("failed");
    expect(stage.sockets).toHaveLength(1);
  });

  it("renews the token once", async () => {
    const { stage } = await running();
    stage.last.heard.closed(4401);
    await stage.greeted();
    expect(stage.told("h")).toMatchObject([{ token: "second", resume: "r1" }]);
    stage.last.heard.closed(4401);
    expect(stage.is).toBe("failed");
  });

  it.each([
    [4409, "elsewhere"],
    [4429, "failed"],
    [4400, "failed"],
    [1009, "failed"],
  ])("does not come back by itself after %i", async (code, is) => {
    const { stage } = await running();
    stage.last.heard.closed(code);
    expect(stage.is).toBe(is);
    expect(stage.timers).toEqual([]);
  });

  it("takes the terminal back with what it has", async () => {
    const { stage, link } = await running();
    stage.last.heard.closed(4409);
    link.again();
    await stage.greeted();
    expect(stage.told("h")).toMatchObject([{ resume: "r1" }]);
  });

  it("ends with the session, and begins a new one when asked", async () => {
    const { stage, link } = await running();
    stage.says("c", { reason: "", status: 3, signal: "" });
    expect(stage.states.at(-1)).toEqual({ is: "ended", reason: "", status: 3, signal: "" });
    stage.last.heard.closed(1000);
    expect(stage.is).toBe("ended");
    link.again();
    await stage.greeted();
    expect(stage.told("h")).toEqual([{ token: "first", credit: GRANTED }]);
  });

  it("says why it was refused, and asks for a second factor", async () => {
    const stage = new Stage();
    const link = new Link(stage);
    link.connect();
    await stage.greeted();
    stage.says("u", { challenge_id: "c", totp_challenge: true, webauthn_challenge: null, error: "" });
    expect(stage.is).toBe("factor");
    link.answer({ challenge_id: "c", second_factor_token: "123456" });
    expect(stage.told("u")).toEqual([{ challenge_id: "c", second_factor_token: "123456" }]);
    stage.says("e", { code: "denied", message: "no such login", hint: "choose another" });
    expect(stage.states.at(-1)).toEqual({ is: "failed", message: "no such login", hint: "choose another" });
  });

  it("does not believe what it cannot read", async () => {
    const { stage } = await running();
    stage.last.heard.message(new Uint8Array([255, 255]));
    expect(stage.is).toBe("failed");
  });

  it("passes over types that it does not know", async () => {
    const { stage } = await running();
    stage.says("z", { anything: 1 });
    stage.says("ku", { bytes: 1 });
    expect(stage.is).toBe("running");
  });

  it("hears nothing of a socket that was left", async () => {
    const { stage, link } = await running();
    const former = stage.last;
    former.heard.closed(1006);
    stage.wind(0);
    former.heard.message(encode("r", text("late")));
    former.heard.closed(4409);
    expect(stage.shown).toEqual([]);
    expect(stage.is).toBe("connecting");
    link.leave();
    stage.last.heard.closed(1006);
    expect(stage.timers).toEqual([]);
  });
});
