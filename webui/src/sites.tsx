// Which cluster is looked at: the one in the path, so that a link and F5 keep it. Clusters that trust this one are reached
// through it; what is seen and done there, they decide.
import { fill, go, match } from "./router";
import { Menu, type MenuItem, useAsk } from "./ui";

interface Site {
  name: string;
  status: string; // online, offline
}

const EVERY = 15_000; // milliseconds between looks

// Where the same page of another cluster is; its nodes, where this page is about one thing of this cluster.
export function sameIn(site: string, path: string, patterns: readonly string[]): string {
  const here = patterns.find((pattern) => {
    const params = match(pattern, path);
    return params && Object.keys(params).length === 1 && "site" in params;
  });
  return fill(here ?? "/web/cluster/:site/nodes", { site });
}

// The entries of the menu: the own cluster first, as the proxy lists them; one that is away says so.
export function siteItems(sites: readonly Site[], site: string, act: (name: string) => void): MenuItem[] {
  return sites.map((one) => ({
    label: one.status === "online" ? one.name : `${one.name} (offline)`,
    checked: one.name === site,
    act: () => act(one.name),
  }));
}

interface Props {
  site: string;
  path: string;
  patterns: readonly string[]; // of pages that every cluster has
}

// Nothing, where there is one cluster only.
export function SiteMenu({ site, path, patterns }: Props) {
  const { data } = useAsk<{ sites: Site[] }>("/webapi/sites", EVERY);
  const sites = data?.sites ?? [];
  if (sites.length < 2) return null;
  const shown = sites.find((one) => one.name === site);
  return (
    <Menu
      label={shown && shown.status !== "online" ? `${site} (offline)` : site}
      name={`Cluster: ${site}`}
      items={siteItems(sites, site, (name) => go(sameIn(name, path, patterns)))}
    />
  );
}
