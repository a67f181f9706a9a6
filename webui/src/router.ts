// Where one is: the history API, paths under /web/, patterns such as `/web/cluster/:site/nodes`.
import { useEffect, useState } from "preact/hooks";

export type Params = Record<string, string>;

export interface Place {
  path: string;
  query: URLSearchParams;
}

// What a pattern finds in a path; null when it does not fit.
export function match(pattern: string, path: string): Params | null {
  const wanted = parts(pattern);
  const given = parts(path);
  if (wanted.length !== given.length) return null;
  const found: Params = {};
  for (const [index, part] of wanted.entries()) {
    const value = given[index] as string;
    if (part.startsWith(":")) {
      try {
        found[part.slice(1)] = decodeURIComponent(value);
      } catch {
        return null;
      }
    } else if (part !== value) return null;
  }
  return found;
}

// The path of a pattern with its parameters filled in.
export function fill(pattern: string, params: Params): string {
  return pattern.replace(/:([a-z_]+)/g, (_, name: string) => encodeURIComponent(params[name] ?? ""));
}

function parts(path: string): string[] {
  return path.split("/").filter((part) => part !== "");
}

// A place of this app on this origin, or null: where one may be led after a login.
export function ownPath(wanted: string | null, origin: string): string | null {
  if (!wanted) return null;
  let url: URL;
  try {
    url = new URL(wanted, origin);
  } catch {
    return null;
  }
  const path = url.pathname;
  if (url.origin !== origin || !(path === "/web" || path.startsWith("/web/"))) return null;
  if (path.startsWith("/web/signin") || path.startsWith("/web/app/") || path.startsWith("/web/static/")) return null;
  return path + url.search;
}

const listeners = new Set<() => void>();
let moved = false;

export function here(): Place {
  return { path: window.location.pathname, query: new URLSearchParams(window.location.search) };
}

// Whether one came to this page from another one of the app: then its heading takes the focus.
export function hasMoved(): boolean {
  return moved;
}

export function go(path: string, how: { replace?: boolean } = {}): void {
  const former = window.location.pathname;
  if (how.replace) window.history.replaceState(null, "", path);
  else window.history.pushState(null, "", path);
  if (window.location.pathname !== former) {
    moved = true;
    window.scrollTo(0, 0);
  }
  for (const called of listeners) called();
}

// Changes the query alone: filters and pages of a list, so that they survive a reload and can be sent to others.
export function setQuery(changes: Record<string, string | string[]>, how: { replace?: boolean } = {}): void {
  const query = new URLSearchParams(window.location.search);
  for (const [name, value] of Object.entries(changes)) {
    query.delete(name);
    for (const one of Array.isArray(value) ? value : [value]) if (one !== "") query.append(name, one);
  }
  const text = query.toString();
  go(window.location.pathname + (text ? `?${text}` : ""), how);
}

export function usePlace(): Place {
  const [place, setPlace] = useState(here);
  useEffect(() => {
    const called = () => setPlace(here());
    listeners.add(called);
    called();
    return () => {
      listeners.delete(called);
    };
  }, []);
  return place;
}

// Links inside the app load nothing anew. Modified clicks, other targets and downloads stay the browser's.
function onClick(event: MouseEvent): void {
  if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey)
    return;
  const link = (event.target as Element | null)?.closest?.("a[href]") as HTMLAnchorElement | null;
  if (!link || link.target || link.hasAttribute("download") || link.hasAttribute("data-outside")) return;
  const url = new URL(link.href, window.location.href);
  if (url.origin !== window.location.origin || !(url.pathname === "/web" || url.pathname.startsWith("/web/"))) return;
  if (url.pathname === window.location.pathname && url.hash) return;
  event.preventDefault();
  go(url.pathname + url.search);
}

export function start(): void {
  document.addEventListener("click", onClick);
  window.addEventListener("popstate", () => {
    moved = true;
    for (const called of listeners) called();
  });
}
