// Stops somebody or something at once.
import { useState } from "preact/hooks";
import { ask, said } from "../../api";
import { fill } from "../../router";
import { Button, Dialog, Field, Notice, SelectField, Trouble } from "../../ui";
import { useWork } from "./parts";
import { isLastAdministrator } from "./words";

export const TARGETS: Record<string, { title: string; means: string }> = {
  user: { title: "User", means: "this user" },
  role: { title: "Role", means: "everybody who has this role" },
  login: { title: "Account", means: "sessions as this Unix account, on every host" },
  node: { title: "Host", means: "sessions on this host, by UUID or name" },
  mfa_device: { title: "Second factor", means: "what was proved with this second factor, by UUID" },
  serial: { title: "Certificate", means: "this one certificate, by its serial number" },
  session: { title: "Session", means: "this session, by its id" },
};

const TERMS: [string, string][] = [
  ["0", "until it is lifted"],
  ["900", "15 minutes"],
  ["3600", "1 hour"],
  ["86400", "1 day"],
  ["604800", "1 week"],
];

interface Props {
  site: string;
  kind?: string;
  target?: string;
  close: () => void;
}

export function LockDialog({ site, kind: given = "", target: named = "", close }: Props) {
  const [kind, setKind] = useState(given || "user");
  const [target, setTarget] = useState(named);
  const [message, setMessage] = useState("");
  const [ttl, setTtl] = useState("0");
  const [warning, setWarning] = useState("");
  const work = useWork();
  const last = Boolean(work.error) && isLastAdministrator(said(work.error).message);
  function submit(event: Event) {
    event.preventDefault();
    work.run(async () => {
      const asked = { target: { [kind]: target.trim() }, message, ttl: Number(ttl), confirm: last };
      const made = await ask<{ warning: string }>("POST", fill("/webapi/sites/:site/locks", { site }), asked);
      if (made.warning) setWarning(made.warning);
      else close();
    });
  }
  if (warning)
    return (
      <Dialog title="Locked" close={close}>
        <Notice kind="warn">The lock is there, but {warning}. A mistake? Lift it in the list of locks.</Notice>
        <div class="actions">
          <Button kind="primary" onClick={close}>
            Done
          </Button>
        </div>
      </Dialog>
    );
  return (
    <Dialog title={named ? `Lock ${named}` : "Lock somebody or something"} close={close}>
      <form onSubmit={submit}>
        <p>
          At once, {TARGETS[kind]?.means} {kind === "login" || kind === "node" ? "are" : "is"} stopped: new sessions,
          certificates and calls are refused, and open sessions end.
        </p>
        {!named && (
          <>
            <SelectField label="What" value={kind} set={setKind}>
              {Object.entries(TARGETS).map(([key, one]) => (
                <option key={key} value={key}>
                  {one.title}
                </option>
              ))}
            </SelectField>
            <Field label="Which" value={target} set={setTarget} autoComplete="off" required />
          </>
        )}
        <Field
          label="Why"
          value={message}
          set={setMessage}
          autoComplete="off"
          hint="For administrators and the audit log."
        />
        <SelectField label="How long" value={ttl} set={setTtl}>
          {TERMS.map(([value, text]) => (
            <option key={value} value={value}>
              {text}
            </option>
          ))}
        </SelectField>
        {last ? (
          <Notice kind="bad">
            Nobody would be left who may edit roles: this stops the last user who can. Only tctl on an auth server could
            lift it.
          </Notice>
        ) : (
          <Trouble error={work.error} />
        )}
        <div class="actions">
          <Button onClick={close}>Cancel</Button>
          <Button kind="danger" type="submit" busy={work.busy}>
            {last ? "Lock, all the same" : "Lock"}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
