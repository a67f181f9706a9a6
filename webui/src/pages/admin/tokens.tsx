// Join tokens: a host, or another cluster, gets one, and the page says what to type there.
import { useEffect, useState } from "preact/hooks";
import { ask } from "../../api";
import { may, useMe } from "../../context";
import { fill } from "../../router";
import {
  Button,
  Chip,
  type Column,
  Dialog,
  Empty,
  Field,
  Notice,
  Page,
  SelectField,
  Spinner,
  Table,
  Trouble,
  useAsk,
  When,
} from "../../ui";
import type { PageProps } from "../table";
import { Area, Check, Confirm, CopyBox, Here, useWork } from "./parts";
import type { Listed, MadeToken, Token } from "./types";
import { readLabels } from "./words";

const EVERY = 5000; // milliseconds between looks
const WAITING = 1500; // milliseconds, while a host is expected

const TYPES: [string, string][] = [
  ["node", "Host with SSH access (node)"],
  ["proxy", "Proxy"],
  ["node,proxy", "Host that is a proxy, too"],
  ["auth", "Auth server"],
  ["trusted_cluster", "Another cluster"],
];

export default function TokensPage({ params }: PageProps) {
  return (
    <Here site={params.site} title="Join tokens">
      <TokenList site={params.site ?? ""} />
    </Here>
  );
}

function TokenList({ site }: { site: string }) {
  const me = useMe();
  const path = fill("/webapi/sites/:site/tokens", { site });
  const found = useAsk<Listed<Token>>(path, EVERY);
  const [adding, setAdding] = useState(false);
  const [removing, setRemoving] = useState<Token | null>(null);

  function close() {
    setAdding(false);
    setRemoving(null);
    found.again();
  }

  const columns: Column<Token>[] = [
    { key: "id", title: "Token", show: (token) => <code>{token.id}</code> },
    {
      key: "roles",
      title: "Lets in",
      show: (token) => `${token.roles.join(", ")}${token.cluster ? ` of ${token.cluster}` : ""}`,
    },
    {
      key: "labels",
      title: "Labels",
      show: (token) => Object.entries(token.labels).map(([key, value]) => <Chip key={key} text={`${key}=${value}`} />),
    },
    {
      key: "used",
      title: "Use",
      show: (token) => {
        if (!token.single_use) return "any number of times";
        return token.used_by ? `used by ${token.used_by}` : "once";
      },
    },
    {
      key: "expires",
      title: "Until",
      show: (token) => (token.expires ? <When time={token.expires} /> : "always (configuration file)"),
    },
    {
      key: "actions",
      title: "",
      show: (token) =>
        may(me, "token.delete") &&
        !token.static && (
          <Button onClick={() => setRemoving(token)} aria-label={`Remove the token ${token.id}`}>
            Remove
          </Button>
        ),
    },
  ];
  return (
    <Page
      title="Join tokens"
      actions={
        may(me, "token.create") && (
          <Button kind="primary" onClick={() => setAdding(true)}>
            Add a host
          </Button>
        )
      }
    >
      <Trouble error={found.error} />
      {!found.data && found.loading && <Spinner label="Loading join tokens" />}
      {found.data?.items.length === 0 && (
        <Empty title="There are no join tokens.">
          <p>A token lets a new host into the cluster. Its secret is shown once, when it is made.</p>
        </Empty>
      )}
      {found.data && found.data.items.length > 0 && (
        <Table caption="Join tokens" columns={columns} rows={found.data.items} id={(token) => token.id} />
      )}
      {adding && <AddHost site={site} close={close} />}
      {removing && (
        <Confirm
          title={`Remove the token ${removing.id}`}
          act="Remove"
          close={close}
          does={async () => {
            await ask("DELETE", `${path}/${encodeURIComponent(removing.id)}`);
          }}
        >
          <p>Nobody joins with it any more. Hosts that have joined stay.</p>
        </Confirm>
      )}
    </Page>
  );
}

