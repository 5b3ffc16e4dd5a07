// Tri-plane rendering and its gradients on the CPU. fused.py calls the functions at the end by ctypes; nothing of PyTorch is
// needed to build them. The vector code is compiled for several instruction sets, of which the best one runs.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

using Int = std::int64_t;

// Arrays are contiguous, but the planes: their channels lie side by side, and stride is, in numbers, from item to item, plane
// to plane, row to row and column to column. table [count, 2, 3] takes a point to x and y in a plane, where the plane's edges
// are -1 and 1; every look-up counts `share`.
struct Planes {
    const void *data, *table;
    Int count, height, width, stride[4];
    double share;
};

// N items with M = many points or rays each; S = coarse, F = fine; T = S + F; O colours. Null where a call has no use for it.
struct Call {
    Int is_double, threads;
    Planes planes;
    const void *w1, *b1, *w2, *b2;  // the decoder's layers [64, 32], [64], [33, 64], [33], density first
    Int items, many, coarse, fine, white_back;
    const void* points;                                   // [N, M, 3]
    const void *origins, *directions;                     // [N, M, 3]
    const void *depths, *noise, *uniform, *fine_noise;    // [N, M, S], [N, M, S], [N, M, F], [N, M, F]
    void *rgb, *sigma, *distance, *weight;                // [N, M, O], [N, M], [N, M], [N, M]
    void *all_depths, *all_noise;                         // [N, M, T], sorted by depth
    const void *d_rgb, *d_sigma, *d_distance, *d_weight;  // as rgb, sigma, distance, weight
    void *d_planes, *d_w1, *d_b1, *d_w2, *d_b2;           // [N, height, width, count, 32], and as w1 to b2
};

namespace {

constexpr int C = 32, H = 64, O = 32;                 // a feature, the hidden layer, a colour
constexpr int MOST_PLANES = 8;
constexpr int SAMPLES_AT_ONCE = 384;                  // of a thread: 200 KB in float
constexpr double DENSITY_SHIFT = 1, TRANSMITTANCE_EPS = 1e-10;  // as ray_marcher.py
constexpr double PDF_FLOOR = 0.01, PDF_EPS = 1e-5;              // as renderer.py
constexpr double RGB_PADDING = 0.001;                           // as triplane.py
constexpr double NEGLIGIBLE = 1.0 / (1ll << 32);      // share of a picture that float32 does not see

#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); ++i)

#define VARIANT baseline
#define BYTES 16
#include "fused_cpu.h"
#undef VARIANT
#undef BYTES

#if defined(__x86_64__) && !defined(__clang__)
#define MANY_VARIANTS
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define VARIANT avx2
#define BYTES 32
#include "fused_cpu.h"
#undef VARIANT
#undef BYTES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define VARIANT avx512
#define BYTES 64
#include "fused_cpu.h"
#undef VARIANT
#undef BYTES
#pragma GCC pop_options
#endif

}  // namespace

// ---------------------------------------------------------------------------------------------- for ctypes

#ifdef MANY_VARIANTS
#define RUN(function, T) (variant == 2 ? avx512::function<T> : variant == 1 ? avx2::function<T> : baseline::function<T>)(call)
#else
#define RUN(function, T) baseline::function<T>(call)
#endif
#define EXPORT(function) \
    extern "C" void function(const Call& call, [[maybe_unused]] int variant) { call.is_double ? RUN(function, double) : RUN(function, float); }

EXPORT(decode)
EXPORT(decode_backward)
EXPORT(render)
EXPORT(render_backward)
