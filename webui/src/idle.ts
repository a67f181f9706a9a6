// Who does nothing for as long as the cluster allows is signed out, in all tabs at once: what one does in any of them
// counts for all. The proxy is told now and then, since it counts for itself, and decides.
const KEPT = "active"; // in localStorage: when somebody last did something in a tab
const LOOK = 5000; // milliseconds

let here = Date.now();

function lastActive(): number {
  try {
    return Math.max(here, Number(localStorage.getItem(KEPT) ?? 0) || 0);
  } catch {
    return here;
  }
}

// How often the proxy is told, for a timeout: often enough that it never thinks somebody idle who is not.
export function tellEvery(timeout: number): number {
  return Math.min(timeout / 4, 60_000);
}

// Calls `tell` while somebody is active and `end` once nobody was for `timeout` milliseconds; what is returned stops it.
export function watchIdle(timeout: number, tell: () => void, end: () => void): () => void {
  if (timeout <= 0) return () => {};
  let told = Date.now();
  function active() {
    const now = Date.now();
    if (now - here > 1000) {
      try {
        localStorage.setItem(KEPT, String(now));
      } catch {
        // storage is switched off: each tab counts for itself
      }
    }
    here = now;
    if (now - told >= tellEvery(timeout)) {
      told = now;
      tell();
    }
  }
  here = Date.now();
  const events = ["keydown", "pointerdown", "wheel", "touchstart"] as const;
  for (const name of events) window.addEventListener(name, active, { capture: true, passive: true });
  const timer = setInterval(
    () => {
      if (Date.now() - lastActive() >= timeout) end();
    },
    Math.min(LOOK, timeout / 4),
  );
  return () => {
    clearInterval(timer);
    for (const name of events) window.removeEventListener(name, active, { capture: true });
  };
}
