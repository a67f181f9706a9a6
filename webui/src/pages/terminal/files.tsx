// Files to and from the host of a terminal: dropped or chosen, fetched by path, each with its progress.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { ask, said } from "../../api";
import { Button, Field, Notice } from "../../ui";
import { sentence } from "../../ui/notice";
import { type Asked, Factor } from "./factor";
import type { Place } from "./socket";
import { plain } from "./title";
import { download, filesPath, type Progress, shownSize, TransferError, ticket, upload } from "./transfer";

interface Job {
  key: number;
  name: string;
  up: boolean;
  done: number;
  total: number;
  state: "waiting" | "running" | "done" | "failed" | "cancelled";
  text: string; // the path when it is done, or why it failed
  stop: AbortController;
}

interface Due {
  asked: Asked;
  answered: (factor: object | null) => void;
}

const AT_ONCE = 3;
const EACH = 100; // milliseconds between two pictures of a progress
let numbers = 0;

interface Props {
  place: Place;
  dropped: File[]; // onto the terminal; a new list for each drop
  close: () => void;
}

export function Files({ place, dropped, close }: Props) {
  const [folder, setFolder] = useState("~");
  const [path, setPath] = useState("");
  const [jobs, setJobs] = useState<Job[]>([]);
  const [over, setOver] = useState(false);
  const [due, setDue] = useState<Due | null>(null);
  const input = useRef<HTMLInputElement>(null);
  const panel = useRef<HTMLElement>(null);
  const free = useRef(AT_ONCE);
  const queue = useRef<(() => void)[]>([]);
  const factors = useRef<Promise<unknown>>(Promise.resolve());
  const running = useRef(new Set<AbortController>());

  useLayoutEffect(() => {
    panel.current?.querySelector<HTMLElement>("input")?.focus();
    return () => {
      for (const one of running.current) one.abort();
    };
  }, []);
  useEffect(() => send(dropped), [dropped]);

  function change(key: number, to: Partial<Job>) {
    setJobs((all) => all.map((job) => (job.key === key ? { ...job, ...to } : job)));
  }

  // One prompt at a time; null when it was cancelled.
  function factor(): Promise<object | null> {
    const asking = factors.current.then(async () => {
      const asked = await ask<Asked>("POST", filesPath(place, "/challenge"), {});
      return new Promise<object | null>((answered) => setDue({ asked, answered })).finally(() => setDue(null));
    });
    factors.current = asking.catch(() => {});
    return asking;
  }

  async function run(
    name: string,
    up: boolean,
    location: string,
    work: (told: Progress, stop: AbortSignal, by: string) => Promise<string>,
  ) {
    numbers += 1;
    const key = numbers;
    const stop = new AbortController();
    running.current.add(stop);
    const job: Job = { key, name, up, done: 0, total: 0, state: "waiting", text: "", stop };
    setJobs((all) => [job, ...all].slice(0, 50));
    if (free.current > 0) free.current -= 1;
    else await new Promise<void>((go) => queue.current.push(go));
    let shown = 0;
    const told: Progress = (done, total) => {
      const now = performance.now();
      if (now - shown < EACH && done < total) return;
      shown = now;
      change(key, { done, total });
    };
    try {
      stop.signal.throwIfAborted();
      change(key, { state: "running" });
      let text: string;
      try {
        text = await work(told, stop.signal, "");
      } catch (error) {
        if (!(error instanceof TransferError && error.factor)) throw error;
        const given = await factor();
        if (!given) throw new DOMException("cancelled", "AbortError");
        text = await work(told, stop.signal, await ticket(place, location, given));
      }
      change(key, { state: "done", text });
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") change(key, { state: "cancelled" });
      else change(key, { state: "failed", text: reason(error) });
    } finally {
      running.current.delete(stop);
      const next = queue.current.shift();
      if (next) next();
      else free.current += 1;
    }
  }

  function send(files: Iterable<File>) {
    const to = folder || "~";
    for (const file of files)
      void run(file.name, true, to, (told, stop, by) => upload(place, to, file, told, stop, by));
  }

  function fetchPath() {
    const from = path;
    if (from) void run(from, false, from, (told, stop, by) => download(place, from, told, stop, by));
  }

  return (
    <section
      class={over ? "files over" : "files"}
      aria-label="Files"
      ref={panel}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        event.stopPropagation();
        setOver(false);
        send(event.dataTransfer?.files ?? []);
      }}
    >
      <div class="heading">
        <h2>Files</h2>
        <Button kind="quiet" onClick={close}>
          Close files
        </Button>
      </div>
      {due && (
        <Factor
          why="Moving files needs a second factor on this host."
          asked={due.asked}
          answer={(given) => due.answered(given)}
          cancel={() => due.answered(null)}
        />
      )}
      <Field label="Upload to this folder" value={folder} set={setFolder} hint="~ is your home on the host" />
      <input
        ref={input}
        type="file"
        multiple
        hidden
        aria-label="Files to upload"
        onChange={(event) => {
          send([...(event.currentTarget.files ?? [])]);
          event.currentTarget.value = "";
        }}
      />
      <div class="actions">
        <Button onClick={() => input.current?.click()}>Choose files</Button>
        <span class="hint">or drop them here</span>
      </div>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          fetchPath();
        }}
      >
        <Field label="Download this file" value={path} set={setPath} hint="Its path on the host" />
        <div class="actions">
          <Button type="submit">Download</Button>
        </div>
      </form>
      <ul class="jobs" aria-label="Transfers">
        {jobs.map((job) => (
          <OneJob key={job.key} job={job} />
        ))}
      </ul>
    </section>
  );
}

function OneJob({ job }: { job: Job }) {
  const name = plain(job.name) || "file";
  const what = `${job.up ? "Upload" : "Download"} of ${name}`;
  const moved = job.total ? `${shownSize(job.done)} of ${shownSize(job.total)}` : job.done ? shownSize(job.done) : "";
  return (
    <li>
      <div class="what">{what}</div>
      {(job.state === "running" || job.state === "waiting") && (
        <>
          <progress aria-label={what} {...(job.total ? { max: job.total, value: job.done } : {})} />
          <span class="hint">{job.state === "waiting" ? "waits for others" : moved}</span>{" "}
          <Button kind="quiet" aria-label={`Cancel the ${what.toLowerCase()}`} onClick={() => job.stop.abort()}>
            Cancel
          </Button>
        </>
      )}
      {job.state === "done" && (
        <span role="status" class="good">
          Done: {job.text}
        </span>
      )}
      {job.state === "cancelled" && <span role="status">Cancelled</span>}
      {job.state === "failed" && <Notice kind="bad">{job.text}</Notice>}
    </li>
  );
}

function reason(error: unknown): string {
  const { message, hint } = error instanceof TransferError ? error : said(error);
  return sentence(message) + (hint ? ` ${sentence(hint)}` : "");
}
