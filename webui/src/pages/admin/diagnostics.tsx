// How the cluster is: versions, services, hosts that are silent, clocks, where the evidence is kept.
import { useEffect, useState } from "preact/hooks";
import { fill } from "../../router";
import { type Column, Empty, Notice, Page, Spinner, Table, Trouble, useAsk, When } from "../../ui";
import type { PageProps } from "../table";
import { Here } from "./parts";
import type { Diagnostics, Service } from "./types";
import { clocks, counted, span } from "./words";

const EVERY = 10_000; // milliseconds between looks

export default function DiagnosticsPage({ params }: PageProps) {
  return (
    <Here site={params.site} title="Diagnostics">
      <Findings site={params.site ?? ""} />
    </Here>
  );
}

function columns(version: string): Column<Service>[] {
  return [
    { key: "name", title: "Name", show: (one) => one.hostname || one.id },
    { key: "addr", title: "Address", show: (one) => one.addr || "by tunnel" },
    {
      key: "version",
      title: "Version",
      show: (one) => `${one.version || "unknown"}${one.version === version ? "" : " (not that of auth)"}`,
    },
    { key: "started", title: "Since", show: (one) => (one.started ? <When time={one.started} /> : "–") },
    {
      key: "state",
      title: "State",
      show: (one) => (one.silent_for > 0 ? `silent for ${span(one.silent_for)}` : "here"),
    },
  ];
}

function Findings({ site }: { site: string }) {
  const found = useAsk<Diagnostics>(fill("/webapi/sites/:site/diagnostics", { site }), EVERY);
  const { data } = found;
  const [browserAhead, setBrowserAhead] = useState(0); // seconds
  useEffect(() => {
    if (data) setBrowserAhead((Date.now() - new Date(data.now).getTime()) / 1000);
  }, [data]);
  return (
    <Page title="Diagnostics">
      <Trouble error={found.error} />
      {!data && found.loading && <Spinner label="Looking at the cluster" />}
      {data && (
        <>
          {data.nodes && data.nodes.lost > 0 && (
            <Notice kind="warn">{counted(data.nodes.lost, "host")} of those that you may see are silent.</Notice>
          )}
          <dl class="facts">
            <dt>Cluster</dt>
            <dd>{data.cluster}</dd>
            <dt>Version of auth</dt>
            <dd>{data.version}</dd>
            <dt>Version of this proxy</dt>
            <dd>{data.proxy_version}</dd>
            <dt>Clocks</dt>
            <dd>
              {clocks(data.proxy_ahead, "This proxy", "auth")} {clocks(browserAhead, "Your browser", "auth")}
            </dd>
          </dl>
          <Services title="Auth servers" rows={data.auth_servers} version={data.version} />
          <Services title="Proxies" rows={data.proxies} version={data.version} />
          {data.nodes && (
            <section class="part" aria-label="Nodes">
              <h2>Nodes</h2>
              <dl class="facts">
                <dt>That you may see</dt>
                <dd>
                  {data.nodes.total}, of which {data.nodes.tunnels} by tunnel, {data.nodes.agentless} with a plain sshd
                </dd>
                <dt>Silent</dt>
                <dd>{data.nodes.lost}</dd>
                {Object.entries(data.nodes.versions).flatMap(([version, number]) => [
                  <dt key={version}>Version {version}</dt>,
                  <dd key={`${version} number`}>{number}</dd>,
                ])}
              </dl>
              {data.nodes.named.length > 0 && (
                <Table
                  caption="Nodes that are silent, or of another version"
                  columns={columns(data.version)}
                  rows={data.nodes.named}
                  id={(one) => one.id}
                />
              )}
            </section>
          )}
          {data.audit && (
            <section class="part" aria-label="Where the evidence is kept">
              <h2>Where the evidence is kept</h2>
              {Object.keys(data.audit).length === 0 && <p>On the auth server, in its data directory.</p>}
              <dl class="facts">
                {Object.entries(data.audit).flatMap(([key, value]) => [
                  <dt key={key}>{key.replaceAll("_", " ")}</dt>,
                  <dd key={`${key} value`}>{Array.isArray(value) ? value.join(", ") : String(value)}</dd>,
                ])}
              </dl>
            </section>
          )}
        </>
      )}
    </Page>
  );
}

function Services({ title, rows, version }: { title: string; rows: Service[] | null; version: string }) {
  if (!rows) return null;
  return (
    <section class="part" aria-label={title}>
      <h2>{title}</h2>
      {rows.length > 0 ? (
        <Table caption={title} columns={columns(version)} rows={rows} id={(one) => one.id} />
      ) : (
        <Empty title="None has announced itself." />
      )}
    </section>
  );
}
