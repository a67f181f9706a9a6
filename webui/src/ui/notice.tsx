import type { ComponentChildren } from "preact";
import { said } from "../api";

interface Props {
  kind?: "info" | "good" | "warn" | "bad";
  children: ComponentChildren;
}

// Something to read now; screen readers say it when it appears.
export function Notice({ kind = "info", children }: Props) {
  return (
    <div class={`notice ${kind}`} role={kind === "bad" ? "alert" : "status"}>
      {children}
    </div>
  );
}

// What went wrong, with its hint; nothing while nothing did.
export function Trouble({ error }: { error: unknown }) {
  if (!error) return null;
  const { message, hint } = said(error);
  return (
    <Notice kind="bad">
      {sentence(message)}
      {hint && ` ${sentence(hint)}`}
    </Notice>
  );
}

// As a sentence: the proxy's messages begin in lower case and have no full stop.
export function sentence(text: string): string {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
