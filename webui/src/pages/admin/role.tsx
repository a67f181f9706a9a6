// A role as a form and as text, side by side and in step; what is wrong with it, and what it gives.
//
// The proxy reads the text and writes it: the side that was edited last is sent, and the other one follows. While the
// text has mistakes the form waits, so that nothing typed is lost.
import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, ask } from "../../api";
import { may, useMe } from "../../context";
import { fill, go } from "../../router";
import { Button, Notice, Page, Spinner, Trouble, useAsk } from "../../ui";
import type { PageProps } from "../table";
import { Area, Confirm, Here } from "./parts";
import { RoleFields } from "./role_fields";
import { lineRange, NEW_ROLE } from "./role_form";
import type { Checked, Document, Place, Remark, Role, Sentence } from "./types";
import { touched } from "./words";

const TYPING = 300; // milliseconds after the last key that a role is looked over

export default function RolePage({ params }: PageProps) {
  const name = params.name;
  return (
    <Here site={params.site} title={name ?? "New role"}>
      {name === undefined ? <Editor site={params.site ?? ""} /> : <Loaded site={params.site ?? ""} name={name} />}
    </Here>
  );
}

function Loaded({ site, name }: { site: string; name: string }) {
  const found = useAsk<Role>(fill("/webapi/roles/:name", { name }));
  const [stored, setStored] = useState("");
  if (found.data) {
    const role = found.data;
    const again = (said: string) => {
      setStored(said);
      found.again();
    };
    return <Editor key={role.revision} site={site} role={role} again={again} stored={stored} />;
  }
  return (
    <Page title={name}>
      <Trouble error={found.error} />
      {found.loading && <Spinner label="Loading the role" />}
    </Page>
  );
}

interface EditorProps {
  site: string;
  role?: Role;
  again?: (said: string) => void; // loads it anew; what was done is said then
  stored?: string;
}

type Edited = { yaml: string } | { document: Document };

