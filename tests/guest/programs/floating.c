/* float and double: every rounding mode, denormals, NaNs, conversions, status flags, and two numerical programs. */
#include "common.h"
#include <fenv.h>
#include <math.h>

static u64 bits(double value)
{
    u64 result;
    memcpy(&result, &value, 8);
    return result;
}

static u32 bits_single(float value)
{
    u32 result;
    memcpy(&result, &value, 4);
    return result;
}

static double from_bits(u64 value)
{
    double result;
    memcpy(&result, &value, 8);
    return result;
}

static float from_bits_single(u32 value)
{
    float result;
    memcpy(&result, &value, 4);
    return result;
}

static double next_double(void)
{
    static const u64 edges[] = {
        0, 1, 0x000FFFFFFFFFFFFF, 0x0010000000000000, 0x3FF0000000000000, 0x3FF0000000000001, 0x7FEFFFFFFFFFFFFF,
        0x7FF0000000000000, 0x7FF0000000000001, 0x7FF8000000000000, 0x7FF8000000001234, 0x41DFFFFFFFC00000,
        0x43E0000000000000, 0x3FE0000000000000, 0x3CA0000000000000,
    };
    u64 choice = next_random();
    u64 value = choice & 1 ? edges[(choice >> 8) % (sizeof edges / sizeof *edges)] : next_random();
    if ((choice & 6) == 6) /* close to one: sums that round */
        value = (value & 0x000FFFFFFFFFFFFF) | (0x3F00000000000000 + (choice & 0x00F0000000000000));
    return from_bits(value ^ (choice & 16 ? 1ull << 63 : 0));
}

static float next_float(void)
{
    static const u32 edges[] = {0, 1, 0x7FFFFF, 0x800000, 0x3F800000, 0x3F800001, 0x7F7FFFFF, 0x7F800000, 0x7F800001,
                                0x7FC00000, 0x7FC01234, 0x4EFFFFFF, 0x4F000000, 0x33800000};
    u64 choice = next_random();
    u32 value = choice & 1 ? edges[(choice >> 8) % (sizeof edges / sizeof *edges)] : (u32)next_random();
    if ((choice & 6) == 6)
        value = (value & 0x7FFFFF) | (0x38000000 + (u32)(choice >> 32 & 0x0F800000));
    return from_bits_single(value ^ (choice & 16 ? 1u << 31 : 0));
}

static void arithmetic(const char *mode_name, int mode)
{
    Digest doubles = digest_start(), floats = digest_start(), conversions = digest_start(), flags = digest_start();
    fesetround(mode);
    for (int round = 0; round < 1500; round++) {
        volatile double a = next_double(), b = next_double();
        volatile float x = next_float(), y = next_float();
        feclearexcept(FE_ALL_EXCEPT);
        digest_u64(&doubles, bits(a + b));
        digest_u64(&doubles, bits(a - b));
        digest_u64(&doubles, bits(a * b));
        digest_u64(&doubles, bits(a / b));
        digest_u64(&flags, (u64)fetestexcept(FE_ALL_EXCEPT));
        feclearexcept(FE_ALL_EXCEPT);
        double root;
        __asm__ volatile("sqrtsd %1, %0" : "=x"(root) : "x"(a));
        digest_u64(&doubles, bits(root));
        digest_u64(&doubles, (u64)(a < b) | (u64)(a <= b) << 1 | (u64)(a == b) << 2 | (u64)(isunordered(a, b)) << 3);
        digest_u64(&flags, (u64)fetestexcept(FE_ALL_EXCEPT));
        feclearexcept(FE_ALL_EXCEPT);
        digest_u64(&floats, bits_single(x + y));
        digest_u64(&floats, bits_single(x - y));
        digest_u64(&floats, bits_single(x * y));
        digest_u64(&floats, bits_single(x / y));
        digest_u64(&flags, (u64)fetestexcept(FE_ALL_EXCEPT));
        feclearexcept(FE_ALL_EXCEPT);
        float narrow;
        double wide;
        i64 integer, truncated;
        i32 integer_of_float, truncated_float;
        __asm__ volatile("cvtsd2ss %1, %0" : "=x"(narrow) : "x"(a));
        __asm__ volatile("cvtss2sd %1, %0" : "=x"(wide) : "x"(x));
        __asm__ volatile("cvtsd2si %1, %0" : "=r"(integer) : "x"(a));
        __asm__ volatile("cvttsd2si %1, %0" : "=r"(truncated) : "x"(a));
        __asm__ volatile("cvtss2si %1, %0" : "=r"(integer_of_float) : "x"(x));
        __asm__ volatile("cvttss2si %1, %0" : "=r"(truncated_float) : "x"(y));
        digest_u64(&conversions, bits_single(narrow));
        digest_u64(&conversions, bits(wide));
        digest_u64(&conversions, (u64)integer);
        digest_u64(&conversions, (u64)truncated);
        digest_u64(&conversions, (u64)(u32)integer_of_float << 32 | (u32)truncated_float);
        volatile i64 whole = (i64)next_operand();
        digest_u64(&conversions, bits((double)whole));
        digest_u64(&conversions, bits_single((float)whole));
        digest_u64(&conversions, bits_single((float)(i32)whole));
        digest_u64(&flags, (u64)fetestexcept(FE_ALL_EXCEPT));
        double smaller = a, larger = a;
        __asm__ volatile("minsd %1, %0" : "+x"(smaller) : "x"(b));
        __asm__ volatile("maxsd %1, %0" : "+x"(larger) : "x"(b));
        digest_u64(&doubles, bits(smaller));
        digest_u64(&doubles, bits(larger));
    }
    printf("rounding %s\n", mode_name);
    digest_print("  double", doubles);
    digest_print("  float", floats);
    digest_print("  conversions", conversions);
    digest_print("  flags", flags);
    fesetround(FE_TONEAREST);
}

