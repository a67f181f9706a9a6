import type { ComponentChildren } from "preact";

export interface Column<T> {
  key: string; // what is asked of the server to sort by it
  title: string;
  sortable?: boolean;
  show: (row: T) => ComponentChildren;
}

interface Props<T> {
  caption: string; // what the table holds, for screen readers
  columns: Column<T>[];
  rows: T[];
  id: (row: T) => string;
  sort?: string; // "hostname", "-hostname"
  setSort?: (sort: string) => void;
}

// A table whose headings sort it. It scrolls sideways by itself where there is little room.
export function Table<T>({ caption, columns, rows, id, sort = "", setSort }: Props<T>) {
  const by = sort.replace(/^-/, "");
  const down = sort.startsWith("-");
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls has to be reached by keyboard
    <section class="scroll" tabIndex={0} aria-label={caption}>
      <table>
        <caption class="unseen">{caption}</caption>
        <thead>
          <tr>
            {columns.map((column) => (
              <th
                key={column.key}
                scope="col"
                aria-sort={column.sortable && by === column.key ? (down ? "descending" : "ascending") : undefined}
              >
                {column.sortable && setSort ? (
                  <button
                    type="button"
                    class="sort"
                    onClick={() => setSort(by === column.key && !down ? `-${column.key}` : column.key)}
                  >
                    {column.title} <span aria-hidden="true">{by === column.key ? (down ? "▼" : "▲") : "↕"}</span>
                  </button>
                ) : (
                  column.title || <span class="unseen">Actions</span>
                )}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={id(row)}>
              {columns.map((column) => (
                <td key={column.key}>{column.show(row)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

interface PagerProps {
  start: number;
  limit: number;
  total: number;
  what: string; // "nodes"
  shown?: number; // rows on this page, where it may be shorter than `limit`
  next?: number; // where the next page begins, if that is not `start + limit`; 0: there is none
  go: (start: number) => void;
}

export function Pager({ start, limit, total, what, shown = limit, next, go }: PagerProps) {
  const last = Math.min(start + shown, total);
  const following = next ?? (last < total ? last : 0);
  return (
    <nav class="pager" aria-label={`Pages of ${what}`}>
      <span role="status">{total === 0 ? `No ${what}` : `${start + 1}–${last} of ${total} ${what}`}</span>
      {(start > 0 || following > 0) && (
        <>
          <button
            type="button"
            class="button plain"
            aria-disabled={start === 0}
            onClick={() => start > 0 && go(Math.max(start - limit, 0))}
          >
            Previous
          </button>
          <button
            type="button"
            class="button plain"
            aria-disabled={following === 0}
            onClick={() => following > 0 && go(following)}
          >
            Next
          </button>
        </>
      )}
    </nav>
  );
}
