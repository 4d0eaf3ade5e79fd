"""What the conformance suite asks of every guest, by the image's repository. A policy of yours has no such file."""

import os
import sys
import time

from wit_world.imports.types import Decision, Image, Outcome

from componentize_py_types import Err

asked = 0


def probe(image: Image) -> Decision | None:
    global asked
    asked += 1
    match image.repository:
        case "fault/throw":
            raise RuntimeError("thrown on purpose")
        case "fault/error":
            raise Err("reported on purpose")
        case "fault/spin":
            while True:
                pass
        case "fault/hog":
            hoard = []
            while True:
                hoard.append(b"x" * (1 << 20))
        case "probe/state":
            return allow(f"asked {asked} times")
        case "probe/wasi":
            return allow(
                f"arguments {len(sys.argv[1:])}, environment {len(os.environ)}, {files()}, "
                f"time {int(time.time())}, random {os.urandom(4).hex()}"
            )
        case "probe/wait":
            time.sleep(60)
            return allow("waited")
        case _:
            return None


def allow(reason: str) -> Decision:
    return Decision(Outcome.ALLOW, "probe", reason, [], [])


def files() -> str:
    try:
        return f"files {len(os.listdir('/'))}"
    except OSError:
        return "no files"
