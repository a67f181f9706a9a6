// What a rotation does, in words: its phases, and what each step means for hosts and people.
import type { Authority } from "./types";

// Authorities that go through a rotation together: of one id, phase and mode.
export interface Group {
  key: string;
  kinds: string[];
  phase: string;
  mode: string;
  started: string | null;
  schedule: Record<string, string>;
}

export function groupsOf(authorities: Authority[]): Group[] {
  const groups = new Map<string, Group>();
  for (const one of authorities) {
    if (one.phase === "" || one.phase === "standby") continue;
    const key = `${one.rotation_id} ${one.phase} ${one.mode}`;
    const group = groups.get(key);
    if (group) group.kinds.push(one.kind);
    else
      groups.set(key, {
        key,
        kinds: [one.kind],
        phase: one.phase,
        mode: one.mode,
        started: one.started,
        schedule: one.schedule,
      });
  }
  return [...groups.values()];
}

// "host, user and jwt"
export function together(kinds: string[]): string {
  if (kinds.length < 2) return kinds.join("");
  return `${kinds.slice(0, -1).join(", ")} and ${kinds[kinds.length - 1]}`;
}

const FOLLOWING: Record<string, string> = {
  init: "update_clients",
  update_clients: "update_servers",
  update_servers: "standby",
  rollback: "standby",
};

// The phase that comes next; empty for one that this page does not know.
export function after(phase: string): string {
  return FOLLOWING[phase] ?? "";
}

export function goesBack(phase: string): boolean {
  return phase in FOLLOWING && phase !== "rollback";
}

const NOW: Record<string, string> = {
  init: "The old keys sign, and hosts learn to trust the new ones, too.",
  update_clients: "The new keys sign, and hosts get certificates of them; the old ones are still trusted.",
  update_servers: "Hosts show certificates of the new keys to whoever connects; the old keys are still trusted.",
  rollback: "The old keys sign again, and hosts go back to certificates of them; the new ones are still trusted.",
};

export function means(phase: string): string {
  return NOW[phase] ?? "";
}

export interface Step {
  title: string; // of the dialog
  button: string;
  happens: string;
  ends: boolean; // something that was trusted is trusted no more
}

// The step from one phase into another.
export function stepOf(phase: string, target: string): Step {
  if (target === "rollback")
    return {
      title: "Go back to the old keys",
      button: "Go back",
      happens:
        "The old keys sign again at once, and hosts go back to certificates of them. When they have, end the rotation: " +
        "what the new keys signed counts until then.",
      ends: false,
    };
  if (target === "standby")
    return phase === "rollback"
      ? {
          title: "End the rotation with the old keys",
          button: "End it",
          happens:
            "The new keys are trusted no more. Whoever holds a certificate of them logs in again, or joins again.",
          ends: true,
        }
      : {
          title: "End the old keys",
          button: "End the old keys",
          happens:
            "The old keys are trusted no more, and there is no way back. Whoever holds a certificate of them logs in again, " +
            "hosts join again with a new token, and the old pin of the host authority is refused.",
          ends: true,
        };
  return {
    title: `Go on to ${target}`,
    button: "Go on",
    happens: `${means(target)} There is a way back until the old keys end.`,
    ends: false,
  };
}
