// What the kernels of a CPU and of a GPU are given. fused.py fills it in, by ctypes. Nothing here comes from CUDA or PyTorch.

#pragma once

#include <cstdint>

namespace eg3d {

using Int = std::int64_t;

// Arrays are contiguous, but the planes: their channels lie side by side, and stride is, in numbers, from item to item, plane
// to plane, row to row and column to column. table [count, 2, 3] takes a point to x and y in a plane, where the plane's edges
// are -1 and 1; every look-up counts `share`.
struct Planes {
    const void *data, *table;
    Int count, height, width, stride[4];
    double share;
};

// N items with M = many points or rays each; S = coarse, F = fine; T = S + F; O colours. Null where a call has no use for it.
struct Call {
    Int is_double, threads;  // threads: of a CPU
    Planes planes;
    const void *w1, *b1, *w2, *b2;  // the decoder's layers [64, 32], [64], [33, 64], [33], density first
    Int items, many, coarse, fine, white_back;
    const void* points;                                   // [N, M, 3]
    const void *origins, *directions;                     // [N, M, 3]
    const void *depths, *noise, *uniform, *fine_noise;    // [N, M, S], [N, M, S], [N, M, F], [N, M, F]
    void *rgb, *sigma, *distance, *weight;                // [N, M, O], [N, M], [N, M], [N, M]
    void *all_depths, *all_noise;                         // [N, M, T], sorted by depth
    const void *d_rgb, *d_sigma, *d_distance, *d_weight;  // as rgb, sigma, distance, weight
    void *d_planes, *d_w1, *d_b1, *d_w2, *d_b2;           // [N, height, width, count, 32], and as w1 to b2
};

constexpr int C = 32, H = 64, O = 32;                           // a feature, the hidden layer, a colour
constexpr int MOST_PLANES = 8;
constexpr int FEWEST_COARSE = 4;                                // that a second pass needs: its distribution has S - 3 bins
constexpr double DENSITY_SHIFT = 1, TRANSMITTANCE_EPS = 1e-10;  // as ray_marcher.py
constexpr double PDF_FLOOR = 0.01, PDF_EPS = 1e-5;              // as renderer.py
constexpr double RGB_PADDING = 0.001;                           // as triplane.py
constexpr double NEGLIGIBLE = 1.0 / (1ll << 32);                // share of a picture that float32 does not see

}  // namespace eg3d
