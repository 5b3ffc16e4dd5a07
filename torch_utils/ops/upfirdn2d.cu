// Three kernels: any call, a thread to a pixel; 4x4 filters at 1x, 2x up and 2x down, a thread to a column of pixels held in
// registers; and separable filters of 12 taps at 2x up and down, both directions in one launch over tiles.
//
// The fast kernels begin their columns and tiles where the first tap meets a sample (`lead` outputs before the picture), so
// that which taps meet samples is known when they are compiled.

#include "kernels.cuh"
#include "upfirdn2d.h"

namespace eg3d {
namespace {

// The first sample that output o sees, and the tap that it meets.
struct Meeting {
    Index sample;
    int tap;
};

__device__ Meeting first_meeting(const Axis& axis, Index o) {
    const Index start = o * axis.down - axis.pad;  // on the upsampled axis
    Index sample = start / axis.up;
    if (sample * axis.up < start) ++sample;  // rounded up, for negative numbers too
    return {sample, static_cast<int>(sample * axis.up - start)};
}

__device__ float tap_at(const Upfirdn2d& p, int ky, int kx) {
    return p.filter ? p.filter[p.origin + ky * p.stride_y + kx * p.stride_x] : 1.0f;
}

// Steps in memory, in elements, of a picture [batch, channels, height, width].
struct Steps {
    Index batch, channel, y, x;
};

__device__ Steps steps_of(const Upfirdn2d& p, Index height, Index width) {
    if (p.channels_last) return {height * width * p.channels, 1, width * p.channels, p.channels};
    return {height * width * p.channels, height * width, width, 1};
}

// Splits i, which counts [batch][channel][row][column] in the output's order of memory, where there are `rows` rows.
struct Place {
    Index batch, channel, row, column;
};

__device__ Place place_of(const Upfirdn2d& p, Index i, Index rows) {
    Place place;
    if (p.channels_last) {
        place.channel = i % p.channels, i /= p.channels;
        place.column = i % p.x.out, i /= p.x.out;
        place.row = i % rows, place.batch = i / rows;
    } else {
        place.column = i % p.x.out, i /= p.x.out;
        place.row = i % rows, i /= rows;
        place.channel = i % p.channels, place.batch = i / p.channels;
    }
    return place;
}

// ------------------------------------------------------------------------------------------------ any call

template <class T> __global__ void __launch_bounds__(THREADS) any_kernel(Upfirdn2d p) {
    using S = Real<T>;
    const Steps in_steps = steps_of(p, p.y.in, p.x.in), out_steps = steps_of(p, p.y.out, p.x.out);
    const Index total = p.batch * p.channels * p.y.out * p.x.out;
    for (Index i = thread_index(); i < total; i += thread_count()) {
        const Place at = place_of(p, i, p.y.out);
        const T* in = static_cast<const T*>(p.in) + at.batch * in_steps.batch + at.channel * in_steps.channel;
        const Meeting column = first_meeting(p.x, at.column), row = first_meeting(p.y, at.row);
        S sum = 0;
        Index iy = row.sample;
        for (int ky = row.tap; ky < p.y.taps; ky += p.y.up, ++iy) {
            if (iy < 0 || iy >= p.y.in) continue;
            Index ix = column.sample;
            for (int kx = column.tap; kx < p.x.taps; kx += p.x.up, ++ix)
                if (ix >= 0 && ix < p.x.in) sum += S(tap_at(p, ky, kx)) * widen(in[iy * in_steps.y + ix * in_steps.x]);
        }
        static_cast<T*>(p.out)[at.batch * out_steps.batch + at.channel * out_steps.channel + at.row * out_steps.y +
                               at.column * out_steps.x] = narrow<T>(sum * S(p.gain));
    }
}

// ------------------------------------------------------------------------------------------------ 4x4 taps

constexpr int SMALL = 4;  // taps
constexpr int RUN = 8;    // outputs above one another that a thread computes

// Adds to the outputs sums[0 .. RUN) what sample number `i` of their run contributes: sample i meets tap i * UP - r * DOWN
// of output r.
template <int UP, int DOWN, int TAPS, class S, class Weight> __device__ void spread(S (&sums)[RUN], int i, Weight weight) {
#pragma unroll
    for (int r = 0; r < RUN; ++r) {
        const int tap = i * UP - r * DOWN;
        if (tap >= 0 && tap < TAPS) sums[r] += weight(tap);
    }
}

template <int UP, int DOWN, int TAPS> constexpr int SAMPLES = ((RUN - 1) * DOWN + TAPS - 1) / UP + 1;  // under a run

// Outputs before the picture at which columns and tiles begin.
__host__ __device__ inline int lead_of(const Axis& axis) { return axis.up == 2 ? axis.pad & 1 : 0; }

template <class T, int UP, int DOWN> __global__ void __launch_bounds__(THREADS) small_kernel(Upfirdn2d p) {
    using S = Real<T>;
    constexpr int ACROSS = SMALL / UP;  // samples beside one another that an output sees
    const Steps in_steps = steps_of(p, p.y.in, p.x.in), out_steps = steps_of(p, p.y.out, p.x.out);
    const int lead = lead_of(p.y);
    const Index runs = (p.y.out + lead + RUN - 1) / RUN;
    const Index total = p.batch * p.channels * runs * p.x.out;
    for (Index unit = thread_index(); unit < total; unit += thread_count()) {
        const Place at = place_of(p, unit, runs);
        const Meeting column = first_meeting(p.x, at.column);
        S taps[SMALL][ACROSS];
        bool inside[ACROSS];
#pragma unroll
        for (int m = 0; m < ACROSS; ++m) {
            inside[m] = column.sample + m >= 0 && column.sample + m < p.x.in;
#pragma unroll
            for (int ky = 0; ky < SMALL; ++ky) taps[ky][m] = S(tap_at(p, ky, column.tap + m * UP));
        }
        const Index top = at.row * RUN - lead;
        const Index first = first_meeting(p.y, top).sample;
        const T* in = static_cast<const T*>(p.in) + at.batch * in_steps.batch + at.channel * in_steps.channel +
                      first * in_steps.y + column.sample * in_steps.x;
        S sums[RUN] = {};
#pragma unroll
        for (int i = 0; i < SAMPLES<UP, DOWN, SMALL>; ++i) {
            const bool row_inside = first + i >= 0 && first + i < p.y.in;
#pragma unroll
            for (int m = 0; m < ACROSS; ++m) {
                const S sample = row_inside && inside[m] ? S(widen(in[i * in_steps.y + m * in_steps.x])) : S(0);
                spread<UP, DOWN, SMALL>(sums, i, [&](int tap) { return taps[tap][m] * sample; });
            }
        }
        T* out = static_cast<T*>(p.out) + at.batch * out_steps.batch + at.channel * out_steps.channel + top * out_steps.y +
                 at.column * out_steps.x;
#pragma unroll
        for (int r = 0; r < RUN; ++r)
            if (top + r >= 0 && top + r < p.y.out) out[r * out_steps.y] = narrow<T>(sums[r] * S(p.gain));
    }
}

// ------------------------------------------------------------------------------------------------ 12 taps, separable

constexpr int LONG = 12;  // taps
constexpr int TILE_WIDTH = 64, TILE_HEIGHT = 32;  // outputs that a block computes at a time

struct Tiles {
    int lead_x, lead_y;
    Index across, down, total;
};

__host__ __device__ inline Tiles tiles_of(const Upfirdn2d& p) {
    Tiles tiles;
    tiles.lead_x = lead_of(p.x), tiles.lead_y = lead_of(p.y);
    tiles.across = (p.x.out + tiles.lead_x + TILE_WIDTH - 1) / TILE_WIDTH;
    tiles.down = (p.y.out + tiles.lead_y + TILE_HEIGHT - 1) / TILE_HEIGHT;
    tiles.total = p.batch * p.channels * tiles.across * tiles.down;
    return tiles;
}

template <class T, int UP, int DOWN> __global__ void __launch_bounds__(THREADS) long_kernel(Upfirdn2d p) {
    using S = Real<T>;
    constexpr int COLUMNS = ((TILE_WIDTH - 1) * DOWN + LONG - 1) / UP + 1;  // of samples under a tile
    constexpr int ACROSS = LONG / UP;
    static_assert(DOWN == 1 || COLUMNS % DOWN == 0, "even and odd columns take equal halves");
    __shared__ S columns[TILE_HEIGHT][COLUMNS];  // filtered along y
    __shared__ S taps[LONG];
    // At 2x down neighbours in a row of outputs see every other sample: kept in halves, these are neighbours in memory.
    const auto slot = [](int column) { return DOWN == 2 ? column % 2 * (COLUMNS / 2) + column / 2 : column; };

    const int thread = threadIdx.x;
    if (thread < LONG) taps[thread] = S(p.filter[p.origin + thread * p.stride_x]);
    const Tiles tiles = tiles_of(p);
    for (Index tile = blockIdx.x; tile < tiles.total; tile += gridDim.x) {
        const Index plane = tile / (tiles.across * tiles.down), in_plane = tile - plane * tiles.across * tiles.down;
        const Index left = in_plane % tiles.across * TILE_WIDTH - tiles.lead_x;
        const Index top = in_plane / tiles.across * TILE_HEIGHT - tiles.lead_y;
        const Index first_x = first_meeting(p.x, left).sample, first_y = first_meeting(p.y, top).sample;
        const T* in = static_cast<const T*>(p.in) + plane * p.y.in * p.x.in;
        T* out = static_cast<T*>(p.out) + plane * p.y.out * p.x.out;
        __syncthreads();  // taps are there; the last tile has been read

        for (int unit = thread; unit < COLUMNS * (TILE_HEIGHT / RUN); unit += THREADS) {
            const int column = unit % COLUMNS, run = unit / COLUMNS;
            const Index ix = first_x + column, row = first_y + run * (RUN * DOWN / UP);
            const bool inside = ix >= 0 && ix < p.x.in;
            S sums[RUN] = {};
#pragma unroll
            for (int i = 0; i < SAMPLES<UP, DOWN, LONG>; ++i) {
                const S sample = inside && row + i >= 0 && row + i < p.y.in ? S(widen(in[(row + i) * p.x.in + ix])) : S(0);
                spread<UP, DOWN, LONG>(sums, i, [&](int tap) { return taps[tap] * sample; });
            }
#pragma unroll
            for (int r = 0; r < RUN; ++r) columns[run * RUN + r][slot(column)] = sums[r];
        }
        __syncthreads();

        const int x = thread % TILE_WIDTH;
        const int first_tap = x * DOWN % UP, first_column = (x * DOWN + UP - 1) / UP;
        S weights[ACROSS];
#pragma unroll
        for (int m = 0; m < ACROSS; ++m) weights[m] = taps[first_tap + m * UP] * S(p.gain);
        for (int y = thread / TILE_WIDTH; y < TILE_HEIGHT; y += THREADS / TILE_WIDTH) {
            if (left + x < 0 || left + x >= p.x.out || top + y < 0 || top + y >= p.y.out) continue;
            S sum = 0;
#pragma unroll
            for (int m = 0; m < ACROSS; ++m) sum += weights[m] * columns[y][slot(first_column + m)];
            out[(top + y) * p.x.out + left + x] = narrow<T>(sum);
        }
    }
}

// ------------------------------------------------------------------------------------------------ which kernel

bool resamples(const Upfirdn2d& p, int up, int down) {
    return p.x.up == up && p.y.up == up && p.x.down == down && p.y.down == down;
}

using Kernel = void (*)(Upfirdn2d);

template <class T> Kernel small_of(const Upfirdn2d& p) {
    if (p.separable || p.x.taps != SMALL || p.y.taps != SMALL) return nullptr;
    if (resamples(p, 1, 1)) return small_kernel<T, 1, 1>;
    if (resamples(p, 2, 1)) return small_kernel<T, 2, 1>;
    if (resamples(p, 1, 2)) return small_kernel<T, 1, 2>;
    return nullptr;
}

}  // namespace

bool is_fused(const Upfirdn2d& p) {
    return p.separable && p.x.taps == LONG && !p.channels_last && (resamples(p, 2, 1) || resamples(p, 1, 2)) &&
           p.x.out >= TILE_WIDTH / 2 && p.y.out >= TILE_HEIGHT / 2;  // smaller pictures leave most of a tile idle
}

Failure upfirdn2d(const Upfirdn2d& p, void* stream) {
    return with_type(p.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if (is_fused(p)) return launch(p.x.up == 2 ? long_kernel<T, 2, 1> : long_kernel<T, 1, 2>, p, tiles_of(p).total, 1, stream);
        if (p.separable) return Failure("a separable filter of this size takes two launches");
        if (const Kernel small = small_of<T>(p)) {
            const Index runs = divide_up(p.y.out + lead_of(p.y), RUN);
            return launch(small, p, p.batch * p.channels * runs * p.x.out, THREADS, stream);
        }
        return launch<Upfirdn2d>(any_kernel<T>, p, p.batch * p.channels * p.y.out * p.x.out, THREADS, stream);
    });
}

}  // namespace eg3d
