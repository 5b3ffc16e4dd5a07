// The tri-plane field and its gradients. A part of fused_cpu.h.

// The decoder, and its gradients: `out` is hidden to colour, `density` hidden to density.
template <class T> struct Decoder {
    alignas(64) T in[C * H], in_bias[H], out[H * O], out_bias[O], density[H], density_bias;  // in [C, H], out [H, O]

    Decoder() { clear(); }

    void clear() { std::memset(this, 0, sizeof *this); }

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

    // All numbers, in PyTorch's order.
    template <class U> void add_to(U* w1, U* b1, U* w2, U* b2) const {
        for (int h = 0; h < H; ++h) {
            for (int c = 0; c < C; ++c) w1[h * C + c] += U(in[c * H + h]);
            for (int o = 0; o < O; ++o) w2[(1 + o) * H + h] += U(out[h * O + o]);
            b1[h] += U(in_bias[h]);
            w2[h] += U(density[h]);
        }
        for (int o = 0; o < O; ++o) b2[1 + o] += U(out_bias[o]);
        b2[0] += U(density_bias);
    }

    template <class U> void add(const Decoder<U>& other) {
        const auto each = [](auto& to, const auto& from) {
            for (std::size_t i = 0; i < sizeof to / sizeof to[0]; ++i) to[i] += from[i];
        };
        each(in, other.in), each(in_bias, other.in_bias), each(out, other.out), each(out_bias, other.out_bias);
        each(density, other.density);
        density_bias += other.density_bias;
    }
};

// Rows of one item's planes that a point reads, where their gradients go, and how much each counts. Beyond the planes' edges
// is zero, of which there is no gradient (-1); a point that is nowhere (NaN, infinite) counts NaN.
template <class T> struct Taps {
    const T* at[4 * MOST_PLANES];
    Int gradient_at[4 * MOST_PLANES];
    T weight[4 * MOST_PLANES];

    void find(const Planes& planes, const T* base, const T* point) {
        alignas(64) static constexpr T zeros[C] = {};
        const T* table = static_cast<const T*>(planes.table);
        for (int p = 0; p < planes.count; ++p, table += 6) {
            T whole[2], part[2];
            const Int size[2] = {planes.width, planes.height};
            for (int axis = 0; axis < 2; ++axis) {
                const T* row = table + axis * 3;
                const T place = (point[0] * row[0] + point[1] * row[1] + point[2] * row[2] + 1) * (size[axis] * T(0.5)) - T(0.5);
                const T near = std::min(std::max(T(-2), place), T(size[axis] + 1));  // of NaN -2
                whole[axis] = std::floor(near);
                part[axis] = near - whole[axis] + (place - place);
            }
            const Int column = Int(whole[0]), line = Int(whole[1]);
            for (int corner = 0; corner < 4; ++corner) {
                const Int x = column + corner % 2, y = line + corner / 2;
                const bool inside = x >= 0 && x < planes.width && y >= 0 && y < planes.height;
                const T share = (corner % 2 ? part[0] : 1 - part[0]) * (corner / 2 ? part[1] : 1 - part[1]);
                at[p * 4 + corner] = inside ? base + p * planes.stride[1] + y * planes.stride[2] + x * planes.stride[3] : zeros;
                gradient_at[p * 4 + corner] = inside ? ((y * planes.width + x) * planes.count + p) * C : -1;
                weight[p * 4 + corner] = share * T(planes.share);
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
            taps.find(planes, base, &point[3 * std::min(k, last - 1)]);
            for (int tap = 0; tap < 4 * planes.count; ++tap) {
                const char* at = reinterpret_cast<const char*>(taps.at[tap]);
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
                look_up(ahead[(start + i - first) % (2 * TILE)], &feature[C * k]);
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
    // The decoder's have sums of millions of samples: this list's are added in T, and lists in double.
    void backward(const std::vector<int>& list, const T* rows_out, const T* rows_in, T* d_planes, Decoder<double>& sums) {
        d_decoder.clear();
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
        sums.add(d_decoder);
    }

private:
    const Planes& planes;
    const Decoder<T>& decoder;
    Decoder<T> d_decoder;
    alignas(64) T spare[H];
    Taps<T> taps;

    void look_up(const Taps<T>& taps, T* to) {
        Vector<T> sum[C / LANES<T>] = {};
        for (int tap = 0; tap < 4 * planes.count; ++tap)
            EACH(v, C / LANES<T>) sum[v] += taps.weight[tap] * load(taps.at[tap] + v * LANES<T>);
        EACH(v, C / LANES<T>) store(to + v * LANES<T>, sum[v]);
    }

    void spread(const T* at, const T* gradient, T* d_planes) {
        taps.find(planes, static_cast<const T*>(planes.data), at);  // whichever item's: values are not read
        for (int tap = 0; tap < 4 * planes.count; ++tap)
            if (taps.gradient_at[tap] >= 0) add<C>(gradient, taps.weight[tap], d_planes + taps.gradient_at[tap]);
    }
};
