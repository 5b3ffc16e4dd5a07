// Kernels for the gradients of planes and decoder: a block takes points, or rays, until none is left.

#pragma once

#include "fused.cuh"

namespace eg3d {
namespace {

constexpr int BACKWARD_WARPS = 4;  // of a block, and its rays at most: a decoder's gradients are shared out among 128 threads

// As forwards, but shared memory sets the bound.
template <class T> constexpr int BACKWARD_PER = sizeof(T) == 4 ? 2 : 1;
template <class T> constexpr int BACKWARD_BLOCKS = sizeof(T) == 4 ? 3 : 2;

// A block's shared memory: the decoder, and for each warp a tile, gradients of its rows, and of its densities.
template <class T> struct BackwardMemory {
    static constexpr int PER = BACKWARD_PER<T>, SAMPLES = GROUPS * PER, ALL_SAMPLES = BACKWARD_WARPS * SAMPLES;
    Weights<T>* weights;
    T *features, *hidden, *d_out, *d_hidden, *d_sigma;
    Corners<T>* corners;

    __host__ __device__ BackwardMemory(Pieces& pieces, Int planes)
        : weights(pieces.take<Weights<T>>(1)), features(pieces.take<T>(ALL_SAMPLES * FEATURE_ROW)),
          hidden(pieces.take<T>(ALL_SAMPLES * HIDDEN_ROW)), d_out(pieces.take<T>(ALL_SAMPLES * FEATURE_ROW)),
          d_hidden(pieces.take<T>(ALL_SAMPLES * HIDDEN_ROW)), d_sigma(pieces.take<T>(ALL_SAMPLES)),
          corners(pieces.take<Corners<T>>(ALL_SAMPLES * planes)) {}

    __device__ Tile<T, PER> tile(const Planes& planes, int warp) const {
        return Tile<T, PER>(planes, *weights, features + warp * SAMPLES * FEATURE_ROW, hidden + warp * SAMPLES * HIDDEN_ROW,
                            corners + warp * SAMPLES * planes.count);
    }
};

// Takes samples backwards through the field, a tile a warp, and keeps what a block's samples add to the decoder's gradients:
// thread 8 a + b four of the hidden layer, from 4 a, by four features and four colours, from 4 b. All threads of a block call
// its functions together.
template <class T> class Gradients {
public:
    static constexpr int PER = BACKWARD_PER<T>, SAMPLES = GROUPS * PER;

    __device__ Gradients(const Call& call, const BackwardMemory<T>& memory, Tile<T, PER>& tile)
        : call(call), memory(memory), tile(tile), d_out(memory.d_out + warp * SAMPLES * FEATURE_ROW),
          d_hidden(memory.d_hidden + warp * SAMPLES * HIDDEN_ROW), d_sigma(memory.d_sigma + warp * SAMPLES) {}

    // The first `count` samples of this warp's tile. Of what is at = source.find(sample), source.place(at, point) tells the
    // point, source.pull(at, o) the gradient of a colour and source.slope(at) that of the density.
    template <class Source> __device__ void add(Int item, int count, const Source& source) {
        tile.look_up(item, [&](int sample, T* point) { source.place(source.find(sample), point); });
        T sigma[PER], color[PER][4];
        tile.template encode<true>(sigma);
        tile.colors(color);
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            const int sample = tile.g + GROUPS * i;
            const auto at = source.find(sample);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int o = tile.q + 8 * j;
                const T slope = color[i][j] * (1 - color[i][j]);
                d_out[sample * FEATURE_ROW + o] = sample < count ? source.pull(at, o) * slope : T(0);
            }
            if (tile.q == 0) d_sigma[sample] = sample < count ? source.slope(at) : T(0);
        }
        __syncwarp();
        find_hidden();
        __syncthreads();
        add_to_decoder();
        T d_feature[PER][4];
        tile.template by_columns<H, 1>(d_hidden, HIDDEN_ROW, memory.weights->in, IN_ROW, d_feature);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            Four<T> four;
#pragma unroll
            for (int c = 0; c < 4; ++c) four.v[c] = d_feature[i][c] * T(call.planes.share);
            store4(tile.features + (tile.g + GROUPS * i) * FEATURE_ROW + 4 * tile.q, four);
        }
        __syncwarp();
        spread(item, count);
        __syncwarp();
    }

    __device__ void finish() {
        const int a = threadIdx.x / 8 * 4, b = threadIdx.x % 8 * 4;
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                atomicAdd(out<T>(call.d_w1, (a + i) * C + b + j), by_feature[i][j]);
                atomicAdd(out<T>(call.d_w2, (1 + b + j) * H + a + i), by_color[i][j]);
            }
        const int self = threadIdx.x;
        if (self < H) {
            atomicAdd(out<T>(call.d_b1, self), bias);
            atomicAdd(out<T>(call.d_w2, self), by_density);
        } else if (self <= H + O) {
            atomicAdd(out<T>(call.d_b2, self < H + O ? 1 + self - H : 0), bias);
        }
    }

