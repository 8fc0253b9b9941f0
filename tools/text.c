/* Text: see text.h. Payloads are any bytes at all, and topics and names may hold any character but
 * NUL: an escape sequence in one of them would act on the terminal of whoever watches. */
#include "tools/text.h"

#include <stdint.h>
#include <stdlib.h>

/* Bytes of a character by its first byte, with the bounds of the second that keep out overlong
 * forms, surrogates and what lies above U+10FFFF (Unicode, table 3-7). */
static const struct lead {
    uint8_t first, last, size, least, most;
} leads[] = {
    {0x00, 0x7f, 1, 0, 0},       {0xc2, 0xdf, 2, 0x80, 0xbf}, {0xe0, 0xe0, 3, 0xa0, 0xbf},
    {0xe1, 0xec, 3, 0x80, 0xbf}, {0xed, 0xed, 3, 0x80, 0x9f}, {0xee, 0xef, 3, 0x80, 0xbf},
    {0xf0, 0xf0, 4, 0x90, 0xbf}, {0xf1, 0xf3, 4, 0x80, 0xbf}, {0xf4, 0xf4, 4, 0x80, 0x8f},
};

size_t text_character(const void *bytes, size_t size)
{
    const uint8_t *b = bytes;
    const struct lead *lead = leads;

    while (b[0] > lead->last)
        if (++lead == leads + sizeof leads / sizeof *leads)
            return 0;
    if (b[0] < lead->first || size < lead->size)
        return 0;
    if (lead->size > 1 && (b[1] < lead->least || b[1] > lead->most))
        return 0;
    for (size_t i = 2; i < lead->size; i++)
        if ((b[i] & 0xc0) != 0x80)
            return 0;
    return lead->size;
}

/* The character at `bytes` if it may be written to a terminal as it is: its size; else 0. */
static size_t visible(const uint8_t *bytes, size_t size, bool lines)
{
    size_t n = text_character(bytes, size);

    if (n == 1 && (bytes[0] < 0x20 || bytes[0] == 0x7f))
        return lines && (bytes[0] == '\n' || bytes[0] == '\t') ? 1 : 0;
    if (n == 2 && bytes[0] == 0xc2 && bytes[1] < 0xa0)
        return 0; /* C1 */
    return n;
}

void text_put_visible(FILE *out, const void *bytes, size_t size, bool lines)
{
    const uint8_t *b = bytes;
    size_t plain = 0; /* bytes before b that are still to be written, as they are */

    while (size > 0) {
        size_t n = visible(b, size, lines);

        if (n > 0) {
            plain += n;
        } else {
            fwrite(b - plain, 1, plain, out);
            fprintf(out, "\\x%02x", *b);
            plain = 0;
            n = 1;
        }
        b += n;
        size -= n;
    }
    fwrite(b - plain, 1, plain, out);
}

size_t text_visible_width(const void *bytes, size_t size)
{
    const uint8_t *b = bytes;
    size_t width = 0;

    while (size > 0) {
        size_t n = visible(b, size, false);

        width += n > 0 ? 1 : 4;
        n = n > 0 ? n : 1;
        b += n;
        size -= n;
    }
    return width;
}

void text_put_hex(FILE *out, const void *bytes, size_t size, bool upper_case)
{
    const char *digits = upper_case ? "0123456789ABCDEF" : "0123456789abcdef";
    const uint8_t *b = bytes;

    for (size_t i = 0; i < size; i++) {
        fputc(digits[b[i] >> 4], out);
        fputc(digits[b[i] & 15], out);
    }
}

/* ---- JSON ---- */

json_t *text_json(const char *bytes, size_t size)
{
    static const char replacement[] = "\xef\xbf\xbd";
    json_t *json = json_stringn(bytes, size);
    char *mended, *to;

    if (json != NULL || size == 0 || (mended = to = malloc(3 * size)) == NULL)
        return json;
    while (size > 0) {
        size_t n = text_character(bytes, size);
        const char *from = n > 0 ? bytes : replacement;

        for (size_t i = 0; i < (n > 0 ? n : 3); i++)
            *to++ = from[i];
        n = n > 0 ? n : 1;
        bytes += n;
        size -= n;
    }
    json = json_stringn(mended, (size_t)(to - mended));
    free(mended);
    return json;
}

json_t *text_json_base64(const void *bytes, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t encoded_size = (size / 3 + (size % 3 != 0)) * 4;
    char *encoded = malloc(encoded_size + 1), *to = encoded;
    const uint8_t *b = bytes;
    json_t *json;

    if (encoded == NULL)
        return NULL;
    for (; size > 0; b += 3) {
        uint32_t group = (uint32_t)b[0] << 16;

        group |= size > 1 ? (uint32_t)b[1] << 8 : 0;
        group |= size > 2 ? b[2] : 0;
        *to++ = digits[group >> 18];
        *to++ = digits[group >> 12 & 63];
        *to++ = size > 1 ? digits[group >> 6 & 63] : '=';
        *to++ = size > 2 ? digits[group & 63] : '=';
        size -= size < 3 ? size : 3;
    }
    json = json_stringn(encoded, encoded_size);
    free(encoded);
    return json;
}
