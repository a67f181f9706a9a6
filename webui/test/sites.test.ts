import { describe, expect, it } from "vitest";
import { sameIn, siteItems } from "../src/sites";

const PATTERNS = ["/web/cluster/:site/nodes", "/web/cluster/:site/audit"];

describe("the cluster that is looked at", () => {
  it("is changed to the same page of another one", () => {
    expect(sameIn("leaf.test", "/web/cluster/root.test/audit", PATTERNS)).toBe("/web/cluster/leaf.test/audit");
  });

  it("is changed to its nodes where the other one has no such page", () => {
    for (const path of ["/web/account", "/web/cluster/root.test/users", "/web/cluster/root.test/recording/7"])
      expect(sameIn("leaf.test", path, PATTERNS)).toBe("/web/cluster/leaf.test/nodes");
  });

  it("stays one part of the path, whatever it is called", () => {
    expect(sameIn("../x?y", "/web/account", PATTERNS)).toBe("/web/cluster/..%2Fx%3Fy/nodes");
  });

  it("is marked, and one that is away says so", () => {
    const went: string[] = [];
    const sites = [
      { name: "root.test", status: "online" },
      { name: "leaf.test", status: "offline" },
    ];
    const items = siteItems(sites, "leaf.test", (name) => went.push(name));
    expect(items.map((one) => [one.label, one.checked])).toEqual([
      ["root.test", false],
      ["leaf.test (offline)", true],
    ]);
    items[0]?.act();
    expect(went).toEqual(["root.test"]);
  });
});
