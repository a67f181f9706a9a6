// A rotation that is under way, and who would be left behind by its end.
import { useId } from "preact/hooks";
import { Button, type Column, Notice, Spinner, Table, Trouble, useAsk, When } from "../../ui";
import { after, type Group, goesBack, means, stepOf, together } from "./rotation_words";
import type { LeftBehind, RotationPlan, WaitedFor } from "./types";

const WAITING: Column<WaitedFor>[] = [
  { key: "host", title: "Who", show: (one) => one.hostname || one.host_id },
  { key: "service", title: "Service", show: (one) => one.service.replaceAll("_", " ") },
  { key: "authority", title: "Authority", show: (one) => one.authority },
  { key: "reached", title: "Has reached", show: (one) => one.reached || "reports no phase" },
];

export function Waiting({ rows }: { rows: WaitedFor[] }) {
  return (
    <Table
      caption="Services that a rotation waits for"
      columns={WAITING}
      rows={rows}
      id={(one) => `${one.authority} ${one.service} ${one.host_id}`}
    />
  );
}

interface Props {
  group: Group;
  waiting: WaitedFor[] | null; // null: the user may not know
  go: ((target: string) => void) | null; // null: the user may not steer it
}

export function RotationCard({ group, waiting, go }: Props) {
  const id = useId();
  const missing = (waiting ?? []).filter((one) => group.kinds.includes(one.authority));
  const next = after(group.phase);
  return (
    <section class="part" aria-labelledby={id}>
      <h2 id={id}>Rotation of {together(group.kinds)}</h2>
      <Notice kind="warn">
        Phase {group.phase}, {group.mode === "auto" ? "by itself" : "step by step"}. {means(group.phase)}
      </Notice>
      <dl class="facts">
        {group.started && (
          <>
            <dt>Began</dt>
            <dd>
              <When time={group.started} />
            </dd>
          </>
        )}
        {Object.entries(group.schedule).flatMap(([phase, when]) => [
          <dt key={phase}>{phase}</dt>,
          <dd key={`${phase} at`}>
            <When time={when} />
          </dd>,
        ])}
      </dl>
      {waiting && missing.length === 0 && <p>Every host that is here has followed.</p>}
      {missing.length > 0 && (
        <>
          <h3>Who has not followed yet</h3>
          <Waiting rows={missing} />
        </>
      )}
      {go && (
        <div class="steps">
          {next && (
            <Button kind="primary" onClick={() => go(next)}>
              {stepOf(group.phase, next).title}…
            </Button>
          )}
          {goesBack(group.phase) && (
            <Button onClick={() => go("rollback")}>{stepOf(group.phase, "rollback").title}…</Button>
          )}
        </div>
      )}
    </section>
  );
}

const LEFT: Column<LeftBehind>[] = [
  { key: "authority", title: "Rotation", show: (one) => one.authority },
  {
    key: "who",
    title: "Who",
    show: (one) => (
      <>
        {one.type} {one.name || one.subject}
        {one.role && <div class="hint">{one.role}</div>}
      </>
    ),
  },
  { key: "expires", title: "Would expire", show: (one) => (one.expires ? <When time={one.expires} /> : "–") },
  { key: "why", title: "Why", show: (one) => one.why },
  { key: "remedy", title: "What brings it along", show: (one) => <code>{one.remedy}</code> },
];

// Who would be left behind, asked of auth: `path` as docs/api.md says.
export function Plan({ path }: { path: string }) {
  const found = useAsk<RotationPlan>(path);
  const data = found.of === path ? found.data : null;
  return (
    <section aria-label="Who would be left behind">
      <h3>Who would be left behind</h3>
      {found.error ? <Trouble error={found.error} /> : !data && <Spinner label="Looking who would be left behind" />}
      {data && data.left_behind.length === 0 && <p>No certificate that is known would be left behind.</p>}
      {data && data.left_behind.length > 0 && (
        <div class="left-behind">
          <Table
            caption="Certificates that would not count any more at the end"
            columns={LEFT}
            rows={data.left_behind}
            id={(one) => `${one.authority} ${one.type} ${one.subject} ${one.role} ${one.serial} ${one.why}`}
          />
          {data.more > 0 && <p>And {data.more} more.</p>}
        </div>
      )}
    </section>
  );
}
