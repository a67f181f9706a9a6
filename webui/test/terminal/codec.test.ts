import { describe, expect, it } from "vitest";
import { Broken, decode, encode, json } from "../../src/pages/terminal/codec";

const bytes = (...all: number[]) => new Uint8Array(all);

describe("the envelope", () => {
  it("is protobuf with version, type and payload", () => {
    expect([...encode("r", bytes(0x68, 0x69))]).toEqual([10, 1, 0x31, 18, 1, 0x72, 26, 2, 0x68, 0x69]);
    expect(decode(encode("w", { event: "resize", size: "80:25" }))).toMatchObject({ type: "w" });
  });

  it("keeps every byte of a terminal, also when it is long", () => {
    const data = Uint8Array.from({ length: 70_000 }, (_, at) => at & 0xff);
    expect([...decode(encode("r", data)).payload]).toEqual([...data]);
  });

  it("passes over fields that a newer proxy sends", () => {
    const newer = [10, 1, 0x32, 32, 0x96, 1, 42, 2, 1, 2, 18, 1, 0x6b, 49, 0, 0, 0, 0, 0, 0, 0, 0, 26, 2, 0x7b, 0x7d];
    const { type, payload } = decode(bytes(...newer));
    expect(type).toBe("k");
    expect(json(payload)).toEqual({});
  });

  it.each([
    ["nothing", []],
    ["a field that ends too early", [18, 5, 0x72]],
    ["a number that ends too early", [18, 0x80]],
    ["a number without an end", [18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
    ["an unknown kind of field", [19, 1]],
    ["no type", [26, 1, 0x72]],
  ])("refuses %s", (_, given) => {
    expect(() => decode(bytes(...given))).toThrow(Broken);
  });

  it("never hangs and never gives more than it got", () => {
    let seed = 7;
    const random = () => {
      seed = (seed * 1103515245 + 12345) & 0x7fffffff;
      return seed;
    };
    for (let turn = 0; turn < 5000; turn += 1) {
      const data = Uint8Array.from({ length: random() % 40 }, () => random() & 0xff);
      try {
        expect(decode(data).payload.length).toBeLessThanOrEqual(data.length);
      } catch (error) {
        expect(error instanceof Broken || error instanceof TypeError).toBe(true);
      }
    }
  });

  it("takes JSON objects only", () => {
    for (const wrong of ["[]", "1", "null", "{", ""]) {
      expect(() => json(new TextEncoder().encode(wrong))).toThrow(Broken);
    }
  });
});
