// Answers that are no small JSON: streams for the player, files to keep. The token goes in a header, never in an address.
import { ApiError, ask, token } from "../../api";

export async function fetched(path: string, signal?: AbortSignal): Promise<Response> {
  const bearer = await token();
  let response: Response;
  try {
    response = await fetch(path, {
      headers: { Authorization: `Bearer ${bearer}` },
      credentials: "same-origin",
      redirect: "error",
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("The proxy cannot be reached.", 0, "Check your connection and try again.");
  }
  if (response.ok) return response;
  if (response.status === 401) await ask("GET", "/webapi/user/status"); // leads to the sign-in page, and back
  const answer = (await response.json().catch(() => null)) as { error?: { message?: string; hint?: string } } | null;
  throw new ApiError(answer?.error?.message ?? "the proxy did not answer", response.status, answer?.error?.hint ?? "");
}

/** The name that an answer asks to be kept under, if it is a plain one. */
export function nameOf(disposition: string | null, otherwise: string): string {
  const name = /filename="([A-Za-z0-9._-]{1,120})"/.exec(disposition ?? "")?.[1];
  return name && !name.startsWith(".") ? name : otherwise;
}

/** Has the browser keep what a path answers as a file. */
export async function download(path: string, otherwise: string): Promise<void> {
  const response = await fetched(path);
  let whole: Blob;
  try {
    whole = await response.blob();
  } catch {
    throw new ApiError("The download broke off before its end.", 0, "Nothing was kept; try again.");
  }
  const link = document.createElement("a");
  const address = URL.createObjectURL(new Blob([whole], { type: "application/octet-stream" }));
  link.href = address;
  link.download = nameOf(response.headers.get("Content-Disposition"), otherwise);
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** Puts text into the clipboard; false when the browser does not let us. */
export async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
