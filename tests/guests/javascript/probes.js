// What the conformance suite asks of every guest, by the image's repository. A policy of yours has no such file.
import { decision } from "./policy.js";

let asked = 0;

export function probe(image) {
  asked += 1;
  switch (image.repository) {
    case "fault/throw":
      throw new Error("thrown on purpose");
    case "fault/error":
      throw "reported on purpose";
    case "fault/spin":
      for (;;);
    case "fault/hog":
      for (const hoard = []; ; ) hoard.push(new Uint8Array(1 << 20).fill(1));
    case "probe/state":
      return decision("allow", "probe", `asked ${asked} times`);
    case "probe/wasi":
      return decision("allow", "probe", `time ${Date.now() / 1000}, random ${Math.random()}`);
  }
}
