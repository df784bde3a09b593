/* What scalar floating point costs: five bodies under gravity, one step at a time. */
#include "measure.h"
#include <math.h>

enum { BODIES = 5 };
static struct { double x, y, z, vx, vy, vz, mass; } body[BODIES] = {
    {0, 0, 0, 0, 0, 0, 39.5},        {4.8, -1.2, -0.1, 0.6, 2.8, -0.03, 0.038}, {8.3, 4.1, -0.4, -1, 1.8, 0.008, 0.011},
    {12.9, -15.1, -0.2, 1.1, 0.9, -0.01, 0.0017}, {15.4, -25.9, 0.2, 1, 0.6, -0.03, 0.002},
};

static uint64_t work(uint64_t count)
{
    for (uint64_t step = 0; step < count; step++) {
        for (int i = 0; i < BODIES; i++)
            for (int j = i + 1; j < BODIES; j++) {
                double dx = body[i].x - body[j].x, dy = body[i].y - body[j].y, dz = body[i].z - body[j].z;
                double square = dx * dx + dy * dy + dz * dz;
                double pull = 0.001 / (square * sqrt(square));
                body[i].vx -= dx * body[j].mass * pull;
                body[i].vy -= dy * body[j].mass * pull;
                body[i].vz -= dz * body[j].mass * pull;
                body[j].vx += dx * body[i].mass * pull;
                body[j].vy += dy * body[i].mass * pull;
                body[j].vz += dz * body[i].mass * pull;
            }
        for (int i = 0; i < BODIES; i++) {
            body[i].x += 0.001 * body[i].vx;
            body[i].y += 0.001 * body[i].vy;
            body[i].z += 0.001 * body[i].vz;
        }
    }
    return (uint64_t)(body[0].x * 1e9);
}

int main(int argc, char **argv) { return measure(argc, argv, work); }
