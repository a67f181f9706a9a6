// What somebody types to have kubectl at a Kubernetes cluster.

export interface Way {
  proxy: string; // host:port of this page
  user: string;
  cluster: string; // of this page's proxy
  site: string; // where the Kubernetes cluster is
  name: string;
}

// Lines for a shell. Names are whatever a host said: they are words there, and never anything else.
export function kubeCommand({ proxy, user, cluster, site, name }: Way): string {
  const elsewhere = site !== cluster && site !== "-current-" ? `--cluster=${word(site)} ` : "";
  const dashes = name.startsWith("-") ? "-- " : "";
  return [
    `tsh login --proxy=${word(proxy)} --user=${word(user)}`,
    `tsh kube login ${elsewhere}${dashes}${word(name)}`,
    "kubectl get pods",
  ].join("\n");
}

// One word of a POSIX shell.
export function word(text: string): string {
  return /^[A-Za-z0-9_./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// The address of the page as tsh is told it: with its port, which tsh would look for otherwise.
export function proxyOf(place: { hostname: string; port: string }): string {
  return `${place.hostname}:${place.port || "443"}`;
}
