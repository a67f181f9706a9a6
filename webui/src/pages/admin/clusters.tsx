// Other clusters: those whose users are let in here, and those whose hosts are reached from here.
import { useState } from "preact/hooks";
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
  Spinner,
  Table,
  Trouble,
  useAsk,
  When,
} from "../../ui";
import type { PageProps } from "../table";
import { Area, Confirm, Here, useWork } from "./parts";
import type { Clusters, Remote, Trusted } from "./types";
import { listed, readPairs } from "./words";

const EVERY = 10_000; // milliseconds between looks

type Open = { what: "trust" } | { what: "switch" | "distrust"; one: Trusted } | { what: "forget"; one: Remote } | null;

export default function ClustersPage({ params }: PageProps) {
  return (
    <Here site={params.site} title="Trusted clusters">
      <ClusterLists site={params.site ?? ""} />
    </Here>
  );
}

function exchanged(when: string | null) {
  return when ? <When time={when} /> : "never";
}

function ClusterLists({ site }: { site: string }) {
  const me = useMe();
  const found = useAsk<Clusters>("/webapi/trustedclusters", EVERY);
  const [open, setOpen] = useState<Open>(null);
  const changes = may(me, "trusted_cluster.create");

  function close() {
    setOpen(null);
    found.again();
  }

  const trusted: Column<Trusted>[] = [
    {
      key: "name",
      title: "Name",
      show: (one) => (
        <>
          {one.name}
          {one.problem && <div class="problem">{one.problem}</div>}
        </>
      ),
    },
    { key: "enabled", title: "Trusted", show: (one) => (one.enabled ? "yes" : "no, for now") },
    { key: "proxy", title: "Its proxy", show: (one) => one.web_proxy_addr },
    {
      key: "roles",
      title: "Roles there, and here",
      show: (one) =>
        one.role_map.map((map) => <Chip key={map.remote} text={`${map.remote} → ${map.local.join(", ")}`} />),
    },
    { key: "exchange", title: "Keys exchanged", show: (one) => exchanged(one.last_exchange) },
    {
      key: "actions",
      title: "",
      show: (one) => (
        <div class="actions">
          {changes && (
            <Button
              onClick={() => setOpen({ what: "switch", one })}
              aria-label={`${one.enabled ? "Suspend" : "Resume"} the trust in ${one.name}`}
            >
              {one.enabled ? "Suspend" : "Resume"}
            </Button>
          )}
          {may(me, "trusted_cluster.delete") && (
            <Button onClick={() => setOpen({ what: "distrust", one })} aria-label={`Remove ${one.name}`}>
              Remove
            </Button>
          )}
        </div>
      ),
    },
  ];
  const remote: Column<Remote>[] = [
    { key: "name", title: "Name", show: (one) => one.name },
    {
      key: "state",
      title: "State",
      show: (one) => (one.connection === "removed" ? "removed over there" : one.connection),
    },
    { key: "heard", title: "Last heard", show: (one) => exchanged(one.last_heartbeat) },
    { key: "exchange", title: "Keys exchanged", show: (one) => exchanged(one.last_exchange) },
    {
      key: "labels",
      title: "Labels",
      show: (one) => Object.entries(one.labels).map(([key, value]) => <Chip key={key} text={`${key}=${value}`} />),
    },
    {
      key: "actions",
      title: "",
      show: (one) =>
        may(me, "remote_cluster.delete") && (
          <Button onClick={() => setOpen({ what: "forget", one })} aria-label={`Forget ${one.name}`}>
            Forget
          </Button>
        ),
    },
  ];
  const { data } = found;
  return (
    <Page
      title="Trusted clusters"
      actions={
        changes && (
          <Button kind="primary" onClick={() => setOpen({ what: "trust" })}>
            Trust a cluster
          </Button>
        )
      }
    >
      <Trouble error={found.error} />
      {!data && found.loading && <Spinner label="Loading clusters" />}
      {data?.trusted && (
        <section class="part" aria-label="Clusters whose users are let in here">
          <h2>Their users are let in here</h2>
          {data.trusted.length > 0 ? (
            <Table caption="Trusted clusters" columns={trusted} rows={data.trusted} id={(one) => one.name} />
          ) : (
            <Empty title="No other cluster is trusted.">
              <p>
                Trust a cluster with a token of it, and its users reach hosts here with the roles that you give them.
              </p>
            </Empty>
          )}
        </section>
      )}
      {data?.remote && (
        <section class="part" aria-label="Clusters whose hosts are reached from here">
          <h2>Their hosts are reached from here</h2>
          {data.remote.length > 0 ? (
            <Table caption="Remote clusters" columns={remote} rows={data.remote} id={(one) => one.name} />
          ) : (
            <Empty title="No other cluster trusts this one.">
              <p>Make a join token for another cluster, and write the document that comes with it over there.</p>
            </Empty>
          )}
        </section>
      )}
      {open?.what === "trust" && <Trust close={close} />}
      {open?.what === "switch" && (
        <Confirm
          title={`${open.one.enabled ? "Suspend" : "Resume"} the trust in ${open.one.name}`}
          act={open.one.enabled ? "Suspend" : "Resume"}
          kind={open.one.enabled ? "danger" : "primary"}
          close={close}
          does={async () => {
            const path = fill("/webapi/trustedclusters/:name", { name: open.one.name });
            await ask("PUT", path, { enabled: !open.one.enabled });
          }}
        >
          <p>
            {open.one.enabled
              ? `Users of ${open.one.name} are let in no more until the trust is resumed; their open sessions end.`
              : `Users of ${open.one.name} are let in again, with the roles that are mapped to theirs.`}
          </p>
        </Confirm>
      )}
      {open?.what === "distrust" && (
        <Confirm
          title={`Remove ${open.one.name}`}
          act="Remove"
          close={close}
          does={async () => {
            await ask("DELETE", fill("/webapi/trustedclusters/:name", { name: open.one.name }));
          }}
        >
          <p>
            Users of {open.one.name} are let in no more, and their open sessions end. To trust it again, a new token of
            it is needed.
          </p>
        </Confirm>
      )}
      {open?.what === "forget" && (
        <Confirm
          title={`Forget ${open.one.name}`}
          act="Forget"
          close={close}
          does={async () => {
            await ask("DELETE", fill("/webapi/sites/:site/remoteclusters/:name", { site, name: open.one.name }));
          }}
        >
          <p>
            Hosts of {open.one.name} are reached from here no more. It may come back with a new token of this cluster.
          </p>
        </Confirm>
      )}
    </Page>
  );
}

