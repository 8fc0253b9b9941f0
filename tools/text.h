/* Bytes of others, written so that they do no harm where they land: on a terminal, in JSON, as
 * hexadecimal digits or base64. */
#ifndef MQBROKER_TOOLS_TEXT_H
#define MQBROKER_TOOLS_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* Bytes of the UTF-8 character at `bytes`, of which `size` > 0 are left; 0: there is none (stray,
 * overlong, surrogate, cut off, above U+10FFFF). */
size_t text_character(const void *bytes, size_t size);

/* Write for a terminal: what is not UTF-8, and control characters (C0, DEL, C1: what moves cursors
 * and rings bells), as \xHH. With `lines`, newlines and tabs stay as they are. */
void text_put_visible(FILE *out, const void *bytes, size_t size, bool lines);

/* Columns that this takes on a terminal, one a character: wide characters are not known here. */
size_t text_visible_width(const void *bytes, size_t size);

void text_put_hex(FILE *out, const void *bytes, size_t size, bool upper_case);

/* A JSON string. What is not UTF-8 becomes U+FFFD, one for each byte. NULL: no memory. */
json_t *text_json(const char *bytes, size_t size);

/* Base64 (RFC 4648, with padding) as a JSON string. NULL: no memory. */
json_t *text_json_base64(const void *bytes, size_t size);

#endif
