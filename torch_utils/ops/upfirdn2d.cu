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
    int sample, tap;
};

__device__ inline Meeting first_meeting(int o, int up, int down, int pad) {
    const int start = o * down - pad;  // on the upsampled axis
    int sample = start / up;
    if (sample * up < start) ++sample;  // rounded up, for negative numbers too
    return {sample, sample * up - start};
}

__device__ inline float tap_at(const Upfirdn2d& p, int ky, int kx) {
    return p.filter[p.origin + ky * p.stride_y + kx * p.stride_x];
}

// A call and what it costs to take positions apart.
struct Work {
    Upfirdn2d call;
    Index units;  // of work, counted in the output's order of memory
    Divisor channels, columns, rows;
};

struct Place {
    Index batch, channel;
    int row, column;
};

template <bool LAST> __device__ Place place_of(const Work& work, Index unit) {
    Place place;
    if (LAST) {  // [batch][row][column][channel]
        place.channel = unit, unit = work.channels.divide(place.channel);
        Index column = unit;
        unit = work.columns.divide(column), place.column = static_cast<int>(column);
        place.batch = work.rows.divide(unit), place.row = static_cast<int>(unit);
    } else {  // [batch][channel][row][column]
        Index column = unit;
        unit = work.columns.divide(column), place.column = static_cast<int>(column);
        Index row = unit;
        unit = work.rows.divide(row), place.row = static_cast<int>(row);
        place.batch = work.channels.divide(unit), place.channel = unit;
    }
    return place;
}

// A picture [batch, channels, height, width] in memory. LAST: channels_last.
template <class T, bool LAST> struct Picture {
    T* start;
    Index step_x, step_y;

    __device__ Picture(T* data, const Upfirdn2d& p, const Place& at, int height, int width)
        : step_x(LAST ? p.channels : 1), step_y(LAST ? p.channels * width : width) {
        const Index area = static_cast<Index>(height) * width;
        start = data + (LAST ? at.batch * p.channels * area + at.channel : (at.batch * p.channels + at.channel) * area);
    }

    __device__ T* at(int y, int x) const { return start + y * step_y + (LAST ? x * step_x : x); }
};

// ------------------------------------------------------------------------------------------------ any call

template <class T, bool LAST> __global__ void __launch_bounds__(THREADS) any_kernel(Work work) {
    using S = Real<T>;
    const Upfirdn2d& p = work.call;
    for (Index unit = thread_index(); unit < work.units; unit += thread_count()) {
        const Place at = place_of<LAST>(work, unit);
        const Picture<const T, LAST> in(static_cast<const T*>(p.in), p, at, p.y.in, p.x.in);
        const Picture<T, LAST> out(static_cast<T*>(p.out), p, at, p.y.out, p.x.out);
        const Meeting column = first_meeting(at.column, p.x.up, p.x.down, p.x.pad);
        const Meeting row = first_meeting(at.row, p.y.up, p.y.down, p.y.pad);
        S sum = 0;
        for (int ky = row.tap, iy = row.sample; ky < p.y.taps; ky += p.y.up, ++iy) {
            if (iy < 0 || iy >= p.y.in) continue;
            for (int kx = column.tap, ix = column.sample; kx < p.x.taps; kx += p.x.up, ++ix)
                if (ix >= 0 && ix < p.x.in) sum += (p.filter ? S(tap_at(p, ky, kx)) : S(1)) * widen(*in.at(iy, ix));
        }
        *out.at(at.row, at.column) = narrow<T>(sum * S(p.gain));
    }
}

// ------------------------------------------------------------------------------------------------ 4x4 taps

constexpr int SMALL = 4;  // taps

// Outputs above one another that a thread computes: so many that they see about as many samples.
template <int UP> constexpr int RUN = 8 * UP;
template <int UP, int DOWN, int TAPS> constexpr int SAMPLES = ((RUN<UP> - 1) * DOWN + TAPS - 1) / UP + 1;  // under a run

// Adds what sample number i of a run contributes to its outputs: it meets tap i * UP - r * DOWN of output r.
template <int UP, int DOWN, int TAPS, class S, class Weight> __device__ void spread(S (&sums)[RUN<UP>], int i, Weight weight) {
#pragma unroll
    for (int r = 0; r < RUN<UP>; ++r) {
        const int tap = i * UP - r * DOWN;
        if (tap >= 0 && tap < TAPS) sums[r] += weight(tap);
    }
}

// Outputs before the picture at which columns and tiles begin.
__host__ __device__ inline int lead_of(const Axis& axis) { return axis.up == 2 ? axis.pad & 1 : 0; }

