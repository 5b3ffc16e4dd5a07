// 3x3 convolutions by Winograd's algorithm (Lavin and Gray 2016), which multiplies values of polynomials instead of pixels:
// - padding 1: tiles of 4x4 results by F(4x4, 3x3), 36 products instead of 144;
// - transposed with stride 2: tiles of 8x8 results, 81 products instead of 144. Along an axis every other result has one tap, and
//   the rest two, which F(4, 2) takes.
// conv3x3.py calls them by ctypes; nothing of PyTorch is needed to build them.
//
// F(4, 3) takes values at the points 0, A, -A, B, -B and infinity, F(4, 2) at the same without 0. With the points chosen here
// rounding errors are about twice those of a plain sum (points 1 and 2, which are usual, give two to eight times more):
// Barabasz et al., "Error analysis and improving the accuracy of Winograd convolution" (2020).

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

using Int = std::int64_t;

struct Call {
    const float *x, *w;  // [N, H, W, I] and [O, I, 3, 3], transposed [I, O, 3, 3]; I and O are multiples of 16
    float* y;            // [N, H, W, O], transposed [N, 2 H + 1, 2 W + 1, O]
    Int items, height, width, in, out, threads;
};

namespace {

constexpr Int CACHE = 1 << 20;  // bytes of a core's cache for what lies between transforms

#define VECTOR_CODE "conv3x3_cpu.h"
#include "variants.h"

}  // namespace

// ---------------------------------------------------------------------------------------------- for ctypes

extern "C" void conv3x3(const Call& call, int variant) { BEST(variant, conv3x3)(call); }
extern "C" void up_conv3x3(const Call& call, int variant) { BEST(variant, up_conv3x3)(call); }
