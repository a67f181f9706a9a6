// The blinking of a terminal's cursor: on and off by a timer, about twice in a second. xterm.js would animate it by its
// style sheet. A browser then makes every frame for as long as the terminal has the focus, although nothing moves, and it
// hands the page what arrives between a key and the next frame only after that frame: the echo of each key is a frame late.
// For the same reason a key by itself changes nothing here: the cursor is lit when it moves, in the frame that shows it.

const HALF = 530; // milliseconds that it is lit, and that it is not

export interface Lamp {
  later(milliseconds: number, act: () => void): () => void; // gives what calls it off
  light(on: boolean): void;
  still(): boolean; // whoever asked for little motion sees no blinking, also when a program on the host wants it
}

export class Blink {
  private lit = true;
  private fresh = false; // it moved since it was last looked at
  private stop: () => void = () => {};

  constructor(private readonly lamp: Lamp) {}

  // The terminal has the focus: it blinks.
  begin(): void {
    this.end();
    this.wait();
  }

  // It has it no more.
  end(): void {
    this.stop();
    this.light(true);
  }

  // The cursor moved: it is seen, and for a while stays so.
  moved(): void {
    this.fresh = true;
    this.light(true);
  }

  private wait(): void {
    this.stop = this.lamp.later(HALF, () => {
      this.light(this.fresh || this.lamp.still() || !this.lit);
      this.fresh = false;
      this.wait();
    });
  }

  private light(on: boolean): void {
    if (on === this.lit) return;
    this.lit = on;
    this.lamp.light(on);
  }
}
