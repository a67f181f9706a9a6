// One terminal: the screen, its connection, and what is said about that.
import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { Button, Field, Notice } from "../../ui";
import { sentence } from "../../ui/notice";
import { Factor } from "./factor";
import { Link, type State } from "./link";
import { Screen } from "./screen";
import type { Settings } from "./settings";
import { anotherBearer, bearer, openSocket, type Place } from "./socket";

export interface Handle {
  focus(): void;
  find(): void;
  copy(): void;
  quit(): void;
}

interface Props {
  place: Place;
  resume: string;
  kept: (resume: string) => void;
  shown: boolean;
  chosen: Settings;
  titled: (title: string) => void;
  leave: () => void;
  handle: RefObject<Handle | null> | null; // of the one that is shown
}

export function OneTerminal({ place, resume, kept, shown, chosen, titled, leave, handle }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const screen = useRef<Screen | null>(null);
  const link = useRef<Link | null>(null);
  const [state, setState] = useState<State>({ is: "connecting", again: resume !== "" });
  const [events, setEvents] = useState<string[]>([]);
  const [finding, setFinding] = useState(false);
  const [found, setFound] = useState("");
  const now = useRef({ kept, titled, leave, shown });
  now.current = { kept, titled, leave, shown };

  useEffect(() => {
    const made = new Screen(box.current as HTMLElement, chosen, {
      typed: (data) => {
        if (link.current && !link.current.type(data))
          setEvents((all) => [...all, "That was too much to paste: it was left out."].slice(-3));
      },
      sized: (size) => link.current?.resize(size),
      titled: (title) => now.current.titled(title),
      left: () => now.current.leave(),
      find: () => setFinding(true),
      found: (at, count) =>
        setFound(count === 0 ? "Nothing found" : at < 0 ? `${count} or more` : `${at + 1} of ${count}`),
    });
    const connection = new Link(
      {
        open: (heard) => openSocket(place, made.size, heard),
        token: bearer,
        renew: anotherBearer,
        now: () => Date.now(),
        later: (milliseconds, act) => {
          const timer = setTimeout(act, milliseconds);
          return () => clearTimeout(timer);
        },
        size: () => made.size,
        output: (data, parsed) => made.write(data, parsed),
        anew: () => made.anew(),
        state: (state) => {
          setState(state);
          if (state.is === "running" && now.current.shown && !busyElsewhere()) made.focus();
        },
        event: (message) => setEvents((all) => [...all, message].slice(-3)),
        kept: (resume) => now.current.kept(resume),
      },
      resume,
    );
    connection.comesAnew = place.sid !== undefined;
    screen.current = made;
    link.current = connection;
    connection.connect();
    const online = () => connection.hurry();
    window.addEventListener("online", online);
    return () => {
      window.removeEventListener("online", online);
      connection.leave();
      made.close();
    };
  }, []);

  useEffect(() => screen.current?.look(chosen), [chosen]);
  useLayoutEffect(() => {
    if (!shown) return;
    screen.current?.fit();
    if (handle)
      handle.current = {
        focus: () => screen.current?.focus(),
        find: () => setFinding(true),
        copy: () => screen.current?.copy(),
        quit: () => link.current?.quit(),
      };
  }, [shown, handle]);

  return (
    <div class="terminal-tab" hidden={!shown}>
      <About
        state={state}
        joined={place.sid !== undefined}
        again={() => {
          link.current?.again();
          screen.current?.focus();
        }}
        hurry={() => link.current?.hurry()}
        answer={(answer) => link.current?.answer(answer)}
        cancel={() => link.current?.quit()}
      />
      {events.map((event) => (
        <div class="notice info" role="status" key={event}>
          {sentence(event)}{" "}
          <Button kind="quiet" onClick={() => setEvents((all) => all.filter((one) => one !== event))}>
            Hide
          </Button>
        </div>
      ))}
      {finding && (
        <Find
          found={found}
          next={(text) => screen.current?.next(text)}
          previous={(text) => screen.current?.previous(text)}
          close={() => {
            setFinding(false);
            setFound("");
            screen.current?.noSearch();
            screen.current?.focus();
          }}
        />
      )}
      <div class="terminal-screen" ref={box} />
    </div>
  );
}

