import { describe, expect, it } from "vitest";
import type { Touches } from "../src/pages/admin/types";
import {
  clocks,
  isLastAdministrator,
  listed,
  readLabels,
  readPairs,
  span,
  touched,
  writePairs,
} from "../src/pages/admin/words";

describe("lists and pairs", () => {
  it("reads names separated by commas and spaces", () => {
    expect(listed(" root, deploy\n  admin,,")).toEqual(["root", "deploy", "admin"]);
    expect(listed("  ")).toEqual([]);
  });
  it("reads labels, one to a line, and writes them back", () => {
    const text = "env = prod, test\n* = *";
    expect(readPairs(text)).toEqual({ pairs: { env: ["prod", "test"], "*": ["*"] }, problem: "" });
    expect(writePairs(readPairs(text).pairs)).toBe(text);
    expect(writePairs({ env: "prod" })).toBe("env = prod");
  });
  it.each([
    ["env", "“env” is not written as key = value"],
    ["= x", "“= x” is not written as key = value"],
    ["env =", "“env” has no value"],
    ["a = 1\na = 2", "“a” stands there twice"],
  ])("names what is wrong with %j", (text, problem) => {
    expect(readPairs(text).problem).toBe(problem);
  });
  it("keeps names that objects have of their own", () => {
    expect(readPairs("constructor = x").pairs.constructor).toEqual(["x"]);
  });
  it("reads labels of one value", () => {
    expect(readLabels("env = prod")).toEqual({ labels: { env: "prod" }, problem: "" });
  });
});

describe("spans and clocks", () => {
  it.each([
    [1, "1 second"],
    [59, "59 seconds"],
    [-120, "2 minutes"],
    [7200, "2 hours"],
    [200_000, "2 days"],
  ])("says %d seconds", (seconds, text) => {
    expect(span(seconds)).toBe(text);
  });
  it("says which clock is ahead", () => {
    expect(clocks(0.3, "This proxy", "auth")).toBe("This proxy and auth agree.");
    expect(clocks(90, "This proxy", "auth")).toBe("This proxy is 2 minutes ahead of auth.");
    expect(clocks(-5, "This proxy", "auth")).toBe("This proxy is 5 seconds behind auth.");
  });
});

describe("touched", () => {
  const none: Touches = { users: [], open_sessions: 0, ending: [], changes: [], more: false, hosts_left_out: 0 };
  it("says that nobody is", () => {
    expect(touched(none)).toEqual([
      "0 users with this role, 0 open sessions.",
      "Nobody gains or loses a login on a host.",
    ]);
  });
  it("names who gains, who loses, and what ends", () => {
    const one = { user: "ann", login: "root", hostname: "alpha" };
    const changes = [
      { ...one, gained: false },
      ...Array.from({ length: 8 }, (_, index) => ({ ...one, login: `l${index}`, gained: true })),
    ];
    const lines = touched({ ...none, users: ["ann"], open_sessions: 1, ending: [one], changes, hosts_left_out: 1 });
    expect(lines[0]).toBe("1 user with this role, 1 open session.");
    expect(lines[1]).toContain("Gained: ann as l0 on alpha; ");
    expect(lines[1]).toContain("and 2 more.");
    expect(lines[2]).toBe("Lost: ann as root on alpha.");
    expect(lines[3]).toBe("Sessions that end: ann as root on alpha.");
    expect(lines[4]).toBe("Nothing is said of 1 host that you may not list.");
  });
});

it("knows the refusal that may be overridden", () => {
  expect(isLastAdministrator("nobody would be left who may edit roles: this is about the last user who can")).toBe(
    true,
  );
  expect(isLastAdministrator("the role 'access' is held by ann")).toBe(false);
});
