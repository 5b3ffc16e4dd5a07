// Winograd's convolution in vector code: conv3x3_cpu.cpp includes this file once for each instruction set, with VARIANT (a
// namespace) and BYTES (of a register). Lanes are channels.

namespace VARIANT {

typedef float Vector __attribute__((vector_size(BYTES)));
constexpr int LANES = BYTES / sizeof(float);
constexpr int ROWS = 6;                       // tiles whose sums stay in registers together
constexpr int WIDEST = BYTES == 64 ? 4 : 2;   // vectors of each of these sums

inline Vector load(const float* from) { Vector v; std::memcpy(&v, from, sizeof v); return v; }
inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

// ---------------------------------------------------------------------------------------------- transforms, see .cpp

inline void transform_input(const Vector* d, Vector* v, int step) {
    const Vector near = d[4 * step] - B2 * d[2 * step], odd_near = A * (d[3 * step] - B2 * d[step]);
    const Vector far = d[4 * step] - A2 * d[2 * step], odd_far = B * (d[3 * step] - A2 * d[step]);
    v[0] = A2 * B2 * d[0] - (A2 + B2) * d[2 * step] + d[4 * step];
    v[1] = near + odd_near;
    v[2] = near - odd_near;
    v[3] = far + odd_far;
    v[4] = far - odd_far;
    v[5] = A2 * B2 * d[step] - (A2 + B2) * d[3 * step] + d[5 * step];
}

inline void transform_kernel(const Vector* g, Vector* u, int step) {
    constexpr float NEAR = 1 / (2 * A2 * (A2 - B2)), FAR = 1 / (2 * B2 * (B2 - A2));
    u[0] = g[0] * (1 / (A2 * B2));
    u[1] = (g[0] + A * g[step] + A2 * g[2 * step]) * NEAR;
    u[2] = (g[0] - A * g[step] + A2 * g[2 * step]) * NEAR;
    u[3] = (g[0] + B * g[step] + B2 * g[2 * step]) * FAR;
    u[4] = (g[0] - B * g[step] + B2 * g[2 * step]) * FAR;
    u[5] = g[2 * step];
}

inline void transform_output(const Vector* m, Vector* y, int step) {
    const Vector near = m[step] + m[2 * step], odd_near = m[step] - m[2 * step];
    const Vector far = m[3 * step] + m[4 * step], odd_far = m[3 * step] - m[4 * step];
    y[0] = m[0] + near + far;
    y[1] = A * odd_near + B * odd_far;
    y[2] = A2 * near + B2 * far;
    y[3] = A2 * A * odd_near + B2 * B * odd_far + m[5 * step];
}

// ---------------------------------------------------------------------------------------------- kernels

// Transformed kernels [36, O / wide, I, wide], for `wide` = vectors * LANES sums at a time.
inline void transform_kernels(const Call& call, int wide, float* to) {
    const Int in = call.in, out = call.out;
#pragma omp parallel for num_threads(call.threads)
    for (Int i = 0; i < in; ++i)
        for (Int o = 0; o < out; o += LANES) {
            Vector g[9], half[3 * 6], u[6];
            for (int tap = 0; tap < 9; ++tap)
                for (int lane = 0; lane < LANES; ++lane) g[tap][lane] = call.w[((o + lane) * in + i) * 9 + tap];
            for (int column = 0; column < 3; ++column) transform_kernel(g + column, half + 6 * column, 3);
            for (int row = 0; row < 6; ++row) {
                transform_kernel(half + row, u, 6);
                for (int column = 0; column < 6; ++column)
                    store(to + (((row * 6 + column) * (out / wide) + o / wide) * in + i) * wide + o % wide, u[column]);
            }
        }
}

// Tiles of 4 x 4 results, in rows of all pictures.
struct Tiles {
    Int across, down, total;

