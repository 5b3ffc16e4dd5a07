// Winograd's convolutions in vector code: variants.h includes this file once for each instruction set, with VARIANT (a
// namespace) and BYTES (of a register). Lanes are channels.

namespace VARIANT {

typedef float Vector __attribute__((vector_size(BYTES)));
constexpr int LANES = BYTES / sizeof(float);
constexpr int ROWS = 6;                       // rows whose sums stay in registers together
constexpr int WIDEST = BYTES == 64 ? 4 : 2;   // vectors of each of these sums

inline Vector load(const float* from) { Vector v; std::memcpy(&v, from, sizeof v); return v; }
inline void store(float* to, Vector v) { std::memcpy(to, &v, sizeof v); }

// ---------------------------------------------------------------------------------------------- along one axis, see .cpp
// A tile's PIXELS become VALUES. Of these the first five or six are multiplied by one number of the kernel each, and REPEATED
// ones by the last number of the kernel, which has NUMBERS; the products become RESULTS.

struct Same {  // F(4, 3)
    static constexpr int PIXELS = 6, VALUES = 6, NUMBERS = 6, REPEATED = 1, RESULTS = 4;
    static constexpr float A = 0.75f, B = 1.5f, A2 = A * A, B2 = B * B;

    static Int kernel_at(const Call& call, Int i, Int o) { return (o * call.in + i) * 9; }
    static Int size(Int pixels) { return pixels; }

    static void transform_pixels(const Vector* d, Vector* v, int step) {
        const Vector near = d[4 * step] - B2 * d[2 * step], odd_near = A * (d[3 * step] - B2 * d[step]);
        const Vector far = d[4 * step] - A2 * d[2 * step], odd_far = B * (d[3 * step] - A2 * d[step]);
        v[0] = A2 * B2 * d[0] - (A2 + B2) * d[2 * step] + d[4 * step];
        v[1] = near + odd_near;
        v[2] = near - odd_near;
        v[3] = far + odd_far;
        v[4] = far - odd_far;
        v[5] = A2 * B2 * d[step] - (A2 + B2) * d[3 * step] + d[5 * step];
    }

    static void transform_kernel(const Vector* g, Vector* u, int step) {
        constexpr float NEAR = 1 / (2 * A2 * (A2 - B2)), FAR = 1 / (2 * B2 * (B2 - A2));
        u[0] = g[0] * (1 / (A2 * B2));
        u[1] = (g[0] + A * g[step] + A2 * g[2 * step]) * NEAR;
        u[2] = (g[0] - A * g[step] + A2 * g[2 * step]) * NEAR;
        u[3] = (g[0] + B * g[step] + B2 * g[2 * step]) * FAR;
        u[4] = (g[0] - B * g[step] + B2 * g[2 * step]) * FAR;
        u[5] = g[2 * step];
    }

    static void transform_products(const Vector* m, Vector* y, int step) {
        const Vector near = m[step] + m[2 * step], odd_near = m[step] - m[2 * step];
        const Vector far = m[3 * step] + m[4 * step], odd_far = m[3 * step] - m[4 * step];
        y[0] = m[0] + near + far;
        y[1] = A * odd_near + B * odd_far;
        y[2] = A2 * near + B2 * far;
        y[3] = A2 * A * odd_near + B2 * B * odd_far + m[5 * step];
    }
};

struct Up {  // F(4, 2) for results between pixels and at them, whose taps are the first and the last; the middle one as it is
    static constexpr int PIXELS = 5, VALUES = 9, NUMBERS = 6, REPEATED = 4, RESULTS = 8;
    static constexpr float A = 0.5f, B = 1.25f, A2 = A * A, B2 = B * B;

    static Int kernel_at(const Call& call, Int i, Int o) { return (i * call.out + o) * 9; }
    static Int size(Int pixels) { return 2 * pixels + 1; }

    static void transform_pixels(const Vector* d, Vector* v, int step) {
        const Vector near = d[3 * step] - B2 * d[step], odd_near = A * (d[2 * step] - B2 * d[0]);
        const Vector far = d[3 * step] - A2 * d[step], odd_far = B * (d[2 * step] - A2 * d[0]);
        v[0] = near + odd_near;
        v[1] = near - odd_near;
        v[2] = far + odd_far;
        v[3] = far - odd_far;
        v[4] = A2 * B2 * d[0] - (A2 + B2) * d[2 * step] + d[4 * step];
        EACH(i, 4) v[5 + i] = d[(i + 1) * step];
    }

