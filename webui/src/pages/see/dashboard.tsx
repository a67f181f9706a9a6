// What happened over time, as numbers and plots.
import { fill, setQuery, usePlace } from "../../router";
import { Notice, Page, Spinner, Tabs, Trouble, useAsk } from "../../ui";
import type { PageProps } from "../table";
import { buckets, type Hour, SERIES } from "./counts";
import { type EventsWaiting, Missing } from "./missing";
import { Plot } from "./plot";
import "./see.css";

interface Dashboard {
  start: string;
  end: string;
  hours: Hour[];
  complete: boolean;
  waiting: EventsWaiting | null;
}

const RANGES = [
  { key: "24h", title: "24 hours", hours: 24, by: "hour" },
  { key: "7d", title: "7 days", hours: 7 * 24, by: "day" },
  { key: "30d", title: "30 days", hours: 30 * 24, by: "day" },
] as const;
const EVERY = 30_000; // milliseconds between looks
const SOON = 1000; // while auth still counts

export default function DashboardPage({ params }: PageProps) {
  const site = params.site ?? "";
  const { query } = usePlace();
  const range = RANGES.find((one) => one.key === query.get("range")) ?? RANGES[0];
  const path = `${fill("/webapi/sites/:site/dashboard", { site })}?hours=${range.hours}`;
  return (
    <Page title="Dashboard">
      <Tabs
        label="Time"
        tabs={RANGES.map(({ key, title }) => ({ key, title }))}
        chosen={range.key}
        choose={(key) => setQuery({ range: key === "24h" ? "" : key }, { replace: true })}
      >
        <Numbers key={path} path={path} by={range.by} site={site} />
      </Tabs>
    </Page>
  );
}

function Numbers({ path, by, site }: { path: string; by: "hour" | "day"; site: string }) {
  const first = useAsk<Dashboard>(path);
  const complete = first.data?.complete ?? true;
  const later = useAsk<Dashboard>(first.data ? path : "", complete ? EVERY : SOON);
  const data = later.data ?? first.data;
  const running = useAsk<{ sessions: unknown[] }>(fill("/webapi/sites/:site/sessions", { site }), EVERY);
  if (!data) return first.error ? <Trouble error={first.error} /> : <Spinner label="Counting" />;
  const made = buckets(data.hours, new Date(data.start), new Date(data.end), by);
  const of = (...names: string[]) => SERIES.filter(({ name }) => names.includes(name));
  return (
    <>
      <Trouble error={later.error} />
      <Missing waiting={data.waiting} />
      {!data.complete && <Notice>Older events are still being counted; the numbers grow.</Notice>}
      <p>
        Sessions that run now and that you may see:{" "}
        <a href={fill("/web/cluster/:site/sessions", { site })}>{running.data?.sessions.length ?? "…"}</a>
      </p>
      <div class="see-plots">
        <Plot title="Sessions" buckets={made} series={of("sessions", "commands")} />
        <Plot title="Logins" buckets={made} series={of("logins", "failed_logins")} />
        <Plot title="Refusals" buckets={made} series={of("denied")} />
      </div>
    </>
  );
}
