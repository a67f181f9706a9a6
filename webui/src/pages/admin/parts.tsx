// Parts that the pages of administration share.
import type { ComponentChildren } from "preact";
import { useId, useState } from "preact/hooks";
import { said } from "../../api";
import { useMe } from "../../context";
import { Button, Dialog, Notice, Page, Trouble } from "../../ui";
import { isLastAdministrator } from "./words";
import "./admin.css";

interface CheckProps {
  label: string;
  checked: boolean;
  set: (checked: boolean) => void;
  disabled?: boolean;
}

export function Check({ label, checked, set, disabled = false }: CheckProps) {
  const id = useId();
  return (
    <div class="check">
      <input
        type="checkbox"
        id={id}
        checked={checked}
        disabled={disabled}
        onChange={(event) => set(event.currentTarget.checked)}
      />
      <label for={id}>{label}</label>
    </div>
  );
}

interface AreaProps {
  label: string;
  value: string;
  set: (value: string) => void;
  rows?: number;
  hint?: string;
  problem?: string;
  disabled?: boolean;
}

export function Area({ label, value, set, rows = 3, hint, problem, disabled = false }: AreaProps) {
  const id = useId();
  const beside = [hint && `${id}-hint`, problem && `${id}-problem`].filter(Boolean).join(" ");
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <textarea
        id={id}
        rows={rows}
        value={value}
        disabled={disabled}
        spellcheck={false}
        onInput={(event) => set(event.currentTarget.value)}
        aria-invalid={problem ? true : undefined}
        aria-describedby={beside || undefined}
      />
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
    </div>
  );
}

// A text to take along, whole, with a button for it.
export function CopyBox({ label, text }: { label: string; text: string }) {
  const [state, setState] = useState("");
  const id = useId();
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      setState("Copied.");
    } catch {
      const range = document.createRange();
      const box = document.getElementById(id);
      if (box) {
        range.selectNodeContents(box);
        window.getSelection()?.removeAllRanges();
        window.getSelection()?.addRange(range);
      }
      setState("The browser did not let the page copy; the text is selected.");
    }
  }
  return (
    <section class="copy" aria-label={label}>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by keyboard */}
      <pre id={id} tabIndex={0}>
        {text}
      </pre>
      <div class="actions">
        <Button onClick={copy}>Copy</Button>
        <span role="status" class="hint">
          {state}
        </span>
      </div>
    </section>
  );
}

interface ConfirmProps {
  title: string;
  act: string; // what the button says
  kind?: "primary" | "danger";
  does: (confirmed: boolean) => Promise<void>; // `confirmed`: also when nobody is left who may edit roles
  close: () => void;
  children: ComponentChildren; // what happens
}

// Says what will happen and does it. When nobody would be left who may edit roles, that is asked for once more.
export function Confirm({ title, act, kind = "danger", does, close, children }: ConfirmProps) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const last = error !== null && isLastAdministrator(said(error).message);
  async function run(confirmed: boolean) {
    setBusy(true);
    setError(null);
    try {
      await does(confirmed);
      close();
    } catch (caught) {
      setError(caught);
      setBusy(false);
    }
  }
  return (
    <Dialog title={title} close={close}>
      {children}
      {last ? (
        <Notice kind="bad">
          Nobody would be left who may edit roles: this is about the last user who can. Only tctl on an auth server
          could give the right back. Give it to somebody else first.
        </Notice>
      ) : (
        <Trouble error={error} />
      )}
      <div class="actions">
        <Button onClick={close}>Cancel</Button>
        {last ? (
          <Button kind="danger" busy={busy} onClick={() => run(true)}>
            {act}, all the same
          </Button>
        ) : (
          <Button kind={kind} busy={busy} onClick={() => run(false)}>
            {act}
          </Button>
        )}
      </div>
    </Dialog>
  );
}

// The work of a form's button: busy while it runs, and what went wrong.
export function useWork(): { busy: boolean; error: unknown; run: (work: () => Promise<void>) => Promise<void> } {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  async function run(work: () => Promise<void>) {
    setBusy(true);
    setError(null);
    try {
      await work();
    } catch (caught) {
      setError(caught);
    } finally {
      setBusy(false);
    }
  }
  return { busy, error, run };
}

interface HereProps {
  site: string | undefined;
  title: string;
  children: ComponentChildren;
}

// A cluster is run from its own proxies' pages.
export function Here({ site, title, children }: HereProps) {
  const me = useMe();
  if (site === me.cluster || site === "-current-") return <>{children}</>;
  return (
    <Page title={title}>
      <Notice>
        The cluster {site} is administered at its own address. Here you run {me.cluster}.
      </Notice>
    </Page>
  );
}
