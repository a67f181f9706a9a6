import { describe, expect, it } from "vitest";
import { fill, match, ownPath } from "../src/router";

describe("match", () => {
  it("finds parameters, decoded", () => {
    expect(match("/web/cluster/:site/nodes", "/web/cluster/a%2Fb/nodes")).toEqual({ site: "a/b" });
  });
  it("refuses other lengths and parts", () => {
    expect(match("/web/cluster/:site/nodes", "/web/cluster/a")).toBeNull();
    expect(match("/web/users", "/web/roles")).toBeNull();
  });
  it("refuses what is not encoded right", () => {
    expect(match("/web/:x", "/web/%E0%A4%A")).toBeNull();
  });
});

describe("fill", () => {
  it("encodes what it fills in", () => {
    expect(fill("/web/cluster/:site/nodes", { site: "../x?y" })).toBe("/web/cluster/..%2Fx%3Fy/nodes");
  });
});

describe("ownPath", () => {
  const origin = "https://proxy.test:3080";
  it.each(["/web/cluster/a/nodes", "/web/users?page=2", "https://proxy.test:3080/web/roles", "/web"])(
    "leads to %s",
    (path) => {
      expect(ownPath(path, origin)).toBe(path.replace(origin, ""));
    },
  );
  it.each([
    null,
    "",
    "https://evil.test/web",
    "//evil.test/web",
    "/\\evil.test/web",
    "javascript:alert(1)",
    "/webapi/sessions",
    "/website",
    "/web/../webapi/x",
    "/web/signin?next=/web/signin",
    "https://proxy.test:3081/web",
    "http://proxy.test:3080/web",
    "data:text/html,x",
    "\thttps://evil.test/web",
  ])("does not lead to %s", (path) => {
    expect(ownPath(path, origin)).toBeNull();
  });
});
