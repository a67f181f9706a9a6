// The authorities of the cluster: pins that others compare, keys, and how far a rotation has come.
import { useState } from "preact/hooks";
import { may, useMe } from "../../context";
import { fill } from "../../router";
import { Button, type Column, Empty, Page, Spinner, Table, Trouble, useAsk, When } from "../../ui";
import type { PageProps } from "../table";
import { CopyBox, Here } from "./parts";
import { RotationCard } from "./rotation";
import { BeginRotation, StepDialog } from "./rotation_dialogs";
import { type Group, groupsOf } from "./rotation_words";
import type { Authorities, Authority, Key } from "./types";

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

function AuthorityList({ site }: { site: string }) {
  const found = useAsk<Authorities>(fill("/webapi/sites/:site/authorities", { site }), EVERY);
  const me = useMe();
  const [beginning, setBeginning] = useState(false);
  const [stepping, setStepping] = useState<{ group: Group; target: string } | null>(null);
  const { data } = found;
  const steers = may(me, "cert_authority.rotate") && data?.waiting != null;
  const groups = groupsOf(data?.authorities ?? []);
  const resting = (data?.authorities ?? []).filter((one) => one.phase === "standby").map((one) => one.kind);

  function close() {
    setBeginning(false);
    setStepping(null);
    found.again();
  }

  return (
    <Page
      title="Authorities"
      actions={
        steers &&
        resting.length > 0 && (
          <Button kind="primary" onClick={() => setBeginning(true)}>
            Replace keys…
          </Button>
        )
      }
    >
      <Trouble error={found.error} />
      {!data && found.loading && <Spinner label="Loading authorities" />}
      {data && (
        <>
          {groups.map((group) => (
            <RotationCard
              key={group.key}
              group={group}
              waiting={data.waiting}
              go={steers ? (target) => setStepping({ group, target }) : null}
            />
          ))}
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
        </>
      )}
      {beginning && <BeginRotation site={site} kinds={resting} close={close} />}
      {stepping && (
        <StepDialog
          site={site}
          group={stepping.group}
          target={stepping.target}
          waiting={(data?.waiting ?? []).filter((one) => stepping.group.kinds.includes(one.authority))}
          close={close}
        />
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
  return (
    <section class="part" aria-label={title}>
      <h2>{title}</h2>
      <p>{WHAT[authority.kind]}</p>
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