template <class T, int UP, int DOWN, bool LAST> __global__ void __launch_bounds__(THREADS) small_kernel(Work work) {
    using S = Real<T>;
    constexpr int ACROSS = SMALL / UP;  // samples beside one another that an output sees
    const Upfirdn2d& p = work.call;
    for (Index unit = thread_index(); unit < work.units; unit += thread_count()) {
        const Place at = place_of<LAST>(work, unit);
        const Meeting column = first_meeting(at.column, UP, DOWN, p.x.pad);
        S taps[SMALL][ACROSS];
        bool inside[ACROSS];
#pragma unroll
        for (int m = 0; m < ACROSS; ++m) {
            inside[m] = column.sample + m >= 0 && column.sample + m < p.x.in;
#pragma unroll
            for (int ky = 0; ky < SMALL; ++ky) taps[ky][m] = S(tap_at(p, ky, column.tap + m * UP)) * S(p.gain);
        }
        const int top = at.row * RUN<UP> - lead_of(p.y);
        const int first = first_meeting(top, UP, DOWN, p.y.pad).sample;
        const Picture<const T, LAST> in(static_cast<const T*>(p.in), p, at, p.y.in, p.x.in);
        const T* row = in.at(first, column.sample);
        S sums[RUN<UP>] = {};
#pragma unroll
        for (int i = 0; i < SAMPLES<UP, DOWN, SMALL>; ++i, row += in.step_y) {
            const bool row_inside = first + i >= 0 && first + i < p.y.in;
#pragma unroll
            for (int m = 0; m < ACROSS; ++m) {
                const S sample = row_inside && inside[m] ? S(widen(row[LAST ? m * in.step_x : m])) : S(0);
                spread<UP, DOWN, SMALL>(sums, i, [&](int tap) { return taps[tap][m] * sample; });
            }
        }
        const Picture<T, LAST> picture(static_cast<T*>(p.out), p, at, p.y.out, p.x.out);
        T* out = picture.at(top, at.column);
#pragma unroll
        for (int r = 0; r < RUN<UP>; ++r, out += picture.step_y)
            if (top + r >= 0 && top + r < p.y.out) *out = narrow<T>(sums[r]);
    }
}

// ------------------------------------------------------------------------------------------------ 12 taps, separable

constexpr int LONG = 12;  // taps
constexpr int TILE_WIDTH = 64, TILE_RUNS = 4;  // outputs, and runs of outputs, that a block computes at a time
template <int UP> constexpr int TILE_HEIGHT = TILE_RUNS * RUN<UP>;

// Work's units are tiles, its columns and rows those of tiles.
template <class T, int UP, int DOWN> __global__ void __launch_bounds__(THREADS) long_kernel(Work work) {
    using S = Real<T>;
    constexpr int COLUMNS = ((TILE_WIDTH - 1) * DOWN + LONG - 1) / UP + 1;  // of samples under a tile
    constexpr int ACROSS = LONG / UP;
    constexpr int ROWS = THREADS / TILE_WIDTH;  // of outputs at a time
    static_assert(DOWN == 1 || COLUMNS % DOWN == 0, "even and odd columns take equal halves");
    __shared__ S columns[TILE_HEIGHT<UP>][COLUMNS];  // filtered along y
    __shared__ S taps[LONG];
    // At 2x down neighbours in a row of outputs see every other sample: kept in halves, these are neighbours in memory.
    const auto slot = [](int column) { return DOWN == 2 ? column % 2 * (COLUMNS / 2) + column / 2 : column; };

    const Upfirdn2d& p = work.call;
    const int thread = threadIdx.x;
    if (thread < LONG) taps[thread] = S(p.filter[p.origin + thread * p.stride_x]);
    for (Index tile = blockIdx.x; tile < work.units; tile += gridDim.x) {
        const Place at = place_of<false>(work, tile);
        const int left = at.column * TILE_WIDTH - lead_of(p.x), top = at.row * TILE_HEIGHT<UP> - lead_of(p.y);
        const int first_x = first_meeting(left, UP, DOWN, p.x.pad).sample;
        const int first_y = first_meeting(top, UP, DOWN, p.y.pad).sample;
        const Picture<const T, false> in(static_cast<const T*>(p.in), p, at, p.y.in, p.x.in);
        const Picture<T, false> picture(static_cast<T*>(p.out), p, at, p.y.out, p.x.out);
        __syncthreads();  // taps are there; the last tile has been read

        for (int unit = thread; unit < COLUMNS * TILE_RUNS; unit += THREADS) {
            const int column = unit % COLUMNS, run = unit / COLUMNS;
            const int ix = first_x + column, first = first_y + run * (RUN<UP> * DOWN / UP);
            const bool inside = ix >= 0 && ix < p.x.in;
            const T* row = in.at(first, ix);
            S sums[RUN<UP>] = {};
#pragma unroll
            for (int i = 0; i < SAMPLES<UP, DOWN, LONG>; ++i, row += in.step_y) {
                const S sample = inside && first + i >= 0 && first + i < p.y.in ? S(widen(*row)) : S(0);
                spread<UP, DOWN, LONG>(sums, i, [&](int tap) { return taps[tap] * sample; });
            }
#pragma unroll
            for (int r = 0; r < RUN<UP>; ++r) columns[run * RUN<UP> + r][slot(column)] = sums[r];
        }
        __syncthreads();

        const int x = thread % TILE_WIDTH, first_row = thread / TILE_WIDTH;
        const int first_tap = x * DOWN % UP, first_column = (x * DOWN + UP - 1) / UP;
        S weights[ACROSS];
#pragma unroll
        for (int m = 0; m < ACROSS; ++m) weights[m] = taps[first_tap + m * UP] * S(p.gain);
        T* out = picture.at(top + first_row, left + x);
        for (int y = first_row; y < TILE_HEIGHT<UP>; y += ROWS, out += ROWS * picture.step_y) {
            if (left + x < 0 || left + x >= p.x.out || top + y < 0 || top + y >= p.y.out) continue;
            S sum = 0;
#pragma unroll
            for (int m = 0; m < ACROSS; ++m) sum += weights[m] * columns[y][DOWN == 2 ? x + slot(m) : first_column + m];
            *out = narrow<T>(sum);
        }
    }
}