    explicit Tiles(const Call& call)
        : across((call.width + 3) / 4), down((call.height + 3) / 4), total(call.items * across * down) {}
};

// v [36, block, I] of tile t; outside of the picture is zero.
inline void read_tile(const Call& call, const Tiles& tiles, Int tile, Int t, Int block, float* v) {
    const Int item = tile / (tiles.across * tiles.down), top = tile / tiles.across % tiles.down * 4 - 1;
    const Int left = tile % tiles.across * 4 - 1;
    const float* pixels[36];
    for (int row = 0; row < 6; ++row)
        for (int column = 0; column < 6; ++column) {
            const Int y = top + row, x = left + column;
            const bool inside = y >= 0 && y < call.height && x >= 0 && x < call.width;
            pixels[row * 6 + column] = inside ? call.x + ((item * call.height + y) * call.width + x) * call.in : nullptr;
        }
    for (Int c = 0; c < call.in; c += LANES) {
        Vector d[36], half[36], whole[6];
        EACH(i, 36) d[i] = pixels[i] ? load(pixels[i] + c) : Vector{};
        for (int column = 0; column < 6; ++column) transform_input(d + column, half + 6 * column, 6);
        for (int row = 0; row < 6; ++row) {
            transform_input(half + row, whole, 6);
            EACH(column, 6) store(v + ((row * 6 + column) * block + t) * call.in + c, whole[column]);
        }
    }
}

// From m [36, block, O] of tile t to the picture.
inline void write_tile(const Call& call, const Tiles& tiles, Int tile, Int t, Int block, const float* m) {
    const Int item = tile / (tiles.across * tiles.down), top = tile / tiles.across % tiles.down * 4;
    const Int left = tile % tiles.across * 4;
    const Int rows = std::min<Int>(4, call.height - top), columns = std::min<Int>(4, call.width - left);
    for (Int c = 0; c < call.out; c += LANES) {
        Vector half[24], whole[4];
        for (int column = 0; column < 6; ++column) {
            Vector sums[6];
            EACH(row, 6) sums[row] = load(m + ((row * 6 + column) * block + t) * call.out + c);
            transform_output(sums, half + 4 * column, 1);
        }
        for (Int row = 0; row < rows; ++row) {
            transform_output(half + row, whole, 4);
            float* to = call.y + ((item * call.height + top + row) * call.width + left) * call.out + c;
            for (Int column = 0; column < columns; ++column) store(to + column * call.out, whole[column]);
        }
    }
}

// m [tiles, O] = v [tiles, I] @ u, for one of the 36 and `tiles` a multiple of ROWS.
template <int VECTORS> void multiply(const float* v, const float* u, float* m, Int tiles, Int in, Int out) {
    constexpr int WIDE = VECTORS * LANES;
    for (Int first = 0; first < out; first += WIDE, u += in * WIDE)
        for (Int t = 0; t < tiles; t += ROWS) {
            Vector sum[ROWS][VECTORS] = {};
            const float* row = v + t * in;
            for (Int i = 0; i < in; ++i) {
                Vector part[VECTORS];
                EACH(p, VECTORS) part[p] = load(u + i * WIDE + p * LANES);
                EACH(r, ROWS) EACH(p, VECTORS) sum[r][p] += row[r * in + i] * part[p];
            }
            EACH(r, ROWS) EACH(p, VECTORS) store(m + (t + r) * out + first + p * LANES, sum[r][p]);
        }
}

inline void conv3x3(const Call& call) {
    const Tiles tiles(call);
    const int vectors = call.out % (WIDEST * LANES) == 0 ? WIDEST : call.out % (2 * LANES) == 0 ? 2 : 1;
    std::vector<float> kernels(36 * call.in * call.out);
    transform_kernels(call, vectors * LANES, kernels.data());
    const Int fitting = CACHE / Int(sizeof(float)) / (36 * (call.in + call.out)) / ROWS * ROWS;
    const Int even = (tiles.total / call.threads + ROWS) / ROWS * ROWS;  // no thread without work
    const Int block = std::max<Int>(ROWS, std::min(fitting, even));
#pragma omp parallel num_threads(call.threads)
    {
        std::vector<float> v(36 * block * call.in), m(36 * block * call.out);
#pragma omp for schedule(dynamic, 1)
        for (Int first = 0; first < tiles.total; first += block) {
            const Int count = std::min(block, tiles.total - first), whole = (count + ROWS - 1) / ROWS * ROWS;
            for (Int t = 0; t < count; ++t) read_tile(call, tiles, first + t, t, block, v.data());
            for (int k = 0; k < 36; ++k) {
                const float *some = v.data() + k * block * call.in, *kernel = kernels.data() + k * call.in * call.out;
                float* sums = m.data() + k * block * call.out;
                (vectors == 4 ? multiply<4> : vectors == 2 ? multiply<2> : multiply<1>)(
                    some, kernel, sums, whole, call.in, call.out);
            }
            for (Int t = 0; t < count; ++t) write_tile(call, tiles, first + t, t, block, m.data());
        }
    }
}

}  // namespace VARIANT