private:
    const Call& call;
    const BackwardMemory<T>& memory;
    Tile<T, PER>& tile;
    const int warp = threadIdx.x / WARP;
    T *d_out, *d_hidden, *d_sigma;
    T by_feature[4][4] = {}, by_color[4][4] = {};
    T bias = 0, by_density = 0;  // of the hidden layer, of colours and of the density, in this order of threads

    // Gradients of the hidden layer's sums; the softplus's slope at x is 1 - exp(-softplus(x)).
    __device__ void find_hidden() {
        T sum[PER][8];
        tile.template by_columns<O, 2>(d_out, FEATURE_ROW, memory.weights->out, OUT_ROW, sum);
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            const int sample = tile.g + GROUPS * i;
            const T slope = d_sigma[sample];
#pragma unroll
            for (int four = 0; four < 2; ++four) {
                const int first = 32 * four + 4 * tile.q;
                const Four<T> value = load4(tile.hidden + sample * HIDDEN_ROW + first);
                const Four<T> density = load4(memory.weights->density + first);
                Four<T> result;
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    result.v[j] = (sum[i][4 * four + j] + slope * density.v[j]) * (1 - fast_exp(-value.v[j]));
                store4(d_hidden + sample * HIDDEN_ROW + first, result);
            }
        }
    }

    __device__ void add_to_decoder() {
        const int self = threadIdx.x, a = self / 8 * 4, b = self % 8 * 4;
#pragma unroll 2
        for (int k = 0; k < BackwardMemory<T>::ALL_SAMPLES; ++k) {
            const Four<T> feature = load4(memory.features + k * FEATURE_ROW + b);
            const Four<T> color = load4(memory.d_out + k * FEATURE_ROW + b);
            const Four<T> hidden = load4(memory.hidden + k * HIDDEN_ROW + a);
            const Four<T> d_in = load4(memory.d_hidden + k * HIDDEN_ROW + a);
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    by_feature[i][j] += d_in.v[i] * feature.v[j];
                    by_color[i][j] += hidden.v[i] * color.v[j];
                }
        }
        for (int k = 0; k < BackwardMemory<T>::ALL_SAMPLES; ++k) {
            const T density = memory.d_sigma[k];
            if (self < H) {
                bias += memory.d_hidden[k * HIDDEN_ROW + self];
                by_density += memory.hidden[k * HIDDEN_ROW + self] * density;
            } else if (self < H + O) {
                bias += memory.d_out[k * FEATURE_ROW + self - H];
            } else if (self == H + O) {
                bias += density;
            }
        }
    }

    // Adds the features' gradients to the planes', of which [height, width, planes, C] is the order, by a lane a channel.
    __device__ void spread(Int item, int count) {
        const Planes& planes = call.planes;
        const int number = static_cast<int>(planes.count), width = static_cast<int>(planes.width);
        T* base = out<T>(call.d_planes, item * planes.height * planes.width * number * C) + tile.lane;
        for (int sample = 0; sample < count; ++sample) {
            const T gradient = tile.features[sample * FEATURE_ROW + tile.lane];
            for (int plane = 0; plane < number; ++plane) {
                const Corners<T> at = tile.corners[plane * SAMPLES + sample];
#pragma unroll
                for (int corner = 0; corner < 4; ++corner) {
                    const T share = at.column_share[corner % 2] * at.row_share[corner / 2];
                    const int pixel = at.row[corner / 2] * width + at.column[corner % 2];
                    if (share != 0) atomicAdd(base + (pixel * number + plane) * C, share * gradient);
                }
            }
        }
    }
};

// Points of an item that begins at `start`, from the `first` one on; and their gradients.
template <class T> struct PointSource {
    const Call& call;
    Int start, first;

    __device__ Int find(int sample) const { return start + least(first + sample, call.many - 1); }

    __device__ void place(Int at, T* point) const {
        for (int axis = 0; axis < 3; ++axis) point[axis] = in<T>(call.points, 3 * at)[axis];
    }

    __device__ T pull(Int at, int o) const {
        return call.rgb ? in<T>(call.d_rgb, at * O)[o] * T(1 + 2 * RGB_PADDING) : T(0);
    }

    __device__ T slope(Int at) const { return *in<T>(call.d_sigma, at); }
};

