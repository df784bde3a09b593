/* What floating point on arrays costs: elimination in a system of 100 equations. One unit is one solution. */
#include "measure.h"
#include <math.h>

enum { N = 100 };
static double a[N][N], b[N];

static uint64_t work(uint64_t count)
{
    double sum = 0;
    for (uint64_t round = 0; round < count; round++) {
        uint32_t seed = 1325 + (uint32_t)round;
        for (int i = 0; i < N; i++) {
            b[i] = 0;
            for (int j = 0; j < N; j++) {
                seed = seed * 3125 % 65536;
                a[i][j] = ((double)seed - 32768.0) / 16384.0;
                b[i] += a[i][j];
            }
        }
        for (int k = 0; k < N - 1; k++) {
            int pivot = k;
            for (int i = k + 1; i < N; i++)
                if (fabs(a[i][k]) > fabs(a[pivot][k]))
                    pivot = i;
            if (a[pivot][k] == 0)
                continue;
            for (int j = k; j < N; j++) {
                double value = a[k][j];
                a[k][j] = a[pivot][j];
                a[pivot][j] = value;
            }
            double value = b[k];
            b[k] = b[pivot];
            b[pivot] = value;
            for (int i = k + 1; i < N; i++) {
                double factor = a[i][k] / a[k][k];
                for (int j = k; j < N; j++)
                    a[i][j] -= factor * a[k][j];
                b[i] -= factor * b[k];
            }
        }
        for (int i = N - 1; i >= 0; i--) {
            for (int j = i + 1; j < N; j++)
                b[i] -= a[i][j] * b[j];
            b[i] /= a[i][i] == 0 ? 1 : a[i][i];
        }
        sum += b[0];
    }
    return (uint64_t)(sum * 1e6);
}

int main(int argc, char **argv) { return measure(argc, argv, work); }
