// Kernels that decode points and render rays: a warp takes tiles of points, or a ray, until none is left.

#pragma once

#include "fused.cuh"

namespace eg3d {
namespace {

constexpr int MOST_WARPS = 8;  // of a block

// Samples of a lane in a tile: what registers hold. Blocks of a processor that registers should suffice for.
template <class T> constexpr int FORWARD_PER = sizeof(T) == 4 ? 4 : 2;
template <class T> constexpr int FORWARD_BLOCKS = sizeof(T) == 4 ? 2 : 1;

// A block's shared memory: the decoder, and a tile for each warp, where the hidden layer takes the place of features.
template <class T> struct ForwardMemory {
    static constexpr int PER = FORWARD_PER<T>, SAMPLES = GROUPS * PER;
    Weights<T>* weights;
    T* rows;
    Corners<T>* corners;

    __host__ __device__ ForwardMemory(Pieces& pieces, Int planes, int warps)
        : weights(pieces.take<Weights<T>>(1)), rows(pieces.take<T>(warps * SAMPLES * HIDDEN_ROW)),
          corners(pieces.take<Corners<T>>(warps * SAMPLES * planes)) {}

    __device__ Tile<T, PER> tile(const Planes& planes, int warp) const {
        T* here = rows + warp * SAMPLES * HIDDEN_ROW;
        return Tile<T, PER>(planes, *weights, here, here, corners + warp * SAMPLES * planes.count);
    }
};

template <class T>
__global__ void __launch_bounds__(WARP * MOST_WARPS, FORWARD_BLOCKS<T>) decode_kernel(Launch launch) {
    constexpr int PER = FORWARD_PER<T>, SAMPLES = GROUPS * PER;
    const Call& call = launch.call;
    DYNAMIC_SHARED_MEMORY(shared);
    Pieces pieces{reinterpret_cast<char*>(shared), 0};
    const int warps = launch.rays, warp = threadIdx.x / WARP;
    const ForwardMemory<T> memory(pieces, call.planes.count, warps);
    memory.weights->load(call);
    Tile<T, PER> tile = memory.tile(call.planes, warp);

    const Int tiles = (call.many + SAMPLES - 1) / SAMPLES;  // of an item
    for (Int index = Int(blockIdx.x) * warps + warp; index < call.items * tiles; index += Int(gridDim.x) * warps) {
        const Int start = index / tiles * call.many, first = index % tiles * SAMPLES;
        tile.look_up(index / tiles, [&](int sample, T* point) {
            const T* from = in<T>(call.points, 3 * (start + least(first + sample, call.many - 1)));
            for (int axis = 0; axis < 3; ++axis) point[axis] = from[axis];
        });
        T sigma[PER], color[PER][4];
        tile.template encode<true>(sigma);
        if (call.rgb) tile.colors(color);
#pragma unroll
        for (int i = 0; i < PER; ++i) {
            const Int k = first + tile.g + GROUPS * i;
            if (k >= call.many) continue;
            if (tile.q == 0) *out<T>(call.sigma, start + k) = sigma[i];
            if (!call.rgb) continue;
            T* rgb = out<T>(call.rgb, (start + k) * O);
#pragma unroll
            for (int j = 0; j < 4; ++j) rgb[tile.q + 8 * j] = color[i][j] * T(1 + 2 * RGB_PADDING) - T(RGB_PADDING);
        }
    }
}

// The arrays of a block's rays in shared memory.
template <class T> struct RayMemory {
    T *depth, *density, *weight, *spare;

    __host__ __device__ RayMemory(Pieces& pieces, int numbers)
        : depth(pieces.take<T>(numbers)), density(pieces.take<T>(numbers)), weight(pieces.take<T>(numbers)),
          spare(pieces.take<T>(numbers)) {}
};

// Renders one ray by one warp.
template <class T> class Renderer {
public:
    __device__ Renderer(const Launch& launch, Tile<T, FORWARD_PER<T>>& tile, const RayMemory<T>& memory, int place, Int ray)
        : call(launch.call), tile(tile), line(call, ray), ray(ray), coarse(static_cast<int>(call.coarse)),
          fine(static_cast<int>(call.fine)), all(coarse + fine), room(launch.room), depth(memory.depth + place * room),
          density(memory.density + place * room), weight(memory.weight + place * room), spare(memory.spare + place * room) {}

    __device__ void run() {
        for (int k = tile.lane; k < coarse; k += WARP) depth[k] = in<T>(call.depths, ray * coarse)[k];
        __syncwarp();
        find_densities(0, coarse, call.noise);
        if (fine > 0) {
            weigh<T>(depth, density, coarse, weight, nullptr, tile.lane);
            draw(depth, weight, coarse, in<T>(call.uniform, ray * fine), fine, spare, depth + coarse, tile.lane);
            find_densities(coarse, all, call.fine_noise);
        }
        put_in_order();
        const Quadrature<T> result = weigh<T>(depth, density, all, weight, nullptr, tile.lane);
        if (tile.lane == 0) {
            *out<T>(call.weight, ray) = result.sum;
            *out<T>(call.distance, ray) = result.distance;
        }
        blend(result.sum);
    }

private:
    static constexpr int PER = FORWARD_PER<T>, SAMPLES = GROUPS * PER;
    const Call& call;
    Tile<T, PER>& tile;
    const Line<T> line;
    const Int ray;
    const int coarse, fine, all, room;
    T *depth, *density, *weight, *spare;

    __device__ void find_densities(int first, int last, const void* noise) {
        for (int start = first; start < last; start += SAMPLES) {
            tile.look_up(ray / call.many, [&](int sample, T* point) {
                line.at(depth[least(start + sample, last - 1)], point);
            });
            T sigma[PER];
            tile.template encode<false>(sigma);
#pragma unroll
            for (int i = 0; i < PER; ++i) {
                const int k = start + tile.g + GROUPS * i;
                if (tile.q > 0 || k >= last) continue;
                density[k] = sigma[i] + (noise ? in<T>(noise, ray * (last - first))[k - first] : T(0));
            }
        }
        __syncwarp();
    }

    // Sorts the samples by depth, and writes down depths and noise in that order. A single pass stays as it is.
    __device__ void put_in_order() {
        int* from = reinterpret_cast<int*>(spare);
        for (int k = tile.lane; k < room; k += WARP) {
            from[k] = least(k, all - 1);
            if (k >= all) depth[k] = T(INFINITY);
        }
        __syncwarp();
        if (fine > 0) sort(depth, from, room, tile.lane);
        for (int k = tile.lane; k < all; k += WARP) {
            const int was = from[k];
            weight[k] = density[was];
            out<T>(call.all_depths, ray * all)[k] = depth[k];
            if (!call.all_noise) continue;
            out<T>(call.all_noise, ray * all)[k] =
                was < coarse ? in<T>(call.noise, ray * coarse)[was] : in<T>(call.fine_noise, ray * fine)[was - coarse];
        }
        __syncwarp();
        T* sorted = weight;
        weight = density, density = sorted;
    }

    // Colours of the samples that count, blended.
    __device__ void blend(T sum) {
        int* list = reinterpret_cast<int*>(spare);
        int count = 0;
        for (int first = 0; first < all; first += WARP) {
            const int k = first + tile.lane;
            const bool counts = k < all && !(std::abs(share_of(weight, k, all)) < T(NEGLIGIBLE));  // NaN does
            count = append(list, count, counts, k, tile.lane);
        }
        __syncwarp();
        T rgb[4] = {};
        for (int start = 0; start < count; start += SAMPLES) {
            tile.look_up(ray / call.many, [&](int sample, T* point) {
                line.at(depth[list[least(start + sample, count - 1)]], point);
            });
            T sigma[PER], color[PER][4];
            tile.template encode<true>(sigma);
            tile.colors(color);
#pragma unroll
            for (int i = 0; i < PER; ++i) {
                const int at = start + tile.g + GROUPS * i;
                const T share = at < count ? share_of(weight, list[at], all) : T(0);
#pragma unroll
                for (int j = 0; j < 4; ++j) rgb[j] += share * color[i][j];
            }
        }
        const T rest = (call.white_back ? 1 - sum : T(0)) - sum * T(RGB_PADDING);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const T whole = sum_of_groups(rgb[j]);
            if (tile.g == j) out<T>(call.rgb, ray * O)[tile.q + 8 * j] = (whole * T(1 + 2 * RGB_PADDING) + rest) * 2 - 1;
        }
    }
};

template <class T>
__global__ void __launch_bounds__(WARP * MOST_WARPS, FORWARD_BLOCKS<T>) render_kernel(Launch launch) {
    const Call& call = launch.call;
    DYNAMIC_SHARED_MEMORY(shared);
    Pieces pieces{reinterpret_cast<char*>(shared), 0};
    const int warp = threadIdx.x / WARP;
    const ForwardMemory<T> memory(pieces, call.planes.count, launch.rays);
    const RayMemory<T> arrays(pieces, launch.rays * launch.room);
    memory.weights->load(call);
    Tile<T, FORWARD_PER<T>> tile = memory.tile(call.planes, warp);
    for (Int ray = Int(blockIdx.x) * launch.rays + warp; ray < call.items * call.many; ray += Int(gridDim.x) * launch.rays)
        Renderer<T>(launch, tile, arrays, warp, ray).run();
}

}  // namespace
}  // namespace eg3d
