import type { ButtonHTMLAttributes, ComponentChildren } from "preact";

interface Props extends Omit<ButtonHTMLAttributes<HTMLButtonElement>, "type"> {
  kind?: "plain" | "primary" | "danger" | "quiet";
  type?: "button" | "submit";
  busy?: boolean; // what it does is under way: it keeps the focus, and does nothing more
  disabled?: boolean;
  children: ComponentChildren;
}

export function Button({ kind = "plain", type = "button", busy = false, onClick, children, ...rest }: Props) {
  return (
    <button
      {...rest}
      type={type}
      class={`button ${kind}`}
      aria-busy={busy}
      aria-disabled={busy || undefined}
      onClick={(event) => {
        if (busy) event.preventDefault();
        else onClick?.call(event.currentTarget as never, event);
      }}
    >
      {children}
    </button>
  );
}