template <class T>
__global__ void __launch_bounds__(WARP * BACKWARD_WARPS, BACKWARD_BLOCKS<T>) decode_backward_kernel(Launch launch) {
    constexpr int PER = BACKWARD_PER<T>, SAMPLES = GROUPS * PER, AT_ONCE = BACKWARD_WARPS * SAMPLES;
    const Call& call = launch.call;
    DYNAMIC_SHARED_MEMORY(shared);
    Pieces pieces{reinterpret_cast<char*>(shared), 0};
    const int warp = threadIdx.x / WARP;
    const BackwardMemory<T> memory(pieces, call.planes.count);
    memory.weights->load(call);
    Tile<T, PER> tile = memory.tile(call.planes, warp);
    Gradients<T> gradients(call, memory, tile);
    const Int runs = (call.many + AT_ONCE - 1) / AT_ONCE;  // of an item
    for (Int index = blockIdx.x; index < call.items * runs; index += gridDim.x) {
        const Int item = index / runs, first = index % runs * AT_ONCE + warp * SAMPLES;
        const int count = first < call.many ? static_cast<int>(least(call.many - first, Int(SAMPLES))) : 0;
        gradients.add(item, count, PointSource<T>{call, item * call.many, first});
    }
    gradients.finish();
}

// The arrays of a block's rays in shared memory, and which of their samples matter.
template <class T> struct RayGradientMemory {
    T *depth, *density, *color, *weight, *change, *pull;  // [rays, room], but pull [rays, O]
    int *list, *counts;                                   // [rays, room] and [BACKWARD_WARPS]

    __host__ __device__ RayGradientMemory(Pieces& pieces, int rays, int room)
        : depth(pieces.take<T>(rays * room)), density(pieces.take<T>(rays * room)), color(pieces.take<T>(rays * room)),
          weight(pieces.take<T>(rays * room)), change(pieces.take<T>(rays * room)), pull(pieces.take<T>(rays * O)),
          list(pieces.take<int>(rays * room)), counts(pieces.take<int>(BACKWARD_WARPS)) {}
};

// Gradients of one ray's densities and colours by one warp. Leaves in memory, for each sample, the gradient of its density (in
// `density`) and its share (in `color`), and the list of those where one of them is not zero.
template <class T> class RayGradients {
public:
    __device__ RayGradients(
        const Launch& launch, Tile<T, BACKWARD_PER<T>>& tile, const RayGradientMemory<T>& memory, int place, Int ray)
        : call(launch.call), tile(tile), ray(ray), all(launch.room), depth(memory.depth + place * all),
          density(memory.density + place * all), color(memory.color + place * all), weight(memory.weight + place * all),
          change(memory.change + place * all), pull(memory.pull + place * O), list(memory.list + place * all) {}

    // Returns the length of the list.
    __device__ int run() {
        for (int k = tile.lane; k < all; k += WARP) depth[k] = in<T>(call.all_depths, ray * all)[k];
        const T d_rgb = 2 * in<T>(call.d_rgb, ray * O)[tile.lane];
        pull[tile.lane] = d_rgb * T(1 + 2 * RGB_PADDING);
        const T level = sum_of_warp(d_rgb);
        __syncwarp();
        encode();
        const Quadrature<T> result = weigh<T>(depth, density, all, nullptr, weight, tile.lane);
        go_back(result, *in<T>(call.d_weight, ray) - level * (T(RGB_PADDING) + (call.white_back ? 1 : 0)));
        return collect();
    }

private:
    static constexpr int PER = BACKWARD_PER<T>, SAMPLES = GROUPS * PER;
    const Call& call;
    Tile<T, PER>& tile;
    const Int ray;
    const int all;
    T *depth, *density, *color, *weight, *change, *pull;
    int* list;

    // Densities, and what the result's gradient makes of colours.
    __device__ void encode() {
        const Line<T> line(call, ray);
        for (int start = 0; start < all; start += SAMPLES) {
            tile.look_up(ray / call.many, [&](int sample, T* point) {
                line.at(depth[least(start + sample, all - 1)], point);
            });
            T sigma[PER], values[PER][4];
            tile.template encode<true>(sigma);
            tile.colors(values);
#pragma unroll
            for (int i = 0; i < PER; ++i) {
                T along = 0;
#pragma unroll
                for (int j = 0; j < 4; ++j) along += values[i][j] * pull[tile.q + 8 * j];
                along = sum_of_group(along);
                const int k = start + tile.g + GROUPS * i;
                if (tile.q > 0 || k >= all) continue;
                density[k] = sigma[i] + (call.all_noise ? in<T>(call.all_noise, ray * all)[k] : T(0));
                color[k] = along;
            }
        }
        __syncwarp();
    }

    // From the far end, 32 intervals at a time: `weight`, which held what reaches an interval, becomes its weight, and `change`
    // the gradient of its mean density; both 0 where neither can be seen.
    __device__ void go_back(const Quadrature<T>& result, T same) {
        const T d_distance = result.sum != 0 ? *in<T>(call.d_distance, ray) / result.sum : T(0);
        T behind = 0;
        for (int first = (all - 2) / WARP * WARP; first >= 0 && first < all - 1; first -= WARP) {
            const int i = first + tile.lane;
            const bool exists = i < all - 1;
            const Interval<T> here(depth, density, i, exists);
            T through = 0, d_weight = 0;
            if (exists) {
                through = weight[i];
                d_weight = (color[i] + color[i + 1]) / 2 + same;
                if (d_distance != 0) d_weight += d_distance * ((depth[i] + depth[i + 1]) / 2 - result.distance);
            }
            T sum = here.alpha * through * d_weight;  // of this lane's and those behind it
#pragma unroll
            for (int apart = 1; apart < WARP; apart *= 2) {
                const T further = __shfl_down_sync(ALL, sum, apart);
                if (tile.lane + apart < WARP) sum += further;
            }
            const T further = __shfl_down_sync(ALL, sum, 1);
            const T after = behind + (tile.lane < WARP - 1 ? further : T(0));
            behind += __shfl_sync(ALL, sum, 0);
            if (!exists) continue;
            const bool hidden = through * std::fmax(std::abs(here.alpha), std::abs(here.slope)) < T(NEGLIGIBLE);  // NaN is not
            weight[i] = hidden ? T(0) : here.alpha * through;
            change[i] = hidden ? T(0) : (through * d_weight - after / here.passed()) * here.slope;
        }
        __syncwarp();
    }

    __device__ int collect() {
        int count = 0;
        for (int first = 0; first < all; first += WARP) {
            const int k = first + tile.lane;
            bool matters = false;
            if (k < all) {
                color[k] = share_of(weight, k, all);
                density[k] = share_of(change, k, all);  // half of the intervals on both sides, too
                matters = color[k] != 0 || density[k] != 0;
            }
            count = append(list, count, matters, k, tile.lane);
        }
        return count;
    }
};

