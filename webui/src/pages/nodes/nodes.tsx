// The hosts that the user may reach: searched, filtered by labels, sorted, a page at a time; kept up to date.
import { fill, setQuery, usePlace } from "../../router";
import { Chip, type Column, Empty, Field, Menu, Page, Pager, Spinner, Table, Trouble, useAsk } from "../../ui";
import { startOf, startShown, useFirstWhenBeyond, useSearch } from "../../ui/searched";
import type { PageProps } from "../table";

interface Node {
  id: string;
  hostname: string;
  addr: string;
  labels: Record<string, string>;
  tunnel: boolean;
  agentless: boolean;
  silent_for: number; // seconds
  logins: string[];
}

interface Nodes {
  items: Node[];
  total: number;
  next_start: number;
}

const LIMIT = 50;
const EVERY = 5000; // milliseconds between looks

export function nodesPath(site: string, query: URLSearchParams): string {
  const asked = new URLSearchParams();
  asked.set("search", query.get("search") ?? "");
  for (const label of query.getAll("label")) asked.append("label", label);
  asked.set("sort", query.get("sort") ?? "hostname");
  asked.set("start", String(startOf(query)));
  asked.set("limit", String(LIMIT));
  return `${fill("/webapi/sites/:site/nodes", { site })}?${asked}`;
}

function terminalPath(site: string, node: Node, login: string): string {
  return fill("/web/cluster/:site/node/:host_id/:login", { site, host_id: node.id, login });
}

export default function NodesPage({ params }: PageProps) {
  const site = params.site ?? "";
  const { query } = usePlace();
  const found = useAsk<Nodes>(nodesPath(site, query), EVERY);
  const kept = query.get("search") ?? "";
  const [search, setSearch] = useSearch(query, found.loading);
  const labels = query.getAll("label");
  const start = startShown(found);
  useFirstWhenBeyond(start, found.data);

  function toggle(label: string) {
    const others = labels.filter((one) => one !== label);
    setQuery({ label: others.length < labels.length ? others : [...labels, label], start: "" });
  }

  const columns: Column<Node>[] = [
    {
      key: "hostname",
      title: "Name",
      sortable: true,
      show: (node) => (
        <>
          {node.hostname}
          {node.silent_for > 0 && <div class="hint">silent for {Math.ceil(node.silent_for / 60)} min</div>}
        </>
      ),
    },
    { key: "addr", title: "Address", sortable: true, show: (node) => (node.tunnel ? "by tunnel" : node.addr) },
    {
      key: "labels",
      title: "Labels",
      show: (node) =>
        Object.entries(node.labels).map(([name, value]) => {
          const label = `${name}=${value}`;
          return (
            <Chip
              key={label}
              text={label}
              label={`Only nodes with ${label}`}
              pressed={labels.includes(label)}
              act={() => toggle(label)}
            />
          );
        }),
    },
    {
      key: "connect",
      title: "",
      show: (node) =>
        node.logins.length > 0 ? (
          <Menu
            kind="plain"
            label="Connect"
            name={`Connect to ${node.hostname}`}
            items={node.logins.map((login) => ({
              label: login,
              act: () => window.open(terminalPath(site, node, login), "_blank", "noopener"),
            }))}
          />
        ) : (
          <span class="hint">no login</span>
        ),
    },
  ];

  const { data } = found;
  return (
    <Page title="Nodes">
      <Field label="Search" type="search" value={search} set={setSearch} hint="Words of names, addresses and labels" />
      {labels.length > 0 && (
        <p>
          Only with{" "}
          {labels.map((label) => (
            <Chip key={label} text={`${label} ×`} label={`No longer only ${label}`} act={() => toggle(label)} />
          ))}
        </p>
      )}
      <Trouble error={found.error} />
      {!data && found.loading && <Spinner label="Loading nodes" />}
      {data && data.total === 0 && (
        <Empty title={kept || labels.length > 0 ? "No node fits." : "No nodes that you may reach."}>
          <p>
            {kept || labels.length > 0
              ? "Search for less, or remove a label."
              : "An administrator adds nodes with a join token, and your roles say which of them are yours."}
          </p>
        </Empty>
      )}
      {data && data.total > 0 && (
        <>
          <Table
            caption="Nodes"
            columns={columns}
            rows={data.items}
            id={(node) => node.id}
            sort={query.get("sort") ?? "hostname"}
            setSort={(sort) => setQuery({ sort, start: "" })}
          />
          <Pager
            start={start}
            limit={LIMIT}
            total={data.total}
            shown={data.items.length}
            next={data.next_start}
            what="nodes"
            go={(to) => setQuery({ start: to ? String(to) : "" })}
          />
        </>
      )}
    </Page>
  );
}
