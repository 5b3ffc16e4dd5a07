// What kernels (.cu) and their bindings (.cpp) both know. Nothing here comes from CUDA or from PyTorch.

#pragma once

namespace eg3d {

enum class Dtype { float16, bfloat16, float32, float64 };

// A launch returns nullptr, or the reason why it failed.
using Failure = const char*;

}  // namespace eg3d
