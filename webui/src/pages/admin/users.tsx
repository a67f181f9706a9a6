// People of the cluster: invited, changed, reset, locked, deleted.
import { useState } from "preact/hooks";
import { ask } from "../../api";
import { may, useMe } from "../../context";
import { fill, setQuery, usePlace } from "../../router";
import {
  Button,
  Chip,
  type Column,
  Empty,
  Field,
  Menu,
  type MenuItem,
  Page,
  Pager,
  Spinner,
  Table,
  Trouble,
  useAsk,
  When,
} from "../../ui";
import { startOf, startShown, useFirstWhenBeyond, useSearch } from "../../ui/searched";
import type { PageProps } from "../table";
import { LockDialog } from "./lock_dialog";
import { Confirm, Here } from "./parts";
import type { Factor, User, Users } from "./types";
import { ChangeUser, InviteUser, ResetUser } from "./user_dialogs";
import { counted } from "./words";

const LIMIT = 50;
const EVERY = 10_000; // milliseconds between looks

type Open =
  | { what: "invite" }
  | { what: "change" | "reset" | "lock" | "lift" | "unlock" | "delete"; user: User }
  | null;

export default function UsersPage({ params }: PageProps) {
  return (
    <Here site={params.site} title="Users">
      <UserList site={params.site ?? ""} />
    </Here>
  );
}

function UserList({ site }: { site: string }) {
  const me = useMe();
  const { query } = usePlace();
  const kept = query.get("search") ?? "";
  const [open, setOpen] = useState<Open>(null);
  const sort = query.get("sort") ?? "name";
  const asked = new URLSearchParams({ search: kept, sort, start: String(startOf(query)), limit: String(LIMIT) });
  const found = useAsk<Users>(`/webapi/users?${asked}`, EVERY);
  const [search, setSearch] = useSearch(query, found.loading);
  const start = startShown(found);
  useFirstWhenBeyond(start, found.data);

  function close() {
    setOpen(null);
    found.again();
  }

  function items(user: User): MenuItem[] {
    const change = may(me, "user.update");
    return [
      ...(change ? [{ label: "Change roles and traits", act: () => setOpen({ what: "change", user }) }] : []),
      ...(change ? [{ label: "Reset password", act: () => setOpen({ what: "reset", user }) }] : []),
      ...(change && user.locked_out_until
        ? [{ label: "End the lockout", act: () => setOpen({ what: "unlock", user }) }]
        : []),
      ...(may(me, "lock.create") ? [{ label: "Lock", act: () => setOpen({ what: "lock", user }) }] : []),
      ...(may(me, "lock.delete") && user.locks.length > 0
        ? [{ label: "Lift locks", act: () => setOpen({ what: "lift", user }) }]
        : []),
      ...(may(me, "user.delete") ? [{ label: "Delete", act: () => setOpen({ what: "delete", user }) }] : []),
    ];
  }

  const columns: Column<User>[] = [
    {
      key: "name",
      title: "Name",
      sortable: true,
      show: (user) => (
        <>
          {user.name}
          <div class="hint">{standing(user)}</div>
        </>
      ),
    },
    { key: "roles", title: "Roles", show: (user) => user.roles.map((role) => <Chip key={role} text={role} />) },
    {
      key: "traits",
      title: "Traits",
      show: (user) =>
        Object.entries(user.traits).map(([name, values]) => <Chip key={name} text={`${name}: ${values.join(", ")}`} />),
    },
    {
      key: "factors",
      title: "Second factors",
      show: (user) =>
        user.factors.length > 0 ? user.factors.map((one) => `${one.name} (${factorKind(one)})`).join(", ") : "none",
    },
    {
      key: "login",
      title: "Last login",
      sortable: true,
      show: (user) => (user.last_login ? <When time={user.last_login} /> : "none in the last month"),
    },
    {
      key: "actions",
      title: "",
      show: (user) => {
        const entries = items(user);
        return entries.length > 0 ? (
          <Menu kind="plain" label="Change" name={`Change ${user.name}`} items={entries} />
        ) : null;
      },
    },
  ];

  const { data } = found;
  return (
    <Page
      title="Users"
      actions={
        may(me, "user.create") && (
          <Button kind="primary" onClick={() => setOpen({ what: "invite" })}>
            Invite a user
          </Button>
        )
      }
    >
      <Field label="Search" type="search" value={search} set={setSearch} hint="Words of names, roles and traits" />
      <Trouble error={found.error} />
      {!data && found.loading && <Spinner label="Loading users" />}
      {data && data.total === 0 && (
        <Empty title={kept ? "No user fits." : "There are no users that you may see."}>
          {kept && <p>Search for less.</p>}
        </Empty>
      )}
      {data && data.total > 0 && (
        <>
          <Table
            caption="Users"
            columns={columns}
            rows={data.items}
            id={(user) => user.name}
            sort={sort}
            setSort={(to) => setQuery({ sort: to, start: "" })}
          />
          <Pager
            start={start}
            limit={LIMIT}
            total={data.total}
            shown={data.items.length}
            next={data.next_start}
            what="users"
            go={(to) => setQuery({ start: to ? String(to) : "" })}
          />
        </>
      )}
      {open?.what === "invite" && <InviteUser close={close} />}
      {open?.what === "change" && <ChangeUser user={open.user} close={close} />}
      {open?.what === "reset" && <ResetUser user={open.user} close={close} />}
      {open?.what === "lock" && <LockDialog site={site} kind="user" target={open.user.name} close={close} />}
      {open?.what === "unlock" && (
        <Confirm
          title={`End the lockout of ${open.user.name}`}
          act="End the lockout"
          kind="primary"
          close={close}
          does={async () => {
            await ask("POST", fill("/webapi/users/:name/unlock", { name: open.user.name }));
          }}
        >
          <p>Logins are taken again at once, and the failed ones are forgotten. Password and second factors stay.</p>
        </Confirm>
      )}
      {open?.what === "lift" && (
        <Confirm
          title={`Lift the locks on ${open.user.name}`}
          act="Lift"
          kind="primary"
          close={close}
          does={async () => {
            for (const name of open.user.locks)
              await ask("DELETE", fill("/webapi/sites/:site/locks/:name", { site, name }));
          }}
        >
          <p>
            {counted(open.user.locks.length, "lock")} on this user or its roles will be removed: whoever they stopped
            may log in again.
          </p>
        </Confirm>
      )}
      {open?.what === "delete" && (
        <Confirm
          title={`Delete ${open.user.name}`}
          act="Delete"
          close={close}
          does={async (confirmed) => {
            const path = fill("/webapi/users/:name", { name: open.user.name });
            await ask("DELETE", confirmed ? `${path}?confirm=true` : path);
          }}
        >
          <p>
            The user is removed. Certificates of {open.user.name} are refused from now on, and open sessions end. What
            is on record stays.
          </p>
        </Confirm>
      )}
    </Page>
  );
}

export function factorKind(factor: Factor): string {
  if (factor.passwordless) return "passkey";
  return factor.kind === "webauthn" ? "key" : "code";
}

function standing(user: User): string {
  const parts: string[] = [];
  if (user.locks.length > 0) parts.push(`locked by ${counted(user.locks.length, "lock")}`);
  if (user.locked_out_until) parts.push("locked out after failed logins");
  if (user.link === "invite") parts.push("invited, not come yet");
  if (user.link === "reset") parts.push("has a link for a new password");
  if (!user.password && !user.link) parts.push("has no password");
  if (user.expires) parts.push(`ends ${new Date(user.expires).toLocaleString()}`);
  return parts.join("; ");
}
