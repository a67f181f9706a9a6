// Recordings: the newest first, and those that showed a text.
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { ask } from "../../api";
import { fill, setQuery, usePlace } from "../../router";
import { Button, type Column, Empty, Field, Notice, Page, SelectField, Spinner, Table, Trouble, When } from "../../ui";
import type { PageProps } from "../table";
import { fromAddress, NONE, RANGES, toAddress, toQuery } from "./filters";
import { clock } from "./player/track";
import { bytes } from "./size";
import "./see.css";

interface Hit {
  time: number;
  kind: string;
  text: string;
}

interface Recording {
  name: string;
  sid: string;
  started: string;
  user: string;
  login: string;
  node: string;
  hostname: string;
  kind: string;
  command: string;
  size?: number;
  participants?: string[];
  hits?: Hit[];
  count?: number;
  whole?: boolean;
}

interface Found {
  items: Recording[];
  next_key: string;
  searched?: number;
  left_out?: { sid: string; why: string }[];
}

const LIMIT = 50;
const ENOUGH = 20; // matches after which a search waits to be asked for more
const KINDS = ["shell", "exec", "transfer"];

export default function RecordingsPage({ params }: PageProps) {
  const site = params.site ?? "";
  const { query } = usePlace();
  const address = query.toString();
  const place = new URLSearchParams(address);
  const filters = fromAddress(place);
  const kind = KINDS.includes(place.get("kind") ?? "") ? (place.get("kind") as string) : "";
  const range = place.has("range") ? filters.range : "all";
  const [draft, setDraft] = useState({ ...filters, range, kind });
  const [items, setItems] = useState<Recording[]>([]);
  const [key, setKey] = useState("");
  const [searched, setSearched] = useState(0);
  const [leftOut, setLeftOut] = useState(0);
  const [busy, setBusy] = useState(true);
  const [error, setError] = useState<unknown>(null);
  const stop = useRef<AbortController | null>(null);

  const load = useCallback(
    async (begin: string) => {
      stop.current?.abort();
      const mine = new AbortController();
      stop.current = mine;
      setBusy(true);
      setError(null);
      const text = filters.text.trim();
      const path = fill("/webapi/sites/:site/recordings", { site });
      let next = begin;
      let count = 0;
      try {
        for (;;) {
          const asked = toQuery({ ...filters, range, text: "", types: [], sid: "" }, new Date());
          if (kind) asked.set("kind", kind);
          if (next) asked.set("startKey", next);
          asked.set("limit", String(text ? ENOUGH : LIMIT));
          if (text) asked.set("text", text);
          const found = await ask<Found>("GET", `${path}${text ? "/search" : ""}?${asked}`, undefined, {
            signal: mine.signal,
          });
          if (mine.signal.aborted) return;
          setItems((known) => [...known, ...found.items]);
          setSearched((known) => known + (found.searched ?? 0));
          setLeftOut((known) => known + (found.left_out?.length ?? 0));
          count += found.items.length;
          const same = found.next_key === next && found.items.length === 0;
          next = found.next_key;
          setKey(next);
          if (!text || next === "" || count >= ENOUGH || same) break;
        }
      } catch (problem) {
        if (!mine.signal.aborted) setError(problem);
      } finally {
        if (!mine.signal.aborted) setBusy(false);
      }
    },
    [address, site],
  );

  useEffect(() => {
    setDraft({ ...filters, range, kind });
    setItems([]);
    setKey("");
    setSearched(0);
    setLeftOut(0);
    load("");
    return () => stop.current?.abort();
  }, [address, load]);

  function apply(changed: Partial<typeof draft>) {
    const next = { ...draft, ...changed };
    setDraft(next);
    setQuery({ ...toAddress(next), range: next.range === "all" ? "" : next.range, kind: next.kind }, { replace: true });
  }

  const player = (one: Recording, time?: number) => {
    const to = fill("/web/cluster/:site/recording/:sid", { site, sid: one.name || one.sid });
    const extra = new URLSearchParams();
    if (time !== undefined) extra.set("t", (time / 1_000_000).toFixed(3));
    if (filters.text) extra.set("q", filters.text);
    const text = extra.toString();
    return text ? `${to}?${text}` : to;
  };
  const columns: Column<Recording>[] = [
    { key: "started", title: "Began", show: (one) => <When time={one.started} /> },
    {
      key: "user",
      title: "Users",
      show: (one) => (one.participants?.length ? one.participants.join(", ") : one.user),
    },
    { key: "where", title: "Where", show: (one) => `${one.login}@${one.hostname || one.node}` },
    {
      key: "what",
      title: "What",
      show: (one) => (
        <>
          <span class="see-wrap">{one.command || one.kind || "shell"}</span>
          {one.size !== undefined && <div class="hint">{bytes(one.size)}</div>}
          {one.hits && (
            <ul class="see-hits">
              {one.hits.map((hit) => (
                <li key={`${hit.time} ${hit.text}`}>
                  <a href={player(one, hit.time)}>{clock(hit.time)}</a> <code>{hit.text}</code>
                </li>
              ))}
              {(one.count ?? 0) > one.hits.length && <li>and {(one.count ?? 0) - one.hits.length} lines more</li>}
              {one.whole === false && <li>It showed more than was searched.</li>}
            </ul>
          )}
        </>
      ),
    },
    {
      key: "play",
      title: "",
      show: (one) => (
        <a
          class="button plain"
          href={player(one)}
          aria-label={`Play the session of ${one.user} on ${one.hostname || one.node}, ${one.started}`}
        >
          Play
        </a>
      ),
    },
  ];

  const filtered = address !== "";
  return (
    <Page title="Recordings">
      <form
        class="see-filters"
        onSubmit={(event) => {
          event.preventDefault();
          apply({});
        }}
      >
        <SelectField label="Time" value={draft.range} set={(chosen) => apply({ range: chosen })}>
          {RANGES.filter((one) => one.value !== "custom").map((one) => (
            <option key={one.value} value={one.value}>
              {one.label}
            </option>
          ))}
        </SelectField>
        <SelectField label="Kind" value={draft.kind} set={(chosen) => apply({ kind: chosen })}>
          <option value="">All</option>
          <option value="shell">Shells</option>
          <option value="exec">Commands</option>
          <option value="transfer">File transfers</option>
        </SelectField>
        <Field label="User" value={draft.user} set={(user) => setDraft({ ...draft, user })} maxLength={200} />
        <Field label="Host" value={draft.host} set={(host) => setDraft({ ...draft, host })} maxLength={200} />
        <Field
          label="Text that was shown"
          value={draft.text}
          set={(text) => setDraft({ ...draft, text })}
          maxLength={200}
        />
        <div class="see-go">
          <Button kind="primary" type="submit" busy={busy}>
            Search
          </Button>
          {filtered && <Button onClick={() => apply({ ...NONE, range: "all", kind: "" })}>Clear</Button>}
        </div>
      </form>
      <Trouble error={error} />
      <p class="hint" role="status">
        {filters.text && !busy ? `${searched} sessions searched.` : ""}
      </p>
      {leftOut > 0 && (
        <Notice kind="warn">
          {leftOut} {leftOut === 1 ? "session was" : "sessions were"} not searched, or not to the end: still being
          prepared, broken, or too long.
        </Notice>
      )}
      {items.length > 0 ? (
        <Table caption="Recordings" columns={columns} rows={items} id={(one) => one.name || one.sid} />
      ) : (
        !busy && !error && <Empty title={filtered ? "No recording fits" : "There is no recording that you may play"} />
      )}
      {busy && <Spinner label={filters.text ? "Searching" : "Loading recordings"} />}
      {!busy && key !== "" && (
        <Button onClick={() => load(key)}>{filters.text ? "Search further" : "Older recordings"}</Button>
      )}
    </Page>
  );
}
