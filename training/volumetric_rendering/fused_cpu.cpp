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

#define VECTOR_CODE "../../training/volumetric_rendering/fused_cpu.h"
#include "../../torch_utils/ops/variants.h"

}  // namespace

// ---------------------------------------------------------------------------------------------- for ctypes

#define EXPORT(function) \
    extern "C" void function(const eg3d::Call& call, int variant) { \
        call.is_double ? BEST(variant, function<double>)(call) : BEST(variant, function<float>)(call); \
    }

EXPORT(decode)
EXPORT(decode_backward)
EXPORT(render)
EXPORT(render_backward)
