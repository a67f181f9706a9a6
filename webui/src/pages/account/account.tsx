// What is one's own: the password, second factors, where one is signed in.
import { useState } from "preact/hooks";
import { ask, ended } from "../../api";
import { useMe } from "../../context";
import { Button, Notice, Page, Spinner, Table, Trouble, useAsk, When } from "../../ui";
import { called } from "./agent";
import { AddDialog, kindOf, RemoveDialog } from "./devices";
import { PasswordDialog } from "./password";
import type { Device, Devices } from "./proof";

interface Browser {
  id: string;
  current: boolean;
  created: string;
  used: string;
  expires: string;
  addr: string;
  user_agent: string;
  factor: string;
}

type Open = { what: "password" | "add" | "passkey" } | { what: "remove"; device: Device } | null;

export default function Account() {
  const me = useMe();
  const devices = useAsk<Devices>("/webapi/mfa/devices");
  const browsers = useAsk<{ sessions: Browser[] }>("/webapi/user/sessions");
  const [open, setOpen] = useState<Open>(null);
  const [done, setDone] = useState("");
  const [error, setError] = useState<unknown>(null);

  async function change(act: () => Promise<string>) {
    setError(null);
    setDone("");
    try {
      setDone(await act());
    } catch (problem) {
      setError(problem);
    }
    devices.again();
    browsers.again();
  }

  function closed(what: string) {
    setOpen(null);
    if (what) change(async () => what);
  }

  return (
    <Page title="Account">
      <p>
        You are <strong>{me.user}</strong>, with the roles {me.roles.join(", ")}. This session holds until{" "}
        <When time={me.expires} />.
      </p>
      <div aria-live="polite">{done && <Notice kind="good">{done}</Notice>}</div>
      <Trouble error={error} />
      <section class="part" aria-labelledby="password-heading">
        <div class="heading">
          <h2 id="password-heading">Password</h2>
          {devices.data && <Button onClick={() => setOpen({ what: "password" })}>Change the password</Button>}
        </div>
      </section>
      <section class="part" aria-labelledby="factors-heading">
        <div class="heading">
          <h2 id="factors-heading">Second factors</h2>
          <div class="actions">
            {devices.data?.passwordless && <Button onClick={() => setOpen({ what: "passkey" })}>Add a passkey</Button>}
            {devices.data && devices.data.kinds.length > 0 && (
              <Button onClick={() => setOpen({ what: "add" })}>Add a second factor</Button>
            )}
          </div>
        </div>
        <Trouble error={devices.error} />
        {!devices.data && devices.loading && <Spinner label="Loading second factors" />}
        {devices.data && devices.data.devices.length === 0 && <p>You have none: your password alone opens the door.</p>}
        {devices.data && devices.data.devices.length > 0 && (
          <Table
            caption="Second factors"
            rows={devices.data.devices}
            id={(device) => device.id}
            columns={[
              { key: "name", title: "Name", show: (device) => device.name },
              { key: "type", title: "Kind", show: kindOf },
              { key: "added", title: "Added", show: (device) => <When time={device.added ?? ""} /> },
              { key: "used", title: "Last used", show: (device) => <When time={device.last_used ?? ""} /> },
              {
                key: "remove",
                title: "",
                show: (device) => (
                  <Button
                    kind="danger"
                    aria-label={`Remove ${device.name}`}
                    onClick={() => setOpen({ what: "remove", device })}
                  >
                    Remove
                  </Button>
                ),
              },
            ]}
          />
        )}
      </section>
      <section class="part" aria-labelledby="browsers-heading">
        <div class="heading">
          <h2 id="browsers-heading">Where you are signed in</h2>
          <div class="actions">
            <Button
              onClick={() =>
                change(async () => {
                  await ask("DELETE", "/webapi/user/sessions");
                  return "You are signed out everywhere else.";
                })
              }
            >
              Sign out everywhere else
            </Button>
            <Button
              kind="danger"
              onClick={async () => {
                try {
                  await ask("DELETE", "/webapi/user/sessions?all=true");
                  ended();
                  window.location.assign("/web/signin");
                } catch (problem) {
                  setError(problem);
                }
              }}
            >
              Sign out everywhere
            </Button>
          </div>
        </div>
        <Trouble error={browsers.error} />
        {!browsers.data && browsers.loading && <Spinner label="Loading sessions" />}
        {browsers.data && (
          <Table
            caption="Browsers"
            rows={browsers.data.sessions}
            id={(one) => one.id}
            columns={[
              {
                key: "agent",
                title: "Browser",
                show: (one) => <span title={one.user_agent}>{called(one.user_agent)}</span>,
              },
              { key: "addr", title: "From", show: (one) => one.addr },
              { key: "created", title: "Signed in", show: (one) => <When time={one.created} /> },
              { key: "used", title: "Last used", show: (one) => <When time={one.used} /> },
              {
                key: "end",
                title: "",
                show: (one) =>
                  one.current ? (
                    <strong>this one</strong>
                  ) : (
                    <Button
                      kind="danger"
                      aria-label={`Sign out the browser at ${one.addr}`}
                      onClick={() =>
                        change(async () => {
                          await ask("DELETE", `/webapi/user/sessions/${encodeURIComponent(one.id)}`);
                          return "That browser is signed out.";
                        })
                      }
                    >
                      Sign out
                    </Button>
                  ),
              },
            ]}
          />
        )}
      </section>
      {open?.what === "password" && devices.data && (
        <PasswordDialog
          devices={devices.data}
          close={(changed) => closed(changed ? "Your password is another one now." : "")}
        />
      )}
      {open?.what === "add" && devices.data && (
        <AddDialog
          devices={devices.data}
          close={(added) => closed(added ? `${added} is one of your second factors.` : "")}
        />
      )}
      {open?.what === "passkey" && devices.data && (
        <AddDialog
          passkey
          devices={devices.data}
          close={(added) => closed(added ? `${added} signs you in from now on.` : "")}
        />
      )}
      {open?.what === "remove" && devices.data && (
        <RemoveDialog
          device={open.device}
          devices={devices.data}
          close={(removed) => closed(removed ? `${open.device.name} is removed.` : "")}
        />
      )}
    </Page>
  );
}
