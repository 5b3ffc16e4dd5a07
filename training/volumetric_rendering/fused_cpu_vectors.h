// Vectors of the tri-plane field's code: functions of them, and products of a tile of samples. A part of fused_cpu.h.

template <class T> struct OfType { typedef T Vector __attribute__((vector_size(BYTES))); };
template <class T> using Vector = typename OfType<T>::Vector;
template <class T> constexpr int LANES = BYTES / sizeof(T);
constexpr int TILE = 6;  // samples whose sums stay in registers together
constexpr int WIDE = BYTES == 64 ? 4 : 2;  // vectors of each of these sums

template <class T> inline Vector<T> load(const T* from) { Vector<T> v; std::memcpy(&v, from, sizeof v); return v; }
template <class T> inline void store(T* to, Vector<T> v) { std::memcpy(to, &v, sizeof v); }

template <class T> inline T total(Vector<T> v) {
    T sum = 0;
    for (int lane = 0; lane < LANES<T>; ++lane) sum += v[lane];
    return sum;
}

// ---------------------------------------------------------------------------------------------- functions of vectors
// For float: the range is reduced, then a polynomial follows; errors are a few units in the last place.

inline Vector<float> exponential(Vector<float> x) {
    typedef int Whole __attribute__((vector_size(BYTES)));
    const Vector<float> zero = {}, least = zero - 87.0f, most = zero + 88.0f;
    x = x < least ? least : x;
    x = x > most ? most : x;
    const Vector<float> round = zero + 12582912.0f;  // 1.5 * 2^23: adding it leaves whole numbers
    const Vector<float> n = (x * 1.44269504f + round) - round;
    const Vector<float> r = x - n * 0.693359375f - n * -2.12194440e-4f;  // log 2 in two parts (Cody and Waite 1980)
    Vector<float> p = zero + 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const Whole exponent = __builtin_convertvector(n, Whole);
    return p * (Vector<float>)((exponent + 127) << 23);
}

// log(1 + y) for y in [0, 1], as 2 atanh(y / (2 + y)).
inline Vector<float> log_one_plus(Vector<float> y) {
    const Vector<float> s = y / (2.0f + y), q = s * s;
    Vector<float> p = q * (1.0f / 13) + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    p = p * q + 1.0f;
    return 2.0f * s * p;
}

// 1 - exp(-x) for x >= 0, without cancellation.
inline Vector<float> one_minus_exponential(Vector<float> x) {
    const Vector<float> series = x * (1.0f - x * (0.5f - x * (1.0f / 6 - x * (1.0f / 24))));
    return x < 0.1f ? series : 1.0f - exponential(-x);
}

template <double (*FUNCTION)(double)> inline Vector<double> each(Vector<double> x) {
    for (int lane = 0; lane < LANES<double>; ++lane) x[lane] = FUNCTION(x[lane]);
    return x;
}

inline Vector<double> exponential(Vector<double> x) { return each<std::exp>(x); }
inline Vector<double> log_one_plus(Vector<double> x) { return each<std::log1p>(x); }
inline Vector<double> one_minus_exponential(Vector<double> x) { return -each<std::expm1>(-x); }

template <class V> inline V magnitude(V x) { return x < 0 ? -x : x; }
template <class V> inline V softplus(V x) { return (x < 0 ? V{} : x) + log_one_plus(exponential(-magnitude(x))); }

template <class V> inline V sigmoid(V x) {
    const V above = 1 / (1 + exponential(-magnitude(x)));
    return x < 0 ? 1 - above : above;
}

// ---------------------------------------------------------------------------------------------- products of a tile

template <class T> using Rows = T* const (&)[TILE];

// out[i] += in[i] @ matrix, with matrix [IN, OUT].
template <int IN, int OUT, class T> inline void multiply(Rows<const T> in, const T* matrix, Rows<T> out) {
    constexpr int VECTORS = std::min(WIDE, OUT / LANES<T>), BLOCK = VECTORS * LANES<T>;
    for (int first = 0; first < OUT; first += BLOCK) {
        Vector<T> sum[TILE][VECTORS];
        EACH(i, TILE) EACH(v, VECTORS) sum[i][v] = load(out[i] + first + v * LANES<T>);
        for (int k = 0; k < IN; ++k) {
            Vector<T> row[VECTORS];
            EACH(v, VECTORS) row[v] = load(matrix + k * OUT + first + v * LANES<T>);
            EACH(i, TILE) EACH(v, VECTORS) sum[i][v] += in[i][k] * row[v];
        }
        EACH(i, TILE) EACH(v, VECTORS) store(out[i] + first + v * LANES<T>, sum[i][v]);
    }
}

// matrix += sum of the outer products of a[i] and b[i], with matrix [ROWS, COLUMNS].
template <int ROWS, int COLUMNS, class T> inline void add_outer(Rows<const T> a, Rows<const T> b, T* matrix) {
    for (int column = 0; column < COLUMNS; column += LANES<T>) {
        Vector<T> part[TILE];
        EACH(i, TILE) part[i] = load(b[i] + column);
        for (int row = 0; row < ROWS; ++row) {
            Vector<T> sum = load(matrix + row * COLUMNS + column);
            EACH(i, TILE) sum += a[i][row] * part[i];
            store(matrix + row * COLUMNS + column, sum);
        }
    }
}

template <int SIZE, class T> inline void add(const T* from, T factor, T* to) {
    EACH(v, SIZE / LANES<T>) store(to + v * LANES<T>, load(to + v * LANES<T>) + factor * load(from + v * LANES<T>));
}

template <int SIZE, class T> inline T dot(const T* a, const T* b) {
    Vector<T> sum = {};
    EACH(v, SIZE / LANES<T>) sum += load(a + v * LANES<T>) * load(b + v * LANES<T>);
    return total<T>(sum);
}
