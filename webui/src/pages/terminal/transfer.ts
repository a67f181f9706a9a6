// Files to and from a host: sent and fetched as they are, with progress, and ended when asked.
import { ask, csrf, renewed } from "../../api";
import { fill } from "../../router";
import type { Place } from "./socket";

export const BY_LINK = 512 * 1024 * 1024; // bytes from which the browser saves a download by itself

export class TransferError extends Error {
  constructor(
    message: string,
    readonly hint: string,
    readonly factor: boolean, // whether a second factor is due
  ) {
    super(message);
  }
}

export type Progress = (done: number, total: number) => void; // bytes; total 0: not known

export function filesPath(place: Place, part = ""): string {
  const { site, server_id, login } = place;
  return fill(`/webapi/sites/:site/nodes/:server/:login/scp${part}`, { site, server: server_id, login });
}

function problem(status: number, body: string): TransferError {
  try {
    const { error } = JSON.parse(body) as { error?: { message?: string; hint?: string; kind?: string } };
    if (error?.message) return new TransferError(error.message, error.hint ?? "", error.kind === "mfa");
  } catch {
    // below
  }
  return new TransferError(status ? "The proxy did not answer." : "The connection was lost.", "try again", false);
}

export async function ticket(place: Place, location: string, factor: object): Promise<string> {
  const made = await ask<{ ticket: string }>("POST", filesPath(place, "/ticket"), { location, ...factor });
  return made.ticket;
}

export async function upload(
  place: Place,
  folder: string,
  file: File,
  told: Progress,
  stop: AbortSignal,
  by: string,
): Promise<string> {
  const { token } = await renewed();
  const query = new URLSearchParams({ location: folder, filename: file.name, ...(by ? { ticket: by } : {}) });
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch tells nothing of how far an upload is
    request.open("POST", `${filesPath(place)}?${query}`);
    request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.setRequestHeader("X-CSRF-Token", csrf());
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => told(event.loaded, event.total);
    request.onload = () => {
      if (request.status === 200) resolve((JSON.parse(request.responseText) as { path: string }).path);
      else reject(problem(request.status, request.responseText));
    };
    request.onerror = () => reject(problem(0, ""));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    stop.addEventListener("abort", () => request.abort());
    if (stop.aborted) request.abort();
    else request.send(file);
  });
}

export async function download(
  place: Place,
  location: string,
  told: Progress,
  stop: AbortSignal,
  by: string,
): Promise<string> {
  const { token } = await renewed();
  const query = new URLSearchParams({ location, ...(by ? { ticket: by } : {}) });
  let response: Response;
  try {
    response = await fetch(`${filesPath(place)}?${query}`, {
      headers: { Authorization: `Bearer ${token}` },
      signal: stop,
      credentials: "same-origin",
      redirect: "error",
    });
  } catch (error) {
    if (stop.aborted) throw error;
    throw problem(0, "");
  }
  if (!response.ok || !response.body) throw problem(response.status, await response.text());
  const name = nameOf(response.headers.get("Content-Disposition") ?? "");
  const total = Number(response.headers.get("Content-Length") ?? 0);
  if (total > BY_LINK && !by) {
    await response.body.cancel();
    const link = new URLSearchParams({ location, ticket: await ticket(place, location, {}) });
    save(`${filesPath(place)}?${link}`, name);
    return `${name}: your browser saves it`;
  }
  let done = 0;
  const counted = response.body.pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      transform(piece, controller) {
        done += piece.length;
        told(done, total);
        controller.enqueue(piece);
      },
    }),
  );
  let blob: Blob;
  try {
    // the browser keeps it, on disk if it is large; nothing of it is in the page's own memory
    blob = await new Response(counted).blob();
  } catch (error) {
    if (stop.aborted) throw error;
    throw problem(0, "");
  }
  if (total && blob.size !== total) throw problem(0, "");
  const url = URL.createObjectURL(new Blob([blob], { type: "application/octet-stream" }));
  save(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
  return name;
}

// The name of a file in a Content-Disposition of ours; never a path.
export function nameOf(disposition: string): string {
  const found = /filename\*=UTF-8''([^;]+)/.exec(disposition)?.[1] ?? "";
  try {
    return decodeURIComponent(found).replaceAll(/[/\\]/g, "_") || "file";
  } catch {
    return "file";
  }
}

function save(url: string, name: string): void {
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.setAttribute("data-outside", "");
  link.click();
}

export function shownSize(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}
