// Bias, activation, gain and clamp in one pass over memory, with both derivatives. See bias_act.py for the formulas.

#pragma once

#include "kernels.h"

namespace eg3d {

enum class Activation { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };

// All arrays have `size` numbers in the same order of memory; b has `channels` numbers, and the number at position i of an
// array has bias (i / step) % channels. Pointers that a case does not name are null; b may always be null.
//   value              out = clamp(act(x + b) * gain)                 given x
//   first derivative   out = dy * slope, at x or (see bias_act.py) y  given dy and one of x, y
//   second derivative  out = ddx * dy * curvature                     given ddx, dy, x
struct BiasAct {
    Dtype dtype;
    Activation act;
    const void *x, *b, *y, *dy, *ddx;
    void* out;
    long long size, channels, step;
    double alpha, gain, clamp;  // clamp < 0: none
};

Failure bias_act(const BiasAct& call, void* stream);

}  // namespace eg3d
