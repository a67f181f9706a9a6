// The envelope of the terminal's messages: a protobuf message with the strings 1 version, 2 type and 3 payload
// (docs/web-terminal.md). Payloads are bytes here: those of `r` are the terminal's, all others JSON.

export interface Envelope {
  type: string;
  payload: Uint8Array;
}

const VERSION = "1";
const MOST = 1024 * 1024; // bytes of a message from the proxy
const text = new TextEncoder();

export class Broken extends Error {}

function varint(value: number): number[] {
  const found: number[] = [];
  let left = value;
  while (left > 0x7f) {
    found.push((left & 0x7f) | 0x80);
    left >>>= 7;
  }
  found.push(left);
  return found;
}

export function encode(type: string, payload: Uint8Array | object): Uint8Array<ArrayBuffer> {
  const body = payload instanceof Uint8Array ? payload : text.encode(JSON.stringify(payload));
  const fields: [number, Uint8Array][] = [
    [1, text.encode(VERSION)],
    [2, text.encode(type)],
    [3, body],
  ];
  const heads = fields.map(([number, bytes]) => [(number << 3) | 2, ...varint(bytes.length)]);
  const size = fields.reduce((sum, [, bytes], at) => sum + bytes.length + (heads[at]?.length ?? 0), 0);
  const made = new Uint8Array(size);
  let at = 0;
  for (const [index, [, bytes]] of fields.entries()) {
    made.set(heads[index] ?? [], at);
    at += heads[index]?.length ?? 0;
    made.set(bytes, at);
    at += bytes.length;
  }
  return made;
}

// Throws Broken. Fields that are not known are passed over; of several the last one counts.
export function decode(data: Uint8Array): Envelope {
  if (data.length > MOST) throw new Broken("a message is too large");
  let at = 0;
  function number(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = data[at++];
      if (byte === undefined) throw new Broken("a message ends too early");
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new Broken("a number is too long");
  }
  let type = "";
  let payload = new Uint8Array();
  while (at < data.length) {
    const key = number();
    const kind = key & 7;
    if (kind === 0) {
      number();
      continue;
    }
    const size = kind === 2 ? number() : kind === 1 ? 8 : kind === 5 ? 4 : -1;
    if (size < 0) throw new Broken("a field is of an unknown kind");
    if (at + size > data.length) throw new Broken("a message ends too early");
    const field = data.subarray(at, at + size);
    at += size;
    if (kind !== 2) continue;
    if (key >>> 3 === 2) type = new TextDecoder("utf-8", { fatal: true }).decode(field);
    if (key >>> 3 === 3) payload = field as Uint8Array<ArrayBuffer>;
  }
  if (!type) throw new Broken("a message has no type");
  return { type, payload };
}

// A JSON payload, which has to be an object. Throws Broken.
export function json(payload: Uint8Array): Record<string, unknown> {
  try {
    const found: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
    if (found && typeof found === "object" && !Array.isArray(found)) return found as Record<string, unknown>;
  } catch {
    // below
  }
  throw new Broken("a message is no JSON object");
}
