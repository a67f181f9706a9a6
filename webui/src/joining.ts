// That somebody asked, by a click in this browser, for a part in a session that runs. The address alone may be a link from
// anybody: it lets nobody in, least of all as the moderator without whom somebody else's session would not begin.

const CLICKED = "joining"; // in the storage that tabs share: until the new tab has taken it
const SECONDS = 60; // for that tab to open

function here(sid: string, mode: string): string {
  return `joined ${sid} ${mode}`;
}

// Somebody follows a link of ours into a new tab.
export function follows(sid: string, mode: string): void {
  try {
    localStorage.setItem(CLICKED, JSON.stringify([sid, mode, Date.now()]));
  } catch {
    // storage is switched off: the new tab asks
  }
}

// Somebody chose this in this tab, which remembers it through a reload.
export function chooses(sid: string, mode: string): void {
  try {
    sessionStorage.setItem(here(sid, mode), "1");
  } catch {
    // storage is switched off: it asks again after a reload
  }
}

// Whether somebody did either. A link of ours counts once.
export function wasChosen(sid: string, mode: string): boolean {
  try {
    if (sessionStorage.getItem(here(sid, mode)) !== null) return true;
    const clicked: unknown = JSON.parse(localStorage.getItem(CLICKED) ?? "null");
    if (!Array.isArray(clicked) || clicked[0] !== sid || clicked[1] !== mode) return false;
    localStorage.removeItem(CLICKED);
    const age = Date.now() - Number(clicked[2]);
    if (!(age >= 0 && age < SECONDS * 1000)) return false;
    chooses(sid, mode);
    return true;
  } catch {
    return false;
  }
}
