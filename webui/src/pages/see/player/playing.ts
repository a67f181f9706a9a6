// How playing goes on: a state, and what time and people do to it. Pure; whoever plays draws what is due.

export const SPEEDS = [0.5, 1, 2, 4, 8] as const;
export const IDLE = 1_000_000; // microseconds of a pause that are kept when pauses are skipped
export const STEP = 5_000_000;
export const LEAP = 60_000_000;
const LONGEST_TICK = 250; // milliseconds; a tab in the background does not jump

export interface Playing {
  position: number; // microseconds
  end: number;
  running: boolean;
  speed: number;
  skipIdle: boolean;
}

export function begun(end: number): Playing {
  return { position: 0, end, running: false, speed: 1, skipIdle: true };
}

/** After `milliseconds` more. `due`: when something happens next; null when nothing does. */
export function ticked(state: Playing, milliseconds: number, due: number | null): Playing {
  if (!state.running) return state;
  let position = state.position + Math.min(Math.max(milliseconds, 0), LONGEST_TICK) * 1000 * state.speed;
  if (state.skipIdle) {
    const next = due ?? state.end;
    if (next - position > IDLE) position = next - IDLE;
  }
  if (position >= state.end) return { ...state, position: state.end, running: false };
  return { ...state, position };
}

export function toggled(state: Playing): Playing {
  if (state.running) return { ...state, running: false };
  return { ...state, running: state.end > 0, position: state.position >= state.end ? 0 : state.position };
}

export function sought(state: Playing, position: number): Playing {
  return { ...state, position: Math.min(Math.max(Math.round(position), 0), state.end) };
}

export function faster(state: Playing, by: 1 | -1): Playing {
  const speeds: readonly number[] = SPEEDS;
  const at = speeds.indexOf(state.speed);
  return { ...state, speed: speeds[Math.min(Math.max(at + by, 0), speeds.length - 1)] ?? 1 };
}

/** What a key of the player does; null for one that does nothing. */
export function pressed(state: Playing, key: string): Playing | null {
  switch (key) {
    case " ":
    case "k":
      return toggled(state);
    case "ArrowRight":
      return sought(state, state.position + STEP);
    case "ArrowLeft":
      return sought(state, state.position - STEP);
    case "PageUp":
      return sought(state, state.position + LEAP);
    case "PageDown":
      return sought(state, state.position - LEAP);
    case "Home":
      return sought(state, 0);
    case "End":
      return sought(state, state.end);
    case "+":
      return faster(state, 1);
    case "-":
      return faster(state, -1);
    case "i":
      return { ...state, skipIdle: !state.skipIdle };
    default:
      return null;
  }
}
