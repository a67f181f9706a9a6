// When what somebody types is asked: the first letter after a pause at once, later ones together, a moment after the former
// question and when its answer is here. Two are never on their way, and the newest is always asked in the end.

const BETWEEN = 100; // milliseconds from one question to the next
const PATIENCE = 2000; // after which an answer that does not come keeps nothing waiting any more

export class Pace {
  private wanted: (() => void) | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private asked = Number.NEGATIVE_INFINITY;
  private busy = false;
  private since = 0; // when the question was asked that is being answered

  constructor(private readonly now: () => number = () => performance.now()) {}

  // Asks as soon as may be, instead of what has not been asked yet.
  want(question: () => void): void {
    this.wanted = question;
    this.look();
  }

  // Nothing is wanted any more.
  drop(): void {
    this.wanted = null;
    clearTimeout(this.timer);
  }

  // Whether an answer is on its way.
  answering(yes: boolean): void {
    if (yes && !this.busy) this.since = this.now();
    this.busy = yes;
    this.look();
  }

  private look(): void {
    clearTimeout(this.timer);
    const question = this.wanted;
    if (!question) return;
    const free = this.busy ? this.since + PATIENCE : 0;
    const left = Math.max(this.asked + BETWEEN, free) - this.now();
    if (left > 0) {
      this.timer = setTimeout(() => this.look(), left);
      return;
    }
    this.wanted = null;
    this.asked = this.since = this.now();
    question();
  }
}
