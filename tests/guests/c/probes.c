// What the conformance suite asks of every guest. A policy of yours has no such file.
#include "policy.h"

#include <stdlib.h>
#include <string.h>

static unsigned asked;

bool probe(const image *image, char *reason, size_t size, text *error) {
  asked++;
  if (same(image->repository, "fault/throw")) {
    // C throws nothing: what there is to say goes to the log before the end.
    text message;
    image_policy_string_set(&message, "thrown on purpose");
    image_policy_host_log_log(IMAGE_POLICY_HOST_LOG_LEVEL_ERROR, &message);
    abort();
  }
  if (same(image->repository, "fault/error")) {
    image_policy_string_dup(error, "reported on purpose");
    return true;
  }
  if (same(image->repository, "fault/spin")) {
    for (volatile unsigned spins = 0;;) spins++;
  }
  if (same(image->repository, "fault/hog")) {
    for (size_t mebibyte = 1 << 20;;) memset(must(malloc(mebibyte)), 1, mebibyte);
  }
  if (same(image->repository, "probe/state")) {
    char digits[] = "asked 0 times";
    digits[strlen("asked ")] += asked % 10;
    memcpy(reason, digits, sizeof digits);
    return true;
  }
  return false;
}
