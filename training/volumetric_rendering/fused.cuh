// What a warp does: a tile of samples on its way through the field, and the quadrature along a ray.
//
// Lane l = 8 g + q of a warp has the samples g, g + 4, g + 8, ... of a tile. Of a row of numbers of such a sample, the eight
// lanes of a group have q, q + 8, q + 16, ... (of a product with the rows of a matrix) or the fours 4q to 4q + 3, 32 + 4q to
// 35 + 4q (of a product with its columns). So a pixel of 32 channels is one line of memory, read by 8 lanes, 16 bytes each;
// what a group reads of shared memory at once goes to all its lanes; and rows are padded so that groups and lanes that read
// at once find different banks. A matrix in shared memory serves both products in the order in which PyTorch has it.

#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstring>

#include "fused.h"

#ifndef DYNAMIC_SHARED_MEMORY  // tests that run kernels on a CPU have their own
#define DYNAMIC_SHARED_MEMORY(name) extern __shared__ uint4 name[]
#endif

namespace eg3d {
namespace {

constexpr int WARP = 32, GROUPS = 4;
constexpr unsigned ALL = 0xffffffffu;
constexpr int IN_ROW = C + 4, OUT_ROW = H + 4;          // of the decoder's matrices in shared memory
constexpr int FEATURE_ROW = C + 8, HIDDEN_ROW = H + 8;  // of a tile's samples there

// ------------------------------------------------------------------------------------------------ functions
// Of the field, where there are 64 a sample: in float by the fast units. They are off by a few 1e-7 of what softplus and
// sigmoid give at 0, which is no more than the rounding of the sums that follow.

__device__ inline float fast_exp(float x) { return __expf(x); }
__device__ inline double fast_exp(double x) { return std::exp(x); }
__device__ inline float fast_log(float x) { return __logf(x); }
__device__ inline double fast_log(double x) { return std::log(x); }
__device__ inline float fast_inverse(float x) { return __fdividef(1.0f, x); }
__device__ inline double fast_inverse(double x) { return 1 / x; }

template <class T> __device__ T fast_softplus(T x) { return (x < 0 ? T(0) : x) + fast_log(1 + fast_exp(-std::abs(x))); }
template <class T> __device__ T fast_sigmoid(T x) { return fast_inverse(1 + fast_exp(-x)); }

// Of a ray, where there are few.
template <class T> __device__ T softplus(T x) { return (x < 0 ? T(0) : x) + std::log1p(std::exp(-std::abs(x))); }
template <class T> __device__ T sigmoid(T x) { return 1 / (1 + std::exp(-x)); }

// ------------------------------------------------------------------------------------------------ memory

// A call, and how its launch shares it out.
struct Launch {
    Call call;
    int rays, room;  // of a block, or its warps that have tiles of points; numbers that an array of a ray has room for
};

// Four numbers that move at once.
template <class T> struct alignas(16) Four {
    T v[4];
};

template <class T> __device__ Four<T> load4(const T* from) { return *reinterpret_cast<const Four<T>*>(from); }
template <class T> __device__ void store4(T* to, const Four<T>& four) { *reinterpret_cast<Four<T>*>(to) = four; }

// Hands out pieces of a block's shared memory; without any, it measures them.
struct Pieces {
    char* base;
    Int used;

