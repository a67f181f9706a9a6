interface Props {
  text: string;
  act?: () => void; // makes it a button
  label?: string; // what the button does
  pressed?: boolean;
}

// A short value, such as a label `env=prod`.
export function Chip({ text, act, label, pressed }: Props) {
  if (!act) return <span class="chip">{text}</span>;
  return (
    <button type="button" class="chip" aria-label={label ?? text} aria-pressed={pressed} onClick={act}>
      {text}
    </button>
  );
}
