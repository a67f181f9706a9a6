// The authorities of the cluster: pins that others compare, keys, and how far a rotation has come.
import { fill } from "../../router";
import { type Column, Empty, Notice, Page, Spinner, Table, Trouble, useAsk, When } from "../../ui";
import type { PageProps } from "../table";
import { CopyBox, Here } from "./parts";
import type { Authorities, Authority, Key, WaitedFor } from "./types";

const EVERY = 5000; // milliseconds between looks

const WHAT: Record<string, string> = {
  host: "Hosts and services prove themselves with its certificates; who joins compares its pin.",
  user: "Users log in with its certificates.",
  openssh: "Proxies enter hosts with a plain sshd by its certificates.",
  jwt: "Signs tokens for applications.",
};

export default function AuthoritiesPage({ params }: PageProps) {
  return (
    <Here site={params.site} title="Authorities">
      <AuthorityList site={params.site ?? ""} />
    </Here>
  );
}

const WAITING: Column<WaitedFor>[] = [
  { key: "host", title: "Who", show: (one) => one.hostname || one.host_id },
  { key: "service", title: "Service", show: (one) => one.service.replaceAll("_", " ") },
  { key: "authority", title: "Authority", show: (one) => one.authority },
  { key: "reached", title: "Has reached", show: (one) => one.reached || "reports no phase" },
];

function AuthorityList({ site }: { site: string }) {
  const found = useAsk<Authorities>(fill("/webapi/sites/:site/authorities", { site }), EVERY);
  const { data } = found;
  return (
    <Page title="Authorities">
      <Trouble error={found.error} />
      {!data && found.loading && <Spinner label="Loading authorities" />}
      {data && (
        <>
          <section class="part" aria-label="Pins">
            <h2>Pin of the cluster</h2>
            <p>Hosts that join compare it (--ca-pin), and so do people at their first login.</p>
            {data.ca_pins.map((pin) => (
              <CopyBox key={pin} label={`Pin ${pin.slice(0, 15)}`} text={pin} />
            ))}
          </section>
          {data.authorities.map((one) => (
            <AuthorityCard key={one.kind} authority={one} />
          ))}
          {data.waiting && data.waiting.length > 0 && (
            <section class="part" aria-label="Who has not followed yet">
              <h2>Who has not followed yet</h2>
              <Table
                caption="Services that a rotation waits for"
                columns={WAITING}
                rows={data.waiting}
                id={(one) => `${one.authority} ${one.service} ${one.host_id}`}
              />
            </section>
          )}
        </>
      )}
    </Page>
  );
}

const KEYS: Column<Key>[] = [
  { key: "use", title: "Use", show: (key) => key.use.toUpperCase() },
  { key: "state", title: "State", show: (key) => (key.state === "signs" ? "signs" : "only trusted") },
  { key: "algorithm", title: "Algorithm", show: (key) => key.algorithm },
  { key: "fingerprint", title: "Fingerprint", show: (key) => <code>{key.fingerprint}</code> },
];

function AuthorityCard({ authority }: { authority: Authority }) {
  const title = `${authority.kind.charAt(0).toUpperCase()}${authority.kind.slice(1)} authority`;
  const rotating = authority.phase !== "" && authority.phase !== "standby";
  return (
    <section class="part" aria-label={title}>
      <h2>{title}</h2>
      <p>{WHAT[authority.kind]}</p>
      {rotating && (
        <Notice kind="warn">
          Its keys are being replaced: phase {authority.phase},{" "}
          {authority.mode === "auto" ? "by itself" : "step by step"}.
        </Notice>
      )}
      <dl class="facts">
        <dt>Rotation</dt>
        <dd>{authority.rotation}</dd>
        {authority.started && (
          <>
            <dt>Began</dt>
            <dd>
              <When time={authority.started} />
            </dd>
          </>
        )}
        {authority.last_rotated && (
          <>
            <dt>Last replaced</dt>
            <dd>
              <When time={authority.last_rotated} />
            </dd>
          </>
        )}
        {Object.entries(authority.schedule).flatMap(([phase, when]) => [
          <dt key={phase}>{phase}</dt>,
          <dd key={`${phase} at`}>
            <When time={when} />
          </dd>,
        ])}
      </dl>
      {authority.fingerprints && authority.fingerprints.length > 0 && (
        <Table
          caption={`Keys of the ${authority.kind} authority`}
          columns={KEYS}
          rows={authority.fingerprints}
          id={(key) => key.use + key.fingerprint}
        />
      )}
      {authority.fingerprints === null && <Empty title="Which keys it has is not shown to you." />}
    </section>
  );
}
