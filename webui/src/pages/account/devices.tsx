import { useState } from "preact/hooks";
import { ask } from "../../api";
import { Button, Dialog, Field, SelectField, Trouble } from "../../ui";
import { type CreationOptions, createKey, makesPasskey } from "../../webauthn";
import { type Device, type Devices, ProofForm } from "./proof";

const TYPES: Record<string, string> = { totp: "Authenticator app", webauthn: "Security key", passkey: "Passkey" };

export function kindOf(device: Device): string {
  return TYPES[device.passwordless ? "passkey" : device.type] ?? device.type;
}

interface New {
  id: string;
  totp_secret: string;
  qr: string;
  webauthn: CreationOptions | null;
}

interface AddProps {
  devices: Devices;
  passkey?: boolean; // nothing else
  close: (added: string) => void;
}

// First an older device proves who asks, then the new one that it works.
export function AddDialog({ devices, passkey = false, close }: AddProps) {
  const [name, setName] = useState("");
  const [type, setType] = useState(devices.kinds[0] ?? "totp");
  const [made, setMade] = useState<New | null>(null);
  return (
    <Dialog title={passkey ? "Add a passkey" : "Add a second factor"} close={() => close("")}>
      {made ? (
        <Finish made={made} done={() => close(name)} close={() => close("")} />
      ) : (
        <ProofForm
          devices={devices}
          action="Next"
          close={() => close("")}
          submit={async (proof) => {
            const body = { name, type: passkey ? "webauthn" : type, passwordless: passkey, ...proof };
            setMade(await ask<New>("POST", "/webapi/mfa/devices/begin", body));
          }}
        >
          {passkey ? (
            <p>
              It signs you in without your name and your password: a phone, a computer or a security key that checks
              your fingerprint, face or PIN. Beside a password it is a second factor as well.
            </p>
          ) : (
            <SelectField label="Kind" value={type} set={setType}>
              {devices.kinds.map((kind) => (
                <option key={kind} value={kind}>
                  {TYPES[kind] ?? kind}
                </option>
              ))}
            </SelectField>
          )}
          <Field label="Name" value={name} set={setName} hint="By which you know it, such as “phone”." required />
        </ProofForm>
      )}
    </Dialog>
  );
}

function Finish({ made, done, close }: { made: New; done: () => void; close: () => void }) {
  const [code, setCode] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>(null);
  async function finish() {
    if (busy) return;
    setBusy(true);
    setError(null);
    try {
      const proof = made.webauthn
        ? { webauthn_creation_response: await createKey(made.webauthn) }
        : { totp_code: code };
      await ask("POST", "/webapi/mfa/devices", { id: made.id, ...proof });
      done();
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
        finish();
      }}
    >
      <Trouble error={error} />
      {made.webauthn ? (
        <p>
          {makesPasskey(made.webauthn)
            ? "Your browser asks next where to keep the passkey, and that you unlock it."
            : "Have the new security key at hand, and touch it when it blinks."}
        </p>
      ) : (
        <>
          <p>Scan this with an authenticator app, then type the code that it shows.</p>
          <img class="qr" src={`data:image/png;base64,${made.qr}`} alt="QR code for the authenticator app" />
          <p class="hint">
            No camera? Enter this key by hand: <code>{made.totp_secret}</code>
          </p>
          <Field
            label="Code of the new app"
            value={code}
            set={setCode}
            inputMode="numeric"
            autoComplete="one-time-code"
            required
          />
        </>
      )}
      <div class="actions">
        <Button onClick={close}>Cancel</Button>
        <Button type="submit" kind="primary" busy={busy}>
          Add
        </Button>
      </div>
    </form>
  );
}

interface RemoveProps {
  device: Device;
  devices: Devices;
  close: (removed: boolean) => void;
}

export function RemoveDialog({ device, devices, close }: RemoveProps) {
  return (
    <Dialog title={`Remove ${device.name}`} close={() => close(false)}>
      <p>It can no longer be used to sign in. Prove it is you; the one that goes counts, too.</p>
      <ProofForm
        devices={devices}
        action="Remove"
        danger
        close={() => close(false)}
        submit={async (proof) => {
          await ask("POST", `/webapi/mfa/devices/${encodeURIComponent(device.id)}/remove`, proof);
          close(true);
        }}
      />
    </Dialog>
  );
}
