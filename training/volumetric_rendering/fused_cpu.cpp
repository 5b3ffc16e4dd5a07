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

#include "fused.h"

namespace {

using namespace eg3d;
constexpr int SAMPLES_AT_ONCE = 384;  // of a thread: 200 KB in float

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
    extern "C" void function(const eg3d::Call& call, [[maybe_unused]] int variant) { call.is_double ? RUN(function, double) : RUN(function, float); }

EXPORT(decode)
EXPORT(decode_backward)
EXPORT(render)
EXPORT(render_backward)
