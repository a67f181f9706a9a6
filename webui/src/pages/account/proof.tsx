// Before something of one's own is changed, a second factor that one has proves who asks; the password does for those
// who have none.
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { base64 } from "../../api";
import { keyAnswer } from "../../login";
import { Button, Field, Trouble } from "../../ui";

export interface Device {
  id: string;
  name: string;
  type: "totp" | "webauthn";
  added: string | null;
  last_used: string | null;
  passwordless: boolean; // a passkey
}

export interface Devices {
  devices: Device[];
  kinds: string[]; // that count in this cluster
  passwordless: boolean; // whether passkeys log in
}

export type Proof = Record<string, unknown>;

interface Props {
  devices: Devices;
  action: string; // on the button
  danger?: boolean;
  password?: boolean; // whether the password proves where there is no second factor
  submit: (proof: Proof) => Promise<void>;
  close: () => void;
  children?: ComponentChildren;
}

export function ProofForm({ devices, action, danger = false, password = true, submit, close, children }: Props) {
  const [code, setCode] = useState("");
  const [typed, setTyped] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const has = (type: string) => devices.kinds.includes(type) && devices.devices.some((one) => one.type === type);
  const codes = has("totp");
  const keys = has("webauthn");
  const kind = danger ? "danger" : "primary";

  async function send(withKey: boolean) {
    if (busy) return;
    setBusy(true);
    setError(null);
    try {
      const key = withKey ? await keyAnswer("/webapi/mfa/devices/challenge", {}, false) : {};
      await submit({
        ...key,
        ...(codes && !withKey ? { second_factor_token: code } : {}),
        ...(password && !codes && !keys ? { password: base64(typed) } : {}),
      });
    } catch (problem) {
      setError(problem);
      setCode("");
      setBusy(false);
    }
  }

  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        send(!codes && keys);
      }}
    >
      <Trouble error={error} />
      {children}
      {codes && (
        <Field
          label="Code of your authenticator app"
          value={code}
          set={setCode}
          inputMode="numeric"
          autoComplete="one-time-code"
          required
        />
      )}
      {password && !codes && !keys && (
        <Field
          label="Your password"
          type="password"
          value={typed}
          set={setTyped}
          autoComplete="current-password"
          required
        />
      )}
      <div class="actions">
        <Button onClick={close}>Cancel</Button>
        {codes && keys && (
          <Button
            busy={busy}
            onClick={(event) => {
              const fields = event.currentTarget.form?.elements ?? [];
              const own = [...fields].filter(
                (one) => one instanceof HTMLInputElement && one.autocomplete !== "one-time-code",
              );
              if (own.every((one) => (one as HTMLInputElement).reportValidity())) send(true);
            }}
          >
            {action} with a security key
          </Button>
        )}
        <Button type="submit" kind={kind} busy={busy}>
          {!codes && keys ? `${action} with a security key` : action}
        </Button>
      </div>
    </form>
  );
}
