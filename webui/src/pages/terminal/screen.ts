// The terminal itself: xterm.js, with what a host must not do switched off, copying and pasting, searching, sizes.
import { FitAddon } from "@xterm/addon-fit";
import { type ISearchOptions, SearchAddon } from "@xterm/addon-search";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { Blink } from "./blink";
import type { Size } from "./link";
import { withOwnStyles } from "./own_styles";
import { colours, type Settings } from "./settings";
import { pasted } from "./title";

const SCROLLBACK = 10_000; // lines
// What a host asks the page to do by these is not done: 8 links, 9, 99 and 777 notifications, 50 fonts, 52 the clipboard,
// 1337 files and more. xterm.js itself answers to titles (0, 1, 2) and colours.
const REFUSED = [8, 9, 50, 52, 99, 633, 777, 1337];
const FOUND: ISearchOptions = {
  decorations: {
    matchBackground: "#7a5a00",
    matchOverviewRuler: "#c08a00",
    activeMatchBackground: "#b04000",
    activeMatchColorOverviewRuler: "#e05000",
  },
};

export interface ScreenEvents {
  typed(data: Uint8Array): void;
  sized(size: Size): void;
  titled(title: string): void;
  left(): void; // the shortcut that leaves the terminal
  find(): void; // the one that searches
  found(at: number, count: number): void;
}

export class Screen {
  readonly terminal: Terminal;
  private readonly fits = new FitAddon();
  private readonly search = new SearchAddon();
  private readonly blink: Blink;
  private readonly watch: ResizeObserver;
  private readonly text = new TextEncoder();

  constructor(
    private readonly place: HTMLElement,
    chosen: Settings,
    private readonly events: ScreenEvents,
  ) {
    const still = window.matchMedia("(prefers-reduced-motion: reduce)");
    this.terminal = new Terminal({
      allowProposedApi: true, // the search marks what it finds
      cursorBlink: !still.matches, // until the host says otherwise
      fontFamily: 'ui-monospace, "SFMono-Regular", "DejaVu Sans Mono", Menlo, Consolas, monospace',
      fontSize: chosen.size,
      minimumContrastRatio: 4.5,
      scrollback: SCROLLBACK,
      theme: colours(chosen.look),
      linkHandler: { activate: () => {} },
      windowOptions: {},
    });
    const { terminal } = this;
    for (const code of REFUSED) terminal.parser.registerOscHandler(code, () => true);
    terminal.loadAddon(this.fits);
    terminal.loadAddon(this.search);
    withOwnStyles(() => terminal.open(place));
    terminal.onData((data) => events.typed(this.text.encode(data)));
    terminal.onBinary((data) => events.typed(Uint8Array.from(data, (one) => one.charCodeAt(0) & 0xff)));
    terminal.onResize(({ cols, rows }) => events.sized({ columns: cols, rows }));
    terminal.onTitleChange((title) => events.titled(title));
    this.search.onDidChangeResults(({ resultIndex, resultCount }) => events.found(resultIndex, resultCount));
    terminal.attachCustomKeyEventHandler((event) => this.key(event));
    place.addEventListener("paste", this.paste, true);
    this.blink = new Blink({
      later: (milliseconds, act) => {
        const timer = setTimeout(act, milliseconds);
        return () => clearTimeout(timer);
      },
      light: (on) => place.toggleAttribute("data-unlit", !on),
      still: () => still.matches,
    });
    terminal.textarea?.addEventListener("focus", () => this.blink.begin());
    terminal.textarea?.addEventListener("blur", () => this.blink.end());
    terminal.onCursorMove(() => this.blink.moved());
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(place);
    this.fit();
  }

  get size(): Size {
    return { columns: Math.min(this.terminal.cols, 1000), rows: Math.min(this.terminal.rows, 1000) };
  }

  fit(): void {
    if (this.place.clientWidth > 0 && this.place.clientHeight > 0) this.fits.fit();
  }

  write(data: Uint8Array, parsed: () => void): void {
    this.terminal.write(data, parsed);
  }

  // In its turn: what came before is parsed, and then forgotten.
  anew(): void {
    this.terminal.write("\x1bc");
  }

  look(chosen: Settings): void {
    this.terminal.options.theme = colours(chosen.look);
    this.terminal.options.fontSize = chosen.size;
    this.fit();
  }

  focus(): void {
    this.terminal.focus();
  }

  next(text: string): void {
    this.search.findNext(text, FOUND);
  }

  previous(text: string): void {
    this.search.findPrevious(text, FOUND);
  }

  noSearch(): void {
    this.search.clearDecorations();
    this.terminal.clearSelection();
  }

  copy(): void {
    const text = this.terminal.getSelection();
    if (text) void navigator.clipboard?.writeText(text).catch(() => {});
  }

  close(): void {
    this.watch.disconnect();
    this.blink.end();
    this.place.removeEventListener("paste", this.paste, true);
    this.terminal.dispose();
  }

  private readonly paste = (event: ClipboardEvent) => {
    event.preventDefault();
    event.stopPropagation();
    this.terminal.paste(pasted(event.clipboardData?.getData("text/plain") ?? ""));
  };

  // Gives whether the terminal gets the key.
  private key(event: KeyboardEvent): boolean {
    const { ctrlKey, shiftKey, altKey, metaKey, code } = event;
    if (altKey || metaKey || !ctrlKey) return true;
    if (code === "F6") return this.act(event, () => this.events.left());
    if (!shiftKey) return true;
    if (code === "KeyC") return this.act(event, () => this.copy());
    if (code === "KeyF") return this.act(event, () => this.events.find());
    return code !== "KeyV"; // the browser pastes
  }

  private act(event: KeyboardEvent, work: () => void): boolean {
    event.preventDefault();
    if (event.type === "keydown") work();
    return false;
  }
}