// The samples that matter of a block's rays, one list after the other.
template <class T> struct RaySource {
    const Call& call;
    const RayGradientMemory<T>& memory;
    Int first_ray;
    int room, start, last;  // this warp's tile begins at `start` of the lists; the lists' last sample

    // Where a sample's numbers are in the arrays.
    __device__ int find(int sample) const {
        int at = least(start + sample, last), ray = 0;
        while (at >= memory.counts[ray]) at -= memory.counts[ray++];
        return ray * room + memory.list[ray * room + at];
    }

    __device__ void place(int at, T* point) const {
        Line<T>(call, first_ray + at / room).at(memory.depth[at], point);
    }

    __device__ T pull(int at, int o) const { return memory.color[at] * memory.pull[at / room * O + o]; }
    __device__ T slope(int at) const { return memory.density[at]; }
};

template <class T>
__global__ void __launch_bounds__(WARP * BACKWARD_WARPS, BACKWARD_BLOCKS<T>) render_backward_kernel(Launch launch) {
    constexpr int PER = BACKWARD_PER<T>, SAMPLES = GROUPS * PER;
    const Call& call = launch.call;
    DYNAMIC_SHARED_MEMORY(shared);
    Pieces pieces{reinterpret_cast<char*>(shared), 0};
    const int warp = threadIdx.x / WARP;
    const BackwardMemory<T> memory(pieces, call.planes.count);
    const RayGradientMemory<T> arrays(pieces, launch.rays, launch.room);
    memory.weights->load(call);
    Tile<T, PER> tile = memory.tile(call.planes, warp);
    Gradients<T> gradients(call, memory, tile);
    const Int groups = (call.many + launch.rays - 1) / launch.rays;  // of rays, of an item
    for (Int index = blockIdx.x; index < call.items * groups; index += gridDim.x) {
        const Int item = index / groups, ray = index % groups * launch.rays + warp;
        int count = 0;
        if (warp < launch.rays && ray < call.many)
            count = RayGradients<T>(launch, tile, arrays, warp, item * call.many + ray).run();
        if (tile.lane == 0) arrays.counts[warp] = count;
        __syncthreads();
        int whole = 0;
        for (int each = 0; each < BACKWARD_WARPS; ++each) whole += arrays.counts[each];
        for (int start = 0; start < whole; start += BACKWARD_WARPS * SAMPLES) {
            const int first = start + warp * SAMPLES;
            gradients.add(item, first < whole ? least(whole - first, SAMPLES) : 0,
                          RaySource<T>{call, arrays, item * call.many + ray - warp, launch.room, first, whole - 1});
        }
        __syncthreads();  // the arrays are read
    }
    gradients.finish();
}

}  // namespace
}  // namespace eg3d
