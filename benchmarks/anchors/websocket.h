/* What a client and a server of RFC 6455 both need: Sec-WebSocket-Accept, and masking. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { KEY_LENGTH = 24, ACCEPT_LENGTH = 28 };
enum { CONTINUATION = 0, TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10, FIN = 0x80, MASKED = 0x80 };

static uint32_t rotate(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

/* One block of SHA-1, RFC 3174 section 6.1. */
static void sha1_block(uint32_t state[5], const unsigned char *block) {
    uint32_t w[80], a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int t = 0; t < 16; t++)
        w[t] = (uint32_t)block[t * 4] << 24 | block[t * 4 + 1] << 16 | block[t * 4 + 2] << 8 | block[t * 4 + 3];
    for (int t = 16; t < 80; t++) w[t] = rotate(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
    for (int t = 0; t < 80; t++) {
        uint32_t f = t < 20 ? (b & c) | (~b & d) : t < 40 ? b ^ c ^ d : t < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        uint32_t k = t < 20 ? 0x5a827999 : t < 40 ? 0x6ed9eba1 : t < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        uint32_t next = rotate(a, 5) + f + e + w[t] + k;
        e = d; d = c; c = rotate(b, 30); b = a; a = next;
    }
    state[0] += a; state[1] += b; state[2] += c; state[3] += d; state[4] += e;
}

/* Base64 of `size` bytes, a terminating zero included. */
static void base64(const unsigned char *bytes, int size, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < size; i += 3) {
        uint32_t group = (uint32_t)bytes[i] << 16 | (i + 1 < size ? bytes[i + 1] << 8 : 0) | (i + 2 < size ? bytes[i + 2] : 0);
        *out++ = digits[group >> 18];
        *out++ = digits[group >> 12 & 63];
        *out++ = i + 1 < size ? digits[group >> 6 & 63] : '=';
        *out++ = i + 2 < size ? digits[group & 63] : '=';
    }
    *out = 0;
}

/* Sec-WebSocket-Accept for a key of KEY_LENGTH digits: RFC 6455 section 4.2.2, item 5.4. */
static void accept_of(const char *key, char accept[ACCEPT_LENGTH + 1]) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    unsigned char blocks[128] = {0}, digest[20];
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    int size = KEY_LENGTH + sizeof guid - 1; /* 60 bytes: two blocks, with the end mark and the length in bits */
    memcpy(blocks, key, KEY_LENGTH);
    memcpy(blocks + KEY_LENGTH, guid, sizeof guid - 1);
    blocks[size] = 0x80;
    blocks[126] = size * 8 >> 8;
    blocks[127] = size * 8 & 255;
    sha1_block(state, blocks);
    sha1_block(state, blocks + 64);
    for (int i = 0; i < 20; i++) digest[i] = state[i / 4] >> (24 - i % 4 * 8);
    base64(digest, sizeof digest, accept);
}

/* to = from ^ mask, eight bytes at a time; `to` may be `from`. Section 5.3. */
static void apply_mask(char *to, const char *from, size_t size, const unsigned char mask[4]) {
    uint64_t wide;
    size_t i = 0;
    memcpy(&wide, mask, 4);
    memcpy((char *)&wide + 4, mask, 4);
    for (; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, from + i, 8);
        word ^= wide;
        memcpy(to + i, &word, 8);
    }
    for (; i < size; i++) to[i] = from[i] ^ mask[i % 4];
}

/* The head of a frame of `size` bytes with FIN set, without a masking key. Returns its length; section 5.2. */
static int frame_head(unsigned char *head, int opcode, size_t size, int masked) {
    head[0] = FIN | opcode;
    if (size < 126) {
        head[1] = masked | size;
        return 2;
    }
    if (size < 65536) {
        head[1] = masked | 126;
        head[2] = size >> 8;
        head[3] = size & 255;
        return 4;
    }
    head[1] = masked | 127;
    for (int i = 0; i < 8; i++) head[2 + i] = (uint64_t)size >> (56 - 8 * i);
    return 10;
}

/* How long the head is that begins with these two bytes. */
static int head_length(const unsigned char *head) {
    int extended = (head[1] & 127) == 126 ? 2 : (head[1] & 127) == 127 ? 8 : 0;
    return 2 + extended + (head[1] & MASKED ? 4 : 0);
}

/* The length of the payload, as a complete head says. */
static uint64_t payload_length(const unsigned char *head) {
    uint64_t size = head[1] & 127;
    int bytes = size == 126 ? 2 : size == 127 ? 8 : 0;
    if (bytes) size = 0;
    for (int i = 0; i < bytes; i++) size = size << 8 | head[2 + i];
    return size;
}
