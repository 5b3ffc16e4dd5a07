// A thread moves 16 bytes of each array.

#include <cmath>

#include "bias_act.h"
#include "kernels.cuh"

namespace eg3d {
namespace {

// ------------------------------------------------------------------------------------------------ activations

template <class S> __device__ S logistic(S x) { return S(1) / (S(1) + std::exp(-x)); }

constexpr double SELU_SCALE = 1.0507009873554804934;  // Klambauer et al. 2017
constexpr double SELU_ALPHA = 1.6732632423543772848;
constexpr double SOFTPLUS_LINEAR = 20;  // from here on softplus(x) is x, as in PyTorch

template <Activation A, class S> __device__ S value(S x, S alpha) {
    if constexpr (A == Activation::relu) return x < 0 ? S(0) : x;  // keeps NaN
    if constexpr (A == Activation::lrelu) return x > 0 ? x : x * alpha;
    if constexpr (A == Activation::tanh) return std::tanh(x);
    if constexpr (A == Activation::sigmoid) return logistic(x);
    if constexpr (A == Activation::elu) return x > 0 ? x : std::expm1(x);
    if constexpr (A == Activation::selu) return S(SELU_SCALE) * (x > 0 ? x : S(SELU_ALPHA) * std::expm1(x));
    if constexpr (A == Activation::softplus) return x > S(SOFTPLUS_LINEAR) ? x : std::log1p(std::exp(x));
    if constexpr (A == Activation::swish) return x * logistic(x);
    return x;
}

template <Activation A, class S> __device__ S slope(S x, S alpha) {
    if constexpr (A == Activation::relu) return x > 0 ? S(1) : S(0);
    if constexpr (A == Activation::lrelu) return x > 0 ? S(1) : alpha;
    if constexpr (A == Activation::tanh) return S(1) - std::tanh(x) * std::tanh(x);
    if constexpr (A == Activation::sigmoid) return logistic(x) * (S(1) - logistic(x));
    if constexpr (A == Activation::elu) return x > 0 ? S(1) : std::exp(x);
    if constexpr (A == Activation::selu) return S(SELU_SCALE) * (x > 0 ? S(1) : S(SELU_ALPHA) * std::exp(x));
    if constexpr (A == Activation::softplus) return x > S(SOFTPLUS_LINEAR) ? S(1) : logistic(x);
    if constexpr (A == Activation::swish) return logistic(x) * (S(1) + x * (S(1) - logistic(x)));
    return S(1);
}

template <Activation A, class S> __device__ S curvature(S x) {
    const S s = logistic(x), ds = s * (S(1) - s);
    if constexpr (A == Activation::tanh) return S(-2) * std::tanh(x) * (S(1) - std::tanh(x) * std::tanh(x));
    if constexpr (A == Activation::sigmoid) return ds * (S(1) - S(2) * s);
    if constexpr (A == Activation::elu) return x > 0 ? S(0) : std::exp(x);
    if constexpr (A == Activation::selu) return x > 0 ? S(0) : S(SELU_SCALE * SELU_ALPHA) * std::exp(x);
    if constexpr (A == Activation::softplus) return x > S(SOFTPLUS_LINEAR) ? S(0) : ds;
    if constexpr (A == Activation::swish) return ds * (S(2) + x * (S(1) - S(2) * s));
    return S(0);
}

// ------------------------------------------------------------------------------------------------ memory

// Consecutive numbers of one array, in registers.
template <class T> struct Pack {
    static constexpr int WIDTH = sizeof(uint4) / sizeof(T);
    T items[WIDTH];

    __device__ void load(const T* from, int count, bool whole) {
        if (whole) {
            const uint4 raw = *reinterpret_cast<const uint4*>(from);
            std::memcpy(items, &raw, sizeof raw);
        } else {
            for (int i = 0; i < WIDTH; ++i) items[i] = from[i < count ? i : 0];
        }
    }

    __device__ void store(T* to, int count, bool whole) const {
        if (whole) {
            uint4 raw;
            std::memcpy(&raw, items, sizeof raw);
            *reinterpret_cast<uint4*>(to) = raw;
        } else {
            for (int i = 0; i < WIDTH; ++i)
                if (i < count) to[i] = items[i];
        }
    }
};

struct Work {
    BiasAct call;
    Divisor step, channels;
    bool aligned;  // all arrays start where 16 bytes may be read at once
};

// The biases of the numbers from position `start` on.
template <class T> __device__ void load_biases(Pack<T>& biases, const Work& work, Index start) {
    const BiasAct& p = work.call;
    const T* b = static_cast<const T*>(p.b);
    Index within = start;
    Index channel = work.step.divide(within);
    work.channels.divide(channel);
    if (p.step == 1 && p.channels % Pack<T>::WIDTH == 0) {  // then `channel` is a multiple of the width too
        biases.load(b + channel, Pack<T>::WIDTH, reinterpret_cast<std::uintptr_t>(b) % sizeof(uint4) == 0);
        return;
    }
    T bias = b[channel];
    if (p.step % Pack<T>::WIDTH == 0) {  // one for all of them
        for (int i = 0; i < Pack<T>::WIDTH; ++i) biases.items[i] = bias;
        return;
    }
    for (int i = 0; i < Pack<T>::WIDTH; ++i) {
        biases.items[i] = bias;
        if (++within == p.step) {
            within = 0;
            if (++channel == p.channels) channel = 0;
            bias = b[channel];
        }
    }
}

bool aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % sizeof(uint4) == 0; }

// ------------------------------------------------------------------------------------------------ the kernel

// What is computed, and from what.
enum class Mode { value, slope_at_x, slope_from_y, curvature };

Mode mode_of(const BiasAct& call) {
    if (call.ddx) return Mode::curvature;
    if (call.dy) return call.y ? Mode::slope_from_y : Mode::slope_at_x;
    return Mode::value;
}

template <class T, Activation A, Mode M> __global__ void __launch_bounds__(THREADS) bias_act_kernel(Work work) {
    using S = Real<T>;
    const BiasAct& p = work.call;
    constexpr int WIDTH = Pack<T>::WIDTH;
    const S alpha = S(p.alpha), gain = S(p.gain), limit = S(p.clamp), stored_limit = widen(narrow<T>(limit));
    const T* saved = static_cast<const T*>(M == Mode::slope_from_y ? p.y : p.x);

    for (Index start = thread_index() * WIDTH; start < p.size; start += thread_count() * WIDTH) {
        const int count = p.size - start < WIDTH ? static_cast<int>(p.size - start) : WIDTH;
        const bool whole = work.aligned && count == WIDTH;
        Pack<T> at, biases{}, dy, ddx, out;
        at.load(saved + start, count, whole);
        if (M != Mode::value) dy.load(static_cast<const T*>(p.dy) + start, count, whole);
        if (M == Mode::curvature) ddx.load(static_cast<const T*>(p.ddx) + start, count, whole);
        if (M != Mode::slope_from_y && p.b) load_biases(biases, work, start);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) {
            const S here = widen(at.items[i]) + widen(biases.items[i]);
            S number;
            if constexpr (M == Mode::value) {
                number = value<A>(here, alpha) * gain;
                if (limit >= 0) number = number > limit ? limit : number < -limit ? -limit : number;  // keeps NaN
            } else {
                number = widen(dy.items[i]) * gain;
                if constexpr (M == Mode::curvature) number *= widen(ddx.items[i]) * curvature<A>(here);
                else number *= slope<A>(here, alpha);
                // A y that lies on the limit counts as clamped: it does not tell.
                const bool passed = M == Mode::slope_from_y ? std::fabs(here) < stored_limit
                                                            : std::fabs(value<A>(here, alpha) * gain) <= limit;
                if (limit >= 0 && !passed) number = 0;
            }
            out.items[i] = narrow<T>(number);
        }
        out.store(static_cast<T*>(p.out) + start, count, whole);
    }
}

