// The terminal's websocket and the page's token, as a `Link` asks for them.
import { ApiError, ask, begun, type Session, token } from "../../api";
import { fill } from "../../router";
import type { Heard, Size, Socket } from "./link";

export interface Place {
  site: string;
  server_id: string;
  login: string;
  sid?: string; // of a session that runs
  mode?: string; // to be in it
}

export function address(place: Place, size: Size): string {
  const { site, ...to } = place;
  const params = JSON.stringify({ ...to, term: { w: size.columns, h: size.rows } });
  const scheme = window.location.protocol === "https:" ? "wss:" : "ws:";
  const path = fill("/webapi/sites/:site/connect", { site });
  return `${scheme}//${window.location.host}${path}?${new URLSearchParams({ params })}`;
}

export function openSocket(place: Place, size: Size, heard: Heard): Socket {
  const socket = new WebSocket(address(place, size));
  let opened = false;
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    opened = true;
    heard.opened();
  };
  socket.onmessage = (event: MessageEvent<ArrayBuffer | string>) => {
    if (typeof event.data !== "string") heard.message(new Uint8Array(event.data));
  };
  socket.onclose = (event) => {
    if (!opened) stillSignedIn();
    heard.closed(event.code);
  };
  return {
    send: (data) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(data);
    },
    close: () => {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    },
  };
}

// Scripts do not see why a socket was refused: whoever is not signed in is led to the sign-in page by this.
function stillSignedIn(): void {
  ask("GET", "/webapi/user/status", undefined, { background: true }).catch(() => {});
}

export async function bearer(): Promise<string> {
  try {
    return await token();
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) stillSignedIn();
    throw error;
  }
}

export async function anotherBearer(): Promise<string> {
  try {
    const made = await ask<Session>("POST", "/webapi/sessions/renew", undefined, { open: true });
    begun(made);
    return made.token;
  } catch (error) {
    if (error instanceof ApiError && error.status === 401) stillSignedIn();
    throw error;
  }
}
