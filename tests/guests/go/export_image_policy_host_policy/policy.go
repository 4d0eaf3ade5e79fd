// Package export_image_policy_host_policy is the policy: images of the registries in `allow`, and no others.
package export_image_policy_host_policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	wit "go.bytecodealliance.org/pkg/wit/types"
	log "wit_component/image_policy_host_log"
	host "wit_component/image_policy_host_types"
)

var allowed []string

// Configure takes `{"allow": ["ghcr.io", …]}`.
func Configure(settings string) wit.Result[wit.Unit, []host.SettingsError] {
	var mistakes []host.SettingsError
	if allowed, mistakes = read(settings); len(mistakes) > 0 {
		return wit.Err[wit.Unit](mistakes)
	}
	return wit.Ok[wit.Unit, []host.SettingsError](wit.Unit{})
}

// Evaluate judges one image. An Err is a malfunction that says why.
func Evaluate(image host.Image, context host.Context) wit.Result[host.Decision, string] {
	if probed := probe(image); probed != nil {
		return *probed
	}

	log.Log(log.Level_Info, fmt.Sprintf("asked about %s/%s", image.Registry, image.Repository))
	if slices.Contains(allowed, image.Registry) {
		return decision(host.Outcome_Allow, "trusted-registry", fmt.Sprintf("registry %s is trusted", image.Registry))
	}
	reason := fmt.Sprintf("registry %s is not one of %s", image.Registry, strings.Join(allowed, ", "))
	return decision(host.Outcome_Deny, "untrusted-registry", reason)
}

func decision(outcome host.Outcome, code, reason string) wit.Result[host.Decision, string] {
	return wit.Ok[host.Decision, string](host.Decision{Outcome: outcome, Code: code, Reason: reason})
}

// read gives the registries, and every mistake in the settings with its JSON Pointer.
func read(text string) (registries []string, mistakes []host.SettingsError) {
	var settings map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &settings) != nil || settings == nil {
		return nil, []host.SettingsError{{Pointer: "", Message: "expected an object with `allow`"}}
	}
	mistake := func(pointer, message string) {
		mistakes = append(mistakes, host.SettingsError{Pointer: pointer, Message: message})
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		if key != "allow" {
			mistake("/"+escape.Replace(key), "no such setting: there is only `allow`")
		}
	}
	var entries []json.RawMessage
	if allow, there := settings["allow"]; !there {
		mistake("", "`allow` is missing: list the registries to trust")
	} else if json.Unmarshal(allow, &entries) != nil || entries == nil {
		mistake("/allow", "expected a list of registries")
	}
	for index, entry := range entries {
		var registry *string
		if json.Unmarshal(entry, &registry) != nil || registry == nil {
			mistake(fmt.Sprintf("/allow/%d", index), "expected a registry such as ghcr.io")
		} else {
			registries = append(registries, *registry)
		}
	}
	return registries, mistakes
}

// escape makes a key a part of a JSON Pointer.
var escape = strings.NewReplacer("~", "~0", "/", "~1")
