// What is around a page: a skip link, the menu, the account.
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";
import { ApiError, ask, ended } from "./api";
import { may, type UserContext } from "./context";
import { GROUPS, PAGES } from "./pages/table";
import { fill, go, match } from "./router";
import { SiteMenu } from "./sites";
import { chooseTheme, chosenTheme, THEMES } from "./theme";
import { Menu, Trouble } from "./ui";

const THEME_NAMES = { system: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" };

// What every cluster has; a cluster is run from its own proxies' pages.
const EVERYWHERE = PAGES.filter((row) => row.group === "Work" || row.group === "See").map((row) => row.path);

interface Props {
  me: UserContext;
  site: string;
  path: string;
  signOut: () => void;
  children: ComponentChildren;
}

export function Layout({ me, site, path, signOut, children }: Props) {
  const [theme, setTheme] = useState(chosenTheme);
  const [error, setError] = useState<unknown>(null); // why one is still signed in
  const [open, setOpen] = useState(false); // the menu, where there is little room
  useEffect(() => setOpen(false), [path]);

  async function leave() {
    setError(null);
    try {
      await ask("DELETE", "/webapi/sessions");
    } catch (problem) {
      if (!(problem instanceof ApiError && problem.status === 401)) return setError(problem); // it still goes on
    }
    ended();
    signOut();
    go("/web/signin", { replace: true });
  }

  const elsewhere = site !== me.cluster && site !== "-current-";
  const accountPage = PAGES.find((row) => row.path === "/web/account");
  return (
    <div class="frame">
      <a class="skip" href="#main" data-outside>
        Skip to the content
      </a>
      <header class="bar">
        <button
          type="button"
          class="button quiet burger"
          aria-expanded={open}
          aria-controls="menu"
          onClick={() => setOpen(!open)}
        >
          Menu
        </button>
        <a class="brand" href="/web">
          {me.cluster}
        </a>
        <SiteMenu site={site === "-current-" ? me.cluster : site} path={path} patterns={EVERYWHERE} />
        <Menu
          label={me.user}
          items={[
            ...(accountPage ? [{ label: accountPage.title, act: () => go(accountPage.path) }] : []),
            ...THEMES.map((one) => ({
              label: THEME_NAMES[one],
              checked: one === theme,
              act: () => {
                chooseTheme(one);
                setTheme(one);
              },
            })),
            { label: "Sign out", act: leave },
          ]}
        />
      </header>
      <nav id="menu" class={open ? "menu open" : "menu"} aria-label="Pages">
        {GROUPS.map((group) => {
          const rows = PAGES.filter(
            (row) => row.group === group && (elsewhere ? EVERYWHERE.includes(row.path) : may(me, row.needs)),
          );
          if (rows.length === 0) return null;
          return (
            <section key={group} aria-labelledby={`group-${group}`}>
              <h2 id={`group-${group}`}>{group}</h2>
              <ul>
                {rows.map((row) => (
                  <li key={row.path}>
                    <a href={fill(row.path, { site })} aria-current={match(row.path, path) ? "page" : undefined}>
                      {row.title}
                    </a>
                  </li>
                ))}
              </ul>
            </section>
          );
        })}
      </nav>
      <main id="main" tabIndex={-1}>
        <Trouble error={error} />
        {elsewhere && (
          <p class="hint">
            This is {site}, by way of {me.cluster}. What it shows is kept there, and it decides what you may see and do.
          </p>
        )}
        {children}
      </main>
    </div>
  );
}