function AddHost({ site, close }: { site: string; close: () => void }) {
  const [type, setType] = useState("node");
  const [minutes, setMinutes] = useState("30");
  const [single, setSingle] = useState(true);
  const [labels, setLabels] = useState("");
  const [cluster, setCluster] = useState("");
  const [made, setMade] = useState<MadeToken | null>(null);
  const work = useWork();
  const read = readLabels(labels);
  const other = type === "trusted_cluster";
  function submit(event: Event) {
    event.preventDefault();
    if (read.problem) return;
    work.run(async () => {
      const asked = {
        roles: type.split(","),
        ttl: Number(minutes) * 60,
        single_use: single,
        labels: other ? {} : read.labels,
        cluster: other ? cluster.trim() : "",
      };
      setMade(await ask<MadeToken>("POST", fill("/webapi/sites/:site/tokens", { site }), asked));
    });
  }
  if (made) return <Made site={site} made={made} close={close} />;
  return (
    <Dialog title="Add a host" close={close}>
      <form onSubmit={submit}>
        <SelectField label="What joins" value={type} set={setType}>
          {TYPES.map(([value, text]) => (
            <option key={value} value={value}>
              {text}
            </option>
          ))}
        </SelectField>
        <SelectField label="The token holds for" value={minutes} set={setMinutes}>
          <option value="30">30 minutes</option>
          <option value="60">1 hour</option>
          <option value="480">8 hours</option>
          <option value="2880">2 days</option>
        </SelectField>
        <Check label="It lets in one only" checked={single} set={setSingle} />
        {other ? (
          <Field
            label="Name of the other cluster"
            value={cluster}
            set={setCluster}
            autoComplete="off"
            hint="Without it, whoever has the token chooses the name of the cluster whose hosts people here then reach."
          />
        ) : (
          <Area
            label="Labels of the host"
            value={labels}
            set={setLabels}
            rows={2}
            hint="One to a line: name = value. Roles say by labels who reaches the host."
            problem={read.problem}
          />
        )}
        <Trouble error={work.error} />
        <div class="actions">
          <Button onClick={close}>Cancel</Button>
          <Button kind="primary" type="submit" busy={work.busy}>
            Make the token
          </Button>
        </div>
      </form>
    </Dialog>
  );
}

function Made({ site, made, close }: { site: string; made: MadeToken; close: () => void }) {
  return (
    <Dialog title={made.document ? "On the other cluster" : "On the new host"} close={close}>
      {made.command && (
        <>
          <p>Type this there, as root. The first line puts the token into a file, so that no process list shows it.</p>
          <CopyBox label="Command" text={made.command} />
        </>
      )}
      {made.document && (
        <>
          <p>Save this as tc.yaml there, and run: tctl create tc.yaml</p>
          <CopyBox label="Document" text={made.document} />
        </>
      )}
      {!made.command && !made.document && <CopyBox label="Token" text={made.token} />}
      {made.warning && <Notice kind="warn">{made.warning}</Notice>}
      <p class="hint">
        The token {made.id} holds until <When time={made.expires} />; it is not shown again.
      </p>
      {made.command && made.single_use && <Arrival site={site} id={made.id} />}
      <div class="actions">
        <Button kind="primary" onClick={close}>
          Done
        </Button>
      </div>
    </Dialog>
  );
}

// Says when the host has come that the token lets in.
function Arrival({ site, id }: { site: string; id: string }) {
  const [joined, setJoined] = useState("");
  const tokens = useAsk<Listed<Token>>(joined ? "" : fill("/webapi/sites/:site/tokens", { site }), WAITING);
  const by = tokens.data?.items.find((token) => token.id === id)?.used_by ?? "";
  useEffect(() => {
    if (by) setJoined(by);
  }, [by]);
  const query = new URLSearchParams({ search: joined, limit: "1" });
  const nodes = useAsk<{ items: { hostname: string }[] }>(
    joined ? `${fill("/webapi/sites/:site/nodes", { site })}?${query}` : "",
    WAITING,
  );
  if (!joined) return <Spinner label="Waiting for the host" />;
  const hostname = nodes.data?.items[0]?.hostname;
  return (
    <Notice kind="good">
      {hostname ? `The host ${hostname} has joined.` : `A host has joined; its id is ${joined}.`}
    </Notice>
  );
}
