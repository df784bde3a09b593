/* What ordinary integer code costs: lists, a matrix, a state machine and a CRC, in the manner of CoreMark (own code). */
#include "measure.h"

typedef struct Item { struct Item *next; int16_t key, value; } Item;

static Item items[64];
static int16_t matrix_a[12][12], matrix_b[12][12];
static int32_t matrix_c[12][12];
static const char *const texts[] = {"5012", "1234-874", "+122", "-110.700", "+0.64400", "5.500e+3", "T0.3e-1F", "33x8"};

static uint16_t crc16(uint16_t crc, uint32_t value, int bits)
{
    for (int i = 0; i < bits; i++) {
        int carry = (int)((value ^ crc) & 1);
        crc >>= 1;
        value >>= 1;
        if (carry)
            crc ^= 0xA001;
    }
    return crc;
}

static Item *sort(Item *list, int by_key)
{
    for (int width = 1;; width *= 2) {
        Item *left = list, *tail = NULL;
        int merges = 0;
        list = NULL;
        while (left) {
            Item *right = left;
            int left_size = 0, right_size = width;
            merges++;
            while (left_size < width && right) {
                left_size++;
                right = right->next;
            }
            while (left_size > 0 || (right_size > 0 && right)) {
                Item *item;
                int take_left = left_size > 0
                    && (right_size == 0 || !right
                        || (by_key ? left->key <= right->key : left->value <= right->value));
                if (take_left)
                    item = left, left = left->next, left_size--;
                else
                    item = right, right = right->next, right_size--;
                if (tail)
                    tail->next = item;
                else
                    list = item;
                tail = item;
            }
            left = right;
        }
        tail->next = NULL;
        if (merges <= 1)
            return list;
    }
}

static uint16_t lists(uint16_t crc, uint32_t seed)
{
    for (int i = 0; i < 64; i++) {
        items[i].next = i < 63 ? &items[i + 1] : NULL;
        items[i].key = (int16_t)(seed = seed * 1103515245 + 12345);
        items[i].value = (int16_t)(seed >> 16);
    }
    Item *list = sort(items, 1);
    for (int wanted = 0; wanted < 16; wanted++) {
        Item *at = list;
        while (at && (at->key & 0xF) != wanted)
            at = at->next;
        crc = crc16(crc, at ? (uint32_t)(uint16_t)at->value : 0, 16);
    }
    list = sort(list, 0);
    for (; list; list = list->next)
        crc = crc16(crc, (uint32_t)(uint16_t)list->key, 16);
    return crc;
}

static uint16_t matrices(uint16_t crc, uint32_t seed)
{
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 12; j++) {
            matrix_a[i][j] = (int16_t)(seed = seed * 1664525 + 1013904223);
            matrix_b[i][j] = (int16_t)(seed >> 16);
        }
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 12; j++) {
            int32_t sum = 0;
            for (int k = 0; k < 12; k++) {
                int32_t product = matrix_a[i][k] * matrix_b[k][j];
                sum += (product >> 2 & 0xF) * (product >> 5 & 0x7F);
            }
            matrix_c[i][j] = sum;
        }
    int32_t last = 0, count = 0;
    for (int i = 0; i < 12; i++)
        for (int j = 0; j < 12; j++) {
            count += matrix_c[i][j] > last ? 10 : 1;
            last = matrix_c[i][j];
        }
    return crc16(crc, (uint32_t)count, 32);
}

static uint16_t scan(uint16_t crc, uint32_t seed)
{
    enum { START, SIGN, DIGITS, POINT, FRACTION, E, EXPONENT, BAD } state;
    uint32_t reached[8] = {0};
    for (int round = 0; round < 8; round++) {
        state = START;
        for (const char *c = texts[(seed + (uint32_t)round * 3) % 8]; *c; c++) {
            int digit = *c >= '0' && *c <= '9';
            switch (state) {
            case START: state = digit ? DIGITS : *c == '+' || *c == '-' ? SIGN : *c == '.' ? POINT : BAD; break;
            case SIGN: state = digit ? DIGITS : *c == '.' ? POINT : BAD; break;
            case DIGITS: state = digit ? DIGITS : *c == '.' ? POINT : *c == 'e' ? E : BAD; break;
            case POINT:
            case FRACTION: state = digit ? FRACTION : *c == 'e' ? E : BAD; break;
            case E: state = digit || *c == '+' || *c == '-' ? EXPONENT : BAD; break;
            case EXPONENT: state = digit ? EXPONENT : BAD; break;
            default: break;
            }
            reached[state]++;
        }
    }
    for (int i = 0; i < 8; i++)
        crc = crc16(crc, reached[i], 16);
    return crc;
}

static uint64_t work(uint64_t count)
{
    uint16_t crc = 0;
    for (uint64_t i = 0; i < count; i++) {
        crc = lists(crc, (uint32_t)i);
        crc = matrices(crc, (uint32_t)i);
        crc = scan(crc, (uint32_t)i);
    }
    return crc;
}

int main(int argc, char **argv) { return measure(argc, argv, work); }