function Trust({ close }: { close: () => void }) {
  const [name, setName] = useState("");
  const [token, setToken] = useState("");
  const [proxy, setProxy] = useState("");
  const [pins, setPins] = useState("");
  const [map, setMap] = useState("access = access");
  const [note, setNote] = useState("");
  const [made, setMade] = useState("");
  const work = useWork();
  const read = readPairs(map);
  function submit(event: Event) {
    event.preventDefault();
    if (read.problem) return;
    work.run(async () => {
      const role_map = Object.entries(read.pairs).map(([remote, local]) => ({ remote, local }));
      const asked = { name, token: token.trim(), web_proxy_addr: proxy.trim(), ca_pins: listed(pins), role_map };
      const answer = await ask<{ name: string; note: string }>("POST", "/webapi/trustedclusters", asked);
      setMade(answer.name);
      setNote(answer.note);
    });
  }
  if (made)
    return (
      <Dialog title={`${made} is trusted`} close={close}>
        <Notice kind="good">Users of {made} reach hosts here with the roles that are mapped to theirs.</Notice>
        {note && <Notice kind="warn">{note}</Notice>}
        <div class="actions">
          <Button kind="primary" onClick={close}>
            Done
          </Button>
        </div>
      </Dialog>
    );
  return (
    <Dialog title="Trust a cluster" close={close}>
      <form onSubmit={submit}>
        <Field
          label="Name"
          value={name}
          set={setName}
          autoComplete="off"
          required
          hint="It becomes the other cluster's own name."
        />
        <Field
          label="Token"
          value={token}
          set={setToken}
          autoComplete="off"
          required
          hint="Made over there for another cluster: Join tokens, or tctl tokens add --type=trusted_cluster."
        />
        <Field
          label="Address of its proxy"
          value={proxy}
          set={setProxy}
          autoComplete="off"
          required
          placeholder="proxy.example.com:443"
        />
        <Area label="Its pins" value={pins} set={setPins} rows={2} hint="sha256:…; they come with the token." />
        <Area
          label="Roles there = roles here"
          value={map}
          set={setMap}
          hint="One to a line: who has the role there gets those here."
          problem={read.problem}
        />
        <Trouble error={work.error} />
        <div class="actions">
          <Button onClick={close}>Cancel</Button>
          <Button kind="primary" type="submit" busy={work.busy}>
            Trust
          </Button>
        </div>
      </form>
    </Dialog>
  );
}
