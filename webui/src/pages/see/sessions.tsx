// Sessions that run now, as far as the user may join or see them.
import { follows } from "../../joining";
import { fill } from "../../router";
import { type Column, Empty, Page, Spinner, Table, Trouble, useAsk, When } from "../../ui";
import type { PageProps } from "../table";
import "./see.css";

interface Party {
  user: string;
  mode: string;
}

interface Running {
  sid: string;
  user: string;
  login: string;
  host_id: string;
  hostname: string;
  started: string;
  state: string;
  interactive: boolean;
  command: string;
  parties: Party[];
  missing: string;
  modes: string[];
  disputed: boolean;
  kube_cluster: string;
  pod_namespace: string;
  pod: string;
}

/** Where it runs: on a host, or in a pod. */
function where(one: Running): string {
  return one.kube_cluster ? `${one.kube_cluster}/${one.pod_namespace}/${one.pod}` : one.hostname || one.host_id;
}

const EVERY = 4000; // milliseconds between looks
const MODES: Record<string, string> = { observer: "Observe", peer: "Join", moderator: "Moderate" };

export default function SessionsPage({ params }: PageProps) {
  const site = params.site ?? "";
  const { data, error, loading } = useAsk<{ sessions: Running[] }>(
    fill("/webapi/sites/:site/sessions", { site }),
    EVERY,
  );
  const columns: Column<Running>[] = [
    { key: "user", title: "User", show: (one) => one.user },
    {
      key: "where",
      title: "Where",
      show: (one) => (
        <>
          {one.login}@{where(one)}
          {one.disputed && <div class="see-failed">Several hosts tell of this session.</div>}
        </>
      ),
    },
    { key: "started", title: "Since", show: (one) => <When time={one.started} /> },
    {
      key: "state",
      title: "State",
      show: (one) => (
        <>
          {one.state}
          {one.missing !== "" && <div class="hint">{one.missing}</div>}
        </>
      ),
    },
    {
      key: "parties",
      title: "In it",
      show: (one) =>
        one.parties.length > 0 ? one.parties.map((party) => `${party.user} (${party.mode})`).join(", ") : one.user,
    },
    {
      key: "what",
      title: "What",
      show: (one) => <span class="see-wrap">{one.command === "" ? "shell" : one.command}</span>,
    },
    {
      key: "join",
      title: "",
      show: (one) => (
        <span class="actions">
          {one.modes.map((mode) => (
            <a
              key={mode}
              class="button plain"
              target="_blank"
              rel="noopener"
              onClick={() => follows(one.sid, mode)}
              href={`${fill("/web/cluster/:site/session/:sid", { site, sid: one.sid })}?mode=${encodeURIComponent(mode)}`}
              aria-label={`${MODES[mode] ?? mode}: session of ${one.user} on ${where(one)}, in a new tab`}
            >
              {MODES[mode] ?? mode}
            </a>
          ))}
        </span>
      ),
    },
  ];
  const sessions = data?.sessions ?? [];
  return (
    <Page title="Active sessions">
      <Trouble error={error} />
      {sessions.length > 0 && (
        <Table caption="Active sessions" columns={columns} rows={sessions} id={(one) => `${one.sid}.${one.host_id}`} />
      )}
      {data && sessions.length === 0 && <Empty title="No session runs now that you may see" />}
      {!data && loading && <Spinner label="Loading sessions" />}
    </Page>
  );
}
