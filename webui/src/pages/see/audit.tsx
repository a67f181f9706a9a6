// The audit log: searched, followed while it grows, each event as it is stored, exported.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ask } from "../../api";
import { fill, setQuery, usePlace } from "../../router";
import {
  Button,
  type Column,
  Dialog,
  Empty,
  Field,
  Menu,
  Notice,
  Page,
  SelectField,
  Spinner,
  Table,
  Trouble,
  When,
} from "../../ui";
import type { PageProps } from "../table";
import { type AuditEvent, eventsOf, failed, GROUPS, idOf, MOST, merged, summary, text } from "./events";
import { type Filters, fromAddress, NONE, problem, RANGES, toAddress, toQuery } from "./filters";
import { type EventsWaiting, Missing } from "./missing";
import { copied, download } from "./raw";
import "./see.css";

interface Found {
  events: unknown[];
  startKey: string;
  waiting: EventsWaiting | null;
  notice: string; // why the events are not from the place that is searched first
}

const LIMIT = 100;
const FOLLOWED = 500; // events of one answer while the log is followed
const EVERY = 3000; // milliseconds between looks of the live tail
const RECENT = 10 * 60_000; // milliseconds that it looks back: what hosts deliver late is seen, too

export default function AuditPage({ params }: PageProps) {
  const site = params.site ?? "";
  const { query } = usePlace();
  const address = query.toString();
  const filters = fromAddress(new URLSearchParams(address));
  const [draft, setDraft] = useState(filters);
  const [events, setEvents] = useState<AuditEvent[]>([]);
  const [key, setKey] = useState("");
  const [busy, setBusy] = useState(true);
  const [error, setError] = useState<unknown>(null);
  const [waiting, setWaiting] = useState<EventsWaiting | null>(null);
  const [notice, setNotice] = useState("");
  const [live, setLive] = useState(false);
  const [fresh, setFresh] = useState(0);
  const [chosen, setChosen] = useState<AuditEvent | null>(null);
  const [said, setSaid] = useState("");
  const wrong = problem(filters);
  const turn = useRef(0);
  const shown = useRef(new Set<string>());
  shown.current = new Set(events.map(idOf));
  const path = fill("/webapi/sites/:site/events", { site });

  const load = useCallback(
    async (startKey: string) => {
      turn.current += 1;
      const mine = turn.current;
      setBusy(true);
      setError(null);
      try {
        const asked = toQuery(filters, new Date());
        asked.set("limit", String(LIMIT));
        if (startKey) asked.set("startKey", startKey);
        const found = await ask<Found>("GET", `${path}/search?${asked}`);
        if (turn.current !== mine) return;
        const more = eventsOf(found.events);
        setEvents((known) => (startKey ? merged(known, more) : more));
        setKey(found.startKey);
        setWaiting(found.waiting);
        setNotice(found.notice ?? "");
      } catch (problem) {
        if (turn.current === mine) setError(problem);
      } finally {
        if (turn.current === mine) setBusy(false);
      }
    },
    [address, path],
  );

  useEffect(() => {
    setDraft(filters);
    setEvents([]);
    setKey("");
    setFresh(0);
    if (!wrong) load("");
    else setBusy(false);
  }, [address, load]);

  useEffect(() => {
    if (!live || wrong) return;
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    async function look() {
      if (!document.hidden) {
        try {
          const now = new Date();
          const asked = toQuery({ ...filters, range: "all" }, now);
          asked.set("from", new Date(now.getTime() - RECENT).toISOString());
          asked.set("limit", String(FOLLOWED));
          let more: AuditEvent[] = [];
          // in a burst, as many pages as it takes to come to what is shown already
          while (more.length < MOST) {
            const found = await ask<Found>("GET", `${path}/search?${asked}`, undefined, {
              background: true,
              signal: stop.signal,
            });
            setWaiting(found.waiting);
            const page = eventsOf(found.events);
            more = merged(more, page);
            if (found.startKey === "" || page.some((event) => shown.current.has(idOf(event)))) break;
            asked.set("startKey", found.startKey);
          }
          setEvents((known) => {
            const all = merged(known, more);
            const before = new Set(known.map(idOf));
            setFresh((count) => count + all.filter((event) => !before.has(idOf(event))).length);
            return all;
          });
          setError(null);
        } catch (problem) {
          if (stop.signal.aborted) return;
          setError(problem);
        }
      }
      if (!stop.signal.aborted) timer = setTimeout(look, EVERY);
    }
    look();
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [live, address, path]);

  function apply(changed: Partial<Filters>) {
    const next = { ...draft, ...changed };
    setDraft(next);
    setQuery(toAddress(next), { replace: true });
  }

  async function save(format: "jsonl" | "csv") {
    setSaid("The export is being made …");
    try {
      const asked = toQuery(filters, new Date());
      asked.set("format", format);
      await download(`${path}/export?${asked}`, `events.${format}`);
      setSaid("The export is in your downloads.");
    } catch (problem) {
      setSaid("");
      setError(problem);
    }
  }

  const columns: Column<AuditEvent>[] = [
    { key: "time", title: "Time", show: (event) => <When time={event.time} /> },
    {
      key: "event",
      title: "Event",
      show: (event) => (
        <>
          {event.event}
          {failed(event) && <span class="see-failed"> failed</span>}
          <div class="hint">{event.code}</div>
        </>
      ),
    },
    { key: "user", title: "User", show: (event) => text(event, "user") },
    { key: "what", title: "What", show: (event) => <span class="see-wrap">{summary(event)}</span> },
    {
      key: "detail",
      title: "",
      show: (event) => (
        <Button kind="quiet" onClick={() => setChosen(event)} aria-label={`Details of ${event.event}, ${event.time}`}>
          Details
        </Button>
      ),
    },
  ];

  const filtered = Object.values(toAddress(filters)).some((value) => value !== "");
  return (
    <Page
      title="Audit log"
      actions={
        <>
          <label class="see-switch">
            <input
              type="checkbox"
              checked={live}
              onChange={(event) => {
                setFresh(0);
                setLive(event.currentTarget.checked);
              }}
            />{" "}
            Live
          </label>
          <Menu
            kind="plain"
            label="Export"
            items={[
              { label: "JSON lines, as stored", act: () => save("jsonl") },
              { label: "Table (CSV)", act: () => save("csv") },
            ]}
          />
        </>
      }
    >
      <form
        class="see-filters"
        onSubmit={(event) => {
          event.preventDefault();
          apply({});
        }}
      >
        <SelectField label="Time" value={draft.range} set={(range) => apply({ range })}>
          {RANGES.map((range) => (
            <option key={range.value} value={range.value}>
              {range.label}
            </option>
          ))}
        </SelectField>
        {draft.range === "custom" && (
          <>
            <Field
              label="From"
              type="datetime-local"
              value={draft.from}
              set={(from) => apply({ from })}
              {...(wrong ? { problem: wrong } : {})}
            />
            <Field label="To" type="datetime-local" value={draft.to} set={(to) => apply({ to })} />
          </>
        )}
        <Field label="User" value={draft.user} set={(user) => setDraft({ ...draft, user })} maxLength={200} />
        <Field label="Host" value={draft.host} set={(host) => setDraft({ ...draft, host })} maxLength={200} />
        <Field label="Text" value={draft.text} set={(text) => setDraft({ ...draft, text })} maxLength={200} />
        <div class="see-go">
          <Button kind="primary" type="submit" busy={busy}>
            Search
          </Button>
          {filtered && <Button onClick={() => apply({ ...NONE })}>Clear</Button>}
        </div>
        <details class="see-types">
          <summary>{filters.types.length === 0 ? "All types of events" : `Types: ${filters.types.join(", ")}`}</summary>
          <div>
            {GROUPS.map((group) => (
              <fieldset key={group.label}>
                <legend>{group.label}</legend>
                {group.types.map((type) => (
                  <label key={type}>
                    <input
                      type="checkbox"
                      checked={draft.types.includes(type)}
                      onChange={(event) =>
                        apply({
                          types: event.currentTarget.checked
                            ? [...draft.types, type]
                            : draft.types.filter((one) => one !== type),
                        })
                      }
                    />{" "}
                    {type}
                  </label>
                ))}
              </fieldset>
            ))}
          </div>
        </details>
      </form>
      {filters.sid !== "" && <Notice>Only events of session {filters.sid}.</Notice>}
      {said !== "" && <Notice>{said}</Notice>}
      <Trouble error={error} />
      <Missing waiting={waiting} />
      {notice !== "" && <Notice>{notice}.</Notice>}
      <p class="hint" role="status">
        {live ? `Following the log: ${fresh} new.` : ""}
      </p>
      {events.length > 0 ? (
        <Table caption="Events" columns={columns} rows={events} id={idOf} />
      ) : (
        !busy && !error && !wrong && <Empty title="No event fits these filters" />
      )}
      {busy && <Spinner label="Searching" />}
      {!busy && key !== "" && events.length < MOST && <Button onClick={() => load(key)}>Older events</Button>}
      {events.length >= MOST && (
        <Notice>Only {MOST} events are shown. Narrow the search, or export all that fit it.</Notice>
      )}
      {chosen && <EventDialog event={chosen} site={site} close={() => setChosen(null)} />}
    </Page>
  );
}

function EventDialog({ event, site, close }: { event: AuditEvent; site: string; close: () => void }) {
  const [said, setSaid] = useState("");
  const whole = JSON.stringify(event, null, 2);
  const sid = text(event, "sid");
  const isSession = /^[0-9a-f-]{36}$/.test(sid);
  return (
    <Dialog title={event.event} close={close}>
      <p>{summary(event)}</p>
      {isSession && (
        <p class="actions">
          <a href={fill("/web/cluster/:site/recording/:sid", { site, sid })}>Its recording</a>
          <a href={`${fill("/web/cluster/:site/audit", { site })}?range=all&sid=${sid}`} onClick={close}>
            All events of this session
          </a>
        </p>
      )}
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by keyboard */}
      <section class="see-raw" tabIndex={0} aria-label="The event as JSON">
        <pre>{whole}</pre>
      </section>
      <div class="actions">
        <span role="status">{said}</span>
        <Button
          onClick={async () => setSaid((await copied(whole)) ? "Copied." : "The browser does not let this page copy.")}
        >
          Copy
        </Button>
        <Button kind="primary" onClick={close}>
          Close
        </Button>
      </div>
    </Dialog>
  );
}
