import { useState } from "preact/hooks";
import { ask, base64 } from "../../api";
import { Dialog, Field } from "../../ui";
import { type Devices, ProofForm } from "./proof";

interface Props {
  devices: Devices;
  close: (changed: boolean) => void;
}

export function PasswordDialog({ devices, close }: Props) {
  const [old, setOld] = useState("");
  const [made, setMade] = useState("");
  const [again, setAgain] = useState("");
  return (
    <Dialog title="Change the password" close={() => close(false)}>
      <p class="hint">Wherever else you are signed in, you are signed out.</p>
      <ProofForm
        devices={devices}
        action="Change"
        password={false}
        close={() => close(false)}
        submit={async (proof) => {
          if (made !== again) throw new Error("The two new passwords differ.");
          await ask("PUT", "/webapi/users/password", {
            old_password: base64(old),
            new_password: base64(made),
            ...proof,
          });
          close(true);
        }}
      >
        <Field label="Old password" type="password" value={old} set={setOld} autoComplete="current-password" required />
        <Field
          label="New password"
          type="password"
          value={made}
          set={setMade}
          autoComplete="new-password"
          minLength={12}
          maxLength={128}
          hint="12 characters or more."
          required
        />
        <Field
          label="New password again"
          type="password"
          value={again}
          set={setAgain}
          autoComplete="new-password"
          required
        />
      </ProofForm>
    </Dialog>
  );
}
