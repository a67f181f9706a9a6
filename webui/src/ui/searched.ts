// What lists have in common that are searched in the address and shown a page at a time.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { setQuery } from "../router";
import { Pace } from "./pace";

// The first row that an address asks for.
export function startOf(query: URLSearchParams): number {
  const start = Number(query.get("start") ?? "0");
  return Number.isSafeInteger(start) && start > 0 ? start : 0;
}

// The first row of the page that is shown, while another one may be on its way.
export function startShown(found: { of: string }): number {
  return startOf(new URLSearchParams(found.of.split("?")[1] ?? ""));
}

// The text of the search field, and what sets it. It follows the address, where it goes in the pace of the answers;
// `loading`: one is on its way.
export function useSearch(query: URLSearchParams, loading: boolean): [string, (text: string) => void] {
  const kept = query.get("search") ?? "";
  const [search, setSearch] = useState(kept);
  const asked = useRef(kept); // what was typed and has gone into the address: no key that was pressed since is lost to it
  const pace = useMemo(() => new Pace(), []);
  useEffect(() => {
    if (kept !== asked.current) setSearch(kept); // the way back, or a link
    asked.current = kept;
  }, [kept]);
  useEffect(() => {
    if (search === asked.current) {
      pace.drop();
      return;
    }
    pace.want(() => {
      asked.current = search;
      setQuery({ search, start: "" }, { replace: true });
    });
  }, [pace, search]);
  useEffect(() => pace.answering(loading), [pace, loading]);
  useEffect(() => () => pace.drop(), [pace]);
  return [search, setSearch];
}

// Back to the first page when so many have gone that there is none at `start`.
export function useFirstWhenBeyond(start: number, data: { total: number } | null): void {
  const beyond = data !== null && start > 0 && start >= data.total;
  useEffect(() => {
    if (beyond) setQuery({ start: "" }, { replace: true });
  }, [beyond]);
}
