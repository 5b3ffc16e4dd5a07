// The tri-plane field, its compositing and the gradients of both, in vector code. See fused.py for what is computed.
//
// fused_cpu.cpp includes this file once for each instruction set, with VARIANT (a namespace) and BYTES (of a register).
// Notation: K samples in a list, C / H / O numbers of a feature, of the hidden layer and of a colour. T is float or double.

namespace VARIANT {

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

// ---------------------------------------------------------------------------------------------- the field

// The decoder, and its gradients: `out` is hidden to colour, `density` hidden to density.
template <class T> struct Decoder {
    alignas(64) T in[C * H], in_bias[H], out[H * O], out_bias[O], density[H], density_bias;  // in [C, H], out [H, O]

    Decoder() { std::memset(this, 0, sizeof *this); }

    // From PyTorch's order: w1 [H, C], b1 [H], w2 [1 + O, H], b2 [1 + O], density first.
    Decoder(const T* w1, const T* b1, const T* w2, const T* b2) {
        for (int h = 0; h < H; ++h) {
            for (int c = 0; c < C; ++c) in[c * H + h] = w1[h * C + c];
            for (int o = 0; o < O; ++o) out[h * O + o] = w2[(1 + o) * H + h];
            in_bias[h] = b1[h];
            density[h] = w2[h];
        }
        for (int o = 0; o < O; ++o) out_bias[o] = b2[1 + o];
        density_bias = b2[0];
    }

    void add_to(T* w1, T* b1, T* w2, T* b2) const {
        for (int h = 0; h < H; ++h) {
            for (int c = 0; c < C; ++c) w1[h * C + c] += in[c * H + h];
            for (int o = 0; o < O; ++o) w2[(1 + o) * H + h] += out[h * O + o];
            b1[h] += in_bias[h];
            w2[h] += density[h];
        }
        for (int o = 0; o < O; ++o) b2[1 + o] += out_bias[o];
        b2[0] += density_bias;
    }
};

// Rows of the planes that a point reads, and how much each counts. Beyond the planes' edges is zero.
template <class T> struct Taps {
    Int at[4 * MOST_PLANES], gradient_at[4 * MOST_PLANES];
    T weight[4 * MOST_PLANES];

    void find(const Planes& planes, const T* point) {
        const T* table = static_cast<const T*>(planes.table);
        for (int p = 0; p < planes.count; ++p, table += 6) {
            T whole[2], part[2];
            const Int size[2] = {planes.width, planes.height};
            for (int axis = 0; axis < 2; ++axis) {
                const T* row = table + axis * 3;
                const T place = (point[0] * row[0] + point[1] * row[1] + point[2] * row[2] + 1) * (size[axis] * T(0.5)) - T(0.5);
                const T near = std::min(std::max(T(-2), place), T(size[axis] + 1));  // NaN becomes -2: outside
                whole[axis] = std::floor(near);
                part[axis] = near - whole[axis];
            }
            const Int column = Int(whole[0]), line = Int(whole[1]);
            for (int corner = 0; corner < 4; ++corner) {
                const Int x = column + corner % 2, y = line + corner / 2;
                const bool inside = x >= 0 && x < planes.width && y >= 0 && y < planes.height;
                const T share = (corner % 2 ? part[0] : 1 - part[0]) * (corner / 2 ? part[1] : 1 - part[1]);
                at[p * 4 + corner] = inside ? p * planes.stride[1] + y * planes.stride[2] + x * planes.stride[3] : 0;
                gradient_at[p * 4 + corner] = inside ? ((y * planes.width + x) * planes.count + p) * C : 0;
                weight[p * 4 + corner] = inside ? share * T(planes.share) : 0;
            }
        }
    }
};

// A list of samples of one batch item on its way through the field, there and back.
template <class T> class Samples {
public:
    std::vector<T> point, feature, hidden, color, sigma, d_sigma;  // of each: 3, C, H, O, 1, 1

    Samples(const Planes& planes, const Decoder<T>& decoder, Int most)
        : point(3 * most), feature(C * most), hidden(H * most), color(O * most), sigma(most), d_sigma(most), planes(planes),
          decoder(decoder) {}

    // From points to features, hidden layer and densities of samples first to last.
    void encode(Int item, Int first, Int last) {
        const T* base = static_cast<const T*>(planes.data) + item * planes.stride[0];
        Taps<T> ahead[2 * TILE];  // of two tiles, so that memory has time to answer
        const auto find = [&](Int k) {
            Taps<T>& taps = ahead[(k - first) % (2 * TILE)];
            taps.find(planes, &point[3 * std::min(k, last - 1)]);
            for (int tap = 0; tap < 4 * planes.count; ++tap) {
                const char* at = reinterpret_cast<const char*>(base + taps.at[tap]);
                for (unsigned byte = 0; byte < C * sizeof(T); byte += 64) __builtin_prefetch(at + byte);
            }
        };
        for (int i = 0; i < TILE; ++i) find(first + i);
        for (Int start = first; start < last; start += TILE) {
            const T* features[TILE];
            T* hiddens[TILE];
            for (int i = 0; i < TILE; ++i) find(start + TILE + i);
            EACH(i, TILE) {
                const Int k = std::min(start + i, last - 1);  // the last one again: it gives the same numbers
                look_up(base, ahead[(start + i - first) % (2 * TILE)], &feature[C * k]);
                features[i] = &feature[C * k];
                hiddens[i] = start + i < last ? &hidden[H * k] : spare;
                std::memcpy(hiddens[i], decoder.in_bias, sizeof decoder.in_bias);
            }
            multiply<C, H, T>(features, decoder.in, hiddens);
            EACH(i, TILE) EACH(v, H / LANES<T>) store(hiddens[i] + v * LANES<T>, softplus(load(hiddens[i] + v * LANES<T>)));
            for (Int k = start; k < std::min(start + TILE, last); ++k)
                sigma[k] = decoder.density_bias + dot<H>(&hidden[H * k], decoder.density);
        }
    }

    // The sigmoid's values of the samples in a list.
    void color_in(const std::vector<int>& list) {
        for (std::size_t start = 0; start < list.size(); start += TILE) {
            const T* hiddens[TILE];
            T* colors[TILE];
            EACH(i, TILE) {
                const Int k = list[std::min(start + i, list.size() - 1)];
                hiddens[i] = &hidden[H * k];
                colors[i] = start + i < list.size() ? &color[O * k] : spare;
                std::memcpy(colors[i], decoder.out_bias, sizeof decoder.out_bias);
            }
            multiply<H, O, T>(hiddens, decoder.out, colors);
            EACH(i, TILE) EACH(v, O / LANES<T>) store(colors[i] + v * LANES<T>, sigmoid(load(colors[i] + v * LANES<T>)));
        }
    }

    // Gradients, given d_sigma and, in the place of `color`, those of the sigmoid's arguments. The samples of the list only.
    void backward(const std::vector<int>& list, const T* rows_out, const T* rows_in, T* d_planes, Decoder<T>& d_decoder) {
        alignas(64) T d_hidden[TILE][H], d_feature[TILE][C], nothing[H] = {};
        T* d_hiddens[TILE];
        T* d_features[TILE];
        EACH(i, TILE) d_hiddens[i] = d_hidden[i], d_features[i] = d_feature[i];
        for (std::size_t start = 0; start < list.size(); start += TILE) {
            const T *features[TILE], *hiddens[TILE], *d_outs[TILE];
            std::memset(d_feature, 0, sizeof d_feature);
            EACH(i, TILE) {
                const bool there = start + i < list.size();
                const Int k = list[there ? start + i : 0];
                const T slope = there ? d_sigma[k] : 0;
                features[i] = &feature[C * k];
                hiddens[i] = &hidden[H * k];
                d_outs[i] = there ? &color[O * k] : nothing;
                std::memset(d_hidden[i], 0, sizeof d_hidden[i]);
                add<H>(decoder.density, slope, d_hidden[i]);
                add<H>(hiddens[i], slope, d_decoder.density);
                add<O>(d_outs[i], T(1), d_decoder.out_bias);
                d_decoder.density_bias += slope;
            }
            add_outer<H, O, T>(hiddens, d_outs, d_decoder.out);
            multiply<O, H, T>(d_outs, rows_out, d_hiddens);
            EACH(i, TILE) EACH(v, H / LANES<T>) {
                T* at = d_hidden[i] + v * LANES<T>;  // the softplus's slope at x is 1 - exp(-softplus(x))
                store(at, load(at) * one_minus_exponential(load(hiddens[i] + v * LANES<T>)));
            }
            EACH(i, TILE) add<H>(d_hidden[i], T(1), d_decoder.in_bias);
            const T* given[TILE];
            EACH(i, TILE) given[i] = d_hidden[i];
            add_outer<C, H, T>(features, given, d_decoder.in);
            multiply<H, C, T>(given, rows_in, d_features);
            for (int i = 0; i < TILE && start + i < list.size(); ++i) spread(&point[3 * list[start + i]], d_feature[i], d_planes);
        }
    }

private:
    const Planes& planes;
    const Decoder<T>& decoder;
    alignas(64) T spare[H];
    Taps<T> taps;

    void look_up(const T* base, const Taps<T>& taps, T* to) {
        Vector<T> sum[C / LANES<T>] = {};
        for (int tap = 0; tap < 4 * planes.count; ++tap)
            EACH(v, C / LANES<T>) sum[v] += taps.weight[tap] * load(base + taps.at[tap] + v * LANES<T>);
        EACH(v, C / LANES<T>) store(to + v * LANES<T>, sum[v]);
    }

    void spread(const T* at, const T* gradient, T* d_planes) {
        taps.find(planes, at);
        for (int tap = 0; tap < 4 * planes.count; ++tap)
            if (taps.weight[tap] != 0) add<C>(gradient, taps.weight[tap], d_planes + taps.gradient_at[tap]);
    }
};

// ---------------------------------------------------------------------------------------------- rays

// The quadrature along one ray, over the intervals between samples in order of depth.
template <class T> class Ray {
public:
    std::vector<T> alpha, slope, through, weight;  // slope: of alpha, by the mean density of the interval
    T sum, distance;  // of the weights; mean depth, infinite where the ray meets nothing

    explicit Ray(Int samples) {
        for (auto* each : {&alpha, &slope, &through, &weight}) each->resize(samples + LANES<T>);
    }

    // depth and density have room for one vector behind their last number.
    void weigh(const T* depth, const T* density, Int samples) {
        for (Int i = 0; i < samples - 1; i += LANES<T>) {
            const Vector<T> mean = (load(density + i) + load(density + i + 1)) / 2 - T(DENSITY_SHIFT);
            const Vector<T> length = load(depth + i + 1) - load(depth + i);
            const Vector<T> left = exponential(-softplus(mean) * length);
            store(&alpha[i], 1 - left);
            store(&slope[i], left * length * sigmoid(mean));
        }
        T passing = 1, mass = 0;
        sum = 0;
        for (Int i = 0; i < samples - 1; ++i) {
            through[i] = passing;
            weight[i] = alpha[i] * passing;
            passing *= 1 - alpha[i] + T(TRANSMITTANCE_EPS);
            sum += weight[i];
            mass += weight[i] * (depth[i] + depth[i + 1]) / 2;
        }
        distance = sum == 0 ? std::numeric_limits<T>::infinity() : mass / sum;
    }

    // What sample k of a ray counts: half of the intervals on both sides.
    T share(Int k, Int samples) const { return ((k > 0 ? weight[k - 1] : 0) + (k < samples - 1 ? weight[k] : 0)) / 2; }

    // Whether a colour or a density at sample k can be seen in the result.
    bool matters(Int k, Int samples) const {
        for (Int i = std::max(k - 1, Int(0)); i < std::min(k + 1, samples - 1); ++i)
            if (!(through[i] * std::max(std::abs(alpha[i]), std::abs(slope[i])) < T(NEGLIGIBLE))) return true;  // NaN does
        return false;
    }

    // Depths drawn where a first pass found weight. Inverse transform sampling as renderer.importance_depths, which see.
    void draw(const T* depth, Int samples, const T* uniform, Int count, T* drawn) {
        const Int bins = samples - 3;
        std::vector<T>& cdf = slope;
        cdf[0] = 0;
        for (Int i = 0; i < bins; ++i) {
            const T middle = weight[i + 1], smooth = (std::max(weight[i], middle) + std::max(middle, weight[i + 2])) / 2;
            cdf[i + 1] = cdf[i] + (smooth + T(PDF_FLOOR) + T(PDF_EPS));
        }
        for (Int i = 1; i <= bins; ++i) cdf[i] /= cdf[bins];
        for (Int j = 0; j < count; ++j) {
            const Int above = std::upper_bound(&cdf[0], &cdf[bins + 1], uniform[j]) - &cdf[0];
            const Int low = std::max(above - 1, Int(0)), high = std::min(above, bins);
            const T width = cdf[high] - cdf[low], left = (depth[low] + depth[low + 1]) / 2;
            const T right = (depth[high] + depth[high + 1]) / 2;
            drawn[j] = left + (uniform[j] - cdf[low]) / (width < T(PDF_EPS) ? 1 : width) * (right - left);
        }
    }

    // Gradients of densities [samples], given those of the weights of intervals, by the product rule from the far end.
    void backward(const T* d_weight, Int samples, T* d_density) const {
        std::fill(d_density, d_density + samples, T(0));
        T behind = 0;
        for (Int i = samples - 2; i >= 0; --i) {
            const T d_alpha = through[i] * d_weight[i] - behind / (1 - alpha[i] + T(TRANSMITTANCE_EPS));
            behind += weight[i] * d_weight[i];
            for (Int k = i; k < i + 2; ++k) d_density[k] += d_alpha * slope[i] / 2;
        }
    }
};

// A group of neighbouring rays of one batch item; its arrays fit a core's cache.
template <class T> class Group {
public:
    Group(const Call& call, const Planes& planes, const Decoder<T>& decoder)
        : call(call), coarse(call.coarse), fine(call.fine), all(coarse + fine), most(std::max(Int(1), Int(SAMPLES_AT_ONCE / all))),
          samples(planes, decoder, most * all), ray(all), order(all), depth(all + LANES<T>), density(all + LANES<T>),
          drawn(most * fine), d_weight(all), owner(most * all) {}

    Int rays() const { return most; }

    // Renders rays first to last (of all items' rays in a row), which belong to one item.
    void forward(Int first, Int last) {
        const Int item = first / call.many, count = last - first;
        const T *depths = in(call.depths, coarse, first), *noise = in(call.noise, coarse, first);
        place(first, count, depths, coarse, 0);
        samples.encode(item, 0, count * coarse);
        add_noise(noise, count * coarse, 0);
        if (fine > 0) {
            const T *uniform = in(call.uniform, fine, first), *fine_noise = in(call.fine_noise, fine, first);
            for (Int r = 0; r < count; ++r) {
                std::copy_n(depths + r * coarse, coarse, depth.begin());
                std::copy_n(&samples.sigma[r * coarse], coarse, density.begin());
                ray.weigh(depth.data(), density.data(), coarse);
                ray.draw(depth.data(), coarse, uniform + r * fine, fine, &drawn[r * fine]);
            }
            place(first, count, drawn.data(), fine, count * coarse);
            samples.encode(item, count * coarse, count * all);
            add_noise(fine_noise, count * fine, count * coarse);
        }
        list.clear();
        for (Int r = 0; r < count; ++r) {
            sort(r, count, depths);
            for (Int k = 0; k < all; ++k) depth[k] = order[k].first, density[k] = samples.sigma[order[k].second];
            ray.weigh(depth.data(), density.data(), all);
            for (Int k = 0; k < all; ++k) {
                const T share = ray.share(k, all);
                if (std::abs(share) < T(NEGLIGIBLE)) continue;
                owner[list.size()] = {r, share};
                list.push_back(order[k].second);
            }
            keep(first, r, count);
        }
        samples.color_in(list);
        T* rgb = static_cast<T*>(call.rgb) + first * O;
        std::fill_n(rgb, count * O, T(0));
        for (std::size_t each = 0; each < list.size(); ++each)
            add<O>(&samples.color[O * list[each]], owner[each].second, rgb + owner[each].first * O);
        for (Int r = 0; r < count; ++r) {
            const T sum = static_cast<T*>(call.weight)[first + r];
            const T rest = (call.white_back ? 1 - sum : 0) - sum * T(RGB_PADDING);
            for (int o = 0; o < O; ++o) rgb[r * O + o] = (rgb[r * O + o] * T(1 + 2 * RGB_PADDING) + rest) * 2 - 1;
        }
    }

    // Adds the gradients of rays first to last.
    void backward(Int first, Int last, const T* rows_out, const T* rows_in, T* d_planes, Decoder<T>& d_decoder) {
        const Int item = first / call.many, count = last - first;
        const T *depths = in(call.all_depths, all, first), *noise = in(call.all_noise, all, first);
        place(first, count, depths, all, 0);
        samples.encode(item, 0, count * all);
        add_noise(noise, count * all, 0);
        list.clear();
        for (Int r = 0; r < count; ++r) {
            weigh_again(depths, r);
            for (Int k = 0; k < all; ++k)
                if (ray.matters(k, all)) list.push_back(int(r * all + k));
        }
        std::fill_n(samples.color.begin(), count * all * O, T(0.5));
        samples.color_in(list);
        for (Int r = 0; r < count; ++r) {
            weigh_again(depths, r);
            turn(first + r, r * all);
        }
        samples.backward(list, rows_out, rows_in, d_planes, d_decoder);
    }

private:
    const Call& call;
    const Int coarse, fine, all, most;
    Samples<T> samples;
    Ray<T> ray;
    std::vector<std::pair<T, int>> order;  // depth and position in the list
    std::vector<T> depth, density, drawn, d_weight;
    std::vector<std::pair<Int, T>> owner;  // ray and weight of each sample whose colour is wanted
    std::vector<int> list;

    const T* in(const void* array, Int each, Int first) const {
        return array ? static_cast<const T*>(array) + first * each : nullptr;
    }

    void place(Int first, Int count, const T* depths, Int each, Int to) {
        const T *origin = in(call.origins, 3, first), *direction = in(call.directions, 3, first);
        for (Int r = 0; r < count; ++r)
            for (Int k = 0; k < each; ++k)
                for (int axis = 0; axis < 3; ++axis)
                    samples.point[3 * (to + r * each + k) + axis] =
                        origin[3 * r + axis] + depths[r * each + k] * direction[3 * r + axis];
    }

    void add_noise(const T* noise, Int count, Int to) {
        for (Int k = 0; noise && k < count; ++k) samples.sigma[to + k] += noise[k];
    }

    // The samples of ray r of `count` rays by depth. Those of the first pass come sorted, backwards if far is before near.
    void sort(Int r, Int count, const T* depths) {
        const auto nearer = [](const auto& a, const auto& b) { return a.first < b.first; };
        for (Int k = 0; k < coarse; ++k) order[k] = {depths[r * coarse + k], int(r * coarse + k)};
        for (Int k = 0; k < fine; ++k) order[coarse + k] = {drawn[r * fine + k], int(count * coarse + r * fine + k)};
        if (fine == 0) return;
        const auto middle = order.begin() + coarse;
        if (!std::is_sorted(order.begin(), middle, nearer)) std::sort(order.begin(), middle, nearer);
        std::sort(middle, order.end(), nearer);
        std::inplace_merge(order.begin(), middle, order.end(), nearer);
    }

    // What ray r of the group that begins at `first` leaves besides its colour.
    void keep(Int first, Int r, Int count) {
        const Int at = first + r;
        static_cast<T*>(call.weight)[at] = ray.sum;
        static_cast<T*>(call.distance)[at] = ray.distance;
        std::copy_n(depth.begin(), all, static_cast<T*>(call.all_depths) + at * all);
        if (!call.all_noise) return;
        const T *noise = in(call.noise, coarse, first), *fine_noise = in(call.fine_noise, fine, first);
        for (Int k = 0; k < all; ++k) {
            const Int from = order[k].second, later = from - count * coarse;
            static_cast<T*>(call.all_noise)[at * all + k] = later < 0 ? noise[from] : fine_noise[later];
        }
    }

    void weigh_again(const T* depths, Int r) {
        std::copy_n(depths + r * all, all, depth.begin());
        std::copy_n(&samples.sigma[r * all], all, density.begin());
        ray.weigh(depth.data(), density.data(), all);
    }

    // From gradients of a ray's results to those of its samples' densities and, in the place of their colours, of the
    // sigmoid's arguments.
    void turn(Int at, Int start) {
        const T* d_rgb = in(call.d_rgb, O, at);
        const T d_sum = in(call.d_weight, 1, at)[0], d_distance = in(call.d_distance, 1, at)[0];
        alignas(64) T pull[O];
        T level = 0;
        for (int o = 0; o < O; ++o) pull[o] = 2 * d_rgb[o] * T(1 + 2 * RGB_PADDING), level += 2 * d_rgb[o];
        const T same = d_sum - level * (T(RGB_PADDING) + (call.white_back ? 1 : 0));
        for (Int k = 0; k < all; ++k) density[k] = dot<O>(pull, &samples.color[O * (start + k)]);
        for (Int i = 0; i < all - 1; ++i) {
            d_weight[i] = (density[i] + density[i + 1]) / 2 + same;
            if (ray.sum != 0) d_weight[i] += d_distance * ((depth[i] + depth[i + 1]) / 2 - ray.distance) / ray.sum;
        }
        ray.backward(d_weight.data(), all, &samples.d_sigma[start]);
        for (Int k = 0; k < all; ++k) {
            T* color = &samples.color[O * (start + k)];
            const T share = ray.share(k, all);
            EACH(v, O / LANES<T>) {
                const Vector<T> y = load(color + v * LANES<T>);
                store(color + v * LANES<T>, share * load(pull + v * LANES<T>) * y * (1 - y));
            }
        }
    }
};

// ---------------------------------------------------------------------------------------------- the four calls

// Work(from, to, item) on the pieces, of at most `most` and of one item each, of thread `index`'s share of all points or rays.
template <class Work> inline void share_out(const Call& call, Int index, Int most, Work work) {
    const Int total = call.items * call.many, end = total * (index + 1) / call.threads;
    for (Int first = total * index / call.threads; first < end;) {
        const Int item = first / call.many, last = std::min({first + most, end, (item + 1) * call.many});
        work(first, last, item);
        first = last;
    }
}

template <class Work> inline void in_threads(const Call& call, Work work) {
#pragma omp parallel for num_threads(call.threads) schedule(static, 1)
    for (Int index = 0; index < call.threads; ++index) work(index);
}

template <class T> inline const T* as(const void* array) { return static_cast<const T*>(array); }

template <class T> Decoder<T> decoder_of(const Call& call) {
    return Decoder<T>(as<T>(call.w1), as<T>(call.b1), as<T>(call.w2), as<T>(call.b2));
}

// Where threads leave gradients. A batch item belongs to the thread that has its first point or ray; a thread that begins
// amid an item adds to an array of its own there, so that no two write to one place.
template <class T> class Gradients {
public:
    Gradients(const Call& call, const Planes& planes)
        : call(call), size(planes.count * planes.height * planes.width * C), own(call.threads), decoders(call.threads) {}

    T* planes(Int index, Int item) {
        if (call.items * call.many * index / call.threads <= item * call.many) return whole(item);
        own[index].resize(size);
        return own[index].data();
    }

    Decoder<T>& decoder(Int index) { return decoders[index]; }

    void finish() {
        for (Int index = 0; index < call.threads; ++index) {
            decoders[index].add_to(static_cast<T*>(call.d_w1), static_cast<T*>(call.d_b1), static_cast<T*>(call.d_w2),
                                   static_cast<T*>(call.d_b2));
            T* to = whole(call.items * call.many * index / call.threads / call.many);
            for (std::size_t i = 0; i < own[index].size(); ++i) to[i] += own[index][i];
        }
    }

private:
    const Call& call;
    const Int size;
    std::vector<std::vector<T>> own;
    std::vector<Decoder<T>> decoders;

    T* whole(Int item) { return static_cast<T*>(call.d_planes) + item * size; }
};

template <class T> void render(const Call& call) {
    const Planes planes = call.planes;
    const Decoder<T> decoder = decoder_of<T>(call);
    in_threads(call, [&](Int index) {
        Group<T> group(call, planes, decoder);
        share_out(call, index, group.rays(), [&](Int first, Int last, Int) { group.forward(first, last); });
    });
}

template <class T> void render_backward(const Call& call) {
    const Planes planes = call.planes;
    const Decoder<T> decoder = decoder_of<T>(call);
    Gradients<T> gradients(call, planes);
    in_threads(call, [&](Int index) {
        Group<T> group(call, planes, decoder);
        share_out(call, index, group.rays(), [&](Int first, Int last, Int item) {
            group.backward(first, last, as<T>(call.w2) + H, as<T>(call.w1), gradients.planes(index, item),
                           gradients.decoder(index));
        });
    });
    gradients.finish();
}

// Samples of points first to last, all of them in the list.
template <class T> void read_points(const Call& call, Samples<T>& samples, std::vector<int>& list, Int first, Int last) {
    std::copy_n(as<T>(call.points) + 3 * first, 3 * (last - first), samples.point.begin());
    samples.encode(first / call.many, 0, last - first);
    list.resize(last - first);
    std::iota(list.begin(), list.end(), 0);
    if (call.rgb) samples.color_in(list);
}

template <class T> void decode(const Call& call) {
    const Planes planes = call.planes;
    const Decoder<T> decoder = decoder_of<T>(call);
    in_threads(call, [&](Int index) {
        Samples<T> samples(planes, decoder, SAMPLES_AT_ONCE);
        std::vector<int> list;
        share_out(call, index, SAMPLES_AT_ONCE, [&](Int first, Int last, Int) {
            read_points(call, samples, list, first, last);
            std::copy_n(samples.sigma.begin(), last - first, static_cast<T*>(call.sigma) + first);
            T* rgb = call.rgb ? static_cast<T*>(call.rgb) + first * O : nullptr;
            for (Int i = 0; rgb && i < (last - first) * O; ++i)
                rgb[i] = samples.color[i] * T(1 + 2 * RGB_PADDING) - T(RGB_PADDING);
        });
    });
}

template <class T> void decode_backward(const Call& call) {
    const Planes planes = call.planes;
    const Decoder<T> decoder = decoder_of<T>(call);
    Gradients<T> gradients(call, planes);
    in_threads(call, [&](Int index) {
        Samples<T> samples(planes, decoder, SAMPLES_AT_ONCE);
        std::vector<int> list;
        share_out(call, index, SAMPLES_AT_ONCE, [&](Int first, Int last, Int item) {
            read_points(call, samples, list, first, last);
            std::copy_n(as<T>(call.d_sigma) + first, last - first, samples.d_sigma.begin());
            const T* d_rgb = call.rgb ? as<T>(call.d_rgb) + first * O : nullptr;
            for (Int i = 0; i < (last - first) * O; ++i) {
                const T y = samples.color[i];
                samples.color[i] = d_rgb ? d_rgb[i] * T(1 + 2 * RGB_PADDING) * y * (1 - y) : 0;
            }
            samples.backward(list, as<T>(call.w2) + H, as<T>(call.w1), gradients.planes(index, item), gradients.decoder(index));
        });
    });
    gradients.finish();
}

}  // namespace VARIANT
