import { describe, expect, it } from "vitest";
import { howMany } from "../../src/pages/see/missing";

describe("what waits", () => {
  it("is counted when more than one is known", () => {
    expect(howMany(0)).toBe("Events wait");
    expect(howMany(1)).toBe("Events wait");
    expect(howMany(30)).toBe("At least 30 events wait");
  });
});
