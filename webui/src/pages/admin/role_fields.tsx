// The fields of a role that most roles need; everything else is in the text.
import { useEffect, useState } from "preact/hooks";
import { Button, Field, SelectField } from "../../ui";
import { Area, Check } from "./parts";
import { type RoleRule, rulesAt, textsAt, valueAt, withRules, withValue } from "./role_form";
import type { Checked, Document } from "./types";
import { listed, readPairs, writePairs } from "./words";

interface Props {
  document: Document;
  set: (document: Document) => void;
  named: boolean; // the name may be given
  disabled: boolean;
  checked: Checked | null;
}

export function RoleFields({ document, set, named, disabled, checked }: Props) {
  const text = (path: string) => String(valueAt(document, path) ?? "");
  const put = (path: string, value: unknown) => set(withValue(document, path, value));
  const problem = (path: string) => checked?.problems.find((one) => one.path.startsWith(path))?.allowed;
  const rules = rulesAt(document, "spec.allow.rules");
  const putRules = (changed: RoleRule[]) => set(withRules(document, "spec.allow.rules", changed));
  return (
    <fieldset disabled={disabled}>
      <legend>As a form</legend>
      {named && (
        <Field
          label="Name"
          value={text("metadata.name")}
          set={(value) => put("metadata.name", value)}
          autoComplete="off"
          {...withProblem(problem("metadata.name"))}
        />
      )}
      <Field
        label="Description"
        value={text("metadata.description")}
        set={(value) => put("metadata.description", value || undefined)}
        autoComplete="off"
      />
      <fieldset>
        <legend>Hosts</legend>
        <ListField
          label="Logs in as"
          values={textsAt(document, "spec.allow.logins")}
          set={(values) => put("spec.allow.logins", values)}
          hint="Unix accounts, separated by commas. {{internal.logins}}: as the user's traits say."
        />
        <PairsField
          label="On hosts with"
          document={document}
          path="spec.allow.node_labels"
          set={set}
          hint="One label to a line: env = prod, test. All hosts: * = *"
        />
        <SelectField
          label="May run"
          value={text("spec.options.exec") || "all"}
          set={(value) => put("spec.options.exec", value === "all" ? undefined : value)}
        >
          <option value="all">a shell and commands</option>
          <option value="transfer">file transfers only</option>
          <option value="none">nothing</option>
        </SelectField>
        <Check
          label="Forwards ports"
          checked={valueAt(document, "spec.options.port_forwarding") !== false}
          disabled={disabled}
          set={(on) => put("spec.options.port_forwarding", on ? undefined : false)}
        />
        <Check
          label="Takes the SSH agent along"
          checked={valueAt(document, "spec.options.forward_agent") === true}
          disabled={disabled}
          set={(on) => put("spec.options.forward_agent", on || undefined)}
        />
      </fieldset>
      <fieldset>
        <legend>Terms</legend>
        <Field
          label="Certificates hold for at most"
          value={text("spec.options.max_session_ttl")}
          set={(value) => put("spec.options.max_session_ttl", value || undefined)}
          placeholder="30h"
          autoComplete="off"
          hint="As in 8h or 30m."
          {...withProblem(problem("spec.options.max_session_ttl"))}
        />
        <Field
          label="Sessions end when nothing is done for"
          value={text("spec.options.client_idle_timeout")}
          set={(value) => put("spec.options.client_idle_timeout", value || undefined)}
          placeholder="never"
          autoComplete="off"
          {...withProblem(problem("spec.options.client_idle_timeout"))}
        />
        <Check
          label="Each session asks for a second factor"
          checked={valueAt(document, "spec.options.require_session_mfa") === true}
          disabled={disabled}
          set={(on) => put("spec.options.require_session_mfa", on || undefined)}
        />
        <Check
          label="Certificates hold from the address of the login only"
          checked={valueAt(document, "spec.options.pin_source_ip") === true}
          disabled={disabled}
          set={(on) => put("spec.options.pin_source_ip", on || undefined)}
        />
      </fieldset>
      <fieldset>
        <legend>In the cluster</legend>
        {rules.map((rule, index) => (
          <div class="row-fields" key={index}>
            <ListField
              label={`Rule ${index + 1}: may`}
              values={rule.verbs}
              set={(verbs) => putRules(rules.map((one, at) => (at === index ? { ...one, verbs } : one)))}
              hint="list, read, create, update, delete, or *"
            />
            <ListField
              label="what"
              values={rule.resources}
              set={(resources) => putRules(rules.map((one, at) => (at === index ? { ...one, resources } : one)))}
              hint="user, role, token, lock, session, event, …, or *"
            />
            <Field
              label="only where"
              value={rule.where}
              set={(where) => putRules(rules.map((one, at) => (at === index ? { ...one, where } : one)))}
              autoComplete="off"
              {...withProblem(problem(`spec.allow.rules[${index}]`))}
            />
            <div class="actions">
              <Button onClick={() => putRules(rules.filter((_, at) => at !== index))}>Remove rule {index + 1}</Button>
            </div>
          </div>
        ))}
        <Button
          onClick={() => putRules([...rules, { resources: ["session"], verbs: ["list", "read"], where: "", rest: {} }])}
        >
          Add a rule
        </Button>
      </fieldset>
      <fieldset>
        <legend>Never, whatever other roles allow</legend>
        <ListField
          label="Logs in as"
          values={textsAt(document, "spec.deny.logins")}
          set={(values) => put("spec.deny.logins", values.length > 0 ? values : undefined)}
        />
        <PairsField label="On hosts with" document={document} path="spec.deny.node_labels" set={set} />
      </fieldset>
    </fieldset>
  );
}

function withProblem(problem: string | undefined): { problem?: string } {
  return problem ? { problem } : {};
}

interface ListProps {
  label: string;
  values: string[];
  set: (values: string[]) => void;
  hint?: string;
}

// Names separated by commas; what is being typed stays as it is while it says the same.
function ListField({ label, values, set, hint }: ListProps) {
  const said = values.join(", ");
  const [text, setText] = useState(said);
  useEffect(() => {
    if (listed(text).join(", ") !== said) setText(said);
  }, [said]);
  return (
    <Field
      label={label}
      value={text}
      set={(value) => {
        setText(value);
        set(listed(value));
      }}
      autoComplete="off"
      {...(hint ? { hint } : {})}
    />
  );
}

interface PairsProps {
  label: string;
  document: Document;
  path: string;
  set: (document: Document) => void;
  hint?: string;
}

// Labels, one to a line; the role follows once they can be read.
function PairsField({ label, document, path, set, hint }: PairsProps) {
  const found = valueAt(document, path);
  const said = writePairs((typeof found === "object" && found !== null ? found : {}) as Record<string, unknown>);
  const [text, setText] = useState(said);
  const { problem } = readPairs(text);
  useEffect(() => {
    const read = readPairs(text);
    if (read.problem || writePairs(read.pairs) !== said) setText(said);
  }, [said]);
  return (
    <Area
      label={label}
      value={text}
      rows={2}
      set={(value) => {
        setText(value);
        const read = readPairs(value);
        if (read.problem) return;
        const empty = Object.keys(read.pairs).length === 0;
        set(withValue(document, path, empty ? undefined : read.pairs));
      }}
      problem={problem}
      {...(hint ? { hint } : {})}
    />
  );
}
