// The settings: JSON that the host has written, so it is known to be well formed.
#include "policy.h"

#include <stdlib.h>
#include <string.h>

/// What is left to read.
static const char *at;

static void skip_space(void) {
  while (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t') at++;
}

/// Whether `c` comes next; then it is passed.
static bool pass(char c) {
  skip_space();
  if (*at != c) return false;
  at++;
  return true;
}

static void put(text *out, unsigned byte) { out->ptr[out->len++] = (uint8_t)byte; }

/// The code unit of `\uXXXX`, after the `u`.
static unsigned code_unit(void) {
  char digits[5] = {at[0], at[1], at[2], at[3], '\0'};
  at += 4;
  return (unsigned)strtoul(digits, NULL, 16);
}

/// A string as UTF-8, after its first quote. No escape is shorter than what it stands for.
static text string(void) {
  text out = {must(malloc(strlen(at))), 0};
  while (*at != '"') {
    if (*at != '\\') {
      put(&out, (uint8_t)*at++);
      continue;
    }
    at++;
    static const char escapes[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    char escape = *at++;
    if (escape != 'u') {
      put(&out, (uint8_t)meanings[strchr(escapes, escape) - escapes]);
      continue;
    }
    unsigned c = code_unit();
    if (c >= 0xD800 && c < 0xDC00) {
      at += 2;  // the `\u` of the other surrogate
      c = 0x10000 + ((c - 0xD800) << 10) + (code_unit() - 0xDC00);
    }
    if (c < 0x80) {
      put(&out, c);
    } else {
      if (c < 0x800) {
        put(&out, 0xC0 | c >> 6);
      } else {
        if (c < 0x10000) {
          put(&out, 0xE0 | c >> 12);
        } else {
          put(&out, 0xF0 | c >> 18), put(&out, 0x80 | (c >> 12 & 0x3F));
        }
        put(&out, 0x80 | (c >> 6 & 0x3F));
      }
      put(&out, 0x80 | (c & 0x3F));
    }
  }
  at++;
  return out;
}

/// Passes a value of any kind, however deep.
static void skip_value(void) {
  size_t depth = 0;
  do {
    skip_space();
    if (*at == '"') {
      at++;
      free(string().ptr);
    } else if (*at == '{' || *at == '[') {
      at++, depth++;
      continue;
    } else if (*at == '}' || *at == ']') {
      at++, depth--;
    } else {
      at += strcspn(at, " \n\r\t,:]}");
    }
    while (depth > 0 && (pass(',') || pass(':'))) {
    }
  } while (depth > 0);
}

static void mistake(settings_errors *errors, text pointer, const char *message) {
  errors->ptr = must(realloc(errors->ptr, (errors->len + 1) * sizeof *errors->ptr));
  settings_error *error = &errors->ptr[errors->len++];
  error->pointer = pointer;
  error->position.is_some = false;
  image_policy_string_dup(&error->message, message);
}

/// `/` and a key, as a JSON Pointer writes it.
static text pointer_to(text key) {
  text pointer = {must(malloc(1 + 2 * key.len)), 0};
  put(&pointer, '/');
  for (size_t i = 0; i < key.len; i++) {
    uint8_t byte = key.ptr[i];
    if (byte != '~' && byte != '/') {
      put(&pointer, byte);
    } else {
      put(&pointer, '~'), put(&pointer, byte == '~' ? '0' : '1');
    }
  }
  return pointer;
}

static text pointer_to_entry(size_t index) {
  char digits[sizeof "/allow/" + 20] = "/allow/", *end = digits + sizeof digits - 1, *digit = end;
  do *--digit = (char)('0' + index % 10);
  while ((index /= 10) > 0);
  memmove(digits + strlen("/allow/"), digit, (size_t)(end - digit));
  text pointer;
  image_policy_string_dup_n(&pointer, digits, strlen("/allow/") + (size_t)(end - digit));
  return pointer;
}

static registries read_list(settings_errors *errors) {
  registries list = {0};
  if (pass(']')) return list;
  for (size_t index = 0;; index++) {
    if (pass('"')) {
      list.ptr = must(realloc(list.ptr, (list.len + 1) * sizeof *list.ptr));
      list.ptr[list.len++] = string();
    } else {
      skip_value();
      mistake(errors, pointer_to_entry(index), "expected a registry such as ghcr.io");
    }
    if (!pass(',')) break;
  }
  pass(']');
  return list;
}

registries read_settings(text json, settings_errors *errors) {
  char *copy = must(malloc(json.len + 1));
  memcpy(copy, json.ptr, json.len);
  copy[json.len] = '\0';
  at = copy;

  registries list = {0};
  bool there = false;
  if (!pass('{')) {
    mistake(errors, (text){0}, "expected an object with `allow`");
    return list;
  }
  while (pass('"')) {
    text key = string();
    pass(':');
    if (!same(key, "allow")) {
      skip_value();
      mistake(errors, pointer_to(key), "no such setting: there is only `allow`");
    } else if (there = true, pass('[')) {
      list = read_list(errors);
    } else {
      skip_value();
      mistake(errors, pointer_to(key), "expected a list of registries");
    }
    free(key.ptr);
    pass(',');
  }
  if (!there) mistake(errors, (text){0}, "`allow` is missing: list the registries to trust");
  free(copy);
  return list;
}
