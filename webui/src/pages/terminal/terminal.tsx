// Terminals on a host, in tabs, and the files that go to and come from it.
import "./terminal.css";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { ask } from "../../api";
import { chooses, wasChosen } from "../../joining";
import { fill, setQuery, usePlace } from "../../router";
import { Button, Menu, Page, Spinner, Tabs, Trouble, useAsk } from "../../ui";
import type { PageProps } from "../table";
import { Files } from "./files";
import { type Handle, OneTerminal } from "./one";
import { bounded, keep, LOOKS, type Settings, settings } from "./settings";
import type { Place } from "./socket";
import { plain, windowTitle } from "./title";

interface Running {
  sessions: {
    sid: string;
    host_id: string;
    hostname: string;
    join_at: string;
    kube_cluster: string;
    pod_namespace: string;
    pod: string;
    login: string;
    user: string;
    modes: string[];
  }[];
}

interface Nodes {
  items: { id: string; hostname: string }[];
}

export default function TerminalPage({ params }: PageProps) {
  const { site = "", host_id = "", login = "", sid } = params;
  if (sid !== undefined) return <Join key={sid} site={site} sid={sid} />;
  return <OnNode site={site} host_id={host_id} login={login} />;
}

function OnNode({ site, host_id, login }: { site: string; host_id: string; login: string }) {
  const [name, setName] = useState("");
  useEffect(() => {
    const query = new URLSearchParams({ search: host_id, limit: "5" });
    ask<Nodes>("GET", `${fill("/webapi/sites/:site/nodes", { site })}?${query}`).then(
      ({ items }) => setName(items.find((one) => one.id === host_id)?.hostname ?? ""),
      () => {}, // the terminal itself says what is wrong
    );
  }, [site, host_id]);
  const place = useMemo(() => ({ site, server_id: host_id, login }), [site, host_id, login]);
  return <Terminals key={`${site} ${host_id} ${login}`} place={place} host={name || host_id.slice(0, 8)} />;
}

const MODES: Record<string, string> = { observer: "Watch", peer: "Type along", moderator: "Moderate" };

function Join({ site, sid }: { site: string; sid: string }) {
  const { query } = usePlace();
  const mode = query.get("mode") ?? "";
  const [agreed, setAgreed] = useState(() => (wasChosen(sid, mode) ? mode : ""));
  const found = useAsk<Running>(fill("/webapi/sites/:site/sessions/:sid", { site, sid }));
  const session = found.data?.sessions[0];
  const host = session?.kube_cluster
    ? `${session.kube_cluster}/${session.pod_namespace}/${session.pod}`
    : (session?.hostname ?? "");
  function join(as: string) {
    chooses(sid, as);
    setAgreed(as);
    setQuery({ mode: as }, { replace: true });
  }
  if (agreed === mode && session?.modes.includes(mode)) {
    const place = { site, server_id: session.join_at || session.host_id, login: session.login, sid, mode };
    return <Terminals key={sid} place={place} host={host} />;
  }
  return (
    <main id="main" class="alone" tabIndex={-1}>
      <Page title="Join a session">
        <Trouble error={found.error} />
        {!session && found.loading && <Spinner label="Loading the session" />}
        {session && (
          <>
            <p>
              A session of {plain(session.user)} as {plain(session.login)} on {plain(host)}.
            </p>
            {session.modes.length === 0 && <p>Your roles do not let you join it.</p>}
            <div class="actions">
              {session.modes.map((one) => (
                <Button key={one} onClick={() => join(one)}>
                  {MODES[one] ?? one}
                </Button>
              ))}
            </div>
          </>
        )}
      </Page>
    </main>
  );
}

interface Tab {
  key: string;
  resume: string;
  title: string;
}

// What tabs there are survives a reload, and what each comes back with.
function keptTabs(name: string): Tab[] {
  try {
    const kept: unknown = JSON.parse(sessionStorage.getItem(name) ?? "[]");
    if (Array.isArray(kept) && kept.length > 0 && kept.length <= 32)
      return kept.map((one: { resume?: unknown }) => tab(typeof one.resume === "string" ? one.resume : ""));
  } catch {
    // none that can be read
  }
  return [tab("")];
}

let count = 0;

function tab(resume: string): Tab {
  count += 1;
  return { key: `t${count}`, resume, title: "" };
}

