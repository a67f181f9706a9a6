// Every page: one row each. A page is a chunk of its own, loaded when it is opened; its module's default export is a
// component that gets `params` (from the path).
//
//   path    pattern below /web; `:name` is a parameter. `:site` is filled with the cluster in the menu's links.
//   title   in the menu
//   group   of the menu; a page without one has no entry there
//   needs   "kind.verb" of the user's `acl` (GET /webapi/sites/:site/context) that shows the entry
//   frame   "app": menu and heading around it (users only); "bare": nothing around it (users only);
//           "open": nothing around it, and no login needed
import type { ComponentType } from "preact";
import type { Params } from "../router";

export interface PageProps {
  params: Params;
}

export type Group = "Work" | "See" | "Administer";
export const GROUPS: readonly Group[] = ["Work", "See", "Administer"];

export interface Row {
  path: string;
  title: string;
  group?: Group;
  needs?: string;
  frame?: "app" | "bare" | "open";
  load: () => Promise<{ default: ComponentType<PageProps> }>;
}

const OPEN: Row[] = [
  { path: "/web/signin", title: "Sign in", frame: "open", load: () => import("./signin/signin") },
  { path: "/web/invite/:token", title: "Invitation", frame: "open", load: () => import("./invite/invite") },
  { path: "/web/reset/:token", title: "New password", frame: "open", load: () => import("./invite/invite") },
];

const WORK: Row[] = [
  { path: "/web/cluster/:site/nodes", title: "Nodes", group: "Work", load: () => import("./nodes/nodes") },
  { path: "/web/cluster/:site/kube", title: "Kubernetes", group: "Work", load: () => import("./kube/kube") },
  {
    path: "/web/cluster/:site/node/:host_id/:login",
    title: "Terminal",
    frame: "bare",
    load: () => import("./terminal/terminal"),
  },
  {
    path: "/web/cluster/:site/session/:sid",
    title: "Join a session",
    frame: "bare",
    load: () => import("./terminal/terminal"),
  },
];

const SEE: Row[] = [
  {
    path: "/web/cluster/:site/dashboard",
    title: "Dashboard",
    group: "See",
    needs: "event.list",
    load: () => import("./see/dashboard"),
  },
  { path: "/web/cluster/:site/sessions", title: "Active sessions", group: "See", load: () => import("./see/sessions") },
  { path: "/web/cluster/:site/recordings", title: "Recordings", group: "See", load: () => import("./see/recordings") },
  {
    path: "/web/cluster/:site/audit",
    title: "Audit log",
    group: "See",
    needs: "event.list",
    load: () => import("./see/audit"),
  },
  {
    path: "/web/cluster/:site/recording/:sid",
    title: "Recording",
    load: () => import("./see/player/player"),
  },
];

const ADMINISTER: Row[] = [
  {
    path: "/web/cluster/:site/users",
    title: "Users",
    group: "Administer",
    needs: "user.list",
    load: () => import("./admin/users"),
  },
  {
    path: "/web/cluster/:site/roles",
    title: "Roles",
    group: "Administer",
    needs: "role.list",
    load: () => import("./admin/roles"),
  },
  { path: "/web/cluster/:site/roles/:name", title: "Role", load: () => import("./admin/role") },
  { path: "/web/cluster/:site/new-role", title: "New role", load: () => import("./admin/role") },
  {
    path: "/web/cluster/:site/tokens",
    title: "Join tokens",
    group: "Administer",
    needs: "token.list",
    load: () => import("./admin/tokens"),
  },
  {
    path: "/web/cluster/:site/locks",
    title: "Locks",
    group: "Administer",
    needs: "lock.list",
    load: () => import("./admin/locks"),
  },
  {
    path: "/web/cluster/:site/trusted-clusters",
    title: "Trusted clusters",
    group: "Administer",
    needs: "trusted_cluster.list",
    load: () => import("./admin/clusters"),
  },
  {
    path: "/web/cluster/:site/authorities",
    title: "Authorities",
    group: "Administer",
    needs: "role.list",
    load: () => import("./admin/authorities"),
  },
  {
    path: "/web/cluster/:site/diagnostics",
    title: "Diagnostics",
    group: "Administer",
    needs: "role.list",
    load: () => import("./admin/diagnostics"),
  },
];

const ACCOUNT: Row[] = [{ path: "/web/account", title: "Account", load: () => import("./account/account") }];

export const PAGES: readonly Row[] = [...OPEN, ...WORK, ...SEE, ...ADMINISTER, ...ACCOUNT];
