// Which page is shown, and what has to be known before: the session, and who the user is.
import type { ComponentType } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiError, ask, current, ended, onSessionOver, perhapsSignedIn, renewed, said } from "./api";
import { Me, type UserContext } from "./context";
import { watchIdle } from "./idle";
import { Layout } from "./layout";
import { PAGES, type PageProps, type Row } from "./pages/table";
import { fill, go, match, type Params, usePlace } from "./router";
import { Button, Notice, Page, Spinner } from "./ui";

export function toSignIn(why = ""): void {
  const { pathname, search } = window.location;
  if (pathname.startsWith("/web/signin")) return;
  const query = new URLSearchParams();
  if (pathname !== "/web" && pathname !== "/web/") query.set("next", pathname + search);
  if (why) query.set("why", why);
  const text = query.toString();
  go(`/web/signin${text ? `?${text}` : ""}`, { replace: true });
}

function found(path: string): { row: Row; params: Params } | null {
  for (const row of PAGES) {
    const params = match(row.path, path);
    if (params) return { row, params };
  }
  return null;
}

const loaded = new Map<string, ComponentType<PageProps>>();

// The component of a row, once its chunk is here; null while it is on its way.
function useLoaded(row: Row | undefined): { page: ComponentType<PageProps> | null; problem: string } {
  const [, again] = useState(0);
  const [problem, setProblem] = useState("");
  useEffect(() => {
    setProblem("");
    if (!row || loaded.has(row.path)) return;
    let gone = false;
    row.load().then(
      (module) => {
        loaded.set(row.path, module.default);
        if (!gone) again((count) => count + 1);
      },
      () => {
        if (!gone) setProblem("This part of the page could not be loaded; the proxy may have been upgraded.");
      },
    );
    return () => {
      gone = true;
    };
  }, [row]);
  return { page: (row && loaded.get(row.path)) ?? null, problem };
}

export function App() {
  const { path } = usePlace();
  const [me, setMe] = useState<UserContext | null>(null);
  const [problem, setProblem] = useState("");
  const [tries, setTries] = useState(0);
  const hit = found(path);
  const open = hit?.row.frame === "open";
  const { page: Shown, problem: notLoaded } = useLoaded(hit?.row);

  useEffect(() => {
    onSessionOver((why) => {
      setMe(null);
      toSignIn(why);
    });
  }, []);

  useEffect(() => {
    if (open || me?.user === (current()?.user ?? "-")) return;
    let gone = false;
    async function load() {
      setProblem("");
      if (!current() && !perhapsSignedIn()) return toSignIn();
      try {
        await renewed();
        const context = await ask<UserContext>("GET", "/webapi/sites/-current-/context");
        if (!gone) setMe(context);
      } catch (error) {
        if (gone) return;
        if (error instanceof ApiError && error.status === 401) toSignIn();
        else setProblem(said(error).message);
      }
    }
    load();
    return () => {
      gone = true;
    };
  }, [open, me, path, tries]);

  useEffect(() => {
    if (!me) return;
    const tell = () => {
      ask("GET", "/webapi/user/status").catch(() => {}); // what goes wrong shows when something is asked for
    };
    const leave = () => {
      ask("DELETE", "/webapi/sessions", undefined, { background: true }).catch(() => {});
      ended();
      setMe(null);
      toSignIn("idle");
    };
    return watchIdle(current()?.sessionInactiveTimeout ?? 0, tell, leave);
  }, [me]);

  useEffect(() => {
    if (me && (path === "/web" || path === "/web/"))
      go(fill("/web/cluster/:site/nodes", { site: me.cluster }), { replace: true });
  }, [me, path]);

  const trouble = problem || notLoaded;
  if (trouble)
    return (
      <main id="main" class="alone">
        <Page title="Something went wrong">
          <Notice kind="bad">{trouble}</Notice>
          <Button
            onClick={() => {
              if (notLoaded) window.location.reload();
              else setTries(tries + 1);
            }}
          >
            Try again
          </Button>
        </Page>
      </main>
    );
  if (open) return Shown ? <Shown params={hit?.params ?? {}} /> : <Spinner label="Loading" />;
  if (!me || path === "/web" || path === "/web/") return <Spinner label="Loading" />;
  const site = hit?.params.site ?? me.cluster;
  const content = !hit ? (
    <Page title="There is no such page">
      <p>
        <a href={fill("/web/cluster/:site/nodes", { site: me.cluster })}>To the nodes</a>
      </p>
    </Page>
  ) : Shown ? (
    <Shown key={`${hit.row.path} ${site}`} params={hit.params} />
  ) : (
    <Spinner label="Loading" />
  );
  return (
    <Me.Provider value={me}>
      {hit?.row.frame === "bare" ? (
        content
      ) : (
        <Layout me={me} site={site} path={path} signOut={() => setMe(null)}>
          {content}
        </Layout>
      )}
    </Me.Provider>
  );
}
