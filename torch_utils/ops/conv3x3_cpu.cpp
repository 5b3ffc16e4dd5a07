// 3x3 convolution with padding 1 by Winograd's algorithm F(4x4, 3x3) (Lavin and Gray 2016): 36 products for 16 results instead
// of 144. conv3x3.py calls it by ctypes; nothing of PyTorch is needed to build it.
//
// A tile of results is the product of two polynomials, found by its values at the points 0, A, -A, B, -B and infinity. With
// A = 3/4 and B = 3/2 rounding errors are about those of a sum of 9 * I products in order (points 1 and 2, which are usual, give
// two to four times more): Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution" (2020).

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

using Int = std::int64_t;

struct Call {
    const float *x, *w;  // [N, H, W, I] and [O, I, 3, 3]; I and O are multiples of 16
    float* y;            // [N, H, W, O]
    Int items, height, width, in, out, threads;
};

namespace {

constexpr float A = 0.75f, B = 1.5f, A2 = A * A, B2 = B * B;
constexpr Int CACHE = 1 << 20;  // bytes of a core's cache for what lies between transforms

#define EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); ++i)

#define VARIANT baseline
#define BYTES 16
#include "conv3x3_cpu.h"
#undef VARIANT
#undef BYTES

#if defined(__x86_64__) && !defined(__clang__)
#define MANY_VARIANTS
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define VARIANT avx2
#define BYTES 32
#include "conv3x3_cpu.h"
#undef VARIANT
#undef BYTES
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define VARIANT avx512
#define BYTES 64
#include "conv3x3_cpu.h"
#undef VARIANT
#undef BYTES
#pragma GCC pop_options
#endif

}  // namespace

// ---------------------------------------------------------------------------------------------- for ctypes

extern "C" void conv3x3(const Call& call, [[maybe_unused]] int variant) {
#ifdef MANY_VARIANTS
    (variant == 2 ? avx512::conv3x3 : variant == 1 ? avx2::conv3x3 : baseline::conv3x3)(call);
#else
    baseline::conv3x3(call);
#endif
}
