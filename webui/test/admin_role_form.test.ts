import { describe, expect, it } from "vitest";
import { lineRange, rulesAt, textsAt, valueAt, withRules, withValue } from "../src/pages/admin/role_form";

const ROLE = {
  kind: "role",
  metadata: { name: "ops" },
  spec: { allow: { logins: ["root"], rules: [{ resources: ["user"], verbs: ["list"], actions: ["x"] }] } },
};

describe("a role's document", () => {
  it("is read by paths", () => {
    expect(valueAt(ROLE, "metadata.name")).toBe("ops");
    expect(valueAt(ROLE, "spec.deny.logins")).toBeUndefined();
    expect(valueAt(ROLE, "metadata.name.x")).toBeUndefined();
    expect(valueAt(ROLE, "constructor")).toBeUndefined();
    expect(textsAt(ROLE, "spec.allow.logins")).toEqual(["root"]);
    expect(textsAt(ROLE, "spec.allow")).toEqual([]);
  });
  it("is changed in a copy, and keeps everything else", () => {
    const changed = withValue(ROLE, "spec.options.exec", "none");
    expect(valueAt(changed, "spec.options")).toEqual({ exec: "none" });
    expect(valueAt(changed, "spec.allow")).toBe(ROLE.spec.allow);
    expect(valueAt(ROLE, "spec.options")).toBeUndefined();
  });
  it("has no empty maps left behind, but keeps spec", () => {
    const back = withValue(withValue(ROLE, "spec.options.exec", "none"), "spec.options.exec", undefined);
    expect(back).toEqual(ROLE);
    expect(withValue({ spec: { allow: { logins: ["a"] } } }, "spec.allow.logins", undefined)).toEqual({ spec: {} });
  });
  it("keeps what the form does not show of a rule", () => {
    const rules = rulesAt(ROLE, "spec.allow.rules");
    expect(rules).toEqual([{ resources: ["user"], verbs: ["list"], where: "", rest: { actions: ["x"] } }]);
    const changed = withRules(ROLE, "spec.allow.rules", [{ ...(rules[0] as (typeof rules)[0]), where: "true" }]);
    expect(valueAt(changed, "spec.allow.rules")).toEqual([
      { resources: ["user"], verbs: ["list"], where: "true", actions: ["x"] },
    ]);
    expect(valueAt(withRules(ROLE, "spec.allow.rules", []), "spec.allow.rules")).toBeUndefined();
  });
});

it("finds a line in a text", () => {
  const text = "one\ntwo\n\nfour";
  expect(text.slice(...lineRange(text, 2))).toBe("two");
  expect(text.slice(...lineRange(text, 3))).toBe("");
  expect(text.slice(...lineRange(text, 99))).toBe("four");
  expect(text.slice(...lineRange(text, 0))).toBe("one");
});
