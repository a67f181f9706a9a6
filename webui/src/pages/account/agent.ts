// What a browser says of itself, as people call it: "Firefox on Linux". What it is not known by stays as it is.
const BROWSERS: [string, RegExp][] = [
  ["Edge", /\bEdg\//],
  ["Opera", /\bOPR\//],
  ["Firefox", /\bFirefox\//],
  ["Chrome", /\b(?:Headless)?Chrom(?:e|ium)\//],
  ["Safari", /\bSafari\//],
];
const SYSTEMS: [string, RegExp][] = [
  ["Android", /Android/],
  ["iOS", /iPhone|iPad/],
  ["Windows", /Windows/],
  ["macOS", /Mac OS X|Macintosh/],
  ["ChromeOS", /CrOS/],
  ["Linux", /Linux|X11/],
];

export function called(agent: string): string {
  const known = (table: [string, RegExp][]) => table.find(([, sign]) => sign.test(agent))?.[0];
  const browser = known(BROWSERS);
  const system = known(SYSTEMS);
  if (!browser) return agent || "unknown";
  return system ? `${browser} on ${system}` : browser;
}
