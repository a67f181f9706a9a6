// Asking the proxy: the bearer token and its renewal, the token of the page (CSRF), errors with their hints.
//
// A session is the cookie and a bearer token that only this page's memory holds. A token holds some minutes; it is
// renewed before it lapses. Whoever is not logged in is led to the sign-in page, and back afterwards.

export interface Session {
  token: string;
  expires_in: number; // seconds
  sessionExpires: string;
  sessionInactiveTimeout: number; // milliseconds; 0: none
  user: string;
  cluster: string;
}

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly hint = "",
    readonly kind = "", // a word that a page may go by
  ) {
    super(message);
  }
}

export interface Asked {
  background?: boolean; // nobody caused it: it keeps no session alive
  signal?: AbortSignal;
  open?: boolean; // without a session: what is asked before a login
}

const EARLY = 60_000; // milliseconds before a token lapses that another one is asked for
const KNOWN = "signed-in"; // in localStorage: that there is a cookie, which scripts cannot see

let session: Session | null = null;
let until = 0;
let renewing: Promise<Session> | null = null;
let over: (why: string) => void = () => {};

export function onSessionOver(called: (why: string) => void): void {
  over = called;
}

export function current(): Session | null {
  return session;
}

export function csrf(): string {
  const found = document.cookie.split("; ").find((part) => part.startsWith("__Host-grv_csrf="));
  return found ? found.slice("__Host-grv_csrf=".length) : "";
}

// Text in base64, as passwords travel.
export function base64(text: string): string {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

export function begun(made: Session): void {
  session = made;
  until = Date.now() + made.expires_in * 1000;
  remember(true);
}

export function ended(): void {
  session = null;
  until = 0;
  remember(false);
}

// Whether it is worth asking for a session: asking in vain is an error in the browser's console.
export function perhapsSignedIn(): boolean {
  try {
    return localStorage.getItem(KNOWN) === "yes";
  } catch {
    return true;
  }
}

function remember(yes: boolean): void {
  try {
    if (yes) localStorage.setItem(KNOWN, "yes");
    else localStorage.removeItem(KNOWN);
  } catch {
    // storage is switched off: the proxy is asked each time
  }
}

// The session, with a token that holds for a while. Throws ApiError 401 when there is none.
export async function renewed(asked: Asked = {}): Promise<Session> {
  if (session && Date.now() < until - EARLY) return session;
  renewing ??= send<Session>("POST", "/webapi/sessions/renew", undefined, { ...asked, open: true }).finally(() => {
    renewing = null;
  });
  begun(await renewing);
  return session as unknown as Session;
}

// The token for what sets no headers: websockets (`?access_token=`).
export async function token(): Promise<string> {
  return (await renewed()).token;
}

export async function ask<T>(method: string, path: string, body?: unknown, asked: Asked = {}): Promise<T> {
  if (asked.open) return send<T>(method, path, body, asked);
  const quiet = asked.background ? { background: true } : {};
  const former = session;
  try {
    await renewed(quiet);
    try {
      return await send<T>(method, path, body, asked);
    } catch (error) {
      // The token was of a session that another tab has replaced by a login, perhaps as somebody else.
      if (!(error instanceof ApiError && error.status === 401)) throw error;
      session = null;
      const now = await renewed(quiet);
      if (former && former.user !== now.user) {
        window.location.reload();
        throw error;
      }
      return await send<T>(method, path, body, asked);
    }
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) {
      ended();
      over(error.message);
    }
    throw error;
  }
}

async function send<T>(method: string, path: string, body: unknown, asked: Asked): Promise<T> {
  const headers: Record<string, string> = {};
  if (method !== "GET") {
    if (!csrf()) await fetch("/web", { credentials: "same-origin", cache: "no-store" }).catch(() => {}); // it sets the page's cookie anew
    headers["X-CSRF-Token"] = csrf();
  }
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (session && !asked.open) headers.Authorization = `Bearer ${session.token}`;
  if (asked.background) headers["X-Background"] = "true";
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      ...(asked.signal ? { signal: asked.signal } : {}),
      credentials: "same-origin",
      redirect: "error",
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("The proxy cannot be reached.", 0, "Check your connection; the page tries again.");
  }
  const answer = (await response.json().catch(() => null)) as {
    error?: { message?: string; hint?: string; kind?: string };
  } | null;
  if (!response.ok) {
    const said = answer?.error;
    throw new ApiError(
      said?.message ?? "the proxy did not answer",
      response.status,
      said?.hint ?? "",
      said?.kind ?? "",
    );
  }
  return answer as T;
}

// What to show of anything thrown.
export function said(error: unknown): { message: string; hint: string } {
  if (error instanceof ApiError) return { message: error.message, hint: error.hint };
  return { message: error instanceof Error ? error.message : String(error), hint: "" };
}
