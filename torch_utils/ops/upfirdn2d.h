// Upsample, filter, downsample. See upfirdn2d.py for the definition.

#pragma once

#include "kernels.h"

namespace eg3d {

// One axis: out[o] = sum over k of tap[k] * z[o * down + k - pad], where z holds input i at i * up and zeros elsewhere.
struct Axis {
    int in, out;  // samples
    int up, down, taps;
    int pad;  // zeros before the first sample; negative where samples are cropped
};

struct Upfirdn2d {
    Dtype dtype;
    const void* in;
    void* out;
    long long batch, channels;
    bool channels_last;
    Axis x, y;
    const float* filter;  // tap (ky, kx) is at filter[origin + ky * stride_y + kx * stride_x]; null stands for a single 1
    int origin, stride_y, stride_x;
    bool separable;  // filter[k] is a row and a column at once; stride_x is the stride
    double gain;
};

// Whether a separable call needs one launch only. Others are made of two: a row along x, then a column along y.
bool is_fused(const Upfirdn2d& call);

Failure upfirdn2d(const Upfirdn2d& call, void* stream);

}  // namespace eg3d
