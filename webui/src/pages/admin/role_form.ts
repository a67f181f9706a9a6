// A role's document as the fields of a form, and back. What no field shows stays as it is. Pure.
import type { Document } from "./types";

export interface RoleRule {
  resources: string[];
  verbs: string[];
  where: string;
  rest: Document; // what the form does not show
}

export const NEW_ROLE = `kind: role
version: v4
metadata:
  name: new-role
spec:
  allow:
    logins: []
    node_labels: {}
`;

function isMap(value: unknown): value is Document {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// The value at a path such as `spec.options.exec`.
export function valueAt(document: Document, path: string): unknown {
  let at: unknown = document;
  for (const key of path.split(".")) {
    if (!isMap(at) || !Object.hasOwn(at, key)) return undefined;
    at = at[key];
  }
  return at;
}

// A copy with another value there; undefined takes the key away, and maps of `spec` that are empty then.
export function withValue(document: Document, path: string, value: unknown): Document {
  const [key, ...rest] = path.split(".") as [string, ...string[]];
  const copy = { ...document };
  if (rest.length === 0) {
    if (value === undefined) delete copy[key];
    else copy[key] = value;
    return copy;
  }
  const inside = isMap(copy[key]) ? copy[key] : {};
  const changed = withValue(inside, rest.join("."), value);
  if (Object.keys(changed).length === 0 && key !== "spec" && key !== "metadata") delete copy[key];
  else copy[key] = changed;
  return copy;
}

export function textsAt(document: Document, path: string): string[] {
  const found = valueAt(document, path);
  return Array.isArray(found) ? found.map(String) : [];
}

export function rulesAt(document: Document, path: string): RoleRule[] {
  const found = valueAt(document, path);
  if (!Array.isArray(found)) return [];
  return found.filter(isMap).map((rule) => {
    const { resources, verbs, where, ...rest } = rule;
    return {
      resources: Array.isArray(resources) ? resources.map(String) : [],
      verbs: Array.isArray(verbs) ? verbs.map(String) : [],
      where: typeof where === "string" ? where : "",
      rest,
    };
  });
}

export function withRules(document: Document, path: string, rules: RoleRule[]): Document {
  const written = rules.map(({ resources, verbs, where, rest }) => ({
    resources,
    verbs,
    ...(where ? { where } : {}),
    ...rest,
  }));
  return withValue(document, path, written.length > 0 ? written : undefined);
}

// Where a line begins and ends in a text, so that it can be selected.
export function lineRange(text: string, line: number): [number, number] {
  const lines = text.split("\n");
  const index = Math.min(Math.max(line, 1), lines.length) - 1;
  const start = lines.slice(0, index).reduce((sum, one) => sum + one.length + 1, 0);
  return [start, start + (lines[index] ?? "").length];
}
