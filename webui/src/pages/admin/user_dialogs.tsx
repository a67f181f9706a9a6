// Invitations, resets, and what roles and traits a user has.
import { useState } from "preact/hooks";
import { ask, said } from "../../api";
import { Button, Dialog, Field, Notice, SelectField, Spinner, Trouble, useAsk, When } from "../../ui";
import { Area, Check, CopyBox, useWork } from "./parts";
import type { Link, Listed, RoleSummary, User } from "./types";
import { isLastAdministrator, listed, readPairs, writePairs } from "./words";

interface ChoiceProps {
  chosen: string[];
  set: (roles: string[]) => void;
}

// The roles of the cluster to choose from; those that somebody has stay choosable when the list cannot be had.
function RoleChoice({ chosen, set }: ChoiceProps) {
  const found = useAsk<Listed<RoleSummary>>("/webapi/roles");
  if (!found.data && found.loading) return <Spinner label="Loading roles" />;
  if (!found.data)
    return (
      <Field
        label="Roles"
        value={chosen.join(", ")}
        set={(text) => set(listed(text))}
        autoComplete="off"
        hint="Names, separated by commas. Which roles there are is not shown to you."
      />
    );
  const known = found.data.items;
  const names = [...new Set([...known.map((role) => role.name), ...chosen])].sort();
  return (
    <fieldset>
      <legend>Roles</legend>
      {names.map((name) => {
        const about = known.find((role) => role.name === name)?.description;
        return (
          <Check
            key={name}
            label={about ? `${name}: ${about}` : name}
            checked={chosen.includes(name)}
            set={(on) => set(on ? [...chosen, name] : chosen.filter((one) => one !== name))}
          />
        );
      })}
    </fieldset>
  );
}

function Handed({ link, first }: { link: Link; first: string }) {
  return (
    <>
      <Notice kind="good">
        {first} Hand this link to the person: it works once, until <When time={link.expires} />, and is not shown again.
      </Notice>
      <CopyBox label="Link" text={link.url} />
    </>
  );
}

export function InviteUser({ close }: { close: () => void }) {
  const [name, setName] = useState("");
  const [roles, setRoles] = useState<string[]>([]);
  const [logins, setLogins] = useState("");
  const [hours, setHours] = useState("1");
  const [made, setMade] = useState<Link | null>(null);
  const work = useWork();
  function submit(event: Event) {
    event.preventDefault();
    work.run(async () => {
      const accounts = listed(logins);
      const traits = accounts.length > 0 ? { logins: accounts } : {};
      setMade(await ask<Link>("POST", "/webapi/users", { name, roles, traits, ttl: Number(hours) * 3600 }));
    });
  }
  return (
    <Dialog title={made ? `${made.user} is invited` : "Invite a user"} close={close}>
      {made ? (
        <>
          <Handed link={made} first={`The user ${made.user} has been made, without a password yet.`} />
          <div class="actions">
            <Button kind="primary" onClick={close}>
              Done
            </Button>
          </div>
        </>
      ) : (
        <form onSubmit={submit}>
          <Field label="Name" value={name} set={setName} autoComplete="off" required />
          <RoleChoice chosen={roles} set={setRoles} />
          <Field
            label="Accounts on hosts"
            value={logins}
            set={setLogins}
            autoComplete="off"
            hint="Unix accounts, separated by commas; roles such as access log in as these (the trait logins)."
          />
          <SelectField label="The link holds for" value={hours} set={setHours}>
            <option value="1">1 hour</option>
            <option value="8">8 hours</option>
            <option value="24">1 day</option>
            <option value="48">2 days</option>
          </SelectField>
          <Trouble error={work.error} />
          <div class="actions">
            <Button onClick={close}>Cancel</Button>
            <Button kind="primary" type="submit" busy={work.busy}>
              Invite
            </Button>
          </div>
        </form>
      )}
    </Dialog>
  );
}

export function ResetUser({ user, close }: { user: User; close: () => void }) {
  const [made, setMade] = useState<Link | null>(null);
  const work = useWork();
  return (
    <Dialog title={`Reset ${user.name}`} close={close}>
      {made ? (
        <>
          <Handed link={made} first="Password and second factors have ended." />
          <div class="actions">
            <Button kind="primary" onClick={close}>
              Done
            </Button>
          </div>
        </>
      ) : (
        <>
          <p>
            The password and all second factors of {user.name} end now, and so do its sessions in browsers. You get a
            link for choosing new ones, which holds for 8 hours.
          </p>
          <Trouble error={work.error} />
          <div class="actions">
            <Button onClick={close}>Cancel</Button>
            <Button
              kind="danger"
              busy={work.busy}
              onClick={() =>
                work.run(async () => {
                  setMade(await ask<Link>("POST", "/webapi/users/password/token", { name: user.name }));
                })
              }
            >
              Reset
            </Button>
          </div>
        </>
      )}
    </Dialog>
  );
}

export function ChangeUser({ user, close }: { user: User; close: () => void }) {
  const [roles, setRoles] = useState(user.roles);
  const [traits, setTraits] = useState(writePairs(user.traits));
  const work = useWork();
  const { pairs, problem } = readPairs(traits);
  const last = Boolean(work.error) && isLastAdministrator(said(work.error).message);
  function store(confirm: boolean) {
    work.run(async () => {
      await ask("PUT", "/webapi/users", { name: user.name, roles, traits: pairs, revision: user.revision, confirm });
      close();
    });
  }
  return (
    <Dialog title={`Change ${user.name}`} close={close}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (!problem) store(last);
        }}
      >
        <RoleChoice chosen={roles} set={setRoles} />
        <Area
          label="Traits"
          value={traits}
          set={setTraits}
          hint="One to a line: name = value, value. The trait logins names accounts on hosts."
          problem={problem}
        />
        {last ? (
          <Notice kind="bad">
            Nobody would be left who may edit roles: {user.name} is the last user who can. Only tctl on an auth server
            could give the right back.
          </Notice>
        ) : (
          <Trouble error={work.error} />
        )}
        <div class="actions">
          <Button onClick={close}>Cancel</Button>
          <Button kind={last ? "danger" : "primary"} type="submit" busy={work.busy}>
            {last ? "Save, all the same" : "Save"}
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