    template <class T> __host__ __device__ T* take(Int count) {
        T* piece = reinterpret_cast<T*>(base + used);
        used += (count * Int(sizeof(T)) + 15) / 16 * 16;
        return piece;
    }
};

template <class N> __host__ __device__ N least(N a, N b) { return b < a ? b : a; }

template <class T> __device__ const T* in(const void* array, Int at) { return static_cast<const T*>(array) + at; }
template <class T> __device__ T* out(void* array, Int at) { return static_cast<T*>(array) + at; }

// ------------------------------------------------------------------------------------------------ warps

template <class T> __device__ T sum_of_warp(T x) {
#pragma unroll
    for (int apart = 1; apart < WARP; apart *= 2) x += __shfl_xor_sync(ALL, x, apart);
    return x;
}

// Over the eight lanes of a group.
template <class T> __device__ T sum_of_group(T x) {
#pragma unroll
    for (int apart = 1; apart < WARP / GROUPS; apart *= 2) x += __shfl_xor_sync(ALL, x, apart);
    return x;
}

// Over the lanes of all groups that have the same numbers of a row.
template <class T> __device__ T sum_of_groups(T x) {
#pragma unroll
    for (int apart = WARP / GROUPS; apart < WARP; apart *= 2) x += __shfl_xor_sync(ALL, x, apart);
    return x;
}

// Appends `item` of those lanes that want it to the list, in order; returns its new length.
__device__ inline int append(int* list, int length, bool wanted, int item, int lane) {
    const unsigned who = __ballot_sync(ALL, wanted);
    if (wanted) list[length + __popc(who & ((1u << lane) - 1))] = item;
    return length + __popc(who);
}

// ------------------------------------------------------------------------------------------------ the field

// The decoder in shared memory.
template <class T> struct alignas(16) Weights {
    T in[H * IN_ROW], in_bias[H], out[O * OUT_ROW], out_bias[O], density[H], density_bias;

    __device__ void load(const Call& call) {
        const T *w1 = static_cast<const T*>(call.w1), *w2 = static_cast<const T*>(call.w2);
        for (int i = threadIdx.x; i < H * C; i += blockDim.x) in[i / C * IN_ROW + i % C] = w1[i];
        for (int i = threadIdx.x; i < O * H; i += blockDim.x) out[i / H * OUT_ROW + i % H] = w2[H + i];
        for (int i = threadIdx.x; i < H; i += blockDim.x) {
            in_bias[i] = static_cast<const T*>(call.b1)[i];
            density[i] = w2[i];
            if (i < O) out_bias[i] = static_cast<const T*>(call.b2)[1 + i];
            if (i == 0) density_bias = static_cast<const T*>(call.b2)[0];
        }
        __syncthreads();
    }
};

// The four pixels of a plane around a point, and what they count: the product of a column's and a row's share.
template <class T> struct alignas(16) Corners {
    T column_share[2], row_share[2];
    int column[2], row[2];
};

template <class T> __device__ void find_along(const T* row, const T* point, int size, int* at, T* share) {
    const T place = (point[0] * row[0] + point[1] * row[1] + point[2] * row[2] + 1) * (size * T(0.5)) - T(0.5);
    const T near = place > -2 ? (place < size + 1 ? place : T(size + 1)) : T(-2);  // NaN is outside
    const T whole = std::floor(near);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int here = static_cast<int>(whole) + i;
        const bool inside = here >= 0 && here < size;
        at[i] = inside ? here : 0;
        share[i] = inside ? (i ? near - whole : 1 - (near - whole)) : T(0);
    }
}

// A tile of samples of one item. All lanes of a warp call its functions together.
template <class T, int PER> class Tile {
public:
    static constexpr int SAMPLES = GROUPS * PER;

    T* const features;          // [SAMPLES, FEATURE_ROW]
    T* const hidden;            // [SAMPLES, HIDDEN_ROW]; it may take the place of features
    Corners<T>* const corners;  // [planes, SAMPLES]
    const int lane = threadIdx.x % WARP, q = lane % 8, g = lane / 8;

    __device__ Tile(const Planes& planes, const Weights<T>& weights, T* features, T* hidden, Corners<T>* corners)
        : features(features), hidden(hidden), corners(corners), planes(planes), weights(weights) {}

    // Features of the samples' points, which `place(sample, point)` gives.
    template <class Place> __device__ void look_up(Int item, const Place& place) {
        const int count = static_cast<int>(planes.count);
        for (int i = lane; i < SAMPLES * count; i += WARP) {
            T point[3];
            place(i % SAMPLES, point);
            const T* table = in<T>(planes.table, i / SAMPLES * 6);
            Corners<T>& at = corners[i];
            find_along(table, point, static_cast<int>(planes.width), at.column, at.column_share);
            find_along(table + 3, point, static_cast<int>(planes.height), at.row, at.row_share);
        }
        __syncwarp();
        const int row_stride = static_cast<int>(planes.stride[2]), column_stride = static_cast<int>(planes.stride[3]);
        T sum[PER][4] = {};
        for (int plane = 0; plane < count; ++plane) {
            const T* here = in<T>(planes.data, item * planes.stride[0] + plane * planes.stride[1]) + 4 * q;
#pragma unroll
            for (int i = 0; i < PER; ++i) {
                const Corners<T> at = corners[plane * SAMPLES + g + GROUPS * i];
#pragma unroll
                for (int corner = 0; corner < 4; ++corner) {
                    const T share = at.column_share[corner % 2] * at.row_share[corner / 2];
                    const Four<T> pixel = load4(here + at.row[corner / 2] * row_stride + at.column[corner % 2] * column_stride);
#pragma unroll
                    for (int c = 0; c < 4; ++c) sum[i][c] += share * pixel.v[c];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            Four<T> mean;
#pragma unroll
            for (int c = 0; c < 4; ++c) mean.v[c] = sum[i][c] * T(planes.share);
            store4(features + (g + GROUPS * i) * FEATURE_ROW + 4 * q, mean);
        }
        __syncwarp();
    }

    // Densities of the lane's samples, from features. KEEP leaves the hidden layer in memory.
    template <bool KEEP> __device__ void encode(T (&sigma)[PER]) {
        T sum[PER][8];
        by_rows<C, 8>(features, FEATURE_ROW, weights.in, IN_ROW, weights.in_bias, sum);
        T density[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) density[j] = weights.density[q + 8 * j];
        if (KEEP) __syncwarp();
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            sigma[i] = 0;
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const T value = fast_softplus(sum[i][j]);
                sigma[i] += value * density[j];
                if (KEEP) hidden[(g + GROUPS * i) * HIDDEN_ROW + q + 8 * j] = value;
            }
            sigma[i] = sum_of_group(sigma[i]) + weights.density_bias;
        }
        if (KEEP) __syncwarp();
    }

    // The sigmoid's values at q, q + 8, ... of the lane's samples, from the hidden layer.
    __device__ void colors(T (&color)[PER][4]) {
        by_rows<H, 4>(hidden, HIDDEN_ROW, weights.out, OUT_ROW, weights.out_bias, color);
#pragma unroll
        for (int i = 0; i < PER; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) color[i][j] = fast_sigmoid(color[i][j]);
    }

    // sum[i][j] = bias + the product of sample i's row and the matrix's row q + 8 j.
    template <int SIZE, int EACH>
    __device__ void by_rows(const T* samples, int stride, const T* matrix, int row, const T* bias, T (&sum)[PER][EACH]) {
#pragma unroll
        for (int i = 0; i < PER; ++i)
#pragma unroll
            for (int j = 0; j < EACH; ++j) sum[i][j] = bias[q + 8 * j];
#pragma unroll 2
        for (int k = 0; k < SIZE; k += 4) {
            Four<T> sample[PER];
#pragma unroll
            for (int i = 0; i < PER; ++i) sample[i] = load4(samples + (g + GROUPS * i) * stride + k);
#pragma unroll
            for (int j = 0; j < EACH; ++j) {
                const Four<T> part = load4(matrix + (q + 8 * j) * row + k);
#pragma unroll
                for (int i = 0; i < PER; ++i)
#pragma unroll
                    for (int m = 0; m < 4; ++m) sum[i][j] += sample[i].v[m] * part.v[m];
            }
        }
    }

    // sum[i] = the fours of columns that are the lane's, of the product of sample i's row and the matrix with SIZE rows.
    template <int SIZE, int FOURS>
    __device__ void by_columns(const T* samples, int stride, const T* matrix, int row, T (&sum)[PER][4 * FOURS]) {
#pragma unroll
        for (int i = 0; i < PER; ++i)
#pragma unroll
            for (int j = 0; j < 4 * FOURS; ++j) sum[i][j] = 0;
#pragma unroll 2
        for (int k = 0; k < SIZE; k += 4) {
            Four<T> sample[PER];
#pragma unroll
            for (int i = 0; i < PER; ++i) sample[i] = load4(samples + (g + GROUPS * i) * stride + k);
#pragma unroll
            for (int m = 0; m < 4; ++m)
#pragma unroll
                for (int four = 0; four < FOURS; ++four) {
                    const Four<T> part = load4(matrix + (k + m) * row + 32 * four + 4 * q);
#pragma unroll
                    for (int i = 0; i < PER; ++i)
#pragma unroll
                        for (int j = 0; j < 4; ++j) sum[i][4 * four + j] += sample[i].v[m] * part.v[j];
                }
        }
    }

private:
    const Planes& planes;
    const Weights<T>& weights;
};

// ------------------------------------------------------------------------------------------------ rays

template <class T> struct Line {
    T origin[3], direction[3];

    __device__ Line(const Call& call, Int ray) {
        for (int axis = 0; axis < 3; ++axis) {
            origin[axis] = in<T>(call.origins, 3 * ray)[axis];
            direction[axis] = in<T>(call.directions, 3 * ray)[axis];
        }
    }

    __device__ void at(T depth, T* point) const {
        for (int axis = 0; axis < 3; ++axis) point[axis] = origin[axis] + depth * direction[axis];
    }
};

// What the interval between samples i and i + 1 absorbs, and the slope of that by its mean density.
template <class T> struct Interval {
    T alpha = 0, slope = 0;

    __device__ Interval(const T* depth, const T* density, int i, bool exists) {
        if (!exists) return;
        const T mean = (density[i] + density[i + 1]) / 2 - T(DENSITY_SHIFT), length = depth[i + 1] - depth[i];
        const T left = std::exp(-softplus(mean) * length);
        alpha = 1 - left;
        slope = left * length * sigmoid(mean);
    }

    __device__ T passed() const { return 1 - alpha + T(TRANSMITTANCE_EPS); }
};

template <class T> struct Quadrature {
    T sum, distance;  // of the weights; mean depth, infinite where the ray meets nothing
};

// Weights of intervals, or what reaches them (`through`), for one ray by one warp; 32 intervals at a time.
template <class T>
__device__ Quadrature<T> weigh(const T* depth, const T* density, int samples, T* weight, T* through, int lane) {
    T passing = 1, sum = 0, mass = 0;
    for (int first = 0; first < samples - 1; first += WARP) {
        const int i = first + lane;
        const bool exists = i < samples - 1;
        const Interval<T> here(depth, density, i, exists);
        T product = exists ? here.passed() : T(1);  // of this lane's and those before it
#pragma unroll
        for (int apart = 1; apart < WARP; apart *= 2) {
            const T before = __shfl_up_sync(ALL, product, apart);
            if (lane >= apart) product *= before;
        }
        const T before = __shfl_up_sync(ALL, product, 1), reaching = lane ? passing * before : passing;
        const T part = here.alpha * reaching;
        passing *= __shfl_sync(ALL, product, WARP - 1);
        if (!exists) continue;
        sum += part;
        mass += part * (depth[i] + depth[i + 1]) / 2;
        if (weight) weight[i] = part;
        if (through) through[i] = reaching;
    }
    __syncwarp();
    sum = sum_of_warp(sum);
    const T distance = sum_of_warp(mass) / sum;
    return {sum, distance == distance ? distance : T(INFINITY)};
}

// What sample k of a ray counts: half of the intervals on both sides.
template <class T> __device__ T share_of(const T* weight, int k, int samples) {
    return ((k > 0 ? weight[k - 1] : T(0)) + (k < samples - 1 ? weight[k] : T(0))) / 2;
}

// Depths drawn where a first pass found weight: inverse transform sampling as renderer.importance_depths, which see. `cdf` is
// room for as many numbers as there are samples.
template <class T>
__device__ void draw(const T* depth, const T* weight, int samples, const T* uniform, int count, T* cdf, T* drawn, int lane) {
    const int bins = samples - 3;
    T before = 0;
    if (lane == 0) cdf[0] = 0;
    for (int first = 0; first < bins; first += WARP) {
        const int i = first + lane;
        T sum = 0;
        if (i < bins) {
            const T middle = weight[i + 1], left = weight[i], right = weight[i + 2];
            sum = ((left > middle ? left : middle) + (right > middle ? right : middle)) / 2 + T(PDF_FLOOR) + T(PDF_EPS);
        }
#pragma unroll
        for (int apart = 1; apart < WARP; apart *= 2) {
            const T nearer = __shfl_up_sync(ALL, sum, apart);
            if (lane >= apart) sum += nearer;
        }
        if (i < bins) cdf[i + 1] = before + sum;
        before += __shfl_sync(ALL, sum, WARP - 1);
    }
    for (int i = 1 + lane; i <= bins; i += WARP) cdf[i] /= before;  // each lane those that it wrote
    __syncwarp();
    for (int j = lane; j < count; j += WARP) {
        int low = 0, high = bins + 1;  // the first entry above the draw is in [low, high]
        while (low < high) {
            const int middle = (low + high) / 2;
            if (cdf[middle] > uniform[j]) high = middle;
            else low = middle + 1;
        }
        const int left = low > 0 ? low - 1 : 0, right = low < bins ? low : bins;
        const T width = cdf[right] - cdf[left], start = (depth[left] + depth[left + 1]) / 2;
        const T end = (depth[right] + depth[right + 1]) / 2;
        drawn[j] = start + (uniform[j] - cdf[left]) / (width < T(PDF_EPS) ? T(1) : width) * (end - start);
    }
    __syncwarp();
}

// Sorts depths by one warp (Batcher 1968, bitonic) and says where each was; `size` is a power of two.
template <class T> __device__ void sort(T* depth, int* from, int size, int lane) {
    for (int run = 2; run <= size; run *= 2)
        for (int apart = run / 2; apart > 0; apart /= 2) {
            for (int i = lane; i < size / 2; i += WARP) {
                const int a = 2 * i - (i & (apart - 1)), b = a + apart;
                const T first = depth[a], second = depth[b];
                if ((first > second) != ((a & run) == 0)) continue;
                depth[a] = second, depth[b] = first;
                const int was = from[a];
                from[a] = from[b], from[b] = was;
            }
            __syncwarp();
        }
}

}  // namespace
}  // namespace eg3d
