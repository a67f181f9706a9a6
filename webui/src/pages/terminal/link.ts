// One terminal's connection with the proxy: what it says, credit both ways, and coming back after it was lost.
// Knows neither xterm nor the DOM: it is handed a way to open sockets, a clock, and who is told.
import { Broken, decode, encode, json } from "./codec";

export const GRANTED = 512 * 1024; // bytes of output that may be on their way
const GRANT = 64 * 1024; // bytes that were parsed, for which credit is given again at once
const PIECE = 32 * 1024; // bytes of input in one message
export const MOST_TYPED = 16 * 1024 * 1024; // bytes of input that wait to be taken
const PAUSES = [0, 500, 1000, 2000, 4000, 5000]; // milliseconds before the next attempts
const PATIENCE = 120_000; // milliseconds for which a lost connection is made anew

export interface Size {
  columns: number;
  rows: number;
}

export interface Started {
  sid: string;
  server_id: string;
  login: string;
  mode: string;
  resume: string;
  resumed: boolean;
  lives_for: number;
}

export interface Challenge {
  challenge_id: string;
  totp_challenge: boolean;
  webauthn_challenge: unknown;
  error: string;
}

export type State =
  | { is: "connecting"; again: boolean }
  | { is: "running"; started: Started }
  | { is: "waiting"; until: number } // for the next attempt, milliseconds of the clock
  | { is: "factor"; challenge: Challenge }
  | { is: "ended"; reason: string; status: number | null; signal: string }
  | { is: "elsewhere" }
  | { is: "failed"; message: string; hint: string };

export interface Socket {
  send(data: Uint8Array<ArrayBuffer>): void;
  close(code?: number): void;
}

export interface Heard {
  opened(): void;
  message(data: Uint8Array): void;
  closed(code: number): void;
}

export interface Around {
  open(heard: Heard): Socket;
  token(): Promise<string>; // the page's bearer; throws when nobody is logged in
  renew(): Promise<string>; // another one
  now(): number;
  later(milliseconds: number, act: () => void): () => void; // gives what calls it off
  size(): Size;
  output(data: Uint8Array, parsed: () => void): void;
  anew(): void; // the terminal is put back: all that follows is the session's screen
  state(state: State): void;
  event(message: string): void;
  kept(resume: string): void; // with what it comes back, also after a reload; empty: with nothing
}

export class Link {
  comesAnew = false; // somebody else's session is joined again; a shell of one's own is never begun anew unasked
  private socket: Socket | null = null;
  private turn = 0; // which socket: what an earlier one says or was sent counts no more
  private resume: string;
  private started: Started | null = null;
  private over = false;
  private lostAt = 0;
  private attempts = 0;
  private renewed = false;
  private cancel: () => void = () => {};
  private typed: Uint8Array[] = [];
  private waiting = 0; // bytes in `typed`
  private credit = 0; // bytes of input that the proxy takes
  private parsed = 0; // bytes of output that credit is due for
  private told: Size | null = null;

  constructor(
    private readonly around: Around,
    resume = "",
  ) {
    this.resume = resume;
  }

  // Begins, or goes on at once while it waits.
  connect(): void {
    if (this.over) return;
    this.cancel();
    this.lostAt ||= this.around.now();
    this.drop();
    this.around.state({ is: "connecting", again: this.resume !== "" || this.started !== null });
    const turn = this.turn;
    const socket = this.around.open({
      opened: () => {
        if (turn === this.turn) void this.greet(turn);
      },
      message: (data) => {
        if (turn === this.turn) this.message(data);
      },
      closed: (code) => {
        if (turn === this.turn) this.closed(code);
      },
    });
    this.socket = socket;
  }

  // Tries at once what it waits for.
  hurry(): void {
    if (!this.socket) this.connect();
  }

  // Starts over after the end: a new session, or taking the terminal back.
  again(): void {
    this.over = false;
    this.lostAt = 0;
    this.attempts = 0;
    this.renewed = false;
    this.connect();
  }

  // What was typed or pasted. Gives false when it is too much to keep.
  type(data: Uint8Array): boolean {
    if (this.over || data.length === 0) return true;
    if (this.waiting + data.length > MOST_TYPED) return false;
    this.typed.push(data);
    this.waiting += data.length;
    this.flush();
    return true;
  }

  resize(size: Size): void {
    if (!this.started || !this.socket || this.over) return;
    if (this.told && this.told.columns === size.columns && this.told.rows === size.rows) return;
    this.told = size;
    this.send("w", { event: "resize", size: `${size.columns}:${size.rows}` });
  }

  answer(answer: object): void {
    this.send("u", answer);
    this.around.state({ is: "connecting", again: false });
  }

  // Ends this terminal's part of the session.
  quit(): void {
    if (this.over) return;
    this.send("q", {});
    this.finish({ is: "ended", reason: "", status: null, signal: "" });
  }

  // Leaves without ending anything: the page goes.
  leave(): void {
    this.over = true;
    this.cancel();
    this.drop();
  }

  private drop(): void {
    const socket = this.socket;
    this.turn += 1;
    this.socket = null;
    this.credit = this.parsed = 0;
    this.told = null;
    socket?.close();
  }

