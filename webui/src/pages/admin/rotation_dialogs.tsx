// A rotation begins, or takes a step: with what happens, and who would be left behind, before anything is done.
import { useState } from "preact/hooks";
import { ask } from "../../api";
import { fill } from "../../router";
import { Button, Dialog, Field, Notice, SelectField, Trouble } from "../../ui";
import { Check, useWork } from "./parts";
import { Plan, Waiting } from "./rotation";
import { type Group, stepOf, together } from "./rotation_words";
import type { WaitedFor } from "./types";

const BY_THEMSELVES = ["host", "user", "jwt"]; // as `tctl auth rotate` takes them when none is named
const LONGEST = 90 * 24; // hours

async function rotate(site: string, step: object): Promise<void> {
  await ask("POST", fill("/webapi/sites/:site/authorities/rotate", { site }), step);
}

function planPath(site: string, kinds: string[], grace?: number): string {
  const query = new URLSearchParams(kinds.map((kind) => ["type", kind]));
  if (grace !== undefined) query.set("grace_period", String(grace));
  return `${fill("/webapi/sites/:site/authorities/plan", { site })}?${query}`;
}

interface BeginProps {
  site: string;
  kinds: string[]; // that are not being rotated
  close: () => void;
}

export function BeginRotation({ site, kinds, close }: BeginProps) {
  const usual = BY_THEMSELVES.filter((kind) => kinds.includes(kind));
  const [kind, setKind] = useState(usual.length > 0 ? "" : (kinds[0] ?? ""));
  const [mode, setMode] = useState("auto");
  const [hours, setHours] = useState("48");
  const work = useWork();
  const chosen = kind ? [kind] : usual;
  const whole = /^\d{1,4}$/.test(hours) ? Number(hours) : 0;
  const problem = whole >= 1 && whole <= LONGEST ? "" : `Between 1 and ${LONGEST} hours.`;
  const grace = mode === "auto" && !problem ? whole * 3600 : undefined;
  function submit(event: Event) {
    event.preventDefault();
    if (mode === "auto" && problem) return;
    work.run(async () => {
      await rotate(site, { types: chosen, phase: "init", seen: "standby", mode, grace_period: grace });
      close();
    });
  }
  return (
    <Dialog title="Replace keys" close={close}>
      <form onSubmit={submit}>
        <p>
          New keys are made, and hosts learn to trust them beside the old ones; nobody notices, and there is a way back
          until the old keys end. What still goes by the old ones then is refused.
        </p>
        <SelectField label="Keys of" value={kind} set={setKind}>
          {usual.length > 0 && <option value="">{together(usual)}</option>}
          {kinds
            .filter((one) => usual.length !== 1 || one !== usual[0])
            .map((one) => (
              <option key={one} value={one}>
                {one} alone
              </option>
            ))}
        </SelectField>
        <SelectField label="How" value={mode} set={setMode}>
          <option value="auto">by itself, spread over a time</option>
          <option value="manual">step by step, as somebody asks for it</option>
        </SelectField>
        {mode === "auto" && (
          <Field
            label="Hours until the old keys end"
            type="number"
            min="1"
            max={String(LONGEST)}
            value={hours}
            set={setHours}
            problem={problem}
            required
          />
        )}
        <p class="hint">
          Keys that were stolen are replaced at once, on an auth server: tctl auth rotate --grace-period=0
        </p>
        <Plan path={planPath(site, chosen, grace)} />
        <Trouble error={work.error} />
        <div class="actions">
          <Button onClick={close}>Cancel</Button>
          <Button kind="primary" type="submit" busy={work.busy}>
            Begin
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

interface StepProps {
  site: string;
  group: Group; // as it was when the dialog was opened: the step is for that
  target: string;
  waiting: WaitedFor[]; // of these authorities, as of now
  close: () => void;
}

export function StepDialog({ site, group, target, waiting, close }: StepProps) {
  const [force, setForce] = useState(false);
  const work = useWork();
  const step = stepOf(group.phase, target);
  const held = target !== "rollback" && waiting.length > 0;
  return (
    <Dialog title={step.title} close={close}>
      <p>
        Of {together(group.kinds)}: {step.happens}
      </p>
      {group.mode === "auto" && (
        <Notice kind="warn">
          This rotation goes by itself. From this step on it waits for somebody, step by step.
        </Notice>
      )}
      {held && (
        <>
          <Notice kind="warn">Not all have followed; who has not is cut off by this step. Better wait for them.</Notice>
          <Waiting rows={waiting} />
          <Check label="Go on without them" checked={force} set={setForce} />
        </>
      )}
      <Plan path={planPath(site, group.kinds)} />
      <Trouble error={work.error} />
      <div class="actions">
        <Button onClick={close}>Cancel</Button>
        <Button
          kind={step.ends || held ? "danger" : "primary"}
          busy={work.busy}
          disabled={held && !force}
          onClick={() =>
            work.run(async () => {
              await rotate(site, { types: group.kinds, phase: target, seen: group.phase, force: held && force });
              close();
            })
          }
        >
          {step.button}
        </Button>
      </div>
    </Dialog>
  );
}
