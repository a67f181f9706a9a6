// What the routes of administration answer (docs/api.md, "Administration in a browser").

export interface Factor {
  name: string;
  kind: string;
  passwordless: boolean; // a passkey
  added: string | null;
  last_used: string | null;
}

export interface User {
  name: string;
  roles: string[];
  traits: Record<string, string[]>;
  revision: number;
  created: string | null;
  created_by: string;
  expires: string | null;
  password: boolean;
  factors: Factor[];
  last_login: string | null;
  locked_out_until: string | null;
  link: string;
  link_expires: string | null;
  locks: string[];
}

export interface Users {
  items: User[];
  total: number;
  next_start: number;
}

export interface Link {
  user: string;
  url: string;
  expires: string;
}

export interface RoleSummary {
  name: string;
  version: string;
  description: string;
  logins: string[];
  node_labels: Record<string, string[]>;
  rules: number;
  remarks: number;
}

export interface Listed<T> {
  items: T[];
  more: boolean; // than are shown
}

export interface Place {
  line: number;
  path: string;
  found?: string;
  allowed?: string;
  text?: string;
}

export interface Sentence {
  sort: "grant" | "term" | "deny";
  text: string;
  field: string;
}

export interface Remark {
  level: "warning" | "note";
  check: string;
  field: string;
  message: string;
  hint: string;
}

export interface Touches {
  users: string[];
  open_sessions: number;
  ending: { user: string; login: string; hostname: string }[];
  changes: { user: string; login: string; hostname: string; gained: boolean }[];
  more: boolean;
  hosts_left_out: number;
}

export interface Checked {
  ok: boolean;
  yaml: string;
  name?: string;
  problems: Place[];
  notices?: Place[];
  document?: Document;
  sentences?: Sentence[];
  remarks?: Remark[];
  touches?: Touches;
  touches_unknown?: string;
}

export type Document = { [key: string]: unknown };

export interface Role extends Checked {
  name: string;
  revision: number;
  document: Document;
}

export interface Token {
  id: string;
  roles: string[];
  labels: Record<string, string>;
  expires: string | null;
  single_use: boolean;
  used_by: string;
  cluster: string;
  static: boolean;
}

export interface MadeToken {
  id: string;
  token: string;
  roles: string[];
  expires: string;
  single_use: boolean;
  ca_pins: string[];
  command?: string;
  document?: string;
  warning: string;
}

export interface Lock {
  name: string;
  kind: string;
  target: string;
  message: string;
  expires: string | null;
  in_force: boolean;
}

export interface Trusted {
  name: string;
  last_exchange: string | null;
  enabled: boolean;
  web_proxy_addr: string;
  tunnel_addr: string;
  ca_pins: string[];
  role_map: { remote: string; local: string[] }[];
  problem: string;
}

export interface Remote {
  name: string;
  last_exchange: string | null;
  connection: string;
  last_heartbeat: string | null;
  labels: Record<string, string>;
}

export interface Clusters {
  trusted: Trusted[] | null;
  remote: Remote[] | null;
}

export interface Key {
  use: string;
  state: string;
  algorithm: string;
  fingerprint: string;
}

export interface Authority {
  kind: string;
  rotation: string;
  keys: number;
  phase: string;
  mode: string;
  rotation_id: string;
  started: string | null;
  last_rotated: string | null;
  schedule: Record<string, string>;
  ca_pins: string[];
  fingerprints: Key[] | null;
}

export interface WaitedFor {
  authority: string;
  host_id: string;
  hostname: string;
  service: string;
  reached: string;
}

export interface Authorities {
  cluster: string;
  ca_pins: string[];
  authorities: Authority[];
  waiting: WaitedFor[] | null;
}

export interface LeftBehind {
  authority: string;
  type: string; // user, host, cluster
  subject: string;
  name: string;
  role: string;
  serial: string;
  expires: string | null;
  why: string;
  remedy: string;
}

export interface RotationPlan {
  ends: Record<string, string>;
  left_behind: LeftBehind[];
  more: number;
}

export interface Service {
  id: string;
  hostname: string;
  addr: string;
  version: string;
  started: string | null;
  silent_for: number;
}

export interface Diagnostics {
  cluster: string;
  version: string;
  proxy_version: string;
  now: string;
  proxy_ahead: number;
  auth_servers: Service[] | null;
  proxies: Service[] | null;
  nodes: {
    total: number;
    lost: number;
    tunnels: number;
    agentless: number;
    versions: Record<string, number>;
    named: Service[];
  } | null;
  audit: Record<string, unknown> | null;
}