  private async greet(turn: number): Promise<void> {
    let token: string;
    try {
      token = await (this.renewed ? this.around.renew() : this.around.token());
    } catch (error) {
      if (turn !== this.turn) return;
      this.fail(error instanceof Error ? error.message : "", "sign in again");
      return;
    }
    if (turn !== this.turn) return;
    this.send("h", { token, credit: GRANTED, ...(this.resume ? { resume: this.resume } : {}) });
  }

  private send(type: string, payload: Uint8Array | object): void {
    this.socket?.send(encode(type, payload));
  }

  private message(data: Uint8Array): void {
    try {
      const { type, payload } = decode(data);
      if (type === "r") this.output(payload);
      else if ("skuace".includes(type)) this.said(type, json(payload));
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
      this.fail(`The proxy's answer cannot be read: ${error.message}.`, "load the page again");
    }
  }

  private output(data: Uint8Array): void {
    const turn = this.turn;
    this.around.output(data, () => {
      if (turn !== this.turn) return;
      this.parsed += data.length;
      if (this.parsed < GRANT) return;
      const bytes = this.parsed;
      this.parsed = 0;
      this.send("k", { bytes });
    });
  }

  private said(type: string, about: Record<string, unknown>): void {
    if (type === "s") this.begun(about);
    else if (type === "k") {
      this.credit += whole(about.bytes);
      this.flush();
    } else if (type === "u") {
      this.around.state({
        is: "factor",
        challenge: {
          challenge_id: word(about.challenge_id),
          totp_challenge: about.totp_challenge === true,
          webauthn_challenge: about.webauthn_challenge ?? null,
          error: word(about.error),
        },
      });
    } else if (type === "a") this.around.event(word(about.message));
    else if (type === "c") {
      const status = typeof about.status === "number" ? about.status : null;
      this.finish({ is: "ended", reason: word(about.reason), status, signal: word(about.signal) });
    } else if (type === "e") {
      if (word(about.code) === "gone" && this.resume)
        this.finish({ is: "ended", reason: word(about.message), status: null, signal: "" });
      else this.fail(word(about.message), word(about.hint));
    }
  }

  private begun(about: Record<string, unknown>): void {
    this.started = {
      sid: word(about.sid),
      server_id: word(about.server_id),
      login: word(about.login),
      mode: word(about.mode),
      resume: word(about.resume),
      resumed: about.resumed === true,
      lives_for: whole(about.lives_for),
    };
    this.resume = this.started.resume;
    this.around.kept(this.resume);
    if (this.started.resumed) this.around.anew();
    this.credit = whole(about.credit);
    this.attempts = 0;
    this.lostAt = 0;
    this.renewed = false;
    this.around.state({ is: "running", started: this.started });
    this.resize(this.around.size());
    this.flush();
  }

  private flush(): void {
    while (this.socket && this.credit > 0) {
      const first = this.typed[0];
      if (!first) return;
      const piece = first.subarray(0, Math.min(this.credit, PIECE));
      if (piece.length === first.length) this.typed.shift();
      else this.typed[0] = first.subarray(piece.length);
      this.waiting -= piece.length;
      this.credit -= piece.length;
      this.send("r", piece);
    }
  }

  private closed(code: number): void {
    const end = this.endBy(code);
    this.drop();
    if (this.over) return;
    if (end) {
      this.finish(end);
      return;
    }
    if (code === 4401) {
      this.renewed = true;
      this.connect();
      return;
    }
    const now = this.around.now();
    const pause = PAUSES[Math.min(this.attempts, PAUSES.length - 1)] ?? 0;
    this.attempts += 1;
    this.around.state({ is: "waiting", until: now + pause });
    this.cancel = this.around.later(pause, () => this.connect());
  }

  // What is final about a socket that was closed; null: it is worth another try.
  private endBy(code: number): State | null {
    const now = this.around.now();
    this.lostAt ||= now;
    if (code === 1000) return { is: "ended", reason: "", status: null, signal: "" };
    if (code === 4409) return { is: "elsewhere" };
    if (code === 4429) return failed("There are too many terminals.", "close one of them");
    if (code === 4400 || code === 1009) return failed("The proxy did not understand this page.", "load the page again");
    if (code === 4401) return this.renewed ? failed("You are not signed in any more.", "sign in again") : null;
    if (this.started && !this.resume && !this.comesAnew)
      return failed("The connection was lost, and this terminal cannot come back.", "open a new one");
    if (now - this.lostAt > PATIENCE)
      return failed(
        "The proxy could not be reached for two minutes.",
        "check your connection, then open a new terminal",
      );
    return null;
  }

  private fail(message: string, hint: string): void {
    this.finish(failed(message || "The terminal failed.", hint));
  }

  private finish(state: State): void {
    this.over = true;
    this.cancel();
    if (state.is !== "elsewhere") {
      this.resume = "";
      this.started = null;
      this.around.kept("");
    }
    this.typed = [];
    this.waiting = 0;
    this.drop();
    this.around.state(state);
  }
}

function failed(message: string, hint: string): State {
  return { is: "failed", message, hint };
}

function word(value: unknown): string {
  return typeof value === "string" ? value : "";
}

function whole(value: unknown): number {
  return typeof value === "number" && Number.isSafeInteger(value) && value > 0 ? value : 0;
}