/* Flush-to-zero and denormals-are-zero of MXCSR. */
static void denormals(void)
{
    for (u32 mode = 0; mode < 4; mode++) {
        u32 saved, control;
        __asm__ volatile("stmxcsr %0" : "=m"(saved));
        control = (saved & ~0x8040u) | (mode & 1 ? 0x8000 : 0) | (mode & 2 ? 0x0040 : 0);
        double product_value = from_bits(0x0010000000000000), half = 0.5, two = 2.0, zero = 0.0;
        double sum_value = from_bits(0x000FFFFFFFFFFFFF), twice_value = sum_value;
        __asm__ volatile("ldmxcsr %3\n\tmulsd %5, %0\n\taddsd %6, %1\n\tmulsd %7, %2\n\tldmxcsr %4"
                         : "+x"(product_value), "+x"(sum_value), "+x"(twice_value)
                         : "m"(control), "m"(saved), "x"(half), "x"(zero), "x"(two));
        u64 product = bits(product_value), sum = bits(sum_value), twice = bits(twice_value);
        printf("ftz=%u daz=%u: %016llx %016llx %016llx\n", mode & 1, mode >> 1, (unsigned long long)product,
               (unsigned long long)sum, (unsigned long long)twice);
    }
}

static void library(void)
{
    Digest digest = digest_start();
    for (int i = -300; i < 300; i++) {
        volatile double x = i * 0.37;
        digest_u64(&digest, bits(sin(x)));
        digest_u64(&digest, bits(cos(x)));
        digest_u64(&digest, bits(exp(x / 10)));
        digest_u64(&digest, bits(log(fabs(x) + 0.1)));
        digest_u64(&digest, bits(pow(fabs(x), 1.7)));
        digest_u64(&digest, bits(atan2(x, 2.5)));
        digest_u64(&digest, bits(tanh(x / 20)));
        digest_u64(&digest, bits(cbrt(x)));
        digest_u64(&digest, bits(floor(x)) ^ bits(ceil(x)) ^ bits(rint(x)) ^ bits(round(x)) ^ bits(trunc(x)));
        digest_u64(&digest, bits(fmod(x, 1.25)));
        digest_u64(&digest, bits_single(sinf((float)x)) ^ bits_single(expf((float)x / 10)));
        digest_u64(&digest, bits(fma(x, x, -0.1369 * i * i)));
    }
    digest_print("libm", digest);
    printf("%.17g %.17g %.17g %.17g\n", sin(1.0), exp(1.0), log(10.0), pow(2.0, 0.5));
    printf("%g %g %g %g %g\n", 1.0 / 0.0 * 1, -1e308 * 10, 0.0 * -1, 5e-324, 123456789.125);
    printf("%.40f\n%.30e\n%a\n", 0.1, 1e300, 0.3);
    printf("%.17g %.17g\n", strtod("1.7976931348623157e308", NULL), strtod("2.2250738585072011e-308", NULL));
}

/* Solves a random system of linear equations by elimination with partial pivots. */
static void linear_system(void)
{
    enum { N = 48 };
    static double a[N][N + 1], solution[N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j <= N; j++)
            a[i][j] = (double)(i64)(next_random() >> 20) / (1ll << 43) - 1;
    for (int k = 0; k < N; k++) {
        int pivot = k;
        for (int i = k + 1; i < N; i++)
            if (fabs(a[i][k]) > fabs(a[pivot][k]))
                pivot = i;
        for (int j = k; j <= N; j++) {
            double swap = a[k][j];
            a[k][j] = a[pivot][j], a[pivot][j] = swap;
        }
        for (int i = k + 1; i < N; i++) {
            double factor = a[i][k] / a[k][k];
            for (int j = k; j <= N; j++)
                a[i][j] -= factor * a[k][j];
        }
    }
    Digest digest = digest_start();
    for (int i = N - 1; i >= 0; i--) {
        solution[i] = a[i][N];
        for (int j = i + 1; j < N; j++)
            solution[i] -= a[i][j] * solution[j];
        solution[i] /= a[i][i];
        digest_u64(&digest, bits(solution[i]));
    }
    digest_print("linear system", digest);
    printf("x[0] = %.17g\n", solution[0]);
}

/* Four bodies attract each other. */
static void bodies(void)
{
    struct { double position[3], speed[3], mass; } body[4] = {
        {{0, 0, 0}, {0, 0, 0}, 1}, {{1, 0, 0}, {0, 1, 0.01}, 1e-3}, {{0, 2, 0.1}, {-0.7, 0, 0}, 1e-2},
        {{3, 3, 0}, {0.2, -0.3, 0}, 1e-4},
    };
    for (int step = 0; step < 1000; step++) {
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) {
                if (i == j)
                    continue;
                double d[3], square = 0;
                for (int k = 0; k < 3; k++)
                    d[k] = body[j].position[k] - body[i].position[k], square += d[k] * d[k];
                double pull = 0.001 * body[j].mass / (square * sqrt(square));
                for (int k = 0; k < 3; k++)
                    body[i].speed[k] += d[k] * pull;
            }
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 3; k++)
                body[i].position[k] += 0.001 * body[i].speed[k];
    }
    for (int i = 0; i < 4; i++)
        printf("body %d %a %a %a\n", i, body[i].position[0], body[i].position[1], body[i].position[2]);
}

int main(void)
{
    arithmetic("nearest", FE_TONEAREST);
    arithmetic("down", FE_DOWNWARD);
    arithmetic("up", FE_UPWARD);
    arithmetic("to zero", FE_TOWARDZERO);
    denormals();
    library();
    linear_system();
    bodies();
    return 0;
}
