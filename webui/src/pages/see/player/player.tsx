// The player of recordings.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { fill, usePlace } from "../../../router";
import { Button, type Column, Menu, Notice, Page, SelectField, Spinner, Table, Trouble, When } from "../../../ui";
import type { PageProps } from "../../table";
import { copied, download } from "../raw";
import { bytes } from "../size";
import { hits, type Line, linesOf, nextHit } from "./found";
import { load, pause } from "./load";
import { begun, type Playing, pressed, SPEEDS, sought, ticked, toggled } from "./playing";
import { Screen } from "./screen";
import { clock, type FileMove, type Mark, spoken, type Track } from "./track";
import "../see.css";
import "./player.css";

const DRAWN = 100; // milliseconds between two times that the clock and the slider are drawn
const AFTER = 50_000; // microseconds behind a line's beginning, when it can be read
const MOST = 200; // entries of a list that are shown

export default function RecordingPage({ params }: PageProps) {
  const site = params.site ?? "";
  const sid = params.sid ?? "";
  const [track, setTrack] = useState<Track | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [so, setSo] = useState(0);

  useEffect(() => {
    const stop = new AbortController();
    setTrack(null);
    setError(null);
    setSo(0);
    load(fill("/webapi/sites/:site/sessions/:sid/stream", { site, sid }), stop.signal, setSo).then(
      (found) => {
        if (!stop.signal.aborted) setTrack(found);
      },
      (problem: unknown) => {
        if (!stop.signal.aborted) setError(problem);
      },
    );
    return () => stop.abort();
  }, [site, sid]);

  return (
    <Page title="Recording" actions={<Exports site={site} sid={sid} fail={setError} />}>
      <Trouble error={error} />
      {!track && !error && <Spinner label={so > 0 ? `Loading: ${bytes(so)}` : "Loading the recording"} />}
      {track && <Player key={sid} track={track} />}
    </Page>
  );
}

function Exports({ site, sid, fail }: { site: string; sid: string; fail: (error: unknown) => void }) {
  const [busy, setBusy] = useState(false);
  async function save(form: string, ending: string) {
    setBusy(true);
    fail(null);
    try {
      await download(fill("/webapi/sites/:site/recordings/:sid/", { site, sid }) + form, `recording.${ending}`);
    } catch (problem) {
      fail(problem);
    } finally {
      setBusy(false);
    }
  }
  return (
    <>
      <span role="status">{busy ? "Making the file …" : ""}</span>
      <Menu
        kind="plain"
        label="Download"
        items={[
          { label: "asciicast (.cast)", act: () => save("cast", "cast") },
          { label: "Page that plays it (.html)", act: () => save("html", "html") },
          { label: "Text", act: () => save("text", "txt") },
        ]}
      />
    </>
  );
}

