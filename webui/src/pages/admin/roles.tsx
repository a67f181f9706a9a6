// The roles of the cluster, shortly.
import { useState } from "preact/hooks";
import { ask } from "../../api";
import { may, useMe } from "../../context";
import { fill, go } from "../../router";
import { Button, Chip, type Column, Empty, Page, Spinner, Table, Trouble, useAsk } from "../../ui";
import type { PageProps } from "../table";
import { Confirm, Here } from "./parts";
import type { Listed, RoleSummary } from "./types";
import { counted } from "./words";

const EVERY = 15_000; // milliseconds between looks

export default function RolesPage({ params }: PageProps) {
  return (
    <Here site={params.site} title="Roles">
      <RoleList site={params.site ?? ""} />
    </Here>
  );
}

function RoleList({ site }: { site: string }) {
  const me = useMe();
  const found = useAsk<Listed<RoleSummary>>("/webapi/roles", EVERY);
  const [removing, setRemoving] = useState("");
  const columns: Column<RoleSummary>[] = [
    {
      key: "name",
      title: "Name",
      show: (role) => (
        <>
          <a href={fill("/web/cluster/:site/roles/:name", { site, name: role.name })}>{role.name}</a>
          <div class="hint">{role.description}</div>
        </>
      ),
    },
    { key: "logins", title: "Logs in as", show: (role) => role.logins.join(", ") || "–" },
    {
      key: "labels",
      title: "On hosts with",
      show: (role) =>
        Object.entries(role.node_labels).map(([key, values]) => (
          <Chip key={key} text={`${key}: ${values.join(", ")}`} />
        )),
    },
    { key: "rules", title: "In the cluster", show: (role) => (role.rules > 0 ? counted(role.rules, "rule") : "–") },
    { key: "remarks", title: "Remarks", show: (role) => (role.remarks > 0 ? counted(role.remarks, "remark") : "–") },
    {
      key: "actions",
      title: "",
      show: (role) =>
        may(me, "role.delete") && (
          <Button onClick={() => setRemoving(role.name)} aria-label={`Delete the role ${role.name}`}>
            Delete
          </Button>
        ),
    },
  ];
  return (
    <Page
      title="Roles"
      actions={
        may(me, "role.create") && (
          <Button kind="primary" onClick={() => go(fill("/web/cluster/:site/new-role", { site }))}>
            New role
          </Button>
        )
      }
    >
      <Trouble error={found.error} />
      {!found.data && found.loading && <Spinner label="Loading roles" />}
      {found.data?.items.length === 0 && <Empty title="There are no roles that you may see." />}
      {found.data && found.data.items.length > 0 && (
        <Table caption="Roles" columns={columns} rows={found.data.items} id={(role) => role.name} />
      )}
      {removing && (
        <Confirm
          title={`Delete the role ${removing}`}
          act="Delete"
          close={() => {
            setRemoving("");
            found.again();
          }}
          does={async (confirmed) => {
            const path = fill("/webapi/roles/:name", { name: removing });
            await ask("DELETE", confirmed ? `${path}?confirm=true` : path);
          }}
        >
          <p>
            What the role gives, nobody gets any more; what it denies is denied no more. A role that somebody holds is
            not deleted.
          </p>
        </Confirm>
      )}
    </Page>
  );
}
