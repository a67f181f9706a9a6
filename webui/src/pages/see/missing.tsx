// Events that wait to be taken into the log: what is shown, or exported, lacks them.
import { Notice, When } from "../../ui";

export interface EventsWaiting {
  count: number; // at least; 0: nobody knows of one
  since: string;
  cause: string;
}

export function Missing({ waiting }: { waiting: EventsWaiting | null }) {
  if (!waiting) return null;
  return (
    <Notice kind="bad">
      Not everything that happened is here, nor in an export. {howMany(waiting.count)} to be taken into the log, since{" "}
      <When time={waiting.since} />
      {waiting.cause ? `: ${waiting.cause}.` : "."}
    </Notice>
  );
}

export function howMany(count: number): string {
  return count > 1 ? `At least ${count} events wait` : "Events wait";
}