    static void transform_kernel(const Vector* g, Vector* u, int step) {
        constexpr float NEAR = 1 / (2 * A * (A2 - B2)), FAR = 1 / (2 * B * (B2 - A2));
        u[0] = (g[2 * step] + A * g[0]) * NEAR;
        u[1] = (A * g[0] - g[2 * step]) * NEAR;
        u[2] = (g[2 * step] + B * g[0]) * FAR;
        u[3] = (B * g[0] - g[2 * step]) * FAR;
        u[4] = g[0];
        u[5] = g[step];
    }

    static void transform_products(const Vector* m, Vector* y, int step) {
        const Vector near = m[0] + m[step], odd_near = m[0] - m[step];
        const Vector far = m[2 * step] + m[3 * step], odd_far = m[2 * step] - m[3 * step];
        y[0] = near + far;
        y[2] = A * odd_near + B * odd_far;
        y[4] = A2 * near + B2 * far;
        y[6] = A2 * A * odd_near + B2 * B * odd_far + m[4 * step];
        EACH(i, 4) y[2 * i + 1] = m[(5 + i) * step];
    }
};

// ---------------------------------------------------------------------------------------------- tiles

// Transformed kernels [NUMBERS, NUMBERS, O / wide, I, wide], for `wide` = vectors * LANES sums at a time.
template <class Axis> void transform_kernels(const Call& call, int wide, float* to) {
    constexpr int N = Axis::NUMBERS;
    const Int in = call.in, out = call.out;
#pragma omp parallel for num_threads(call.threads)
    for (Int i = 0; i < in; ++i)
        for (Int o = 0; o < out; o += LANES) {
            Vector g[9], half[3 * N], u[N];
            for (int tap = 0; tap < 9; ++tap)
                for (int lane = 0; lane < LANES; ++lane) g[tap][lane] = call.w[Axis::kernel_at(call, i, o + lane) + tap];
            for (int column = 0; column < 3; ++column) Axis::transform_kernel(g + column, half + N * column, 3);
            for (int row = 0; row < N; ++row) {
                Axis::transform_kernel(half + row, u, N);
                for (int column = 0; column < N; ++column)
                    store(to + (((row * N + column) * (out / wide) + o / wide) * in + i) * wide + o % wide, u[column]);
            }
        }
}

// Where the values of one kernel's number lie: they are rows `first` to `first + many` along an axis.
template <class Axis> struct Group {
    int first, many;

    explicit Group(int number) : first(number), many(number == Axis::NUMBERS - 1 ? Axis::REPEATED : 1) {}
};

// Tiles of 4 x 4 pixels, in rows of all pictures.
template <class Axis> struct Tiles {
    static constexpr int VALUES = Axis::VALUES * Axis::VALUES;
    const Call& call;
    const Int height, width, down, across, total;  // the first two of results
    int place[VALUES];  // of a value among all, so that those of one kernel's number lie together

    explicit Tiles(const Call& call)
        : call(call), height(Axis::size(call.height)), width(Axis::size(call.width)), down(count(height)), across(count(width)),
          total(call.items * down * across) {
        for (int a = 0; a < Axis::NUMBERS; ++a)
            for (int b = 0; b < Axis::NUMBERS; ++b) {
                const Group<Axis> rows(a), columns(b);
                for (int i = 0; i < rows.many * columns.many; ++i)
                    place[(a + i / columns.many) * Axis::VALUES + b + i % columns.many] = offset(a, b) + i;
            }
    }

    static Int count(Int results) { return (results + Axis::RESULTS - 1) / Axis::RESULTS; }
    static int offset(int a, int b) { return a * Axis::VALUES + Group<Axis>(a).many * b; }

    // v [VALUES, block, I] of the tile at index t of a block; outside of the picture is zero.
    void read(Int tile, Int t, Int block, float* v) const {
        constexpr int P = Axis::PIXELS, V = Axis::VALUES;
        const Int item = tile / (across * down), top = tile / across % down * 4 - 1, left = tile % across * 4 - 1;
        const float* pixels[P * P];
        for (int i = 0; i < P * P; ++i) {
            const Int y = top + i / P, x = left + i % P;
            const bool inside = y >= 0 && y < call.height && x >= 0 && x < call.width;
            pixels[i] = inside ? call.x + ((item * call.height + y) * call.width + x) * call.in : nullptr;
        }
        for (Int c = 0; c < call.in; c += LANES) {
            Vector d[P * P], half[P * V], whole[V];
            EACH(i, P * P) d[i] = pixels[i] ? load(pixels[i] + c) : Vector{};
            for (int column = 0; column < P; ++column) Axis::transform_pixels(d + column, half + V * column, P);
            for (int row = 0; row < V; ++row) {
                Axis::transform_pixels(half + row, whole, V);
                EACH(column, V) store(v + (place[row * V + column] * block + t) * call.in + c, whole[column]);
            }
        }
    }

    // From m [VALUES, block, O] of that tile to the results.
    void write(Int tile, Int t, Int block, const float* m) const {
        constexpr int R = Axis::RESULTS, V = Axis::VALUES;
        const Int item = tile / (across * down), top = tile / across % down * R, left = tile % across * R;
        const Int rows = std::min<Int>(R, height - top), columns = std::min<Int>(R, width - left);
        for (Int c = 0; c < call.out; c += LANES) {
            Vector half[V * R], whole[R];
            for (int column = 0; column < V; ++column) {
                Vector sums[V];
                EACH(row, V) sums[row] = load(m + (place[row * V + column] * block + t) * call.out + c);
                Axis::transform_products(sums, half + R * column, 1);
            }
            for (Int row = 0; row < rows; ++row) {
                Axis::transform_products(half + row, whole, R);
                float* to = call.y + ((item * height + top + row) * width + left) * call.out + c;
                for (Int column = 0; column < columns; ++column) store(to + column * call.out, whole[column]);
            }
        }
    }
};

// m [rows, O] = v [rows, I] @ u, for one number of the kernels and `rows` a multiple of ROWS.
template <int VECTORS> void multiply(const float* v, const float* u, float* m, Int rows, Int in, Int out) {
    constexpr int WIDE = VECTORS * LANES;
    for (Int first = 0; first < out; first += WIDE, u += in * WIDE)
        for (Int t = 0; t < rows; t += ROWS) {
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

template <class Axis> void convolve(const Call& call) {
    constexpr int N = Axis::NUMBERS, VALUES = Tiles<Axis>::VALUES;
    const Tiles<Axis> tiles(call);
    const int vectors = call.out % (WIDEST * LANES) == 0 ? WIDEST : call.out % (2 * LANES) == 0 ? 2 : 1;
    std::vector<float> kernels(N * N * call.in * call.out);
    transform_kernels<Axis>(call, vectors * LANES, kernels.data());
    const Int fitting = CACHE / Int(sizeof(float)) / (VALUES * (call.in + call.out)) / ROWS * ROWS;
    const Int even = (tiles.total / call.threads + ROWS) / ROWS * ROWS;  // no thread without work
    const Int most = std::max<Int>(ROWS, std::min(fitting, even));
#pragma omp parallel num_threads(call.threads)
    {
        std::vector<float> v(VALUES * most * call.in), m(VALUES * most * call.out);
#pragma omp for schedule(dynamic, 1)
        for (Int first = 0; first < tiles.total; first += most) {
            const Int count = std::min(most, tiles.total - first), block = (count + ROWS - 1) / ROWS * ROWS;
            for (Int t = 0; t < count; ++t) tiles.read(first + t, t, block, v.data());
            for (int k = 0; k < N * N; ++k) {
                const Int row = tiles.offset(k / N, k % N) * block;
                const Int rows = Group<Axis>(k / N).many * Group<Axis>(k % N).many * block;
                (vectors == 4 ? multiply<4> : vectors == 2 ? multiply<2> : multiply<1>)(
                    v.data() + row * call.in, kernels.data() + k * call.in * call.out, m.data() + row * call.out, rows, call.in,
                    call.out);
            }
            for (Int t = 0; t < count; ++t) tiles.write(first + t, t, block, m.data());
        }
    }
}

inline void conv3x3(const Call& call) { convolve<Same>(call); }
inline void up_conv3x3(const Call& call) { convolve<Up>(call); }

}  // namespace VARIANT
