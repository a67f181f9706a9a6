// Fetching a recording for the player, in pieces, giving way to the page between them.
import { fetched } from "../raw";
import { BadRecording, type Track, TrackBuilder } from "./track";

const MAX_LINE = 8 * 1024 * 1024; // characters; a frame has up to 1 MiB, and JSON writes some of it sixfold
const TURN = 12; // milliseconds of work before others have a turn

export function pause(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** The recording. `progress` hears how many characters of output there are so far. */
export async function load(path: string, signal: AbortSignal, progress: (shown: number) => void): Promise<Track> {
  const response = await fetched(path, signal);
  if (!response.body) throw new BadRecording("the recording came without content");
  const reader = response.body.getReader();
  try {
    return await built(() => reader.read(), progress);
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** The recording whose bytes `read` gives. */
export async function built(
  read: () => Promise<{ done: boolean; value?: Uint8Array | undefined }>,
  progress: (shown: number) => void,
): Promise<Track> {
  const decoder = new TextDecoder();
  const builder = new TrackBuilder();
  let rest = "";
  let begun = performance.now();
  for (;;) {
    let done: boolean;
    let value: Uint8Array | undefined;
    try {
      ({ done, value } = await read());
    } catch (error) {
      if (error instanceof DOMException && error.name === "AbortError") throw error;
      return broken(builder, "The recording broke off on its way here; load the page again.");
    }
    rest += decoder.decode(value, { stream: !done });
    let from = 0;
    for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n", from)) {
      const line = rest.slice(from, end);
      from = end + 1;
      if (line !== "" && !builder.take(line)) return finished(builder);
      if (performance.now() - begun > TURN) {
        progress(builder.track?.shown ?? 0);
        await pause();
        begun = performance.now();
      }
    }
    rest = rest.slice(from);
    if (rest.length > MAX_LINE) throw new BadRecording("the recording came in a form that this page does not know");
    if (done) break;
  }
  return finished(builder);
}

function finished(builder: TrackBuilder): Track {
  if (builder.track === null) throw new BadRecording("the recording came without its beginning");
  return builder.track;
}

function broken(builder: TrackBuilder, why: string): Track {
  const track = finished(builder);
  track.problem = why;
  return track;
}
