// Who and what is stopped.
import { useState } from "preact/hooks";
import { ask } from "../../api";
import { may, useMe } from "../../context";
import { fill } from "../../router";
import { Button, type Column, Empty, Page, Spinner, Table, Trouble, useAsk, When } from "../../ui";
import type { PageProps } from "../table";
import { LockDialog, TARGETS } from "./lock_dialog";
import { Confirm, Here } from "./parts";
import type { Listed, Lock } from "./types";

const EVERY = 5000; // milliseconds between looks

export default function LocksPage({ params }: PageProps) {
  return (
    <Here site={params.site} title="Locks">
      <LockList site={params.site ?? ""} />
    </Here>
  );
}

function LockList({ site }: { site: string }) {
  const me = useMe();
  const found = useAsk<Listed<Lock>>(fill("/webapi/sites/:site/locks", { site }), EVERY);
  const [making, setMaking] = useState(false);
  const [lifting, setLifting] = useState<Lock | null>(null);

  function close() {
    setMaking(false);
    setLifting(null);
    found.again();
  }

  const columns: Column<Lock>[] = [
    { key: "kind", title: "What", show: (lock) => TARGETS[lock.kind]?.title ?? lock.kind },
    { key: "target", title: "Which", show: (lock) => lock.target },
    { key: "message", title: "Why", show: (lock) => lock.message || "–" },
    {
      key: "expires",
      title: "Until",
      show: (lock) => {
        if (!lock.in_force) return "over";
        return lock.expires ? <When time={lock.expires} /> : "it is lifted";
      },
    },
    {
      key: "actions",
      title: "",
      show: (lock) =>
        may(me, "lock.delete") && (
          <Button onClick={() => setLifting(lock)} aria-label={`Lift the lock on ${lock.target}`}>
            Lift
          </Button>
        ),
    },
  ];
  return (
    <Page
      title="Locks"
      actions={
        may(me, "lock.create") && (
          <Button kind="primary" onClick={() => setMaking(true)}>
            Lock…
          </Button>
        )
      }
    >
      <Trouble error={found.error} />
      {!found.data && found.loading && <Spinner label="Loading locks" />}
      {found.data?.items.length === 0 && (
        <Empty title="Nobody is locked.">
          <p>A lock stops a user, a role, a host or a session at once, open sessions included.</p>
        </Empty>
      )}
      {found.data && found.data.items.length > 0 && (
        <Table caption="Locks" columns={columns} rows={found.data.items} id={(lock) => lock.name} />
      )}
      {making && <LockDialog site={site} close={close} />}
      {lifting && (
        <Confirm
          title={`Lift the lock on ${lifting.target}`}
          act="Lift"
          kind="primary"
          close={close}
          does={async () => {
            await ask("DELETE", fill("/webapi/sites/:site/locks/:name", { site, name: lifting.name }));
          }}
        >
          <p>What the lock stopped is possible again at once. Sessions that ended stay ended.</p>
        </Confirm>
      )}
    </Page>
  );
}
