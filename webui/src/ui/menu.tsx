import { useId, useLayoutEffect, useRef, useState } from "preact/hooks";

export interface MenuItem {
  label: string;
  act: () => void;
  checked?: boolean;
}

const EDGE = 8; // pixels that stay free at the window's right

interface Props {
  label: string;
  items: MenuItem[];
  kind?: "plain" | "quiet" | "primary";
  name?: string; // for screen readers, when the label alone says too little
}

// A button that opens a list of things to do: arrow keys, Home, End, Escape (WAI-ARIA menu button).
export function Menu({ label, items, kind = "quiet", name }: Props) {
  const [open, setOpen] = useState(false);
  const id = useId();
  const root = useRef<HTMLDivElement>(null);
  const button = useRef<HTMLButtonElement>(null);

  const entries = () => [...(root.current?.querySelectorAll<HTMLElement>("[role^=menuitem]") ?? [])];
  function focus(index: number) {
    const all = entries();
    all[(index + all.length) % all.length]?.focus();
  }

  useLayoutEffect(() => {
    if (!open) return;
    // Fixed to the window, since a table that scrolls would cut it off.
    function place() {
      const list = root.current?.querySelector<HTMLElement>(".entries");
      const at = button.current?.getBoundingClientRect();
      if (!list || !at) return;
      const { width, height } = list.getBoundingClientRect();
      const up = at.bottom + height > window.innerHeight && at.top > height;
      list.style.top = `${up ? at.top - height : at.bottom}px`;
      list.style.left = `${Math.max(0, Math.min(at.left, window.innerWidth - width - EDGE))}px`;
    }
    place();
    focus(0);
    const outside = (event: Event) => {
      if (!root.current?.contains(event.target as Node)) setOpen(false);
    };
    document.addEventListener("pointerdown", outside);
    window.addEventListener("scroll", place, { capture: true, passive: true });
    window.addEventListener("resize", place);
    return () => {
      document.removeEventListener("pointerdown", outside);
      window.removeEventListener("scroll", place, { capture: true });
      window.removeEventListener("resize", place);
    };
  }, [open]);

  function onKeyDown(event: KeyboardEvent) {
    if (!open) {
      if (event.key === "ArrowDown") {
        event.preventDefault();
        setOpen(true);
      }
      return;
    }
    const at = entries().indexOf(document.activeElement as HTMLElement);
    if (event.key === "ArrowDown") focus(at + 1);
    else if (event.key === "ArrowUp") focus(at - 1);
    else if (event.key === "Home") focus(0);
    else if (event.key === "End") focus(-1);
    else if (event.key === "Escape") {
      setOpen(false);
      button.current?.focus();
    } else if (event.key === "Tab") {
      setOpen(false);
      return;
    } else return;
    event.preventDefault();
  }

  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: keys of the button and of the entries in it
    <div class="menu-button" ref={root} onKeyDown={onKeyDown}>
      <button
        ref={button}
        type="button"
        class={`button ${kind}`}
        aria-haspopup="menu"
        aria-expanded={open}
        aria-controls={open ? id : undefined}
        aria-label={name}
        onClick={() => setOpen(!open)}
      >
        {label} <span aria-hidden="true">▾</span>
      </button>
      {open && (
        <div class="entries" role="menu" id={id} aria-label={name ?? label}>
          {items.map((item) => (
            <button
              key={item.label}
              type="button"
              role={item.checked === undefined ? "menuitem" : "menuitemradio"}
              {...(item.checked === undefined ? {} : { "aria-checked": item.checked })}
              tabIndex={-1}
              onClick={() => {
                setOpen(false);
                button.current?.focus();
                item.act();
              }}
            >
              {item.label}
            </button>
          ))}
        </div>
      )}
    </div>
  );
}
