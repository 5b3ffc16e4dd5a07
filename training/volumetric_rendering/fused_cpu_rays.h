// Rays: both passes, compositing and its gradients. A part of fused_cpu.h.

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
        const T mean = mass / sum;
        distance = mean == mean ? mean : std::numeric_limits<T>::infinity();
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
    void backward(Int first, Int last, const T* rows_out, const T* rows_in, T* d_planes, Decoder<double>& d_decoder) {
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
