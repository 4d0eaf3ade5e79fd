"""Images of the registries in `allow`, and no others."""

import json

from wit_world import exports
from wit_world.imports import log
from wit_world.imports.types import Context, Decision, Image, Outcome, SettingsError

from componentize_py_types import Err
from probes import probe

# What `configure` leaves for `evaluate`: each call has a Policy of its own, so it cannot stand in one.
allowed: list[str] = []


class Policy(exports.Policy):
    def configure(self, settings: str) -> None:
        """Takes `{"allow": ["ghcr.io", …]}`."""
        parsed = json.loads(settings)
        mistakes = check(parsed)
        if mistakes:
            raise Err(mistakes)
        allowed[:] = parsed["allow"]

    def evaluate(self, image: Image, context: Context) -> Decision:
        """Raising `Err` reports its text; any other exception is a failure."""
        if (probed := probe(image)) is not None:
            return probed

        log.log(log.Level.INFO, f"asked about {image.registry}/{image.repository}")
        if image.registry in allowed:
            return Decision(Outcome.ALLOW, "trusted-registry", f"registry {image.registry} is trusted", [], [])
        reason = f"registry {image.registry} is not one of {', '.join(allowed)}"
        return Decision(Outcome.DENY, "untrusted-registry", reason, [], [])


def check(settings: object) -> list[SettingsError]:
    """Every mistake in the settings, with its JSON Pointer."""
    if not isinstance(settings, dict):
        return [SettingsError("", "expected an object with `allow`", None)]
    mistakes = [
        SettingsError(f"/{escape(key)}", "no such setting: there is only `allow`", None)
        for key in settings
        if key != "allow"
    ]
    if "allow" not in settings:
        mistakes.append(SettingsError("", "`allow` is missing: list the registries to trust", None))
    elif not isinstance(settings["allow"], list):
        mistakes.append(SettingsError("/allow", "expected a list of registries", None))
    else:
        mistakes += [
            SettingsError(f"/allow/{index}", "expected a registry such as ghcr.io", None)
            for index, registry in enumerate(settings["allow"])
            if not isinstance(registry, str)
        ]
    return mistakes


def escape(key: str) -> str:
    """A key as a part of a JSON Pointer."""
    return key.replace("~", "~0").replace("/", "~1")
