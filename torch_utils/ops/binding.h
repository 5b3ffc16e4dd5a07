// What the bindings share: tensors as the plain arrays that kernels take. Built against PyTorch, without CUDA's headers.

#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/utils/pybind.h>

#include <optional>

#include "kernels.h"

namespace eg3d {

inline Dtype dtype_of(const at::Tensor& tensor) {
    switch (tensor.scalar_type()) {
        case at::kHalf: return Dtype::float16;
        case at::kBFloat16: return Dtype::bfloat16;
        case at::kFloat: return Dtype::float32;
        case at::kDouble: return Dtype::float64;
        default: TORCH_CHECK(false, "kernels know half, bfloat16, float and double, not ", tensor.scalar_type());
    }
}

// Runs on the tensor's device and on the stream that Python names by its address.
template <class Call>
void run(Failure (*kernel)(const Call&, void*), const Call& call, const at::Tensor& out, std::uintptr_t stream) {
    const c10::DeviceGuard guard(out.device());
    const Failure failure = kernel(call, reinterpret_cast<void*>(stream));
    TORCH_CHECK(failure == nullptr, "CUDA: ", failure);
}

}  // namespace eg3d