function Editor({ site, role, again, stored }: EditorProps) {
  const me = useMe();
  const [text, setText] = useState(role?.yaml ?? NEW_ROLE);
  const [document, setDocument] = useState<Document | null>(role?.document ?? null);
  const [checked, setChecked] = useState<Checked | null>(role ? { ...role, ok: true, problems: [] } : null);
  const [edited, setEdited] = useState<Edited | null>(role ? null : { yaml: NEW_ROLE });
  const [looking, setLooking] = useState(false);
  const [error, setError] = useState<unknown>(null);
  const [asking, setAsking] = useState<Checked | null>(null);
  const area = useRef<HTMLDivElement>(null);
  const writable = may(me, role ? "role.update" : "role.create");

  useEffect(() => {
    if (!edited) return;
    const stop = new AbortController();
    const timer = setTimeout(async () => {
      setLooking(true);
      try {
        const found = await ask<Checked>("POST", "/webapi/roles/check", edited, { signal: stop.signal });
        if (stop.signal.aborted) return;
        setError(null);
        setChecked(found);
        if ("document" in edited) setText(found.yaml);
        else if (found.document) setDocument(found.document);
      } catch (caught) {
        if (stop.signal.aborted) return;
        setError(caught);
      }
      setLooking(false);
    }, TYPING);
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  }, [edited]);

  function typed(yaml: string) {
    setText(yaml);
    setEdited({ yaml });
  }

  function filled(changed: Document) {
    setDocument(changed);
    setEdited({ document: changed });
  }

  function show(place: Place) {
    const box = area.current?.querySelector("textarea");
    if (!box) return;
    box.focus();
    box.setSelectionRange(...lineRange(text, place.line));
  }

  // Before it is stored: the text as it is now, and whom it touches.
  async function begin() {
    setError(null);
    setLooking(true);
    try {
      const asked = edited && "document" in edited ? edited : { yaml: text };
      const found = await ask<Checked>("POST", "/webapi/roles/check", { ...asked, compare: true });
      setChecked(found);
      setText(found.yaml);
      if (found.ok) setAsking(found);
    } catch (caught) {
      setError(caught);
    }
    setLooking(false);
  }

  async function store(found: Checked, confirm: boolean) {
    if (role) {
      const asked = { yaml: found.yaml, revision: role.revision, confirm };
      try {
        await ask("PUT", fill("/webapi/roles/:name", { name: role.name }), asked);
      } catch (caught) {
        if (!(caught instanceof ApiError && caught.status === 412)) throw caught;
        setError(caught);
        return;
      }
      again?.(`The role ${role.name} is stored.`);
    } else {
      await ask("POST", "/webapi/roles", { yaml: found.yaml, confirm });
      go(fill("/web/cluster/:site/roles/:name", { site, name: found.name ?? "" }));
    }
  }

  const wrong = checked !== null && !checked.ok;
  const waits = wrong && !(edited && "document" in edited); // the form, for the text
  const lost = error instanceof ApiError && error.status === 412;
  const title = role ? `Role ${role.name}` : "New role";
  return (
    <Page
      title={title}
      actions={
        <>
          <a class="button plain" href={fill("/web/cluster/:site/roles", { site })}>
            All roles
          </a>
          {writable && (
            <Button kind="primary" busy={looking} disabled={wrong} onClick={begin}>
              {role ? "Save" : "Create"}
            </Button>
          )}
        </>
      }
    >
      {stored && !edited && <Notice kind="good">{stored}</Notice>}
      <Trouble error={error} />
      {lost && again && <Button onClick={() => again("")}>Load it as it is now</Button>}
      <div class="editor">
        <div>
          {wrong && <Notice kind="warn">The text has mistakes. The form follows it again when they are mended.</Notice>}
          {document ? (
            <RoleFields
              document={document}
              set={filled}
              named={!role}
              disabled={!writable || waits}
              checked={checked}
            />
          ) : (
            !wrong && <Spinner label="Reading the role" />
          )}
        </div>
        <div class="text" ref={area}>
          <Problems places={checked?.problems ?? []} show={show} />
          <Area
            label="As text (YAML)"
            value={text}
            set={typed}
            rows={24}
            disabled={!writable}
            hint="Form and text say the same; what the form does not show is kept."
          />
          <Grants checked={checked} />
        </div>
      </div>
      {asking && (
        <Confirm
          title={role ? `Save the role ${role.name}` : `Create the role ${asking.name}`}
          act={role ? "Save" : "Create"}
          kind="primary"
          close={() => setAsking(null)}
          does={(confirmed) => store(asking, confirmed)}
        >
          {asking.touches ? (
            <ul>
              {touched(asking.touches).map((line) => (
                <li key={line}>{line}</li>
              ))}
            </ul>
          ) : (
            <p>{asking.touches_unknown ? `Whom it touches is not known: ${asking.touches_unknown}` : ""}</p>
          )}
          <Remarks remarks={asking.remarks ?? []} />
        </Confirm>
      )}
    </Page>
  );
}

function Problems({ places, show }: { places: Place[]; show: (place: Place) => void }) {
  return (
    <div role="status">
      {places.length > 0 && (
        <ul class="places" aria-label="Mistakes">
          {places.map((place) => (
            <li key={`${place.line} ${place.path} ${place.found}`}>
              <button type="button" onClick={() => show(place)}>
                Line {place.line}
                {place.path && `, ${place.path}`}: found {place.found}, allowed: {place.allowed}
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

const TITLES: [Sentence["sort"], string][] = [
  ["grant", "What it gives"],
  ["term", "On which terms"],
  ["deny", "What it denies, whatever other roles allow"],
];

function Grants({ checked }: { checked: Checked | null }) {
  if (!checked?.ok) return null;
  const sentences = checked.sentences ?? [];
  return (
    <>
      {TITLES.map(([sort, title]) => {
        const found = sentences.filter((one) => one.sort === sort);
        if (found.length === 0) return null;
        return (
          <section class="part" key={sort} aria-label={title}>
            <h2>{title}</h2>
            <ul>
              {found.map((one) => (
                <li key={one.field + one.text}>{one.text}</li>
              ))}
            </ul>
          </section>
        );
      })}
      <Remarks remarks={checked.remarks ?? []} />
      {(checked.notices ?? []).map((one) => (
        <Notice key={one.line + one.path} kind="warn">
          Line {one.line}: {one.text}
        </Notice>
      ))}
    </>
  );
}

function Remarks({ remarks }: { remarks: Remark[] }) {
  return (
    <>
      {remarks.map((one) => (
        <Notice key={one.field + one.check} kind={one.level === "warning" ? "warn" : "info"}>
          {one.field}: {one.message}.{one.hint && ` Instead: ${one.hint}`}
        </Notice>
      ))}
    </>
  );
}