using Kernel = void (*)(Work);

template <class T, Activation A> Kernel kernel_of(Mode mode) {
    switch (mode) {
        case Mode::value: return bias_act_kernel<T, A, Mode::value>;
        case Mode::slope_at_x: return bias_act_kernel<T, A, Mode::slope_at_x>;
        case Mode::slope_from_y: return bias_act_kernel<T, A, Mode::slope_from_y>;
        case Mode::curvature: return bias_act_kernel<T, A, Mode::curvature>;
    }
    return nullptr;
}

template <class T> Kernel kernel_of(Activation act, Mode mode) {
    switch (act) {
        case Activation::linear: return kernel_of<T, Activation::linear>(mode);
        case Activation::relu: return kernel_of<T, Activation::relu>(mode);
        case Activation::lrelu: return kernel_of<T, Activation::lrelu>(mode);
        case Activation::tanh: return kernel_of<T, Activation::tanh>(mode);
        case Activation::sigmoid: return kernel_of<T, Activation::sigmoid>(mode);
        case Activation::elu: return kernel_of<T, Activation::elu>(mode);
        case Activation::selu: return kernel_of<T, Activation::selu>(mode);
        case Activation::softplus: return kernel_of<T, Activation::softplus>(mode);
        case Activation::swish: return kernel_of<T, Activation::swish>(mode);
    }
    return nullptr;
}

}  // namespace

Failure bias_act(const BiasAct& call, void* stream) {
    const bool all_aligned =
        aligned(call.x) && aligned(call.y) && aligned(call.dy) && aligned(call.ddx) && aligned(call.out);
    const Work work{call, Divisor(call.step), Divisor(call.channels), all_aligned};
    return with_type(call.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        return launch(kernel_of<T>(call.act, mode_of(call)), work, divide_up(call.size, Pack<T>::WIDTH), THREADS, stream);
    });
}

}  // namespace eg3d