function Player({ track }: { track: Track }) {
  const { query } = usePlace();
  const root = useRef<HTMLDivElement>(null);
  const screen = useRef<Screen | null>(null);
  const state = useRef<Playing>(begun(track.end));
  const [seen, setSeen] = useState(state.current);
  const [note, setNote] = useState("");
  const [wanted, setWanted] = useState(query.get("q") ?? "");
  const [found, setFound] = useState<Line[] | null>(null);
  const [at, setAt] = useState(-1);
  const [searching, setSearching] = useState(false);
  const lines = useRef<Promise<Line[]> | null>(null);
  const { header } = track;
  const silent = track.steps.length === 0; // nothing was shown: files moved, ports forwarded

  useEffect(() => {
    if (!root.current) return;
    const made = new Screen(track, root.current);
    screen.current = made;
    const begin = Number(query.get("t") ?? "0");
    state.current = sought(state.current, Number.isFinite(begin) ? begin * 1_000_000 + AFTER : 0);
    setSeen(state.current);
    let frame = 0;
    let last = performance.now();
    let drawn = 0;
    let shown = -1;
    function turn(now: number) {
      const before = state.current;
      state.current = ticked(before, now - last, made.due(before.position));
      last = now;
      if (state.current.position !== shown && made.ready(now)) {
        shown = state.current.position;
        made.show(shown);
      }
      if (state.current !== before && (now - drawn > DRAWN || state.current.running !== before.running)) {
        drawn = now;
        setSeen(state.current);
      }
      frame = requestAnimationFrame(turn);
    }
    frame = requestAnimationFrame(turn);
    return () => {
      cancelAnimationFrame(frame);
      made.dispose();
      screen.current = null;
    };
  }, [track]);

  // Who comes from a search finds it under way.
  useEffect(() => {
    if (wanted === "") return;
    const from = state.current.position - 2 * AFTER;
    all().then((every) => {
      const now = hits(every, wanted);
      setFound(now);
      setAt(nextHit(now, from, false));
    });
  }, [track]);

  // The screen is as wide as there is room, whatever its columns.
  useEffect(() => {
    const box = root.current;
    if (!box?.parentElement) return;
    const widest = Math.max(header.interactive ? header.width : 120, ...sizes(track));
    const watch = new ResizeObserver(([entry]) => {
      const room = (entry?.contentRect.width ?? 800) - 16;
      box.style.fontSize = `${Math.min(Math.max(room / widest / 0.602, 7), 15)}px`;
    });
    watch.observe(box.parentElement);
    return () => watch.disconnect();
  }, [track, header]);

  function change(next: Playing | null): boolean {
    if (next === null) return false;
    state.current = next;
    setSeen(next);
    return true;
  }

  function to(time: number) {
    change({ ...sought(state.current, time), running: false });
  }

  function onKeyDown(event: KeyboardEvent) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target as HTMLElement;
    const slider = target instanceof HTMLInputElement && target.type === "range";
    if (!slider && target.closest("input, select, textarea, button, summary, a") && event.key !== "k") return;
    if (target instanceof HTMLInputElement && !slider) return;
    if (slider && event.key === "ArrowUp") event.preventDefault();
    if (change(pressed(state.current, event.key))) event.preventDefault();
  }

  function all(): Promise<Line[]> {
    lines.current ??= linesOf(track, pause);
    return lines.current;
  }

  async function search(back: boolean) {
    setSearching(true);
    try {
      const every = await all();
      const now = hits(every, wanted);
      setFound(now);
      const next = nextHit(now, state.current.position - (back ? AFTER : 0), back);
      setAt(next);
      const line = now[next];
      if (line) to(line.time + AFTER);
    } finally {
      setSearching(false);
    }
  }

  async function copy(text: string, what: string) {
    setNote((await copied(text)) ? `${what} copied.` : "The browser does not let this page copy.");
  }

  const facts = useMemo(() => factsOf(track), [track]);
  return (
    // biome-ignore lint/a11y/noStaticElementInteractions: keys of the player, wherever in it the focus is
    <div class="player" onKeyDown={onKeyDown}>
      <dl class="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{name === "Began" ? <When time={value} /> : value}</dd>
          </div>
        ))}
      </dl>
      {track.problem !== "" && <Notice kind="bad">{track.problem}</Notice>}
      {track.cut && (
        <Notice kind="warn">
          This recording is longer than a page can hold; the rest of it is in the downloads, and in tsh play.
        </Notice>
      )}
      {silent && <Notice>Nothing was shown in this session.</Notice>}
      <div class="screen-box" hidden={silent}>
        {/* biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by keyboard */}
        <section class="screen-scroll" tabIndex={0} aria-label="The recorded screen">
          <div class="screen" ref={root} />
        </section>
      </div>
      <fieldset class="controls" aria-label="Player">
        <Button kind="primary" onClick={() => change(toggled(state.current))} aria-keyshortcuts="k">
          {seen.running ? "Pause" : "Play"}
        </Button>
        <input
          type="range"
          class="seek"
          aria-label="Time"
          aria-valuetext={`${spoken(seen.position)} of ${spoken(seen.end)}`}
          min={0}
          max={Math.max(seen.end / 1_000_000, 0.001)}
          step="any"
          value={seen.position / 1_000_000}
          onInput={(event) => change(sought(state.current, Number(event.currentTarget.value) * 1_000_000))}
        />
        <span class="clock">
          {clock(seen.position)} / {clock(seen.end)}
        </span>
        <SelectField
          label="Speed"
          value={String(seen.speed)}
          set={(speed) => change({ ...state.current, speed: Number(speed) })}
        >
          {SPEEDS.map((speed) => (
            <option key={speed} value={String(speed)}>
              {speed}×
            </option>
          ))}
        </SelectField>
        <label>
          <input
            type="checkbox"
            checked={seen.skipIdle}
            onChange={(event) => change({ ...state.current, skipIdle: event.currentTarget.checked })}
          />{" "}
          Skip pauses
        </label>
        <Button onClick={() => copy(screen.current?.text() ?? "", "The screen was")}>Copy screen</Button>
        <Button onClick={async () => copy((await all()).map((line) => line.text).join("\n"), "All text was")}>
          Copy all text
        </Button>
      </fieldset>
      <form
        class="search"
        onSubmit={(event) => {
          event.preventDefault();
          search(false);
        }}
      >
        <input
          type="search"
          aria-label="Search in the recording"
          placeholder="Search in the recording"
          value={wanted}
          maxLength={200}
          onInput={(event) => {
            setWanted(event.currentTarget.value);
            setFound(null);
          }}
        />
        <Button type="submit" busy={searching}>
          Next
        </Button>
        <Button busy={searching} onClick={() => search(true)}>
          Previous
        </Button>
        <span role="status">
          {found && (found.length === 0 ? "Not found" : `${at + 1} of ${found.length}`)}
          {note && ` ${note}`}
        </span>
      </form>
      {found && found.length > 0 && (
        <details>
          <summary>Where it was found</summary>
          <Jumps
            label="Places where it was found"
            marks={found.map((line) => ({ time: line.time, kind: "", text: line.text }))}
            to={(time) => to(time + AFTER)}
          />
        </details>
      )}
      {track.files.length > 0 && <Files files={track.files} to={to} silent={silent} />}
      {track.marks.length > 0 && (
        <details open={silent}>
          <summary>What happened ({track.marks.length})</summary>
          <Jumps label="What happened" marks={track.marks} to={to} />
        </details>
      )}
      <p class="hint">
        Keys: space or k plays and stops, arrows go 5 seconds, Page Up and Page Down a minute, + and − change the speed,
        i skips pauses.
      </p>
    </div>
  );
}

