import type { AllHTMLAttributes, ComponentChildren } from "preact";
import { useId } from "preact/hooks";

interface Shared {
  label: string;
  value: string;
  set: (value: string) => void;
  hint?: string;
  problem?: string; // what is wrong with it
}

interface Props extends Shared, Omit<AllHTMLAttributes<HTMLInputElement>, "type" | "label" | "value" | "id"> {
  id?: string;
  type?: "text" | "password" | "search" | "number" | "date" | "datetime-local" | "email" | "url";
}

// A labelled input with its hint and problem told to screen readers, too.
export function Field({ label, value, set, hint, problem, type = "text", id: own, ...rest }: Props) {
  const made = useId();
  const id = own ?? made;
  const input: AllHTMLAttributes<HTMLInputElement> = {
    ...rest,
    type,
    id,
    value,
    onInput: (event) => set(event.currentTarget.value),
    "aria-invalid": problem ? true : undefined,
    "aria-describedby": described(id, hint, problem),
  };
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input {...(input as object)} />
      <Beside id={id} hint={hint} problem={problem} />
    </div>
  );
}

interface SelectProps extends Shared {
  children: ComponentChildren; // <option>s
}

export function SelectField({ label, value, set, hint, problem, children }: SelectProps) {
  const id = useId();
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <select
        id={id}
        value={value}
        onChange={(event) => set(event.currentTarget.value)}
        aria-invalid={problem ? true : undefined}
        aria-describedby={described(id, hint, problem)}
      >
        {children}
      </select>
      <Beside id={id} hint={hint} problem={problem} />
    </div>
  );
}

function described(id: string, hint?: string, problem?: string): string | undefined {
  const ids = [hint && `${id}-hint`, problem && `${id}-problem`].filter(Boolean);
  return ids.length > 0 ? ids.join(" ") : undefined;
}

interface BesideProps {
  id: string;
  hint: string | undefined;
  problem: string | undefined;
}

function Beside({ id, hint, problem }: BesideProps) {
  return (
    <>
      {hint && (
        <p class="hint" id={`${id}-hint`}>
          {hint}
        </p>
      )}
      {problem && (
        <p class="problem" id={`${id}-problem`}>
          {problem}
        </p>
      )}
    </>
  );
}
