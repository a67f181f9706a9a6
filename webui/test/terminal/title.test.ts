import { describe, expect, it } from "vitest";
import { pasted, plain, windowTitle } from "../../src/pages/terminal/title";

describe("what a host calls its window", () => {
  it("is one line of visible text", () => {
    expect(plain("vim — notes.txt")).toBe("vim — notes.txt");
    expect(plain("a\nb\tc\u0007d\u009be")).toBe("abcde");
    expect(plain("gpj\u202etxt\u200b.exe\u2066\ufeff\u00ad")).toBe("gpjtxt.exe");
    expect(plain(`  ${"x".repeat(500)}`)).toHaveLength(60);
    expect(plain("<img src=x onerror=alert(1)>")).toBe("<img src=x onerror=alert(1)>");
  });

  it("never stands alone", () => {
    expect(windowTitle("root", "alpha", "Sign in to your bank")).toBe("root@alpha · Sign in to your bank");
    expect(windowTitle("root", "alpha", "")).toBe("root@alpha");
    expect(windowTitle("root", "alpha", "root@alpha")).toBe("root@alpha");
    expect(windowTitle("ro\u202eot", "al\npha", "")).toBe("root@alpha");
  });
});

describe("what is pasted", () => {
  it("is text, and ends no bracketed paste", () => {
    expect(pasted("ls\x1b[201~\rrm -rf ~\r")).toBe("ls[201~\rrm -rf ~\r");
    expect(pasted("a\r\nb\tc\x00\x03\x04\x7f\x9b201~")).toBe("a\nb\tc201~");
    expect(pasted("grüße 日本 🎉")).toBe("grüße 日本 🎉");
  });
});