function sizes(track: Track): number[] {
  return track.header.interactive ? track.steps.flatMap((step) => ("columns" in step ? [step.columns] : [])) : [];
}

function factsOf(track: Track): [string, string][] {
  const { header } = track;
  const all: [string, string][] = [
    ["User", header.user],
    ["Where", `${header.login}@${header.hostname || header.node}`],
    ["Began", header.started],
    ["What", header.command || (header.interactive ? "shell" : "command")],
    ["From", header.client],
    ["Session", header.sid],
  ];
  return all.filter(([, value]) => value !== "");
}

function Jumps({ label, marks, to }: { label: string; marks: Mark[]; to: (time: number) => void }) {
  return (
    <>
      <ol class="jumps" aria-label={label}>
        {marks.slice(0, MOST).map((mark, index) => (
          <li key={index}>
            <button type="button" class="button quiet" onClick={() => to(mark.time)}>
              {clock(mark.time)}
            </button>{" "}
            {mark.kind && <span class="hint">{mark.kind}</span>} <span class="see-wrap">{mark.text}</span>
          </li>
        ))}
      </ol>
      {marks.length > MOST && <p class="hint">and {marks.length - MOST} more; the download has all of them.</p>}
    </>
  );
}

function Files({ files, to, silent }: { files: FileMove[]; to: (time: number) => void; silent: boolean }) {
  const columns: Column<FileMove & { index: number }>[] = [
    {
      key: "time",
      title: "Time",
      show: (file) =>
        silent ? (
          clock(file.time)
        ) : (
          <button type="button" class="button quiet" onClick={() => to(file.time)}>
            {clock(file.time)}
          </button>
        ),
    },
    { key: "action", title: "What", show: (file) => file.action },
    {
      key: "path",
      title: "File",
      show: (file) => (
        <span class="see-wrap">
          {file.path}
          {file.target && ` → ${file.target}`}
        </span>
      ),
    },
    { key: "size", title: "Size", show: (file) => (file.size > 0 ? bytes(file.size) : "") },
    {
      key: "sha256",
      title: "SHA-256",
      show: (file) =>
        file.error ? <span class="see-failed">{file.error}</span> : <code class="see-wrap">{file.sha256}</code>,
    },
  ];
  return (
    <section aria-label="Files">
      <h2>Files</h2>
      <Table
        caption="Files"
        columns={columns}
        rows={files.slice(0, MOST).map((file, index) => ({ ...file, index }))}
        id={(file) => String(file.index)}
      />
      {files.length > MOST && <p class="hint">and {files.length - MOST} more; the download has all of them.</p>}
    </section>
  );
}