function Terminals({ place, host }: { place: Place; host: string }) {
  const kept = `terminals ${place.site} ${place.server_id} ${place.login} ${place.sid ?? ""} ${place.mode ?? ""}`;
  const [tabs, setTabs] = useState(() => keptTabs(kept));
  const [chosen, setChosen] = useState(() => tabs[0]?.key ?? "");
  const [look, setLook] = useState(settings);
  const [files, setFiles] = useState(false);
  const [dropped, setDropped] = useState<File[]>([]);
  const handle = useRef<Handle | null>(null);
  const bar = useRef<HTMLDivElement>(null);
  const [, themed] = useState(0);
  const now = tabs.find((one) => one.key === chosen);

  useEffect(() => {
    document.title = windowTitle(place.login, host, now?.title ?? "");
  }, [place.login, host, now?.title]);
  useEffect(() => {
    try {
      sessionStorage.setItem(kept, JSON.stringify(tabs.map(({ resume }) => ({ resume }))));
    } catch {
      // storage is switched off: terminals do not survive a reload
    }
  }, [tabs]);
  useEffect(() => {
    const media = window.matchMedia("(prefers-color-scheme: dark)");
    const changed = () => {
      themed((times) => times + 1);
      setLook((former) => ({ ...former }));
    };
    media.addEventListener("change", changed);
    window.addEventListener("themechange", changed);
    return () => {
      media.removeEventListener("change", changed);
      window.removeEventListener("themechange", changed);
    };
  }, []);

  function change(key: string, to: Partial<Tab>) {
    setTabs((all) => all.map((one) => (one.key === key ? { ...one, ...to } : one)));
  }

  function set(to: Settings) {
    setLook(to);
    keep(to);
  }

  function add() {
    const made = tab("");
    setTabs((all) => [...all, made]);
    setChosen(made.key);
  }

  function close() {
    handle.current?.quit();
    const left = tabs.filter((one) => one.key !== chosen);
    const next = left.length > 0 ? left : [tab("")];
    setTabs(next);
    setChosen(
      next[
        Math.max(
          0,
          Math.min(
            tabs.findIndex((one) => one.key === chosen),
            next.length - 1,
          ),
        )
      ]?.key ?? "",
    );
  }

  function leave() {
    bar.current?.querySelector<HTMLElement>("button")?.focus();
  }

  return (
    <main
      id="main"
      class="terminals"
      tabIndex={-1}
      onKeyDown={(event) => {
        if (event.ctrlKey && event.key === "F6" && !event.defaultPrevented) {
          event.preventDefault();
          handle.current?.focus();
        }
      }}
      onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => {
        event.preventDefault();
        const given = [...(event.dataTransfer?.files ?? [])];
        if (given.length === 0) return;
        setFiles(true);
        setDropped(given);
      }}
    >
      <div class="terminal-bar" ref={bar}>
        <h1>
          {plain(place.login)}@{plain(host)}
        </h1>
        <div class="actions" role="toolbar" aria-label="Terminal">
          {!place.sid && <Button onClick={add}>New tab</Button>}
          <Button onClick={close}>{tabs.length > 1 ? "Close tab" : "End session"}</Button>
          <Button onClick={() => handle.current?.find()}>Search</Button>
          <Button onClick={() => handle.current?.copy()}>Copy</Button>
          {!place.sid && (
            <Button aria-expanded={files} onClick={() => setFiles(!files)}>
              Files
            </Button>
          )}
          <Button aria-label="A- smaller text" onClick={() => set({ ...look, size: bounded(look.size - 1) })}>
            A-
          </Button>
          <Button aria-label="A+ larger text" onClick={() => set({ ...look, size: bounded(look.size + 1) })}>
            A+
          </Button>
          <Menu
            label="Colours"
            items={LOOKS.map((one) => ({
              label: { system: "As the page", light: "Light", dark: "Dark" }[one],
              checked: look.look === one,
              act: () => set({ ...look, look: one }),
            }))}
          />
          <a href={fill("/web/cluster/:site/nodes", { site: place.site })}>Nodes</a>
        </div>
        <p class="hint">
          <kbd>Ctrl+F6</kbd> leaves the terminal and goes back to it · <kbd>Ctrl+Shift+C</kbd> and <kbd>V</kbd> copy and
          paste · <kbd>Ctrl+Shift+F</kbd> searches
        </p>
      </div>
      <div class={files ? "terminal-work with-files" : "terminal-work"}>
        <div class="terminal-tabs">
          <Tabs
            label="Terminals"
            tabs={tabs.map(({ key, title }, at) => ({ key, title: `${at + 1}${title ? ` ${plain(title)}` : ""}` }))}
            chosen={chosen}
            choose={setChosen}
          >
            {tabs.map(({ key, resume }) => (
              <OneTerminal
                key={key}
                place={place}
                resume={resume}
                kept={(resume) => change(key, { resume })}
                shown={key === chosen}
                chosen={look}
                titled={(title) => change(key, { title })}
                leave={leave}
                handle={key === chosen ? handle : null}
              />
            ))}
          </Tabs>
        </div>
        {files && <Files place={place} dropped={dropped} close={() => setFiles(false)} />}
      </div>
    </main>
  );
}
