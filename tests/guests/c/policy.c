// Images of the registries in `allow`, and no others.
#include "policy.h"

#include <stdlib.h>
#include <string.h>

static registries allowed;

/// Takes `{"allow": ["ghcr.io", ...]}`.
bool exports_image_policy_host_policy_configure(text *settings, settings_errors *errors) {
  *errors = (settings_errors){0};
  allowed = read_settings(*settings, errors);
  return errors->len == 0;
}

static bool is_allowed(text registry) {
  for (size_t i = 0; i < allowed.len; i++) {
    if (allowed.ptr[i].len == registry.len && memcmp(allowed.ptr[i].ptr, registry.ptr, registry.len) == 0) return true;
  }
  return false;
}

/// Appends what fits.
static void append(char *line, size_t size, const void *bytes, size_t len) {
  size_t used = strlen(line), room = size - 1 - used;
  if (len > room) len = room;
  memcpy(line + used, bytes, len);
  line[used + len] = '\0';
}

#define SAY(line, literal) append(line, sizeof line, literal, strlen(literal))
#define NAME(line, text) append(line, sizeof line, text.ptr, text.len)

/// False, with `error`, is a malfunction that says why.
bool exports_image_policy_host_policy_evaluate(image *image, context *context, decision *answer, text *error) {
  char reason[1024] = "";
  *answer = (decision){0};
  *error = (text){0};
  if (probe(image, reason, sizeof reason, error)) {
    if (error->ptr) return false;
    image_policy_string_dup(&answer->code, "probe");
    image_policy_string_dup(&answer->reason, reason);
    return true;
  }

  char line[1024] = "";
  SAY(line, "asked about "), NAME(line, image->registry), SAY(line, "/"), NAME(line, image->repository);
  text message = {(uint8_t *)line, strlen(line)};
  image_policy_host_log_log(IMAGE_POLICY_HOST_LOG_LEVEL_INFO, &message);

  SAY(reason, "registry "), NAME(reason, image->registry);
  if (is_allowed(image->registry)) {
    answer->outcome = IMAGE_POLICY_HOST_TYPES_OUTCOME_ALLOW;
    image_policy_string_dup(&answer->code, "trusted-registry");
    SAY(reason, " is trusted");
  } else {
    answer->outcome = IMAGE_POLICY_HOST_TYPES_OUTCOME_DENY;
    image_policy_string_dup(&answer->code, "untrusted-registry");
    SAY(reason, " is not one of ");
    for (size_t i = 0; i < allowed.len; i++) {
      if (i > 0) SAY(reason, ", ");
      NAME(reason, allowed.ptr[i]);
    }
  }
  image_policy_string_dup(&answer->reason, reason);
  return true;
}

bool same(text a, const char *b) { return a.len == strlen(b) && memcmp(a.ptr, b, a.len) == 0; }

void *must(void *memory) {
  if (!memory) abort();
  return memory;
}
