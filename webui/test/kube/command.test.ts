import { describe, expect, it } from "vitest";
import { kubeCommand, proxyOf, word } from "../../src/pages/kube/command";

const WAY = { proxy: "p.example.com:443", user: "ann", cluster: "root.test", site: "root.test", name: "prod" };

describe("what is typed for a Kubernetes cluster", () => {
  it("logs in and chooses it", () => {
    expect(kubeCommand(WAY).split("\n")).toEqual([
      "tsh login --proxy=p.example.com:443 --user=ann",
      "tsh kube login prod",
      "kubectl get pods",
    ]);
    expect(kubeCommand({ ...WAY, site: "-current-" })).toBe(kubeCommand(WAY));
  });

  it("names the cluster that it is in", () => {
    expect(kubeCommand({ ...WAY, site: "leaf.test" })).toContain("\ntsh kube login --cluster=leaf.test prod\n");
  });

  it("lets no name be more than a word", () => {
    for (const [name, said] of [
      ["a; rm -rf ~", "'a; rm -rf ~'"],
      ["$(id)", "'$(id)'"],
      ["it's", "'it'\\''s'"],
      ["a\nb", "'a\nb'"],
      ["--help", "-- --help"],
      ["-x y", "-- '-x y'"],
      ["arn:aws:eks:eu-1:1:cluster/prod", "arn:aws:eks:eu-1:1:cluster/prod"],
      ["é", "'é'"],
    ])
      expect(kubeCommand({ ...WAY, name: name as string })).toContain(`\ntsh kube login ${said}\n`);
    expect(word("")).toBe("''");
  });

  it("names the proxy with its port", () => {
    expect(proxyOf({ hostname: "p.example.com", port: "" })).toBe("p.example.com:443");
    expect(proxyOf({ hostname: "[::1]", port: "3080" })).toBe("[::1]:3080");
  });
});
