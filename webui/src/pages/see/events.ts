// Events of the audit log, for reading: what kinds there are, what one says in a line, how lists are kept. Pure.

export interface AuditEvent {
  event: string;
  code: string;
  time: string;
  uid: string;
  [field: string]: unknown;
}

export const GROUPS: readonly { label: string; types: readonly string[] }[] = [
  {
    label: "Logins",
    types: ["user.login", "user.locked", "user.unlocked", "web_session.create", "web_session.end", "session.mfa"],
  },
  {
    label: "Sessions",
    types: [
      "session.start",
      "session.end",
      "session.join",
      "session.leave",
      "session.held",
      "session.rejected",
      "session.request_denied",
      "session.upload",
    ],
  },
  { label: "Commands and files", types: ["exec", "sftp", "scp", "subsystem", "port"] },
  { label: "Refusals", types: ["auth", "api.denied", "session.request_denied", "host.join_failed"] },
  {
    label: "Users and roles",
    types: [
      "user.create",
      "user.update",
      "user.delete",
      "user.password_change",
      "reset_password_token.create",
      "mfa.add",
      "mfa.delete",
      "role.created",
      "role.deleted",
    ],
  },
  { label: "Locks", types: ["lock.created", "lock.deleted"] },
  { label: "Recordings read", types: ["session_recording.access", "session_recording.search"] },
];

/** Whether the code says that it failed: W and E; I is information. */
export function failed(event: AuditEvent): boolean {
  return /[WE]$/.test(event.code);
}

function said(event: AuditEvent, name: string): string {
  const value = event[name];
  if (typeof value === "string") return value;
  return typeof value === "number" || typeof value === "boolean" ? String(value) : "";
}

/** What happened, in a line. */
export function summary(event: AuditEvent): string {
  const host = said(event, "server_hostname") || said(event, "hostname") || said(event, "server_id");
  const login = said(event, "login");
  const at = host === "" ? "" : ` on ${login === "" ? "" : `${login}@`}${host}`;
  const why = said(event, "error") || said(event, "reason") || said(event, "exitError") || said(event, "message");
  switch (event.event) {
    case "session.start":
      return `Session began${at}`;
    case "session.end":
      return `Session ended${at}`;
    case "session.join":
      return `Joined a session${at} as ${said(event, "mode")}`;
    case "exec":
      return `${said(event, "command")}${at}${why === "" ? "" : `: ${why}`}`;
    case "sftp":
    case "scp":
      return `${said(event, "action")} ${said(event, "path")}${at}${why === "" ? "" : `: ${why}`}`;
    case "user.login":
      return failed(event)
        ? `Login refused${why === "" ? "" : `: ${why}`}`
        : `Logged in${why === "" ? "" : ` (${why})`}`;
    case "session_recording.access":
      return `Read the recording of ${said(event, "sid")} (${said(event, "format")})`;
    default: {
      const what = said(event, "name") || said(event, "sid");
      return [what + at, why].filter((part) => part.trim() !== "").join(": ");
    }
  }
}

export const MOST = 2000; // events that a page holds

/** What an event is told apart by. A host chooses its uids, so that one alone could hide another event. */
export function idOf(event: AuditEvent): string {
  return `${event.uid} ${said(event, "hash")}`;
}

/** Two lists as one, newest first, each event once. `MOST` at most: the oldest go. */
export function merged(known: readonly AuditEvent[], more: readonly AuditEvent[]): AuditEvent[] {
  const seen = new Map<string, AuditEvent>();
  for (const event of [...known, ...more]) seen.set(idOf(event), event);
  const all = [...seen.values()];
  all.sort((one, other) => (one.time < other.time ? 1 : one.time > other.time ? -1 : one.uid < other.uid ? -1 : 1));
  return all.slice(0, MOST);
}

export function isEvent(value: unknown): value is AuditEvent {
  return typeof value === "object" && value !== null && typeof (value as AuditEvent).event === "string";
}

/** Events of an answer; what is none (a damaged line) is shown as one, so that nobody misses it. */
export function eventsOf(found: readonly unknown[]): AuditEvent[] {
  return found.filter(isEvent).map((event, index) => ({
    ...event,
    code: typeof event.code === "string" ? event.code : "",
    time: typeof event.time === "string" ? event.time : "",
    uid: typeof event.uid === "string" ? event.uid : `damaged-${index}`,
  }));
}

export function text(event: AuditEvent, name: string): string {
  return said(event, name);
}
