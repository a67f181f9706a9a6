// The hosts that the user may reach: searched, filtered by labels, sorted, a page at a time; kept up to date.
import { useEffect, useRef, useState } from "preact/hooks";
import { fill, setQuery, usePlace } from "../../router";
import { Chip, type Column, Empty, Field, Menu, Page, Pager, Spinner, Table, Trouble, useAsk } from "../../ui";
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
const TYPING = 250; // milliseconds after the last key that the search is asked

export function nodesPath(site: string, query: URLSearchParams): string {
  const asked = new URLSearchParams();
  asked.set("search", query.get("search") ?? "");
  for (const label of query.getAll("label")) asked.append("label", label);
  asked.set("sort", query.get("sort") ?? "hostname");
  asked.set("start", String(startOf(query)));
  asked.set("limit", String(LIMIT));
  return `${fill("/webapi/sites/:site/nodes", { site })}?${asked}`;
}

function startOf(query: URLSearchParams): number {
  const start = Number(query.get("start") ?? "0");
  return Number.isSafeInteger(start) && start > 0 ? start : 0;
}

function terminalPath(site: string, node: Node, login: string): string {
  return fill("/web/cluster/:site/node/:host_id/:login", { site, host_id: node.id, login });
}

export default function NodesPage({ params }: PageProps) {
  const site = params.site ?? "";
  const { query } = usePlace();
  const found = useAsk<Nodes>(nodesPath(site, query), EVERY);
  const kept = query.get("search") ?? "";
  const [search, setSearch] = useState(kept);
  const labels = query.getAll("label");
  const start = startOf(new URLSearchParams(found.of.split("?")[1] ?? "")); // of what is shown

  const asked = useRef(kept); // what was typed and has gone into the address: no key that was pressed since is lost to it
  useEffect(() => {
    if (kept !== asked.current) setSearch(kept); // the way back, or a link
    asked.current = kept;
  }, [kept]);
  useEffect(() => {
    if (search === asked.current) return;
    const timer = setTimeout(() => {
      asked.current = search;
      setQuery({ search, start: "" }, { replace: true });
    }, TYPING);
    return () => clearTimeout(timer);
  }, [search]);
  const beyond = found.data !== null && start > 0 && start >= found.data.total;
  useEffect(() => {
    if (beyond) setQuery({ start: "" }, { replace: true }); // nodes have gone
  }, [beyond]);

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
