// The Kubernetes clusters that the user may use, and what to type for each; kept up to date.
import { useState } from "preact/hooks";
import { useMe } from "../../context";
import { fill, setQuery, usePlace } from "../../router";
import {
  Button,
  Chip,
  type Column,
  Dialog,
  Empty,
  Field,
  Page,
  Pager,
  Spinner,
  Table,
  Trouble,
  useAsk,
} from "../../ui";
import { startOf, startShown, useFirstWhenBeyond, useSearch } from "../../ui/searched";
import { CopyBox } from "../admin/parts";
import type { PageProps } from "../table";
import { kubeCommand, proxyOf } from "./command";

interface KubeCluster {
  name: string;
  labels: Record<string, string>;
  silent_for: number; // seconds
}

interface KubeClusters {
  items: KubeCluster[];
  total: number;
  next_start: number;
}

const LIMIT = 50;
const EVERY = 5000; // milliseconds between looks

export default function KubePage({ params }: PageProps) {
  const me = useMe();
  const site = params.site ?? "";
  const { query } = usePlace();
  const kept = query.get("search") ?? "";
  const asked = new URLSearchParams({ search: kept, start: String(startOf(query)), limit: String(LIMIT) });
  const found = useAsk<KubeClusters>(`${fill("/webapi/sites/:site/kube_clusters", { site })}?${asked}`, EVERY);
  const [search, setSearch] = useSearch(query, found.loading);
  const [chosen, setChosen] = useState("");
  const start = startShown(found);
  useFirstWhenBeyond(start, found.data);

  const columns: Column<KubeCluster>[] = [
    {
      key: "name",
      title: "Name",
      show: (cluster) => (
        <>
          {cluster.name}
          {cluster.silent_for > 0 && <div class="hint">silent for {Math.ceil(cluster.silent_for / 60)} min</div>}
        </>
      ),
    },
    {
      key: "labels",
      title: "Labels",
      show: (cluster) =>
        Object.entries(cluster.labels).map(([name, value]) => <Chip key={name} text={`${name}=${value}`} />),
    },
    {
      key: "connect",
      title: "",
      show: (cluster) => (
        <Button onClick={() => setChosen(cluster.name)} aria-label={`Connect to ${cluster.name}`}>
          Connect
        </Button>
      ),
    },
  ];

  const { data } = found;
  return (
    <Page title="Kubernetes">
      <Field label="Search" type="search" value={search} set={setSearch} hint="Words of names and labels" />
      <Trouble error={found.error} />
      {!data && found.loading && <Spinner label="Loading Kubernetes clusters" />}
      {data && data.total === 0 && (
        <Empty title={kept ? "No Kubernetes cluster fits." : "No Kubernetes clusters that you may use."}>
          <p>
            {kept
              ? "Search for less."
              : "An administrator adds clusters with a Kubernetes service, and your roles say which of them are yours."}
          </p>
        </Empty>
      )}
      {data && data.total > 0 && (
        <>
          <Table caption="Kubernetes clusters" columns={columns} rows={data.items} id={(cluster) => cluster.name} />
          <Pager
            start={start}
            limit={LIMIT}
            total={data.total}
            shown={data.items.length}
            next={data.next_start}
            what="Kubernetes clusters"
            go={(to) => setQuery({ start: to ? String(to) : "" })}
          />
        </>
      )}
      {chosen && (
        <Dialog title={`Connect to ${chosen}`} close={() => setChosen("")}>
          <p>Type this where tsh and kubectl are. The second line makes the cluster the current one of kubectl.</p>
          <CopyBox
            label="Command"
            text={kubeCommand({
              proxy: proxyOf(window.location),
              user: me.user,
              cluster: me.cluster,
              site,
              name: chosen,
            })}
          />
          <div class="actions">
            <Button onClick={() => setChosen("")}>Close</Button>
          </div>
        </Dialog>
      )}
    </Page>
  );
}
