// Images of the registries in `allow`, and no others.
import { log } from "image-policy:host/log@0.1.0";
import { probe } from "./probes.js";

let allowed = [];

export const policy = {
  /** Takes `{"allow": ["ghcr.io", …]}`. What is thrown is the list of mistakes. */
  configure(text) {
    const settings = JSON.parse(text);
    const mistakes = check(settings);
    if (mistakes.length > 0) throw mistakes;
    allowed = settings.allow;
  },

  /** Throwing a string reports it; anything else that is thrown is a failure. */
  evaluate(image, _context) {
    const probed = probe(image);
    if (probed !== undefined) return probed;

    log("info", `asked about ${image.registry}/${image.repository}`);
    if (allowed.includes(image.registry)) {
      return decision("allow", "trusted-registry", `registry ${image.registry} is trusted`);
    }
    return decision("deny", "untrusted-registry", `registry ${image.registry} is not one of ${allowed.join(", ")}`);
  },
};

export function decision(outcome, code, reason) {
  return { outcome, code, reason, auditAnnotations: [], warnings: [] };
}

/** Every mistake in the settings, with its JSON Pointer. */
function check(settings) {
  if (typeof settings !== "object" || settings === null || Array.isArray(settings)) {
    return [{ pointer: "", message: "expected an object with `allow`" }];
  }
  const mistakes = Object.keys(settings)
    .filter((key) => key !== "allow")
    .map((key) => ({ pointer: `/${escape(key)}`, message: "no such setting: there is only `allow`" }));
  if (!("allow" in settings)) {
    mistakes.push({ pointer: "", message: "`allow` is missing: list the registries to trust" });
  } else if (!Array.isArray(settings.allow)) {
    mistakes.push({ pointer: "/allow", message: "expected a list of registries" });
  } else {
    settings.allow.forEach((registry, index) => {
      if (typeof registry !== "string") {
        mistakes.push({ pointer: `/allow/${index}`, message: "expected a registry such as ghcr.io" });
      }
    });
  }
  return mistakes;
}

/** A key as a part of a JSON Pointer. */
function escape(key) {
  return key.replaceAll("~", "~0").replaceAll("/", "~1");
}