// ------------------------------------------------------------------------------------------------ which kernel

bool resamples(const Upfirdn2d& p, int up, int down) {
    return p.x.up == up && p.y.up == up && p.x.down == down && p.y.down == down;
}

using Kernel = void (*)(Work);

template <class T, bool LAST> Kernel small_of(const Upfirdn2d& p) {
    if (p.x.taps != SMALL || p.y.taps != SMALL) return nullptr;
    if (resamples(p, 1, 1)) return small_kernel<T, 1, 1, LAST>;
    if (resamples(p, 2, 1)) return small_kernel<T, 2, 1, LAST>;
    if (resamples(p, 1, 2)) return small_kernel<T, 1, 2, LAST>;
    return nullptr;
}

// Starts a kernel whose units are `width` x `height` outputs.
Failure start(Kernel kernel, const Upfirdn2d& p, int width, int height, Index per_block, void* stream) {
    const Index columns = divide_up(p.x.out + (width > 1 ? lead_of(p.x) : 0), width);
    const Index rows = divide_up(p.y.out + (height > 1 ? lead_of(p.y) : 0), height);
    const Index units = p.batch * p.channels * rows * columns;
    if (units == 0) return nullptr;
    return launch(kernel, Work{p, units, Divisor(p.channels), Divisor(columns), Divisor(rows)}, units, per_block, stream);
}

}  // namespace

bool is_fused(const Upfirdn2d& p) {
    return p.separable && p.x.taps == LONG && !p.channels_last && (resamples(p, 2, 1) || resamples(p, 1, 2)) &&
           p.x.out >= TILE_WIDTH / 2 && p.y.out >= TILE_HEIGHT<1> / 2;  // smaller pictures leave most of a tile idle
}

Failure upfirdn2d(const Upfirdn2d& p, void* stream) {
    return with_type(p.dtype, [&](auto* type) {
        using T = std::remove_pointer_t<decltype(type)>;
        if (is_fused(p)) {
            return p.x.up == 2 ? start(long_kernel<T, 2, 1>, p, TILE_WIDTH, TILE_HEIGHT<2>, 1, stream)
                               : start(long_kernel<T, 1, 2>, p, TILE_WIDTH, TILE_HEIGHT<1>, 1, stream);
        }
        if (p.separable) return Failure("a separable filter of this size takes two launches");
        if (const Kernel small = p.channels_last ? small_of<T, true>(p) : small_of<T, false>(p))
            return start(small, p, 1, p.y.up == 2 ? RUN<2> : RUN<1>, THREADS, stream);
        return start(p.channels_last ? any_kernel<T, true> : any_kernel<T, false>, p, 1, 1, THREADS, stream);
    });
}

}  // namespace eg3d
