/* A 32-bit program without a library (no 32-bit one may be installed): compatibility mode, int 0x80, segments. */

typedef unsigned int u32;
typedef unsigned long long u64;

static int system_call(int number, u32 a, u32 b, u32 c)
{
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "0"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static u32 length_of(const char *text)
{
    u32 length = 0;
    while (text[length])
        length++;
    return length;
}

static void print(const char *text) { system_call(4, 1, (u32)text, length_of(text)); }

static void print_number(const char *name, u64 value)
{
    char digits[20] = " ----------------\n";
    for (int i = 16; i >= 1; i--, value >>= 4)
        digits[i] = "0123456789abcdef"[value & 15];
    print(name);
    print(digits);
}

static u32 state = 2463534242u;

static u32 next_random(void)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

volatile int handled;

/* Notes the signal and goes on two bytes later. On the stack: return address, number, saved registers. */
__attribute__((naked)) static void handler(void)
{
    __asm__("mov 4(%esp), %eax\n\tmov %eax, handled\n\taddl $2, 8 + 14 * 4(%esp)\n\tret");
}

__attribute__((naked)) static void restore(void)
{
    __asm__("pop %eax\n\tmov $119, %eax\n\tint $0x80");
}

static void integers(void)
{
    u32 sum = 0, product = 1, flags;
    u64 wide = 1;
    for (int i = 0; i < 2000; i++) {
        u32 a = next_random(), b = next_random() >> (i & 31) | 1;
        sum += a / b + a % b;
        product = product * 31 + (a << (b & 31) | a >> (31 - (b & 31)));
        wide = wide * (u64)a + ((u64)b << (a & 63));
        wide ^= (u64)(long long)(int)a * (int)b;
    }
    print_number("sum", sum);
    print_number("product", product);
    print_number("wide", wide);
    /* Instructions that exist only outside 64-bit mode. */
    u32 a = 0x0199, b = 0x7A, c = 0x0305, d = 0x9A;
    __asm__("aaa" : "+a"(a) : : "cc");
    __asm__("daa" : "+a"(b) : : "cc");
    __asm__("aad" : "+a"(c) : : "cc");
    __asm__("das" : "+a"(d) : : "cc");
    print_number("aaa", a & 0xFFFF);
    print_number("daa", b & 0xFF);
    print_number("aad", c & 0xFFFF);
    print_number("das", d & 0xFF);
    u32 all[8];
    __asm__ volatile("mov $1, %%ecx\n\tmov $2, %%edx\n\tpusha\n\tpop 0(%0)\n\tpop 4(%0)\n\tpop 8(%0)\n\tpop 12(%0)\n\t"
                     "pop 16(%0)\n\tpop 20(%0)\n\tpop 24(%0)\n\tpop 28(%0)" : : "a"(all) : "ecx", "edx", "memory");
    print_number("pusha", (u64)all[5] << 32 | all[6]);
    __asm__("xor %%eax, %%eax\n\tinc %%eax\n\tpushf\n\tpop %0\n\t.byte 0xd6" : "=b"(flags) : : "eax", "cc");
    print_number("flags", flags & 0x8D5);
}

static void segments(void)
{
    u32 values[4] = {11, 22, 33, 44}, result;
    unsigned short ds, cs, ss;
    __asm__("mov %%ds, %0\n\tmov %%cs, %1\n\tmov %%ss, %2" : "=r"(ds), "=r"(cs), "=r"(ss));
    print_number("cs", cs);
    print_number("ds", ds);
    print_number("ss", ss);
    /* A thread-local segment with a base: set_thread_area. */
    struct { u32 entry, base, limit, flags; } area = {~0u, (u32)values, 0xFFFFF, 0x51};
    print_number("set_thread_area", (u32)system_call(243, (u32)&area, 0, 0));
    __asm__ volatile("mov %w1, %%gs\n\tmov %%gs:8, %0" : "=r"(result) : "r"(area.entry << 3 | 3));
    print_number("gs:8", result);
    /* A segment of 8 bytes, from the local table. */
    area.entry = 1, area.limit = 7, area.flags = 0x41;
    print_number("modify_ldt", (u32)system_call(123, 1, (u32)&area, sizeof area));
    __asm__ volatile("mov %w1, %%fs\n\tmov %%fs:4, %0" : "=r"(result) : "r"(1 << 3 | 7));
    print_number("fs:4", result);
    handled = 0;
    __asm__ volatile("push %%fs\n\tpop %%es\n\tmov $8, %%edi\n\tstosb\n\tnop\n\tmov %%ds, %%eax\n\tmov %%eax, %%es"
                     : : : "eax", "edi", "memory");
    print_number("beyond the limit", (u32)handled);
}

static void floating(void)
{
    double value = 1, sum = 0;
    for (int i = 1; i < 500; i++) {
        value = value * 1.01 + 1.0 / i;
        sum += value / (i + 0.5);
    }
    union { double value; u64 bits; } bits = {sum};
    print_number("floating", bits.bits);
    __asm__("fsincos\n\tfmulp" : "=t"(bits.value) : "0"(0.75) : "st(1)");
    print_number("fsincos", bits.bits >> 8);
}

static void faults(void)
{
    struct { void (*handler)(void); u32 mask, flags; void (*restorer)(void); } action =
        {handler, 0, 0x04000000 | 0x40000000, restore};
    print_number("sigaction", (u32)system_call(67, 11, (u32)&action, 0));
    print_number("sigaction", (u32)system_call(67, 4, (u32)&action, 0));
    __asm__ volatile("ud2");
    print_number("ud2", (u32)handled);
    handled = 0;
    __asm__ volatile("cli\n\tnop");
    print_number("cli", (u32)handled);
    handled = 0;
    __asm__ volatile("mov (%0), %%eax" : : "c"(4) : "eax"); /* 8b 01 */
    print_number("null pointer", (u32)handled);
    handled = 0;
    __asm__ volatile("mov $0x7fffffff, %%eax\n\tadd $1, %%eax\n\tinto\n\tnop\n\tnop" : : : "eax", "cc");
    print_number("into", (u32)handled);
}

__attribute__((force_align_arg_pointer, used)) static void main_program(void)
{
    integers();
    floating();
    faults();
    segments();
    system_call(1, 0, 0, 0);
}

void _start(void) { main_program(); }
