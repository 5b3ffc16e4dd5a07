// What the kernels share: arithmetic types, moving numbers between memory and registers, launching.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels.h"

namespace eg3d {

using Index = long long;  // element counts and offsets

// Arithmetic runs in float, and in double for double.
template <class T> struct Arithmetic { using type = float; };
template <> struct Arithmetic<double> { using type = double; };
template <class T> using Real = typename Arithmetic<T>::type;

__device__ inline float widen(__half x) { return __half2float(x); }
__device__ inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }

template <class T> __device__ inline T narrow(Real<T> x) { return x; }
template <> __device__ inline __half narrow<__half>(float x) { return __float2half_rn(x); }
template <> __device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

__device__ inline Index thread_index() { return static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline Index thread_count() { return static_cast<Index>(gridDim.x) * blockDim.x; }

constexpr int THREADS = 256;         // of a block
constexpr Index BLOCKS = 0x7fffffff; // of a grid, at most; kernels loop where that is not enough

// Divides many numbers by one. Below 2^31 that is a multiplication and a shift (Granlund and Montgomery 1994).
struct Divisor {
    Index value;
    std::uint32_t magic;
    int shift;

    explicit Divisor(Index value) : value(value), shift(0) {
        while (Index(1) << shift < value) ++shift;
        magic = shift > 31 ? 0 : static_cast<std::uint32_t>(((Index(1) << 32) * ((Index(1) << shift) - value)) / value + 1);
    }

    // Returns the quotient and leaves the remainder in n.
    __device__ Index divide(Index& n) const {
        Index quotient;
        if ((n | value) >> 31 == 0) {
            const std::uint32_t small = static_cast<std::uint32_t>(n);
            quotient = static_cast<std::uint32_t>((static_cast<std::uint64_t>(small) * magic >> 32) + small) >> shift;
        } else {
            quotient = n / value;
        }
        n -= quotient * value;
        return quotient;
    }
};

inline Index divide_up(Index a, Index b) { return (a + b - 1) / b; }

// Starts `kernel(arguments)` on enough blocks for `units` of work, `per_block` of them to a block.
template <class Arguments>
Failure launch(void (*kernel)(Arguments), Arguments arguments, Index units, Index per_block, void* stream) {
    const Index blocks = divide_up(units, per_block);
    void* values[] = {&arguments};
    const cudaError_t status = cudaLaunchKernel(kernel, dim3(static_cast<unsigned>(blocks < BLOCKS ? blocks : BLOCKS)),
                                                dim3(THREADS), values, 0, static_cast<cudaStream_t>(stream));
    if (status == cudaSuccess) return nullptr;
    cudaGetLastError();  // told here, it is not to be found by others
    return cudaGetErrorString(status);
}

// Calls f with a null pointer of the type that `dtype` stands for.
template <class F> Failure with_type(Dtype dtype, F f) {
    switch (dtype) {
        case Dtype::float16: return f(static_cast<__half*>(nullptr));
        case Dtype::bfloat16: return f(static_cast<__nv_bfloat16*>(nullptr));
        case Dtype::float32: return f(static_cast<float*>(nullptr));
        case Dtype::float64: return f(static_cast<double*>(nullptr));
    }
    return "unknown dtype";
}

}  // namespace eg3d
