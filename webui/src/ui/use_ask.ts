import { useCallback, useEffect, useState } from "preact/hooks";
import { ApiError, ask } from "../api";

interface Found<T> {
  of: string; // the path that `data` answers: while another one is on its way, the former one
  data: T | null; // the last good answer, also while another one is on its way or has failed
  error: unknown;
  loading: boolean;
  again: () => void;
}

// What a path answers; asked anew when the path changes, on `again()`, and each `every` milliseconds while the page is
// seen (such requests keep no session alive). Empty path: nothing is asked.
export function useAsk<T>(path: string, every = 0): Found<T> {
  const [state, setState] = useState<{ of: string; data: T | null; error: unknown; loading: boolean }>({
    of: "",
    data: null,
    error: null,
    loading: true,
  });
  const [tries, setTries] = useState(0);
  const again = useCallback(() => setTries((count) => count + 1), []);

  useEffect(() => {
    if (!path) return;
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    async function look(background: boolean) {
      try {
        const data = await ask<T>("GET", path, undefined, { background, signal: stop.signal });
        if (!stop.signal.aborted) setState({ of: path, data, error: null, loading: false });
      } catch (error) {
        if (stop.signal.aborted) return;
        setState((former) => ({ ...former, error, loading: false }));
        if (error instanceof ApiError && error.status === 401) return;
      }
      if (every > 0 && !stop.signal.aborted) timer = setTimeout(later, every);
    }
    function later() {
      if (document.hidden) timer = setTimeout(later, every);
      else look(true);
    }
    setState((former) => ({ ...former, loading: true }));
    look(false);
    return () => {
      stop.abort();
      clearTimeout(timer);
    };
  }, [path, every, tries]);
  return { ...state, again };
}
