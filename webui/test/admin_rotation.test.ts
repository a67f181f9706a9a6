import { describe, expect, it } from "vitest";
import { after, goesBack, groupsOf, means, stepOf, together } from "../src/pages/admin/rotation_words";
import type { Authority } from "../src/pages/admin/types";

function authority(kind: string, phase: string, rotation_id = "one", mode = "manual"): Authority {
  return {
    kind,
    phase,
    mode,
    rotation_id,
    rotation: "",
    keys: 2,
    started: null,
    last_rotated: null,
    schedule: {},
    ca_pins: [],
    fingerprints: null,
  };
}

describe("rotations", () => {
  it("are of the authorities that began together and stand alike", () => {
    const found = groupsOf([
      authority("host", "init"),
      authority("user", "init"),
      authority("jwt", "update_clients"),
      authority("openssh", "init", "two"),
      authority("old", ""),
      authority("resting", "standby"),
    ]);
    expect(found.map((one) => one.kinds)).toEqual([["host", "user"], ["jwt"], ["openssh"]]);
    expect(groupsOf([])).toEqual([]);
  });
  it("go through their phases, with a way back but out of rollback", () => {
    expect(["init", "update_clients", "update_servers", "rollback", "standby", "?"].map(after)).toEqual([
      "update_clients",
      "update_servers",
      "standby",
      "standby",
      "",
      "",
    ]);
    expect(["init", "update_clients", "update_servers"].every(goesBack)).toBe(true);
    expect(["rollback", "standby", "?"].some(goesBack)).toBe(false);
  });
  it("say which keys the end takes away", () => {
    expect(stepOf("update_servers", "standby")).toMatchObject({ button: "End the old keys", ends: true });
    expect(stepOf("rollback", "standby").happens).toContain("The new keys are trusted no more.");
    expect(stepOf("init", "rollback").ends).toBe(false);
    expect(stepOf("init", "update_clients").happens).toContain(means("update_clients"));
  });
  it("are named in a row", () => {
    expect([[], ["host"], ["host", "user"], ["host", "user", "jwt"]].map(together)).toEqual([
      "",
      "host",
      "host and user",
      "host, user and jwt",
    ]);
  });
});
