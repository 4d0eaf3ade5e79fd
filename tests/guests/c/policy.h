// What the policy's files share.
#pragma once

#include "image_policy.h"

typedef image_policy_string_t text;
typedef exports_image_policy_host_policy_settings_error_t settings_error;
typedef exports_image_policy_host_policy_list_settings_error_t settings_errors;
typedef exports_image_policy_host_policy_decision_t decision;
typedef exports_image_policy_host_policy_image_t image;
typedef exports_image_policy_host_policy_context_t context;

typedef struct {
  text *ptr;
  size_t len;
} registries;

/// Reads `{"allow": ["ghcr.io", ...]}`; every mistake is added to `errors`.
registries read_settings(text json, settings_errors *errors);

/// Does what the conformance suite asks of every guest, by the image's repository. True where that was an answer: in
/// `reason`, or in `error`.
bool probe(const image *image, char *reason, size_t size, text *error);

bool same(text a, const char *b);

/// Memory, or the end.
void *must(void *memory);