// Whether somebody is typing into something else: the focus is not taken from there.
function busyElsewhere(): boolean {
  const at = document.activeElement;
  return at instanceof HTMLInputElement || at instanceof HTMLSelectElement || Boolean(at?.closest("dialog"));
}

interface AboutProps {
  state: State;
  joined: boolean;
  again: () => void;
  hurry: () => void;
  answer: (answer: object) => void;
  cancel: () => void;
}

function About({ state, joined, again, hurry, answer, cancel }: AboutProps) {
  switch (state.is) {
    case "connecting":
      return <Notice>{state.again ? "Reconnecting…" : "Connecting…"}</Notice>;
    case "waiting":
      return <Waiting until={state.until} hurry={hurry} />;
    case "factor":
      return (
        <Factor
          why="A session on this host needs a second factor."
          asked={state.challenge}
          answer={answer}
          cancel={cancel}
        />
      );
    case "ended":
      return (
        <Notice kind={state.status === 0 && !state.reason ? "good" : "warn"}>
          {ending(state)}{" "}
          <Button kind="primary" onClick={again}>
            {joined ? "Join again" : "New session"}
          </Button>
        </Notice>
      );
    case "elsewhere":
      return (
        <Notice kind="warn">
          This terminal was opened elsewhere.{" "}
          <Button kind="primary" onClick={again}>
            Take it back
          </Button>
        </Notice>
      );
    case "failed":
      return (
        <Notice kind="bad">
          {sentence(state.message)}
          {state.hint && ` ${sentence(state.hint)}`}{" "}
          <Button kind="primary" onClick={again}>
            {joined ? "Join again" : "New session"}
          </Button>
        </Notice>
      );
    case "running":
      return state.started.mode && joined ? (
        <Notice>{sentence(`you are in this session as ${state.started.mode}`)}</Notice>
      ) : null;
  }
}

export function ending(state: State & { is: "ended" }): string {
  const how = state.signal ? `signal ${state.signal}` : state.status === null ? "" : `exit status ${state.status}`;
  return ["The session has ended", how && `: ${how}`, ".", state.reason && ` ${sentence(state.reason)}`].join("");
}

function Waiting({ until, hurry }: { until: number; hurry: () => void }) {
  const left = () => Math.max(0, Math.ceil((until - Date.now()) / 1000));
  const [seconds, setSeconds] = useState(left);
  useEffect(() => {
    setSeconds(left());
    const timer = setInterval(() => setSeconds(left()), 250);
    return () => clearInterval(timer);
  }, [until]);
  return (
    <Notice kind="warn">
      The connection was lost. What runs on the host goes on for two minutes.{" "}
      <span aria-hidden="true">{seconds > 0 ? `Reconnecting in ${seconds} s. ` : "Reconnecting. "}</span>
      <Button onClick={hurry}>Reconnect now</Button>
    </Notice>
  );
}

interface FindProps {
  found: string;
  next: (text: string) => void;
  previous: (text: string) => void;
  close: () => void;
}

function Find({ found, next, previous, close }: FindProps) {
  const [text, setText] = useState("");
  const form = useRef<HTMLFormElement>(null);
  useLayoutEffect(() => form.current?.querySelector("input")?.focus(), []);
  return (
    <form
      class="find"
      ref={form}
      aria-label="Search in the output"
      onSubmit={(event) => {
        event.preventDefault();
        if (text) previous(text);
      }}
      onKeyDown={(event) => {
        if (event.key === "Escape") close();
      }}
    >
      <Field label="Search in the output" type="search" value={text} set={setText} />
      <Button type="submit">Up</Button>
      <Button onClick={() => text && next(text)}>Down</Button>
      <Button kind="quiet" onClick={close}>
        Close
      </Button>
      <span role="status">{found}</span>
    </form>
  );
}
