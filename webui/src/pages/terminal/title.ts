// What a program on a host may call its window, and what may be pasted: neither gives a host a hand in this page.

const LONGEST = 60; // characters of a title
// control characters, and those that turn the direction of text or cannot be seen
const HIDDEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cs}\p{Zl}\p{Zp}\u115f\u1160\u3164\uffa0\u2800]/gu;

// One line of visible text; at most `LONGEST` long. Empty when nothing is left.
export function plain(title: string): string {
  const shown = [...title.slice(0, 1000).replace(HIDDEN, "").replace(/\s+/g, " ").trim()];
  return shown.length > LONGEST ? `${shown.slice(0, LONGEST - 1).join("")}…` : shown.join("");
}

// The title of the window: whose terminal it is comes first, whatever the host says.
export function windowTitle(login: string, host: string, said: string): string {
  const own = `${plain(login)}@${plain(host)}`;
  const told = plain(said);
  return told && told !== own ? `${own} · ${told}` : own;
}

// What is pasted is text: it ends no bracketed paste and gives the terminal no commands.
export function pasted(text: string): string {
  return text.replace(/\r\n/g, "\n").replace(/[^\P{Cc}\n\r\t]/gu, "");
}
