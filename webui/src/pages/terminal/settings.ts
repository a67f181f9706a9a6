// How terminals look, kept for the next time.
import { isDark } from "../../theme";

export type Look = "system" | "light" | "dark";
export const LOOKS: readonly Look[] = ["system", "light", "dark"];
export const SMALLEST = 9;
export const LARGEST = 32;
const USUAL = 14;

export interface Settings {
  size: number; // pixels
  look: Look;
}

const KEPT = "terminal";

export function settings(): Settings {
  try {
    const kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}") as Partial<Record<keyof Settings, unknown>>;
    return {
      size: typeof kept.size === "number" ? bounded(kept.size) : USUAL,
      look: kept.look === "light" || kept.look === "dark" ? kept.look : "system",
    };
  } catch {
    return { size: USUAL, look: "system" };
  }
}

export function keep(chosen: Settings): void {
  try {
    localStorage.setItem(KEPT, JSON.stringify(chosen));
  } catch {
    // storage is switched off: it holds for this page
  }
}

export function bounded(size: number): number {
  return Math.min(LARGEST, Math.max(SMALLEST, Math.round(size)));
}

// Colours by WCAG: each of the sixteen is readable on its background.
const DARK = {
  background: "#10151b",
  foreground: "#e6eaee",
  cursor: "#e6eaee",
  cursorAccent: "#10151b",
  selectionBackground: "#3a5a80",
  black: "#4b5663",
  red: "#ff7b72",
  green: "#7fd69e",
  yellow: "#f0c36a",
  blue: "#78b7ff",
  magenta: "#d6a4ff",
  cyan: "#6fd3dd",
  white: "#d0d7de",
  brightBlack: "#8b97a5",
  brightRed: "#ffa198",
  brightGreen: "#a5e8bd",
  brightYellow: "#ffdf9e",
  brightBlue: "#a6d0ff",
  brightMagenta: "#e8c9ff",
  brightCyan: "#a0ecf3",
  brightWhite: "#ffffff",
};
const LIGHT = {
  background: "#ffffff",
  foreground: "#1a1f25",
  cursor: "#1a1f25",
  cursorAccent: "#ffffff",
  selectionBackground: "#b6d4f5",
  black: "#1a1f25",
  red: "#b01722",
  green: "#17693a",
  yellow: "#7a4b00",
  blue: "#0b5cad",
  magenta: "#7a2f9e",
  cyan: "#0b6673",
  white: "#5b6570",
  brightBlack: "#525c68",
  brightRed: "#c4313c",
  brightGreen: "#1d7a45",
  brightYellow: "#8a5a00",
  brightBlue: "#1a6cc4",
  brightMagenta: "#8d43b0",
  brightCyan: "#107684",
  brightWhite: "#39424c",
};

export function colours(look: Look) {
  return (look === "system" ? isDark() : look === "dark") ? DARK : LIGHT;
}
